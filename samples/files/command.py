"""The file server's command line; `python -m samples.files --help` tells."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from samples import common
from samples.files.site import IDLE_TIMEOUT, ROOM, Site, serve
from samples.files.tree import Tree

EXAMPLES = """\
  python -m samples.files .                                  http://127.0.0.1:8000/
  python -m samples.files /srv/www --host "" --log-level info
  python -m samples.files --no-listing --unix /run/files.sock /srv/www
  curl -C - -O http://127.0.0.1:8000/big.iso                 goes on where it was cut off"""

DESCRIPTION = """\
Serve the files under a directory over HTTP/1.1, to be read. Hidden files and links that lead out of it are not served.
--log-level info writes a line for each answer."""
LIMIT = "so many that each can have a file open, by `ulimit -n`"


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(
        "files",
        DESCRIPTION,
        8000,
        EXAMPLES,
        workers=True,
        idle_timeout=IDLE_TIMEOUT,
        max_connections=LIMIT,
        room=ROOM,
    )
    parser.add_argument("directory", metavar="DIR", help="what is served")
    parser.add_argument("--no-listing", action="store_true", help="a directory without an index.html is 403")
    args = parser.parse_args(argv)
    try:
        tree = Tree(args.directory)
    except (OSError, ValueError) as exc:
        parser.refuse(f"{args.directory}: {common.reason(exc)}")
    site = Site(tree, listings=not args.no_listing)
    return common.run_server(parser, args, partial(serve, site=site))
