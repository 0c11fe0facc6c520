"""Where a message ends: the four ways of the Socket Programming HOWTO, as pure readers, and a protocol made of them.

TCP keeps no boundaries. So messages are of a fixed length (`FixedLength`), or delimited (`Delimited`), or say how long
they are (`LengthPrefixed`), or end with the connection (`UntilEOF`).

1. A reader has three outcomes: a frame, None (more bytes are needed), or a `FramingError`. What comes out depends on
   the bytes alone, never on the pieces in which they came.
2. Every reader has a limit, and no more is held than the limit and one read.
3. A reader is a constant: it keeps no state, and many connections may share it. What changes is in the `ReceiveBuffer`:
   the bytes, a cursor, and how far a delimiter was looked for. So a reader can be replaced between two frames, and the
   next one begins at the very next byte.
4. A frame is copied when it is cut out; what else is copied is in proportion to what came. A megabyte that trickles in
   byte by byte costs linear time, and so does a megabyte of short lines in one read.
5. `reader.frame(data)` is the other direction. It refuses what the reader at the other end would misread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, Self, final

import attrs

from reactor.errors import ReactorError
from reactor.protocol import Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from reactor.lifecycle import State

# asyncio's limit for a line. Who needs more knows how much, and says so.
LIMIT_BYTES = 64 * 1024
# Split at a time: some hundred short lines, so that few are split anew if a protocol pauses behind each of them.
_AHEAD_BYTES = 16 * 1024
# Frames of them at most, so that one which changes the reader has not had many more cut for nothing.
_AHEAD_FRAMES = 256


class FramingError(ReactorError, ConnectionError):
    """What came is not made of frames: the peer's fault, or an accident on the way."""


class FrameTooLong(FramingError):
    """The frame that is coming is longer than `limit_bytes`. Nothing of it was delivered."""

    def __init__(self, message: str, limit_bytes: int) -> None:
        super().__init__(message)
        self.limit_bytes = limit_bytes


class TruncatedFrame(FramingError):
    """The peer ended in the middle of a frame; `held` is what had come of it."""

    def __init__(self, message: str, held: bytes) -> None:
        super().__init__(message)
        self.held = held


class Unframeable(ReactorError, ValueError):
    """This data cannot be a frame: the reader at the other end would misread it. Nothing was written."""


@attrs.define(eq=False)
class ReceiveBuffer:
    """What has come and is in no frame yet. Readers use all of it; everybody else feeds it, and asks for `unread`."""

    # `bytes` while frames come whole, so that each is one slice of it; a bytearray while one trickles in.
    data: bytes | bytearray = b""
    # The cursor: everything before it was taken.
    start: int = 0
    # What the frame at the cursor was searched for in vain, and from where to go on. None: nothing yet.
    sought: object = None
    scanned: int = 0

    def feed(self, data: bytes) -> None:
        """Adds what came."""
        unread = len(self.data) - self.start
        if not unread:
            self._keep(data)
        elif unread <= len(data):
            self._keep(b"".join((self.data[self.start :], data)))  # at most twice what came
        else:
            if type(self.data) is bytes:
                self._keep(bytearray(self.data[self.start :]))
            self.compact()
            self.data += data

    def take(self, end: int, skip: int = 0) -> bytes:
        """Cuts out the frame from the cursor to `end`, and passes over `skip` bytes behind it."""
        frame = self.data[self.start : end]
        self.start = end + skip
        self.sought = None
        return frame if type(frame) is bytes else bytes(frame)

    def compact(self) -> None:
        """Lets go of what was taken. After a `read` that gave None: what is left then has only just come."""
        if isinstance(self.data, bytearray):
            del self.data[: self.start]  # which moves no byte
            self._keep(self.data)
        else:
            self._keep(self.data[self.start :])

    def clear(self) -> None:
        """Forgets everything."""
        self.data, self.start, self.sought = b"", 0, None

    def _keep(self, data: bytes | bytearray) -> None:
        """`data` begins at the cursor."""
        self.data = data
        self.scanned -= self.start
        self.start = 0

    @property
    def unread(self) -> int:
        """How many bytes are in no frame yet."""
        return len(self.data) - self.start


def _whole(least: int, most: int | None = None) -> Callable[[object, Any, Any], None]:
    """Checks a whole number, where a reader is made."""

    def check(reader: object, attribute: Any, value: Any) -> None:
        if type(value) is not int or value < least or (most is not None and value > most):
            wanted = f"from {least} to {most}" if most is not None else f"of at least {least}"
            raise ValueError(f"{type(reader).__name__}.{attribute.name} must be a whole number {wanted}, not {value!r}")

    return check


def _delimiter(reader: object, attribute: Any, value: Any) -> None:
    if type(value) is not bytes or not value:
        raise ValueError(f"{type(reader).__name__}.delimiter must be bytes, at least one, not {value!r}")


class Reader:
    """Tells where a frame ends. To be subclassed for a way of your own: `read` and `frame`, and perhaps `end`."""

    __slots__ = ()

    # How many bytes stand before or behind each of the frames that `ahead` gives.
    around_bytes: int = 0

    def read(self, buffer: ReceiveBuffer) -> bytes | None:
        """Takes the next frame out of the buffer. None: it is not complete. FrameTooLong: it may never be.

        When it does not give a frame, it takes nothing.
        """
        raise NotImplementedError

    def ahead(self, buffer: ReceiveBuffer) -> Sequence[bytes]:
        """Some frames that `read` would give one after the other; takes nothing. Or none: this only saves time."""
        return ()

    def end(self, buffer: ReceiveBuffer) -> bytes | None:
        """The peer has ended, and `read` gives None: the last frame, if its end is the end. Else TruncatedFrame, unless
        nothing is left."""
        if not buffer.unread:
            return None
        held = bytes(buffer.data[buffer.start :])
        raise TruncatedFrame(f"the peer ended in the middle of a frame, of which {len(held)} bytes had come", held)

    def frame(self, data: Buffer) -> bytes:
        """`data` as it is sent. Unframeable if this very reader would make anything else of it."""
        raise NotImplementedError


@attrs.frozen
class FixedLength(Reader):
    """Every frame has `length_bytes`. At least one: a body of no bytes is no frame, do not wait for it.

    A length that the peer named needs a limit: above `limit_bytes` it is FrameTooLong.
    """

    length_bytes: int = attrs.field(validator=_whole(1))
    limit_bytes: int | None = attrs.field(default=None, validator=attrs.validators.optional(_whole(0)))

    def read(self, buffer: ReceiveBuffer) -> bytes | None:
        if self.limit_bytes is not None and self.length_bytes > self.limit_bytes:
            message = f"a frame of {self.length_bytes} bytes is to come, and it may have {self.limit_bytes}"
            raise FrameTooLong(message, self.limit_bytes)
        end = buffer.start + self.length_bytes
        return buffer.take(end) if end <= len(buffer.data) else None

    def frame(self, data: Buffer) -> bytes:
        framed = _bytes(data)
        if len(framed) != self.length_bytes:
            raise Unframeable(f"a frame has {self.length_bytes} bytes, and this data {len(framed)}")
        if self.limit_bytes is not None:
            _check_length(len(framed), self.limit_bytes)
        return framed


@attrs.frozen
class Delimited(Reader):
    """Behind every frame comes `delimiter`, which is in no frame. `limit_bytes` does not count it.

    With `last_may_lack_it`, what stands behind the last delimiter at the peer's end is a frame as well, as in a text
    whose last line is not ended. Otherwise it is a TruncatedFrame: nobody knows whether that was all.
    """

    delimiter: bytes = attrs.field(validator=_delimiter)
    limit_bytes: int = attrs.field(default=LIMIT_BYTES, validator=_whole(0))
    last_may_lack_it: bool = attrs.field(default=False, kw_only=True)
    around_bytes: int = attrs.field(init=False, repr=False)

    @around_bytes.default
    def _measure(self) -> int:
        return len(self.delimiter)

    def read(self, buffer: ReceiveBuffer) -> bytes | None:
        start, width = buffer.start, self.around_bytes
        # A frame and its delimiter are within so many bytes, or it is too long.
        reach = start + self.limit_bytes + width
        begin = max(start, buffer.scanned) if buffer.sought is self else start
        at = buffer.data.find(self.delimiter, begin, reach)
        if at >= 0:
            return buffer.take(at, width)
        there = len(buffer.data)
        if there >= reach:
            message = f"{self.delimiter!r} did not come within the {self.limit_bytes} bytes that a frame may have"
            raise FrameTooLong(message, self.limit_bytes)
        buffer.sought = self
        buffer.scanned = max(start, there - width + 1)
        return None

    def ahead(self, buffer: ReceiveBuffer) -> Sequence[bytes]:
        data, start = buffer.data, buffer.start
        if type(data) is not bytes:
            return ()
        frames = data[start : start + _AHEAD_BYTES].split(self.delimiter, _AHEAD_FRAMES)
        frames.pop()  # no delimiter has come behind it
        if frames and max(map(len, frames)) > self.limit_bytes:
            return list(takewhile(lambda frame: len(frame) <= self.limit_bytes, frames))
        return frames

    def end(self, buffer: ReceiveBuffer) -> bytes | None:
        if not self.last_may_lack_it or not 0 < buffer.unread <= self.limit_bytes:
            return super().end(buffer)
        return buffer.take(len(buffer.data))

    def frame(self, data: Buffer) -> bytes:
        framed = _bytes(data) + self.delimiter
        _check_length(len(framed) - self.around_bytes, self.limit_bytes)
        if framed.find(self.delimiter) != len(framed) - self.around_bytes:
            raise Unframeable(f"{self.delimiter!r} ends a frame, and would end this one too early")
        return framed


@attrs.frozen
class SkipTo(Reader):
    """Drops everything up to `delimiter`, and then gives an empty frame. Of any length, for it holds nothing.

    For `FramedProtocol.framing_failed`: a line that is too long need not end the connection.
    """

    delimiter: bytes = attrs.field(validator=_delimiter)

    def read(self, buffer: ReceiveBuffer) -> bytes | None:
        at = buffer.data.find(self.delimiter, buffer.start)
        if at >= 0:
            buffer.start = at
            return buffer.take(at, len(self.delimiter))
        # All but what may be the beginning of the delimiter.
        buffer.start = max(buffer.start, len(buffer.data) - len(self.delimiter) + 1)
        return None

    def frame(self, data: Buffer) -> bytes:
        raise Unframeable("SkipTo() only reads")


@attrs.frozen
class LengthPrefixed(Reader):
    """Before every frame stands how long it is: a whole number of `prefix_bytes` bytes, which does not count itself."""

    prefix_bytes: int = attrs.field(default=4, validator=_whole(1, 8))
    byteorder: Literal["big", "little"] = attrs.field(default="big")
    limit_bytes: int = attrs.field(default=LIMIT_BYTES, validator=_whole(0))

    @byteorder.validator
    def _check(self, attribute: Any, value: object) -> None:
        if value not in ("big", "little"):
            raise ValueError(f"LengthPrefixed.byteorder must be 'big' or 'little', not {value!r}")

    def read(self, buffer: ReceiveBuffer) -> bytes | None:
        start = buffer.start
        begin = start + self.prefix_bytes
        if begin > len(buffer.data):
            return None
        length = int.from_bytes(buffer.data[start:begin], self.byteorder)
        if length > self.limit_bytes:
            message = f"a frame of {length} bytes is announced, and it may have {self.limit_bytes}"
            raise FrameTooLong(message, self.limit_bytes)
        if begin + length > len(buffer.data):
            return None
        buffer.start = begin
        return buffer.take(begin + length)

    def frame(self, data: Buffer) -> bytes:
        framed = _bytes(data)
        _check_length(len(framed), min(self.limit_bytes, 256**self.prefix_bytes - 1))
        return len(framed).to_bytes(self.prefix_bytes, self.byteorder) + framed


@attrs.frozen
class UntilEOF(Reader):
    """Everything until the peer's end is one frame, an empty one too. `write_frame` ends our output behind it."""

    limit_bytes: int = attrs.field(default=LIMIT_BYTES, validator=_whole(0))

    def read(self, buffer: ReceiveBuffer) -> bytes | None:
        if buffer.unread > self.limit_bytes:
            message = f"more has come than the {self.limit_bytes} bytes that a frame may have"
            raise FrameTooLong(message, self.limit_bytes)
        return None

    def end(self, buffer: ReceiveBuffer) -> bytes | None:
        return buffer.take(len(buffer.data))

    def frame(self, data: Buffer) -> bytes:
        framed = _bytes(data)
        _check_length(len(framed), self.limit_bytes)
        return framed


def _bytes(data: Buffer) -> bytes:
    if type(data) is bytes:
        return data
    try:
        return memoryview(data).tobytes()
    except TypeError:
        raise TypeError(f"only bytes-like objects can be framed, not {type(data).__name__}") from None


def _check_length(length: int, limit_bytes: int) -> None:
    if length > limit_bytes:
        raise Unframeable(f"a frame has at most {limit_bytes} bytes, and this data {length}")


class FramedProtocol(Protocol):
    """A protocol that is told whole frames: override `frame_received`, and set `reader`.

        connection_made
        (frame_received | framing_failed | pause_writing | resume_writing)*
        (end_received (pause_writing | resume_writing)*)?
        connection_lost

    A subclass says `reader: Reader = Delimited(b"\\n", 1000)`, or its instances do; `frame_received` may replace it,
    and the next frame begins at the very next byte. Once `frame_received` has ended the connection (`close`, `abort`),
    what is buffered is dropped. `data_received` and `eof_received` are used here; do not override them.
    """

    # How what comes is read; and how `write_frame` writes, if not in the same way.
    reader: Reader
    writer: Reader | None = None

    _received: ReceiveBuffer
    _paused: bool
    # The connection's state when the peer's end was read, from then on; and what was told of that end.
    _ended_in: State | None
    _rest_told: bool
    _end_told: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Here, and not in `__init__`, which a subclass need not remember to call."""
        protocol = super().__new__(cls)
        protocol._received = ReceiveBuffer()
        protocol._paused = protocol._rest_told = protocol._end_told = False
        protocol._ended_in = None
        return protocol

    def frame_received(self, frame: bytes) -> None:
        """A whole frame came, without what frames it; perhaps an empty one."""

    def end_received(self) -> bool | None:
        """The peer sent its FIN, and everything before it was delivered. As `Protocol.eof_received`: something true
        keeps our side open.

        Between two frames, to framing every end is in order. If a body had to follow a header, only you can know: look
        at `self.reader`. Does not come when the connection was ended from here meanwhile.
        """
        return False

    def framing_failed(self, exc: FramingError) -> None:
        """What came cannot be read: FrameTooLong, or TruncatedFrame at the peer's end. The default aborts with it.

        So the connection is reset, and `connection_lost` is given it. A reset, because a peer that stopped in
        the middle must not take our orderly end for an agreement; it costs the replies that are still under way. To
        answer instead, write, and `close()`. After FrameTooLong the stream can be read on only with another reader:
        `self.reader = SkipTo(b"\\n")`, say. Returning without either resets as well. After TruncatedFrame returning is
        enough; `exc.held` has what came, and `end_received` follows.
        """
        self._end_told = True  # where our end had come first, an abort does not show in the connection's state
        self.connection.abort(exc)

    def write_frame(self, data: Buffer) -> None:
        """Writes one frame, as `connection.write` would. Unframeable, with nothing written, if it would be misread."""
        framing = self.reader if self.writer is None else self.writer
        self.connection.write(framing.frame(data))
        if isinstance(framing, UntilEOF):
            self.connection.write_eof()

    @property
    def unread(self) -> int:
        """How many bytes have come and were not delivered: of an incomplete frame, or of frames that are held back."""
        return self._received.unread

    def take_unread(self) -> bytes:
        """Takes these bytes out, for whoever reads on: another protocol, after `connection.set_protocol`."""
        return self._received.take(len(self._received.data))

    # Pausing

    def pause_reading(self) -> None:
        """No frame, and no `end_received`, until `resume_reading`: also of what has come already.

        `connection.pause_reading()` does the same within `frame_received`, but for the end; resume here all the same,
        for the connection knows nothing of the frames that are held back.
        """
        self._paused = True
        self.connection.pause_reading()

    def resume_reading(self) -> None:
        """Goes on with the frames that were held back, in a call of their own, and then reads again."""
        self._paused = False
        self.connection.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._paused:
            return  # again, meanwhile
        if self._ended_in is None:
            # Before the frames are delivered: each of them may pause anew. Nothing is read until that is done.
            self.connection.resume_reading()
            self._deliver(self.connection.is_reading)
        elif not self._end_told and not self._end():
            self.connection.close()

    # What the connection calls

    @final
    def data_received(self, data: bytes) -> None:
        self._received.feed(data)
        self._deliver(self.connection.is_reading)

    @final
    def eof_received(self) -> bool | None:
        self._ended_in = self.connection.state
        return self._end()

    def _deliver(self, may_go_on: Callable[[], bool]) -> None:
        """Delivers the frames that are complete, as long as nobody pauses or ends."""
        received = self._received
        while may_go_on():
            reader, at = self.reader, received.start
            for frame in reader.ahead(received):
                received.start = at = at + len(frame) + reader.around_bytes
                self.frame_received(frame)
                if self.reader is not reader or received.start != at or not may_go_on():
                    break
            else:
                if not self._deliver_one(reader, may_go_on):
                    received.compact()
                    return
        if not self._paused and self.connection.is_closing():
            received.clear()

    def _deliver_one(self, reader: Reader, may_go_on: Callable[[], bool]) -> bool:
        """Whether it is worth while to go on."""
        try:
            frame = reader.read(self._received)
        except FramingError as exc:
            self.framing_failed(exc)
            if self.reader is reader and may_go_on():
                self.connection.abort(exc)
            return True
        if frame is None:
            return False
        self.frame_received(frame)
        return True

    def _end(self) -> bool | None:
        """What is behind the peer's FIN: frames that were held back, the rest, the end. Each may pause the next."""
        self._deliver(self._not_ended_here)
        if self._not_ended_here() and not self._rest_told:
            self._rest_told = True
            self._deliver_rest()
        if self._not_ended_here() and not self._end_told:
            self._end_told = True
            return self.end_received()
        return True

    def _deliver_rest(self) -> None:
        try:
            rest = self.reader.end(self._received)
        except FramingError as exc:
            self._received.clear()
            self.framing_failed(exc)
        else:
            if rest is not None:
                self.frame_received(rest)

    def _not_ended_here(self) -> bool:
        """Behind the peer's end the state stands still, until a call from here, or a deadline, moves it."""
        return not self._paused and self.connection.state is self._ended_in
