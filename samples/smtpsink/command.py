"""The sink's command line; `python -m samples.smtpsink --help` tells."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from samples import common
from samples.smtpsink.server import IDLE_TIMEOUT, ROOM, SIZE_LIMIT, serve
from samples.smtpsink.session import LINE_BYTES
from samples.smtpsink.sink import Sink

DESCRIPTION = "Take all mail, show it, and send it to nobody."
LIMIT = "so many that a message can still be kept, by `ulimit -n`"
EXAMPLES = """\
  python -m samples.smtpsink                                 the server; then, in a program that sends mail:
  smtplib.SMTP("127.0.0.1", 8025).send_message(message)      and the message is printed, and sent to nobody
  python -m samples.smtpsink --dir ~/mail >/dev/null         each message a file NAME.eml, whole or not there
  python -m samples.smtpsink --tls-cert chain.pem --tls-key key.pem      offers STARTTLS, too
  curl smtp://127.0.0.1:8025 --mail-from a@b.example --mail-rcpt c@d.example --crlf -T message.txt
  nc -C 127.0.0.1 8025                                       by hand; SMTP's lines end with CR LF"""

_LEAST_LINE = 12
# Seconds beyond the drain's deadline for a message that is being printed or kept; a disk that answers needs far less.
_GRACE = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(
        "smtpsink", DESCRIPTION, 8025, EXAMPLES, idle_timeout=IDLE_TIMEOUT, max_connections=LIMIT, room=ROOM
    )
    parser.tls_group.add_argument(
        "--tls-at-once", action="store_true", help="from the first byte, as on port 465, instead of after STARTTLS"
    )
    parser.add_argument("--dir", type=_directory, metavar="DIR", help="keep each message as a file there, too")
    parser.add_argument(
        "--size-limit",
        type=common.count,
        default=SIZE_LIMIT,
        metavar="N",
        help=f"bytes in one message; a longer one is refused ({SIZE_LIMIT})",
    )
    parser.add_argument(
        "--line-limit",
        type=_line_limit,
        default=LINE_BYTES,
        metavar="N",
        help=f"bytes in one line of it, with CR LF ({LINE_BYTES}, as RFC 5321 has it)",
    )
    args = parser.parse_args(argv)
    if args.tls_at_once and args.tls_cert is None:
        parser.error("--tls-at-once needs --tls-cert")
    sink = Sink(args.dir)
    mail = partial(
        serve,
        sink=sink,
        size_limit=args.size_limit,
        line_limit=args.line_limit,
        tls_at_once=args.tls_at_once,
    )
    status = common.run_server(parser, args, mail)
    if not sink.settle(_GRACE):
        # Who reads our output has stopped, or the disk has. The interpreter would wait for that thread without end.
        print(f"{parser.prog}: a message is stuck on its way to stdout or to the disk", file=sys.stderr, flush=True)
        os._exit(1)
    return status


def _directory(word: str) -> Path:
    path = Path(word)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{word!r} is no directory")
    # It is read, too: to bring the name of a file in it to the disk.
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{word!r} cannot be read and written to")
    return path


def _line_limit(word: str) -> int:
    limit = common.count(word)
    if limit < _LEAST_LINE:
        raise argparse.ArgumentTypeError(f"a line has room for {_LEAST_LINE} bytes at least, not {word}")
    return limit
