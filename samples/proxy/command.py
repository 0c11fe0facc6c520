"""The proxy's command line; `python -m samples.proxy --help` tells."""

from __future__ import annotations

import argparse
import signal
import ssl
import sys
from collections.abc import Sequence
from typing import Any

from reactor import Listener, Reactor
from samples import common
from samples.proxy.health import Health
from samples.proxy.server import CONNECT_TIMEOUT, HEADER_TIMEOUT, ROOM, Route, serve

DESCRIPTION = """\
Forward a TCP port, ends and all: a FIN is passed on as a FIN, behind all that came before it, and a reset as a reset;
nobody is read from faster than the other side takes it. Who cannot be served is reset, never left with an empty answer.
After --idle-timeout without a byte both sides are reset. While it drains, conversations go on until they end.
SIGUSR1 asks for a line on stderr: relays, bytes, failures, descriptors."""
LIMIT = "so many that each can have an upstream, by `ulimit -n`"
EXAMPLES = """\
  python -m samples.proxy --port 8080 --to 127.0.0.1:80
  python -m samples.proxy --port 5432 --to unix:/run/postgresql/.s.PGSQL.5432
  python -m samples.proxy --port 8443 --tls-cert chain.pem --tls-key key.pem --to 127.0.0.1:80
  python -m samples.proxy --port 8080 --to example.org:443 --to-tls
  python -m samples.proxy --port 8080 --accept-proxy --to 10.0.0.7:80 --send-proxy v2
  python -m samples.proxy --port 8443 --accept-proxy --tls-cert both.pem --to 127.0.0.1:80
  kill -USR1 PID                                                       how is it?"""
_VERSIONS = {"v1": 1, "v2": 2}


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser("proxy", DESCRIPTION, 7005, EXAMPLES, workers=True, max_connections=LIMIT, room=ROOM)
    _add_arguments(parser)
    args = parser.parse_args(argv)
    route, health = _route(parser, args), Health()
    # Until the reactor has it: asked too early, or sent to a whole group, it must not end anybody.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def serve_route(reactor: Reactor, *where: Any, **how: Any) -> Listener:
        reactor.add_signal_handler(signal.SIGUSR1, lambda: print(health, file=sys.stderr, flush=True))
        return serve(reactor, *where, route=route, health=health, **how)

    return common.run_server(parser, args, serve_route)


def _add_arguments(parser: common.Parser) -> None:
    to = parser.add_argument_group("where to connect to")
    to.add_argument(
        "--to", type=common.target, required=True, metavar="HOST:PORT", help="or unix:PATH; names are resolved anew"
    )
    to.add_argument(
        "--connect-timeout",
        type=common.seconds,
        default=CONNECT_TIMEOUT,
        metavar="S",
        help=f"then the caller is reset ({CONNECT_TIMEOUT:g})",
    )
    to.add_argument("--to-tls", action="store_true", help="speak TLS there; the certificate is always verified")
    to.add_argument("--to-ca", metavar="FILE", help="trust these authorities (PEM), not the machine's")
    to.add_argument("--to-name", metavar="NAME", help="the name in the certificate (the host of --to)")
    header = parser.add_argument_group("PROXY protocol", "a header in the clear, before any TLS")
    header.add_argument("--send-proxy", choices=list(_VERSIONS), help="tell the upstream who called")
    header.add_argument(
        "--accept-proxy",
        action="store_true",
        help="demand a header (v1 or v2) of every caller, and believe it: only where nobody but proxies can call",
    )
    header.add_argument(
        "--header-timeout",
        type=common.seconds,
        default=HEADER_TIMEOUT,
        metavar="S",
        help=f"then a caller without one is reset ({HEADER_TIMEOUT:g})",
    )


def _route(parser: common.Parser, args: argparse.Namespace) -> Route:
    return Route(
        to=args.to,
        tls=_tls(parser, args),
        server_hostname=args.to_name,
        connect_timeout=args.connect_timeout,
        send_header=None if args.send_proxy is None else _VERSIONS[args.send_proxy],
        accept_header=args.accept_proxy,
        header_timeout=args.header_timeout,
    )


def _tls(parser: common.Parser, args: argparse.Namespace) -> ssl.SSLContext | None:
    if not args.to_tls:
        if args.to_ca is not None or args.to_name is not None:
            parser.error("--to-ca and --to-name need --to-tls")
        return None
    if "path" in args.to and args.to_name is None:
        parser.error("--to-tls to a Unix socket needs --to-name: the certificate is verified against it")
    return common.trusting(parser, "--to-ca", args.to_ca)
