"""What happened to a connection, or in a turn of the loop, as records; and writers for people and for programs.

An observer is any callable that takes a `Record`. `reactor.observe(observer)` gives it what happens to every connection
that begins afterwards; without one, nothing is recorded and nothing is paid. Records come in the order in which things
happened. An observer must not call back into the connection it is told about; one that raises is logged, and told no
more: looking at a connection never ends it.

Two kinds of record share one stream: the *wire* (`WIRE`: what crossed it, or was decided about it) and the *callbacks*
(`CALLBACKS`: each method of the user's protocol, just before it is called).

`reactor.observe_turns(observer)` gives it a `Turn` after each turn of the loop: how long it waited, how long it worked,
and which calls took long, for whoever runs for long in a callback makes everybody else wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TextIO, TypeAlias

import attrs

logger = logging.getLogger("reactor")

# Of a repr, in characters.
_WORDS = 300

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


@attrs.frozen
class SlowCall:
    """A call that took long: what was called, in words, and for how many seconds it ran."""

    what: str
    seconds: float


@attrs.frozen
class Turn:
    """One turn: when it woke, its number, the seconds it had waited and then worked, the descriptors it served."""

    time: float
    number: int
    waited: float
    worked: float
    ready: int
    slow: tuple[SlowCall, ...]


Observer: TypeAlias = Callable[[Record], None]
TurnObserver: TypeAlias = Callable[[Turn], None]


class Stopwatch:
    """Times the turns of a loop, and the calls in them, for an observer."""

    def __init__(self, observer: TurnObserver, slow: float, time: Callable[[], float]) -> None:
        self._observer = observer
        self._least = slow
        self._time = time
        self._began = self._woke = 0.0
        self._slow: list[SlowCall] = []

    def wait(self) -> None:
        """The turn begins to wait."""
        self._began = self._time()

    def wake(self, now: float) -> None:
        """And has something to do."""
        self._woke = now

    def timed(self, what: object, function: Callable[[], object]) -> None:
        """Makes one call; what it raises, this raises."""
        began = self._time()
        try:
            function()
        finally:
            seconds = self._time() - began
            if seconds >= self._least:
                self._slow.append(SlowCall(_words(what), seconds))

    def end(self, number: int, ready: int) -> None:
        """The turn is over."""
        slow, self._slow = tuple(self._slow), []
        self._observer(Turn(self._woke, number, self._woke - self._began, self._time() - self._woke, ready, slow))


def _words(what: object) -> str:
    """What it calls itself, if it can: its `repr` may be anybody's."""
    try:
        return repr(what)[:_WORDS]
    except Exception:
        return f"<{type(what).__name__}>"


def both(first: Observer, second: Observer) -> Observer:
    """An observer that tells two."""

    def tell(record: Record) -> None:
        first(record)
        second(record)

    return tell


def guarded(observer: Callable[[Any], None]) -> Callable[[Any], None]:
    """The same observer, until it raises."""
    listening = True

    def tell(record: object) -> None:
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
    import json  # here: a millisecond at every start, for the few who trace

    def write(record: Record) -> None:
        print(json.dumps(attrs.asdict(record), ensure_ascii=False), file=stream, flush=True)

    return write
