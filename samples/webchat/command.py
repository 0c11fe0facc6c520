"""The browser chat's command line: `python -m samples.webchat --help` tells."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from reactor import Listener, Reactor
from reactor.addresses import address_text
from samples import chat, common
from samples.chat import joining
from samples.webchat.server import Settings, serve
from samples.webchat.view import WatchedLobby

CHAT_PORT = 7001

EXAMPLES = """\
  python -m samples.webchat                                     then open http://127.0.0.1:8080/
  nc 127.0.0.1 7001                                             somebody without a browser; they talk to each other
  python -m samples.webchat --host "" --tls-cert chat.pem       for others, with TLS (nc's port is without)
  python -m samples.webchat --unix /run/chat.sock --origin https://chat.example.org
                                                                behind a proxy that has another name"""


LIMIT = "so many that Redis can be reached, by `ulimit -n`"
# The listener for browsers and the one for nc each take half. The rest is as in the chat's own command.
ROOM = common.Room(each=2, reserve=32)


def main(argv: Sequence[str] | None = None) -> int:
    description = "A chat with rooms in a browser, and for nc and telnet on a second port."
    parser = common.parser("webchat", description, 8080, EXAMPLES, max_connections=LIMIT, room=ROOM)
    parser.add_argument(
        "--chat-port",
        type=common.port,
        default=CHAT_PORT,
        metavar="PORT",
        help=f"TCP port for nc and telnet, on the same host ({CHAT_PORT}); 0 picks a free one",
    )
    parser.add_argument(
        "--origin",
        type=_origin,
        action="append",
        default=[],
        metavar="URL",
        help="pages from there may connect, too; may be given several times (only our own page)",
    )
    joining.add_arguments(parser)
    args = parser.parse_args(argv)
    others = joining.Joining(parser, args)
    return others.status(common.run_server(parser, args, _Servers(parser, args, others)))


class _Servers:
    """Serves browsers where it is told to, and beside the first place those who have none."""

    def __init__(self, parser: common.Parser, args: argparse.Namespace, others: joining.Joining) -> None:
        self._parser = parser
        self._args = args
        self._others = others
        self._lobby = WatchedLobby()
        self._chat: Listener | None = None

    def __call__(self, reactor: Reactor, *where: Any, **how: Any) -> Listener:
        args = self._args
        settings = Settings(
            origins=args.origin,
            line_limit=args.line_limit,
            queue_limit=args.queue_limit,
            idle_seconds=args.idle_timeout,
        )
        listener = serve(reactor, *where, lobby=self._lobby, settings=settings, **how)
        self._others.join(reactor, self._lobby)
        if self._chat is None:
            self._chat = chat.serve(
                reactor,
                where[0] if where else "127.0.0.1",
                args.chat_port,
                lobby=self._lobby,
                line_limit=args.line_limit,
                queue_limit=args.queue_limit,
                options=how["options"],
            )
            reactor.call_soon(self._tell)
        return listener

    def _tell(self) -> None:
        """Once `listening on` was said."""
        assert self._chat is not None
        for address in self._chat.addresses:
            self._parser.say(f"chat for nc on {address_text(address)}")


def _origin(word: str) -> str:
    parts = urlsplit(word)
    if parts.scheme not in ("http", "https") or not parts.netloc or word != f"{parts.scheme}://{parts.netloc}":
        raise argparse.ArgumentTypeError(f"an origin is http(s)://HOST or http(s)://HOST:PORT, not {word!r}")
    return word
