"""A live monitor for any sample: its connections, how they end, and how the loop is doing.

Read it in this order:

1. `lanes.py`    what is known of each connection, in bounded memory; no sockets, no bytes.
2. `pulse.py`    how the loop is doing, measured from outside.
3. `monitor.py`  joins them to one reactor, and tells every page what is new.
4. `server.py`   `attach`: the site, and who may look at it; `page.html` is the page, `metrics.py` is Prometheus'.
5. `teach.py`    scripted peers, which do to a connection what a class wants to see.
6. `command.py`  `python -m samples.monitor --help`: the same as a table in a terminal.
"""

from reactor import Listener, Reactor

# Pages and passing requests together. A browser opens six connections to one place at most.
MOST_CONNECTIONS = 64


def attach(reactor: Reactor, port: int, *, teach: bool = False) -> Listener:
    """See `server.attach`. What it needs is imported only here, so that `ps` in a terminal needs none of it."""
    from samples.monitor import server

    return server.attach(reactor, port, teach=teach)
