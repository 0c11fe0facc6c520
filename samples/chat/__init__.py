"""A chat: rooms and nicknames for `nc`, `telnet` and `socat`, and a terminal client.

Read it in this order:

1. `rooms.py`   who is where and who is told what; no sockets, no bytes. A browser chat can stand on the same rooms.
2. `text.py`    from bytes to clean lines: telnet's negotiation, a bounded line, UTF-8, no control characters.
3. `server.py`  joins the two to connections; and what becomes of a member who does not read.
4. `client.py`  the terminal side, on the same reactor.
5. `command.py` the command line: `python -m samples.chat --help`.
"""

from samples.chat.command import main
from samples.chat.rooms import Lobby
from samples.chat.server import serve

__all__ = ["Lobby", "main", "serve"]
