"""What may stand behind an option, each a function from a word to its value; and what went wrong, in words.

A word that is none is an `argparse.ArgumentTypeError`, which says what is needed instead.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from reactor.addresses import check_host, check_port

# Far more than any machine has use for: a mistyped number must not fill the process table.
_MOST_WORKERS = 256
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def port(word: str) -> int:
    """A TCP port; 0 asks the system for a free one."""
    try:
        return check_port(int(word))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a port is a whole number from 0 to 65535, not {word!r}") from None


def target(word: str) -> dict[str, Any]:
    """Whom to call, as `Reactor.connect` takes it: HOST:PORT, [HOST]:PORT or unix:PATH."""
    if word.startswith("unix:") and len(word) > len("unix:"):
        return {"path": unix_path(word.removeprefix("unix:"))}
    host, colon, number = word.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host:
        raise argparse.ArgumentTypeError(f"HOST:PORT or unix:PATH is needed, not {word!r}")
    try:
        check_host("the host", host)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    if not port(number):
        raise argparse.ArgumentTypeError("nobody can be called at port 0")
    return {"host": host, "port": port(number)}


def unix_path(word: str) -> str:
    """Where a Unix socket is; @NAME is an abstract one."""
    return "\0" + word[1:] if word.startswith("@") else word


def descriptor(word: str) -> int | str:
    """The number of an inherited descriptor, or `systemd`."""
    if word == "systemd" or (word.isascii() and word.isdigit()):
        return word if word == "systemd" else int(word)
    raise argparse.ArgumentTypeError(f"a descriptor is a number, zero or more, or `systemd`, not {word!r}")


def seconds(word: str) -> float:
    """A time to wait, of which there must be some."""
    value = seconds_or_none_at_all(word)
    if not value:
        raise argparse.ArgumentTypeError("zero seconds would end everything at once")
    return value


def seconds_or_none_at_all(word: str) -> float:
    """A time to wait, perhaps none."""
    value = _number(word)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"seconds are a number, zero or more, not {word!r}")
    return value


def seconds_within(least: float, most: float) -> Callable[[str], float]:
    """Takes a time from `least` to `most`."""

    def within(word: str) -> float:
        value = _number(word)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"seconds are a number from {least:g} to {most:g}, not {word!r}")
        return value

    return within


def _number(word: str) -> float:
    """NaN, which is in no range, for what is none."""
    try:
        return float(word)
    except ValueError:
        return math.nan


def count(word: str) -> int:
    """A positive whole number."""
    if not (word.isascii() and word.isdigit() and int(word)):
        raise argparse.ArgumentTypeError(f"a positive whole number is needed, not {word!r}")
    return int(word)


def worker_count(word: str) -> int:
    """How many processes."""
    number = count(word)
    if number > _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"more than {_MOST_WORKERS} processes only wait for each other, not {word!r}")
    return number


def log_level(word: str) -> str:
    """As `logging` calls it."""
    if word.upper() not in _LOG_LEVELS:
        raise argparse.ArgumentTypeError(f"a level is debug, info, warning, error or critical, not {word!r}")
    return word.upper()


def reason(exc: Exception) -> str:
    """What went wrong, in words, without the errno."""
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
