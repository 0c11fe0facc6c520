"""A chat: rooms and nicknames for `nc`, `telnet` and `socat`, a terminal client, and one chat on many machines.

Read it in this order:

1. `names.py`   which names there are, and when two are one; `lookalikes.py` has the letters that look alike.
2. `rooms.py`   who is where and who is told what; no sockets, no bytes. `samples/webchat` stands on the same rooms.
3. `text.py`    from bytes to clean lines: telnet's negotiation, a bounded line, UTF-8, no control characters.
4. `pace.py`    backpressure: a sender who says much waits for the members who read slowly.
5. `server.py`  joins these to connections; and what becomes of a member who does not read.
6. `client.py`  the terminal side, on the same reactor.
7. `command.py` the command line: `python -m samples.chat --help`.

With `--redis`, any number of such servers are one chat:

8. `entries.py` what stands in the stream that all of them write and read;
9. `outbox.py`  what waits to be in it, until it is known to be there;
10. `cluster.py` acts in the rooms become entries, and entries acts: each once, in order, and no gap in silence;
11. `redis.py`   one connection to Redis;
12. `nodes.py`   joins all that to two of them, which come back whenever they are lost;
13. `joining.py` the arguments, for every program that has a lobby.
"""

from samples.chat.command import main
from samples.chat.rooms import Lobby
from samples.chat.server import serve

__all__ = ["Lobby", "main", "serve"]
