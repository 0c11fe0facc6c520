"""What every program with a lobby is asked: its limits, and `--redis`; and the lobby's node, once there is a reactor.

Without `--redis` nothing here is imported that is not the standard library's, and the lobby is alone.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from reactor import Reactor
from samples import common
from samples.chat.cluster import EXPIRY
from samples.chat.names import Refused, checked_name
from samples.chat.rooms import Lobby
from samples.chat.server import LINE_LIMIT, QUEUE_LIMIT

if TYPE_CHECKING:
    from samples.chat.nodes import Node

# A reply from Redis has many lines, and must not grow beyond what one is allowed.
_LINE_LIMIT = 64 * 1024
# Of a file that should hold a URL.
_URL_CHARACTERS = 4096


def add_arguments(parser: common.Parser) -> None:
    """Gives a program its limits, `--redis`, and what belongs to that."""
    parser.add_argument(
        "--line-limit", type=common.count, default=LINE_LIMIT, metavar="N", help=f"bytes in one line ({LINE_LIMIT})"
    )
    parser.add_argument(
        "--queue-limit",
        type=common.count,
        default=QUEUE_LIMIT,
        metavar="N",
        help=f"bytes that may wait for a member who reads slowly; then they are dropped ({QUEUE_LIMIT})",
    )
    group = parser.add_argument_group("many machines")
    group.add_argument(
        "--redis",
        metavar="URL",
        help="one chat with every node that names the same Redis database (its stream reactor:chat): "
        "redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// for TLS, unix:///PATH[?db=N]; "
        "or @FILE, which holds that and keeps the password from ps",
    )
    group.add_argument("--redis-ca", metavar="PEM", help="whom to trust for rediss:// (whom the system trusts)")
    group.add_argument("--node", type=_name, metavar="NAME", help="what others see behind the @ (something random)")
    group.add_argument(
        "--node-expiry",
        # Its pulse is a third of it: more often would be a load on everybody, more seldom no sign of life.
        type=common.seconds_within(0.5, 3600),
        metavar="S",
        help=f"a node is given up when silent for so long; the same for all nodes ({EXPIRY:g})",
    )


def _name(word: str) -> str:
    try:
        return checked_name(word, "node's name")
    except Refused as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


class Joining:
    """What the arguments ask for. `join` may be called for each listener, and joins once."""

    def __init__(self, parser: common.Parser, args: argparse.Namespace) -> None:
        self.node: Node | None = None
        self._parser = parser
        self._make = _maker(parser, args)

    def join(self, reactor: Reactor, lobby: Lobby) -> None:
        """The lobby is one with the others from now on, if that was asked for."""
        if self._make is not None and self.node is None:
            self.node = self._make(reactor, lobby)

    def status(self, status: int) -> int:
        """The program's exit status, given what it would be without other machines."""
        if self.node is None or not self.node.unsaid:
            return status
        print(f"{self._parser.prog}: lines that did not reach the other machines: {self.node.unsaid}", file=sys.stderr)
        return 1


def _maker(parser: common.Parser, args: argparse.Namespace) -> Callable[[Reactor, Lobby], Node] | None:
    if args.redis is None:
        given = [name for name in ("redis_ca", "node", "node_expiry") if getattr(args, name) is not None]
        if given:
            parser.error(f"--{given[0].replace('_', '-')} is for nodes of a --redis")
        return None
    try:
        from samples.chat.nodes import Node
        from samples.chat.redis import Target
    except ImportError:
        parser.refuse("--redis needs the package hiredis; pip install '.[redis]' brings it")
    if args.line_limit > _LINE_LIMIT:
        parser.error(f"with --redis a line has at most {_LINE_LIMIT} bytes")
    try:
        target = Target.parse(_url(parser, args.redis))
    except ValueError as exc:
        parser.refuse(f"--redis: {exc}")
    if args.redis_ca is not None and not target.tls:
        parser.error("--redis-ca is for rediss://")
    context = common.trusting(parser, "--redis-ca", args.redis_ca) if target.tls else None
    name = args.node or secrets.token_hex(2)
    expiry = args.node_expiry or EXPIRY
    return lambda reactor, lobby: Node(reactor, lobby, target, name, context=context, expiry=expiry)


def _url(parser: common.Parser, word: str) -> str:
    if not word.startswith("@"):
        return word
    try:
        with open(word[1:], encoding="utf-8") as file:
            return file.read(_URL_CHARACTERS).strip()
    except (OSError, UnicodeDecodeError) as exc:
        parser.refuse(f"--redis {word}: {common.reason(exc)}")
