"""The chat's command line: a server, or with `--connect` a client; `python -m samples.chat --help` tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reactor import Listener, Reactor
from samples import common
from samples.chat import joining
from samples.chat.client import Terminal
from samples.chat.rooms import Lobby
from samples.chat.server import serve

EXAMPLES = """\
  python -m samples.chat --port 7001 --idle-timeout 3600    the server
  python -m samples.chat --connect 127.0.0.1:7001           a client
  nc 127.0.0.1 7001                                         so is this; and telnet, and
  socat readline tcp:127.0.0.1:7001                         this, with a history
  echo 'the build is done' | nc -N 127.0.0.1 7001           a script that has something to say
  python -m samples.chat --redis redis://10.0.0.5 --node a  one of many machines with one chat"""


LIMIT = "so many that Redis can be reached, by `ulimit -n`"
# A member's connection; the two to Redis and the look-ups of its name, the standard streams, the poller, the waker.
ROOM = common.Room(each=1, reserve=32)


def main(argv: Sequence[str] | None = None) -> int:
    what = "A chat with rooms, for nc, telnet, socat and its own client."
    parser = common.parser("chat", what, 7001, EXAMPLES, max_connections=LIMIT, room=ROOM)
    common.add_connect(parser, "be a client of that server")
    joining.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.connect is not None:
        if args.redis is not None:
            parser.error("--connect cannot be combined with --redis: nodes are servers")
        return common.run_client(parser, args, Terminal)
    others = joining.Joining(parser, args)
    lobby = Lobby()

    def serve_here(reactor: Reactor, *where: Any, **how: Any) -> Listener:
        listener = serve(reactor, *where, lobby=lobby, line_limit=args.line_limit, queue_limit=args.queue_limit, **how)
        others.join(reactor, lobby)
        return listener

    return others.status(common.run_server(parser, args, serve_here))
