"""What happened to a connection, as records, and writers for people and for programs.

An observer is any callable that takes a `Record`. `reactor.observe(observer)` gives it what happens to every connection
that begins afterwards; without one, nothing is recorded and nothing is paid. Records come in the order in which things
happened. An observer must not call back into the connection it is told about; one that raises is logged, and told no
more: looking at a connection never ends it.

Two kinds of record share one stream: the *wire* (`WIRE`: what crossed it, or was decided about it) and the *callbacks*
(`CALLBACKS`: each method of the user's protocol, just before it is called).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TextIO, TypeAlias

import attrs

logger = logging.getLogger("reactor")

WIRE = (
    "accepted",
    "connected",
    "received",
    "sent",
    "peer FIN",
    "our FIN",
    "discarded",
    "lingering",
    "error",
    "our reset",
    "closed",
)
CALLBACKS = (
    "connection_made",
    "data_received",
    "eof_received",
    "pause_writing",
    "resume_writing",
    "connection_lost",
    "draining",
)


@attrs.frozen
class Record:
    """One thing that happened: when (seconds of `Reactor.time()`), to which connection, what, how many bytes."""

    time: float
    connection: str
    what: str
    count: int | None = None
    detail: str = ""


Observer: TypeAlias = Callable[[Record], None]


def both(first: Observer, second: Observer) -> Observer:
    """An observer that tells two."""

    def tell(record: Record) -> None:
        first(record)
        second(record)

    return tell


def guarded(observer: Observer) -> Observer:
    """The same observer, until it raises."""
    listening = True

    def tell(record: Record) -> None:
        nonlocal listening
        if listening:
            try:
                observer(record)
            except Exception:
                listening = False
                logger.exception("an observer raised, and is told no more")

    return tell


def text(stream: TextIO) -> Observer:
    """Writes one line per thing on the wire: seconds since the first, the connection, what happened."""
    start: float | None = None

    def write(record: Record) -> None:
        nonlocal start
        if record.what not in WIRE:
            return
        if start is None:
            start = record.time
        words = [f"{record.time - start:9.4f}", record.connection, record.what]
        if record.count is not None:
            words.append(str(record.count))
        if record.detail:
            words.append(record.detail)
        print(*words, file=stream, flush=True)

    return write


def json_lines(stream: TextIO) -> Observer:
    """Writes every record as one line of JSON, callbacks included."""

    def write(record: Record) -> None:
        print(json.dumps(attrs.asdict(record), ensure_ascii=False), file=stream, flush=True)

    return write
