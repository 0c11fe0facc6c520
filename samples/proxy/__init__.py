"""A TCP port forwarder: whoever calls here is connected to somebody else, and neither notices.

Read it in this order:

1. `reactor/relaying.py`  the heart, which is the library's: two connections joined, backpressure and ends passed on.
2. `server.py`         what comes before: a caller waits unread until its upstream is connected; and what if it is not.
3. `header.py`         the PROXY protocol's header, in text and binary, as pure functions.
4. `health.py`         the line that SIGUSR1 asks for.
5. `command.py`        the command line: `python -m samples.proxy --help`.
"""

from samples.proxy.command import main
from samples.proxy.health import Health
from samples.proxy.server import Route, serve

__all__ = ["Health", "Route", "main", "serve"]
