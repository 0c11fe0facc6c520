"""What must hold of framing, whatever bytes come, however they are cut.

python -m tests.fuzz.framing -runs=1000000
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import cycle

from reactor import Aborted, Reactor
from reactor.framing import (
    Delimited,
    FixedLength,
    FramedProtocol,
    FramingError,
    LengthPrefixed,
    Reader,
    ReceiveBuffer,
    SkipTo,
    Unframeable,
    UntilEOF,
)
from reactor.testing import SimulatedSystem

# Small ones, so that few bytes meet every limit.
READERS: tuple[Reader, ...] = (
    FixedLength(1),
    FixedLength(5),
    FixedLength(7, limit_bytes=6),
    Delimited(b"\n", 6),
    Delimited(b"\n", 0),
    Delimited(b"\r\n", 6),
    Delimited(b"\r\n", 6, last_may_lack_it=True),
    Delimited(b"aa", 6),
    Delimited(b"aba", 6),
    LengthPrefixed(1, "big", 6),
    LengthPrefixed(2, "little", 6),
    LengthPrefixed(8, "big", 2**64),
    UntilEOF(6),
    SkipTo(b"\r\n"),
)


def longest(reader: Reader) -> int:
    """A frame has no more bytes."""
    if isinstance(reader, FixedLength):
        return reader.length_bytes
    return getattr(reader, "limit_bytes", 0)


def most_held(reader: Reader) -> int:
    """What may be left in the buffer when the reader has said that it needs more."""
    match reader:
        case FixedLength(length_bytes=length):
            return length - 1
        case Delimited(delimiter=delimiter, limit_bytes=limit):
            return limit + len(delimiter) - 1
        case LengthPrefixed(prefix_bytes=prefix, limit_bytes=limit):
            return prefix + limit - 1 if limit else prefix
        case UntilEOF(limit_bytes=limit):
            return limit
        case SkipTo(delimiter=delimiter):
            return len(delimiter) - 1
    raise AssertionError(reader)


def read_all(reader: Reader, pieces: Sequence[bytes]) -> list[bytes | type[Exception]]:
    """Every frame, and at last the type of the error if there was one. Nothing but a FramingError is ever raised."""
    buffer, outcome = ReceiveBuffer(), []
    try:
        for piece in [*pieces, b""]:  # it is asked once more before its end
            buffer.feed(piece)
            while (frame := reader.read(buffer)) is not None:
                assert type(frame) is bytes
                assert len(frame) <= longest(reader)
                outcome.append(frame)
            assert buffer.unread <= most_held(reader)
        rest = reader.end(buffer)
    except FramingError as exc:
        return [*outcome, type(exc)]
    assert buffer.unread == 0
    return outcome if rest is None else [*outcome, rest]


def cut(stream: bytes, sizes: Sequence[int]) -> list[bytes]:
    """The stream in pieces of these sizes, over and over."""
    pieces, at = [], 0
    for size in cycle(sizes):
        if at >= len(stream):
            return pieces
        pieces.append(stream[at : at + size])
        at += size
    raise AssertionError("no sizes")


def check_reader(reader: Reader, stream: bytes, sizes: Sequence[int]) -> None:
    """The pieces make no difference; and what was read whole can be written, and is the same stream again."""
    outcome = read_all(reader, [stream])
    assert read_all(reader, cut(stream, sizes)) == outcome
    if isinstance(reader, SkipTo):
        return
    whole = [frame for frame in outcome if isinstance(frame, bytes)]
    if len(whole) == len(outcome) and not getattr(reader, "last_may_lack_it", False):
        assert b"".join(map(reader.frame, whole)) == stream


def check_writing(reader: Reader, data: bytes) -> None:
    """Either it is refused, or the reader makes exactly this of it."""
    try:
        framed = reader.frame(data)
    except Unframeable:
        return
    assert read_all(reader, [framed]) == [data]


class Program(FramedProtocol):
    """Does, at each frame, what the next step says; the steps begin anew when they are used up."""

    def __init__(self, steps: Sequence[int]) -> None:
        self._steps = cycle(steps or [0])
        self.reader = Delimited(b"\n", 6)
        self.frames: list[bytes] = []
        self.told: list[object] = []
        self.ended_here = False

    def act(self) -> None:
        step = next(self._steps)
        if step < len(READERS):
            self.reader = READERS[step]
        elif step == 20:
            self.pause_reading()
        elif step == 21:
            self.connection.pause_reading()
        elif step == 22:
            self.connection.write_eof()
        elif step == 23:
            self.ended_here = True
            self.connection.close()
        elif step == 24:
            self.ended_here = True
            self.connection.abort()
        elif step == 25:
            self.ended_here = True
            raise ZeroDivisionError("meant")

    def frame_received(self, frame: bytes) -> None:
        assert not self.ended_here, "a frame behind our end"
        assert not self.told
        self.frames.append(frame)
        self.act()

    def framing_failed(self, exc: FramingError) -> None:
        assert not self.ended_here
        super().framing_failed(exc)

    def end_received(self) -> bool:
        assert not self.ended_here
        self.told.append("end")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(exc)


def replay(stream: bytes, steps: Sequence[int]) -> tuple[list[bytes], bool]:
    """What the readers alone make of the whole stream, with the same steps; and whether all of it was good."""
    program, buffer = Program([]), ReceiveBuffer()
    pending = cycle(steps or [0])
    frames: list[bytes] = []

    def step() -> bool:
        number = next(pending)
        if number < len(READERS):
            program.reader = READERS[number]
        return number not in (23, 24, 25)

    buffer.feed(stream)
    try:
        while (frame := program.reader.read(buffer)) is not None:
            frames.append(frame)
            if not step():
                return frames, False
        rest = program.reader.end(buffer)
    except FramingError:
        return frames, False
    return (frames, True) if rest is None else ([*frames, rest], step())


def check_protocol(stream: bytes, sizes: Sequence[int], steps: Sequence[int]) -> None:
    """A protocol that replaces readers, pauses, ends and raises is told what the readers alone would read."""
    system = SimulatedSystem()
    with Reactor(system=system) as reactor:
        program = Program(steps)
        listener = reactor.listen(lambda: program, "127.0.0.1", 0)
        peer = system.peer(listener.addresses[0])
        system.run(reactor, 1)
        for piece in cut(stream, sizes):
            peer.send(piece)
            system.run(reactor, 0.1)
            program.resume_reading()
        peer.fin()
        for _ in range(len(stream) + 2):
            system.run(reactor, 0.1)
            program.resume_reading()
        system.run(reactor, 100)
        assert not reactor.connections
        (*ends, exc), (expected, good) = program.told, replay(stream, steps)
        assert ends in ([], ["end"])
        assert program.frames == expected
        if good:
            assert exc is None
        else:
            assert exc is None or isinstance(exc, (FramingError, Aborted, ZeroDivisionError))
            assert exc is not None or program.ended_here
        listener.close()
        system.run(reactor, 1)
    assert not system.descriptors
    assert not system.bad_calls


def main() -> None:
    import atheris

    for function in (Delimited.read, Delimited.ahead, LengthPrefixed.read, FixedLength.read, ReceiveBuffer.feed):
        atheris.instrument_func(function)

    def one_input(data: bytes) -> None:
        given = atheris.FuzzedDataProvider(data)
        reader = READERS[given.ConsumeIntInRange(0, len(READERS) - 1)]
        sizes = [given.ConsumeIntInRange(1, 9) for _ in range(3)]
        stream = given.ConsumeBytes(given.remaining_bytes())
        check_reader(reader, stream, sizes)
        check_writing(reader, stream)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
