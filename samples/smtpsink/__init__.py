"""A mail server that sends nothing on: it prints each message, and can keep it as a file.

For who tests a program that sends mail. In the shape of `smtpd.DebuggingServer`, which left the standard library in
Python 3.12. Read it in this order:

1. `session.py` SMTP (RFC 5321): a command in, a reply out; no sockets, no files.
2. `sink.py`    what becomes of a message: the familiar print, and a file that is whole or not there.
3. `server.py`  joins the two to connections: lines of two kinds, limits, and ends.
4. `command.py` the command line: `python -m samples.smtpsink --help`.
"""

from samples.smtpsink.command import main
from samples.smtpsink.server import serve
from samples.smtpsink.sink import Sink

__all__ = ["Sink", "main", "serve"]
