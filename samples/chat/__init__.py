"""A chat: rooms and nicknames for `nc`, `telnet` and `socat`, a terminal client, and one chat on many machines.

Read it in this order:

1. `rooms.py`   who is where and who is told what; no sockets, no bytes. `samples/webchat` stands on the same rooms.
2. `text.py`    from bytes to clean lines: telnet's negotiation, a bounded line, UTF-8, no control characters.
3. `server.py`  joins the two to connections; and what becomes of a member who does not read.
4. `client.py`  the terminal side, on the same reactor.
5. `command.py` the command line: `python -m samples.chat --help`.

With `--redis`, any number of such servers are one chat:

6. `entries.py` what stands in the stream that all of them write and read;
7. `outbox.py`  what waits to be in it, until it is known to be there;
8. `cluster.py` acts in the rooms become entries, and entries acts: each once, in order, and no gap in silence;
9. `redis.py`   one connection to Redis;
10. `nodes.py`  joins all that to two of them, which come back whenever they are lost;
11. `joining.py` the arguments, for every program that has a lobby.
"""

from samples.chat.command import main
from samples.chat.rooms import Lobby
from samples.chat.server import serve

__all__ = ["Lobby", "main", "serve"]
