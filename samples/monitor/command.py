"""The monitor's command line: `ps`, the connections of a monitored program as a table in a terminal.

It asks the monitor of a running program for its table (`GET /connections`, JSON) and prints it, once, or with `--watch`
again and again. Every word that came over the network is stripped of what could control the terminal.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from samples.common import Parser, reason, seconds_within

EXAMPLES = """\
examples:
  python -m samples.echo --monitor 8090           a sample with a monitor: open http://127.0.0.1:8090 in a browser
  python -m samples.monitor ps 127.0.0.1:8090     the same in a terminal, once
  python -m samples.monitor ps :8090 --watch      again every second, until Ctrl-C
  curl http://127.0.0.1:8090/metrics              for Prometheus

exit status:
  0  the table was shown; with --watch, until Ctrl-C, or until its reader had gone
  1  nobody answers there, or it is no monitor; stderr says what
  2  the arguments cannot be used; stderr says why"""

_PATIENCE = 5.0
# A table of all lanes that a monitor keeps is a few hundred KiB.
_MOST_BYTES = 16 * 1024 * 1024
_CLEAR = "\x1b[H\x1b[J"


class NoTable(Exception):
    """There is no table to show; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        prog="python -m samples.monitor",
        description="A live look at the connections of a sample: each sample takes --monitor PORT, and serves a page "
        "there, on 127.0.0.1 only.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    ps = commands.add_parser("ps", help="show the connections in the terminal", allow_abbrev=False)
    ps.add_argument("target", type=_target, metavar="HOST:PORT", help="where the monitor is (no HOST: 127.0.0.1)")
    ps.add_argument(
        "--watch", nargs="?", type=seconds_within(0.1, 3600), const=1.0, metavar="S", help="again every S seconds (1)"
    )
    ps.add_argument("--living", action="store_true", help="only connections that have not ended")
    commands.add_parser("help", help="show this")
    args = parser.parse_args(argv)
    if args.command != "ps":
        parser.print_help()
        return 0
    try:
        _show(args)
    except NoTable as exc:
        print(f"{parser.prog} ps: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass  # that is how --watch ends
    except BrokenPipeError:
        # Whoever read us has seen enough. Nothing more is flushed at exit, which would complain.
        sys.stdout = None
    return 0


def _target(word: str) -> tuple[str, int]:
    host, colon, port = word.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise argparse.ArgumentTypeError(f"HOST:PORT is needed, not {word!r}")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def _show(args: argparse.Namespace) -> None:
    while True:
        lines = table(fetch(*args.target), living=args.living)
        if args.watch is None:
            print("\n".join(lines), flush=True)
            return
        if sys.stdout.isatty():
            columns, rows = shutil.get_terminal_size()
            print(_CLEAR + "\n".join(line[:columns] for line in lines[: rows - 1]), flush=True)
        else:
            print("\n".join(lines), end="\n\n", flush=True)
        time.sleep(args.watch)


def fetch(host: str, port: int) -> dict[str, Any]:
    """The monitor's table. NoTable when it cannot be had."""
    where = f"{host}:{port}"
    connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE)
    try:
        # A name of this machine, whatever it is called here: a monitor answers to no other.
        connection.request("GET", "/connections", headers={"Host": "localhost"})
        answer = connection.getresponse()
        body = answer.read(_MOST_BYTES)
    except http.client.HTTPException as exc:
        raise NoTable(f"{where} does not speak HTTP as a monitor does ({type(exc).__name__})") from None
    except (OSError, UnicodeError) as exc:  # a name that no host can have fails to be encoded
        raise NoTable(f"{where}: {reason(exc)}") from None
    finally:
        connection.close()
    try:
        told = json.loads(body)
        if answer.status != 200 or not isinstance(told["connections"], list):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise NoTable(f"{where} is no monitor: it answered {answer.status} to GET /connections") from None
    return dict(told)


# Heading, is it a number, and what stands there.
_COLUMNS: tuple[tuple[str, bool, Callable[[dict[str, Any], float], str]], ...] = (
    ("#", True, lambda one, _: one["name"].lstrip("#")),
    ("PEER", False, lambda one, _: one["peer"]),
    ("STATE", False, lambda one, _: one["state"]),
    ("KERNEL", False, lambda one, _: one["tcp_state"] or "-"),
    ("IN", False, lambda one, _: one["input"] if one["reading"] or one["input"] != "deliver" else "paused"),
    ("OUT", False, lambda one, _: one["output"]),
    ("QUEUE", True, lambda one, _: _bytes(one["queued"])),
    ("RECEIVED", True, lambda one, _: _bytes(one.get("received"))),
    ("WRITTEN", True, lambda one, _: _bytes(one.get("written"))),
    ("ACKED", True, lambda one, _: _bytes(one.get("acknowledged"))),
    ("AGE", True, lambda one, now: _age((now if one["ended"] is None else one["ended"]) - one["began"])),
    ("END", False, lambda one, _: "" if one["ended"] is None else one["reason"] or one["how"] or "?"),
)


def table(told: dict[str, Any], *, living: bool = False) -> list[str]:
    """The lines of the table, the heading first. NoTable when it is not what a monitor tells."""
    try:
        connections = [one for one in told["connections"] if not living or one["ended"] is None]
        rows = [[_clean(cell(one, told["now"])) for _, _, cell in _COLUMNS] for one in connections]
        where, without = ", ".join(map(str, told["addresses"])) or "nowhere", int(told["without"])
        drains = "; draining" if told["draining"] else ""
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise NoTable(f"that is no table of a monitor's ({type(exc).__name__}: {exc})") from None
    heading = [name for name, _, _ in _COLUMNS]
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    numeric = [number for _, number, _ in _COLUMNS]
    lines = [_line(row, widths, numeric) for row in (heading, *rows)]
    alive = sum(1 for one in connections if one["ended"] is None)
    lines.append(f"{alive + without} living, listening on {_clean(where)}{drains}")
    if without:
        lines.append(f"{without} more are counted and not listed")
    return lines


def _line(cells: list[str], widths: list[int], numeric: list[bool]) -> str:
    aligned = zip(cells, widths, numeric, strict=True)
    return "  ".join(cell.rjust(width) if number else cell.ljust(width) for cell, width, number in aligned).rstrip()


def _bytes(count: int | None) -> str:
    if count is None:
        return "-"
    size = float(count)
    for unit in ("", "K", "M", "G"):
        if size < 1024:
            return f"{size:.0f}{unit}" if not unit or size >= 100 else f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}T"


def _age(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f}s"
    return f"{whole // 60}m{whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h{whole // 60 % 60:02}m"


def _clean(word: object) -> str:
    return "".join(character if character.isprintable() else "?" for character in str(word))
