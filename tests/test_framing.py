"""Framing: the readers alone, and protocols that stand on them, over real and simulated sockets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor import Aborted, Deadlines, Misuse, Reactor
from reactor.framing import (
    Delimited,
    FixedLength,
    FramedProtocol,
    FrameTooLong,
    FramingError,
    LengthPrefixed,
    Reader,
    ReceiveBuffer,
    SkipTo,
    TruncatedFrame,
    Unframeable,
    UntilEOF,
)
from reactor.lifecycle import ENDED, OPEN
from reactor.testing import Grammar, Link, ShortReads, ShortWrites, SimulatedSystem, TryAgain
from tests.helpers import Server, turn_until
from tests.test_tls import server_context

LINES = Delimited(b"\n", 10)
CRLF = Delimited(b"\r\n", 10)


def read_all(reader: Reader, pieces) -> list:
    """The frames of a whole stream, and, last, the error's type if there was one."""
    buffer, frames = ReceiveBuffer(), []
    try:
        for piece in [*pieces, b""]:  # it is asked once more before its end
            buffer.feed(piece)
            while (frame := reader.read(buffer)) is not None:
                assert type(frame) is bytes
                frames.append(frame)
        rest = reader.end(buffer)
        assert buffer.unread == 0
        return frames if rest is None else [*frames, rest]
    except FramingError as exc:
        return [*frames, type(exc)]


# reader, stream, what is read
TABLE = [
    (FixedLength(1), b"abc", [b"a", b"b", b"c"]),
    (FixedLength(3), b"", []),
    (FixedLength(3), b"abcdef", [b"abc", b"def"]),
    (FixedLength(3), b"abcd", [b"abc", TruncatedFrame]),
    (FixedLength(3, 3), b"abc", [b"abc"]),
    (FixedLength(4, 3), b"", [FrameTooLong]),
    (FixedLength(4, 3), b"abcd", [FrameTooLong]),
    (LINES, b"", []),
    (LINES, b"one\n\ntwo\n", [b"one", b"", b"two"]),
    (LINES, b"one\ntw", [b"one", TruncatedFrame]),
    (LINES, b"0123456789\n", [b"0123456789"]),
    (LINES, b"a\n0123456789x\nb\n", [b"a", FrameTooLong]),
    (LINES, b"a\n0123456789xyz", [b"a", FrameTooLong]),
    (LINES, b"0123456789", [TruncatedFrame]),
    (Delimited(b"\n", 0), b"\n\nx\n", [b"", b"", FrameTooLong]),
    (Delimited(b"\n", 10, last_may_lack_it=True), b"one\ntwo", [b"one", b"two"]),
    (Delimited(b"\n", 10, last_may_lack_it=True), b"one\n", [b"one"]),
    (Delimited(b"\n", 10, last_may_lack_it=True), b"0123456789", [b"0123456789"]),
    (Delimited(b"\r\n", 10, last_may_lack_it=True), b"0123456789x", [TruncatedFrame]),
    (CRLF, b"one\r\ntwo\nstill\r\n\r\n", [b"one", b"two\nstill", b""]),
    (CRLF, b"one\r\r\n\rtwo\r\n", [b"one\r", b"\rtwo"]),
    (CRLF, b"one\r", [TruncatedFrame]),
    (CRLF, b"0123456789\r\n", [b"0123456789"]),
    (CRLF, b"0123456789x\r\n", [FrameTooLong]),
    (Delimited(b"aa", 10), b"aaabaaaa", [b"", b"ab", b""]),
    (Delimited(b"aba", 10), b"xababax", [b"x", TruncatedFrame]),
    (LengthPrefixed(1), b"\0\1a\3bcd", [b"", b"a", b"bcd"]),
    (LengthPrefixed(2), b"\0\1a\0\3bcd", [b"a", b"bcd"]),
    (LengthPrefixed(2, "little"), b"\1\0a\3\0bcd", [b"a", b"bcd"]),
    (LengthPrefixed(3), b"\0\0\2ab", [b"ab"]),
    (LengthPrefixed(8, "little"), b"\2\0\0\0\0\0\0\0ab", [b"ab"]),
    (LengthPrefixed(4), b"\0\0", [TruncatedFrame]),
    (LengthPrefixed(4), b"\0\0\0\5abcd", [TruncatedFrame]),
    (LengthPrefixed(2, "big", 3), b"\0\3abc\0\4abcd", [b"abc", FrameTooLong]),
    (LengthPrefixed(8, "big", 3), b"\xff" * 8, [FrameTooLong]),
    (UntilEOF(5), b"", [b""]),
    (UntilEOF(5), b"a\nb\n", [b"a\nb\n"]),
    (UntilEOF(5), b"12345", [b"12345"]),
    (UntilEOF(5), b"123456", [FrameTooLong]),
    (SkipTo(b"\r\n"), b"a\rb\r\n", [b""]),
    (SkipTo(b"\r\n"), b"\r\n\r\r\n", [b"", b""]),
]


def identify(case: object) -> str:
    return repr(case)[:40]


@pytest.mark.parametrize(("reader", "stream", "expected"), TABLE, ids=identify)
def test_what_is_read_does_not_depend_on_where_the_stream_is_cut(reader, stream, expected):
    """Whole, byte by byte, and cut in two and in three at every place: the same frames and the same error."""
    places = range(len(stream) + 1)
    assert read_all(reader, [stream]) == expected
    assert read_all(reader, [stream[place : place + 1] for place in range(len(stream))]) == expected
    for first in places:
        for second in places[first:]:
            assert read_all(reader, [stream[:first], stream[first:second], stream[second:]]) == expected


@pytest.mark.parametrize(("reader", "stream", "expected"), TABLE, ids=identify)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_protocol_is_told_what_the_reader_reads(reader, stream, expected, size):
    """The same frames, also where many are cut out at a time, and then the same error."""
    protocol = Tolerant(reader)
    protocol.connection = Wire()
    frames = [item for item in expected if type(item) is bytes]
    failed = expected[-1:] if len(frames) < len(expected) else []
    try:
        for at in range(0, len(stream), size):
            protocol.data_received(stream[at : at + size])
        protocol.eof_received()
    except FrameTooLong:
        assert failed == [FrameTooLong]
        assert protocol.told == expected
    else:
        assert protocol.told == [*expected, "end"]


READERS = st.one_of(
    st.builds(FixedLength, st.integers(1, 5)),
    st.builds(Delimited, st.sampled_from([b"\n", b"\r\n", b"aa", b"aba"]), st.integers(0, 8)),
    st.builds(LengthPrefixed, st.integers(1, 8), st.sampled_from(["big", "little"]), st.integers(0, 300)),
    st.builds(UntilEOF, st.integers(0, 8)),
)


@settings(max_examples=150, deadline=None)
@given(READERS, st.lists(st.lists(st.sampled_from(b"ab\r\n\0\1"), max_size=8).map(bytes), max_size=8), st.data())
def test_what_was_framed_is_read_again(reader, messages, data):
    """Whatever `frame` does not refuse comes out as it went in, wherever it is cut."""
    written, stream = [], b""
    for message in messages:
        try:
            stream += reader.frame(message)
            written.append(message)
        except Unframeable:
            continue
        if isinstance(reader, UntilEOF):
            break
    if isinstance(reader, UntilEOF) and not written:
        return
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6), "cuts"))
    pieces = [stream[here:there] for here, there in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read_all(reader, pieces) == written


@pytest.mark.parametrize(
    ("reader", "data", "framed"),
    [
        (FixedLength(3), b"abc", b"abc"),
        (FixedLength(3), b"ab", None),
        (FixedLength(3), b"abcd", None),
        (FixedLength(3, 2), b"abc", None),
        (LINES, b"", b"\n"),
        (LINES, bytearray(b"abc"), b"abc\n"),
        (LINES, memoryview(b"0123456789"), b"0123456789\n"),
        (LINES, b"0123456789x", None),
        (LINES, b"a\nb", None),
        (CRLF, b"a\r", b"a\r\r\n"),
        (CRLF, b"a\nb", b"a\nb\r\n"),
        (CRLF, b"a\r\nb", None),
        (Delimited(b"aa"), b"ba", None),
        (LengthPrefixed(2, "big"), b"abc", b"\0\3abc"),
        (LengthPrefixed(2, "little"), b"abc", b"\3\0abc"),
        (LengthPrefixed(1), b"x" * 255, b"\xff" + b"x" * 255),
        (LengthPrefixed(1), b"x" * 256, None),
        (LengthPrefixed(4, "big", 3), b"abcd", None),
        (UntilEOF(3), b"abc", b"abc"),
        (UntilEOF(3), b"abcd", None),
        (SkipTo(b"\n"), b"", None),
    ],
    ids=identify,
)
def test_a_frame_that_would_be_misread_is_refused(reader, data, framed):
    """A delimiter inside, or one that begins too early; another length; more than the limit: Unframeable."""
    if framed is None:
        with pytest.raises(Unframeable):
            reader.frame(data)
    else:
        assert reader.frame(data) == framed


@pytest.mark.parametrize("reader", [FixedLength(3), LINES, LengthPrefixed(), UntilEOF()], ids=identify)
@pytest.mark.parametrize("data", ["text", 5, None])
def test_only_bytes_can_be_framed(reader, data):
    """Anything else is a TypeError that names it, never so many zero bytes."""
    with pytest.raises(TypeError, match=type(data).__name__):
        reader.frame(data)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (FixedLength, (0,)),
        (FixedLength, (-1,)),
        (FixedLength, (1.5,)),
        (FixedLength, (True,)),
        (Delimited, (b"",)),
        (Delimited, ("\n",)),
        (Delimited, (b"\n", -1)),
        (Delimited, (b"\n", None)),
        (LengthPrefixed, (0,)),
        (LengthPrefixed, (9,)),
        (LengthPrefixed, (4, "network")),
        (LengthPrefixed, (4, "big", -1)),
        (UntilEOF, (-1,)),
        (SkipTo, (b"",)),
    ],
)
def test_a_reader_that_cannot_be_meant_is_refused_where_it_is_made(make, arguments):
    """ValueError names the reader, what was given, and what is wanted."""
    with pytest.raises(ValueError, match=rf"^{make.__name__}\.\w+ must be .*, not "):
        make(*arguments)


def test_the_errors_carry_what_came_and_what_may_come():
    """`held` and `limit_bytes`, besides a message in words; both are connection errors."""
    buffer = ReceiveBuffer()
    buffer.feed(b"one\ntw")
    assert LINES.read(buffer) == b"one"
    assert LINES.read(buffer) is None
    with pytest.raises(TruncatedFrame, match="of which 2 bytes had come") as truncated:
        LINES.end(buffer)
    assert truncated.value.held == b"tw"
    assert isinstance(truncated.value, ConnectionError)
    buffer.feed(b"o is too long")
    with pytest.raises(FrameTooLong, match=r"'\\n' did not come within the 10 bytes") as long:
        LINES.read(buffer)
    assert long.value.limit_bytes == 10


# What it costs, counted


class Counting(bytearray):
    """Counts what is searched."""

    searched = 0

    def find(self, sought, start=0, end=None):
        found = super().find(sought, start, len(self) if end is None else end)
        upto = found + len(sought) if found >= 0 else min(len(self), len(self) if end is None else end)
        Counting.searched += max(0, upto - start)
        return found


@pytest.mark.parametrize("delimiter", [b"\n", b"\r\n", b"--boundary--"])
def test_a_line_that_trickles_in_is_searched_once(delimiter):
    """Fifty thousand bytes, one at a time: every byte is looked at about as often as the delimiter is long."""
    size = 50_000
    reader, buffer = Delimited(delimiter, size), ReceiveBuffer()
    for _ in range(3):
        buffer.feed(b"x")
        assert reader.read(buffer) is None
    buffer.data, Counting.searched = Counting(buffer.data), 0
    for _ in range(size - 3):
        buffer.feed(b"x")
        assert reader.read(buffer) is None
    for byte in delimiter[:-1]:
        buffer.feed(bytes([byte]))
        assert reader.read(buffer) is None
    buffer.feed(delimiter[-1:])
    assert type(buffer.data) is Counting
    assert reader.read(buffer) == b"x" * size
    assert Counting.searched <= (size + len(delimiter)) * (len(delimiter) + 1)


def test_what_is_held_is_copied_in_proportion_to_what_comes(monkeypatch):
    """Frames of any size in pieces of any size: all that is ever put together anew is a few times what came."""
    copied, keep = 0, ReceiveBuffer._keep

    def counting(self, data):
        nonlocal copied
        copied += len(data) if data is not self.data else 0
        keep(self, data)

    monkeypatch.setattr(ReceiveBuffer, "_keep", counting)
    for size in (7, 1000, 30_000):
        stream = LengthPrefixed(4, "big", size).frame(b"x" * size) * (30_000 // size)
        for piece in (1, 2, 99, 4096, 16384):
            copied = 0
            pieces = [stream[at : at + piece] for at in range(0, len(stream), piece)]
            assert len(read_all(LengthPrefixed(4, "big", size), pieces)) == 30_000 // size
            assert copied <= 3 * len(stream), (size, piece)


def test_who_takes_more_slowly_than_it_comes_keeps_no_more_than_is_unread():
    """Also without a protocol: what was taken goes when the next bytes come."""
    buffer, reader = ReceiveBuffer(), FixedLength(2)
    buffer.feed(b"x" * 8)
    for _ in range(100):
        buffer.feed(b"xx")
        assert len(buffer.data) == 10
        assert reader.read(buffer) == b"xx"


def test_what_comes_in_big_reads_is_cut_out_of_bytes():
    """The fast way: only what trickles in is gathered in a bytearray."""
    buffer = ReceiveBuffer()
    for piece in (b"a\nb", b"c\nd", b"e\nfgh"):
        buffer.feed(piece)
        assert type(buffer.data) is bytes
        assert LINES.ahead(buffer)
        while LINES.read(buffer) is not None:
            pass


def test_what_was_taken_is_not_kept_for_long():
    """A byte that waits behind a megabyte of frames does not keep the megabyte."""
    protocol = Frames(LINES)
    protocol.connection = Wire()
    protocol.data_received(b"0123456\n" * 100_000 + b"x")
    assert protocol.unread == 1
    assert len(protocol._received.data) == 1


# FramedProtocol, without a connection


class Wire:
    """What a FramedProtocol asks of a connection that is open."""

    state = OPEN

    def is_reading(self):
        return True

    def is_closing(self):
        return False

    def abort(self, exc):
        raise exc


class Frames(FramedProtocol):
    """Remembers what it was told, and does what `acts` says when a frame comes."""

    def __init__(self, reader: Reader, keep_open: bool = False) -> None:
        # No super().__init__(): nobody should have to remember it.
        self.reader = reader
        self.told: list = []
        self.acts: dict = {}
        self.keep_open = keep_open

    def frame_received(self, frame):
        assert type(frame) is bytes
        self.told.append(frame)
        act = self.acts.get(frame)
        if act is not None:
            act()

    def end_received(self):
        self.told.append("end")
        return self.keep_open

    def connection_lost(self, exc):
        self.told.append(exc if exc is None else type(exc))


class Tolerant(Frames):
    """Remembers what could not be read, and does nothing about it."""

    def framing_failed(self, exc):
        self.told.append(type(exc))


HEADER = Delimited(b"\n", 20)


class HeaderAndBody(FramedProtocol):
    """A line says how long the body is."""

    reader = HEADER

    def __init__(self):
        self.frames = []

    def frame_received(self, frame):
        self.frames.append(frame)
        self.reader = FixedLength(int(frame)) if self.reader is HEADER else HEADER


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=8), st.lists(st.integers(1, 9), min_size=1))
def test_a_replaced_reader_begins_at_the_very_next_byte(bodies, sizes):
    """A header line and a fixed body, which may hold newlines, over and over, cut anywhere."""
    stream = b"".join(b"%d\n%b" % (len(body), body) for body in bodies)
    protocol = HeaderAndBody()
    protocol.connection = Wire()
    at = 0
    while at < len(stream):
        for size in sizes:
            if at < len(stream):
                protocol.data_received(stream[at : at + size])
                at += size
    assert protocol.frames[::2] == [b"%d" % len(body) for body in bodies]
    assert protocol.frames[1::2] == bodies
    assert protocol.unread == 0


def test_a_reader_that_comes_back_searches_from_the_cursor():
    """What one reader has searched is nothing to another, and nothing to itself after another has taken bytes."""
    protocol = Frames(Delimited(b";", 20))
    protocol.connection = Wire()
    first, second = protocol.reader, Delimited(b"\n", 20)
    protocol.data_received(b"abc\nabc\nab")
    protocol.reader = second
    protocol.data_received(b"c\nde")
    protocol.reader = first
    protocol.data_received(b";f;")
    assert protocol.told == [b"abc", b"abc", b"abc", b"de", b"f"]
    protocol.data_received(b"0123456789")
    protocol.acts[b"0123456789;"] = lambda: setattr(protocol, "reader", first)
    protocol.reader = second
    protocol.data_received(b";\nthe next frame;")
    assert protocol.told[-2:] == [b"0123456789;", b"the next frame"]


def test_what_is_unread_is_told_within_each_frame_and_can_be_taken_out():
    """`unread` counts down, frame by frame; what `take_unread` takes is not delivered any more."""
    protocol = Frames(LINES)
    protocol.connection = Wire()
    unread = []
    protocol.acts = {b"%d" % number: lambda: unread.append(protocol.unread) for number in range(3)}
    protocol.acts[b"switch"] = lambda: unread.append(protocol.take_unread())
    protocol.data_received(b"0\n1\n2\nswitch\nGET /\nHost: a\n")
    assert unread == [25, 23, 21, b"GET /\nHost: a\n"]
    assert protocol.told == [b"0", b"1", b"2", b"switch"]
    assert protocol.unread == 0


def test_a_frame_of_any_way_is_written_and_read():
    """The instance's `reader` writes too, unless there is a `writer`."""
    for reader, writer in [(LINES, None), (LINES, LengthPrefixed(2)), (FixedLength(3), LINES)]:
        protocol = Frames(reader)
        protocol.writer = writer
        written = []
        protocol.connection = Wire()
        protocol.connection.write = written.append
        protocol.write_frame(b"abc")
        assert written == [(writer or reader).frame(b"abc")]
        with pytest.raises(Unframeable):
            protocol.write_frame(b"x" * 100_000)
        assert len(written) == 1


# On the simulated kernel


class World:
    """A framed server and one scripted client, with no latency unless told."""

    def __init__(self, reader: Reader, keep_open: bool = False, kind: type[Frames] | None = None, **how) -> None:
        self.system = SimulatedSystem(**how)
        self.reactor = Reactor(system=self.system)
        self.server = (kind or Frames)(reader, keep_open)
        self.listener = self.reactor.listen(lambda: self.server, "127.0.0.1", 0)
        self.peer = self.system.peer(self.listener.addresses[0])
        self.run(1)

    def run(self, seconds: float) -> None:
        self.system.run(self.reactor, seconds)

    def say(self, data: bytes, seconds: float = 1) -> None:
        self.peer.send(data)
        self.run(seconds)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.reactor.close()


def test_lines_and_the_end_come_in_order():
    """Frames, then the end, then connection_lost(None); our side was closed, too."""
    with World(LINES) as world:
        world.peer.send(b"one\ntwo\n")
        world.peer.fin()
        world.run(1)
        assert world.server.told == [b"one", b"two", "end", None]
        assert world.peer.ending == "EOF"


def test_end_received_may_keep_our_side_open():
    """The reply is written later, and arrives."""
    with World(LINES, keep_open=True) as world:
        world.peer.send(b"one\n")
        world.peer.fin()
        world.run(1)
        assert world.server.told == [b"one", "end"]
        world.server.write_frame(b"reply")
        world.server.connection.close()
        world.run(1)
        assert (world.peer.data, world.peer.ending) == (b"reply\n", "EOF")
        assert world.server.told[-1] is None


def test_until_eof_gives_one_frame_and_then_the_end():
    """In both directions: write_frame ends our output, for nothing else says where the frame ends."""
    with World(UntilEOF(20), keep_open=True) as world:
        world.peer.send(b"all of")
        world.run(1)
        world.peer.send(b" it")
        world.peer.fin()
        world.run(1)
        assert world.server.told == [b"all of it", "end"]
        world.server.write_frame(b"reply")
        world.run(1)
        assert (world.peer.data, world.peer.ending) == (b"reply", "EOF")
        assert world.server.told[-1] is None


def test_a_client_that_has_ended_still_reads_the_reply_until_eof():
    """Our end before the peer's: the last frame is delivered all the same."""
    with World(UntilEOF(20)) as world:
        world.server.connection.write_eof()
        world.run(1)
        assert world.server.connection.state is ENDED
        world.peer.send(b"reply")
        world.peer.fin()
        world.run(1)
        assert world.server.told == [b"reply", "end", None]


@pytest.mark.parametrize("ended", [False, True], ids=["open", "our end first"])
def test_a_truncated_frame_is_never_a_clean_end(ended):
    """connection_lost is told TruncatedFrame, whoever ended first; the peer is reset if it can still be."""
    with World(LINES) as world:
        if ended:
            world.server.connection.write_eof()
            world.run(1)
        world.peer.send(b"one\ntw")
        world.peer.fin()
        world.run(1)
        assert world.server.told == [b"one", TruncatedFrame]
        if not ended:
            assert world.peer.ending == "reset"


def test_a_frame_that_is_too_long_is_a_reset():
    """What came before it is delivered; connection_lost is told FrameTooLong."""
    with World(LINES) as world:
        world.say(b"one\n" + b"x" * 11)
        assert world.server.told == [b"one", FrameTooLong]
        assert world.peer.ending == "reset"


class Answering(Tolerant):
    """Answers what cannot be read, and ends in order."""

    def framing_failed(self, exc):
        super().framing_failed(exc)
        self.connection.write(b"too long\n")
        self.connection.close()


class Skipping(Tolerant):
    """Skips what is too long."""

    def framing_failed(self, exc):
        super().framing_failed(exc)
        self.reader = SkipTo(b"\n")

    def frame_received(self, frame):
        if isinstance(self.reader, SkipTo):
            assert frame == b""
            self.reader = LINES
        else:
            super().frame_received(frame)


def test_a_line_that_is_too_long_can_be_skipped():
    """A megabyte of it holds no memory, and the next line is read."""
    with World(LINES, kind=Skipping) as world:
        world.say(b"one\nxxxxxxxxxxx")
        for _ in range(16):
            world.say(b"x" * 65536)
            assert world.server.unread <= 1
        world.say(b"x\ntwo\nthree\n")
        assert world.server.told == [b"one", FrameTooLong, b"two", b"three"]


def test_a_refusal_can_be_answered_and_arrives_whole():
    """Although the client is still sending."""
    with World(LINES, kind=Answering, link=Link(send_buffer_bytes=4096, receive_buffer_bytes=4096)) as world:
        world.say(b"x" * 100_000)
        assert world.server.unread == 0
        world.peer.fin()
        world.run(1)
        assert (world.peer.data, world.peer.ending) == (b"too long\n", "EOF")
        assert world.server.told == [FrameTooLong, None]


def test_doing_nothing_about_what_is_too_long_is_a_reset_all_the_same():
    """The stream cannot be read on, and nobody may believe that it is."""
    with World(LINES, kind=Tolerant) as world:
        world.say(b"x" * 11)
        assert world.server.told == [FrameTooLong, FrameTooLong]
        assert world.peer.ending == "reset"


def test_a_truncated_frame_can_be_dealt_with():
    """Whoever returns from framing_failed has done so, and is told the end."""
    with World(LINES, kind=Tolerant) as world:
        world.peer.send(b"one\ntw")
        world.peer.fin()
        world.run(1)
        assert world.server.told == [b"one", TruncatedFrame, "end", None]
        assert world.server.unread == 0
        assert world.peer.ending == "EOF"


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("reader", [LINES, FixedLength(2)], ids=identify)
def test_no_frame_comes_behind_our_end(reader, end):
    """What is buffered behind a close() or abort() in frame_received is dropped, and is no truncation."""
    stop = b"2" if reader is LINES else b"2\n"
    with World(reader) as world:
        world.server.acts[stop] = lambda: getattr(world.server.connection, end)()
        world.peer.send(b"1\n2\n3\n4\nx")
        world.peer.fin()
        world.run(1)
        assert world.server.unread == 0
        assert world.server.told == [stop.replace(b"2", b"1"), stop, None if end == "close" else Aborted]


@pytest.mark.parametrize(("end", "exc"), [("close", None), ("abort", Aborted)])
def test_no_end_comes_behind_our_own(end, exc):
    """The last frame came with the peer's end, and we ended in it."""
    with World(UntilEOF(20), keep_open=True) as world:
        world.server.acts[b"all"] = lambda: getattr(world.server.connection, end)()
        world.peer.send(b"all")
        world.peer.fin()
        world.run(1)
        assert world.server.told == [b"all", exc]


def test_the_end_is_told_once():
    """Resuming after it changes nothing."""
    with World(LINES, keep_open=True) as world:
        world.peer.send(b"one\n")
        world.peer.fin()
        world.run(1)
        world.server.pause_reading()
        world.server.resume_reading()
        world.run(1)
        assert world.server.told == [b"one", "end"]


def test_frames_that_the_connection_resumed_come_before_what_comes_next():
    """Who resumes the connection itself gets the held frames late, but in order, and before the end."""
    with World(LINES) as world:
        server = world.server
        server.acts[b"1"] = lambda: server.connection.pause_reading()
        server.acts[b"3"] = lambda: server.connection.pause_reading()
        world.say(b"1\n2\n")
        server.connection.resume_reading()
        world.run(1)
        assert server.told == [b"1"]
        world.say(b"3\n4\n")
        assert server.told == [b"1", b"2", b"3"]
        world.peer.fin()
        server.connection.resume_reading()
        world.run(1)
        assert server.told == [b"1", b"2", b"3", b"4", "end", None]


def test_our_output_may_end_in_the_middle_of_the_input():
    """After write_eof the frames go on."""
    with World(LINES) as world:
        world.server.acts[b"1"] = lambda: world.server.connection.write_eof()
        world.peer.send(b"1\n2\n")
        world.run(1)
        world.peer.send(b"3\n")
        world.peer.fin()
        world.run(1)
        assert world.server.told == [b"1", b"2", b"3", "end", None]


@pytest.mark.parametrize("whose", ["protocol", "connection"])
@pytest.mark.parametrize("reader", [LINES, FixedLength(2), LengthPrefixed(1)], ids=identify)
def test_frames_wait_while_reading_is_paused(reader, whose):
    """Paused within a frame, the frames behind it and the end are held, and come one pause at a time, in order."""
    names = (
        [b"1", b"2", b"3", b"4"] if isinstance(reader, (Delimited, LengthPrefixed)) else [b"11", b"22", b"33", b"44"]
    )
    with World(reader) as world:
        server = world.server

        def pause():
            (server if whose == "protocol" else server.connection).pause_reading()

        server.acts = dict.fromkeys(names, pause)
        world.peer.send(b"".join(map(reader.frame, names)))
        world.peer.fin()
        for count in range(1, 5):
            world.run(1)
            assert server.told == names[:count]
            assert server.unread == len(reader.frame(names[0])) * (4 - count)
            server.resume_reading()
            assert server.told == names[:count]  # never from inside a call
        world.run(1)
        assert server.told == [*names, "end", None]


def test_pausing_again_before_the_loop_turns_holds_everything():
    """resume, then pause: nothing came between them."""
    with World(LINES) as world:
        world.server.acts[b"1"] = world.server.pause_reading
        world.say(b"1\n2\n")
        world.server.resume_reading()
        world.server.pause_reading()
        world.say(b"3\n")
        assert world.server.told == [b"1"]
        world.server.resume_reading()
        world.run(1)
        assert world.server.told == [b"1", b"2", b"3"]


def test_a_pause_in_the_last_frame_holds_the_end_back():
    """The reply that takes its time is written before our side is closed."""
    with World(UntilEOF(20)) as world:
        world.server.acts[b"request"] = world.server.pause_reading
        world.peer.send(b"request")
        world.peer.fin()
        world.run(5)
        assert world.server.told == [b"request"]
        world.server.connection.write(b"reply")
        world.server.resume_reading()
        world.run(1)
        assert world.server.told == [b"request", "end", None]
        assert (world.peer.data, world.peer.ending) == (b"reply", "EOF")


def test_no_more_is_read_while_frames_are_held():
    """However often it pauses and resumes, no more is buffered than one read and a frame."""
    with World(LINES, link=Link(receive_buffer_bytes=4096, send_buffer_bytes=4096)) as world:
        server = world.server
        server.frame_received = lambda frame: (server.told.append(frame), server.pause_reading())
        world.peer.send(b"0123456\n" * 2000)
        most = 0
        for _ in range(2000):
            world.run(0.01)
            most = max(most, server.unread)
            server.resume_reading()
        world.run(1)
        assert len(server.told) == 2000
        assert most <= 8192


def test_frames_that_are_held_when_a_reset_comes_wait_for_the_resume():
    """They had arrived: they are delivered when reading is resumed, and then the end says why."""
    with World(LINES) as world:
        world.server.acts[b"1"] = world.server.pause_reading
        world.say(b"1\n2\n")
        world.peer.reset()
        world.run(1)
        assert world.server.told == [b"1"]
        assert world.server.unread == 2
        world.server.resume_reading()
        world.run(1)
        assert world.server.told == [b"1", b"2", ConnectionResetError]


def test_frames_that_are_held_for_ever_do_not_keep_a_dead_connection():
    """After `Deadlines.unread` the reset is told all the same."""
    with World(LINES) as world:
        world.server.acts[b"1"] = world.server.pause_reading
        world.say(b"1\n2\n")
        world.peer.reset()
        world.run(Deadlines().unread - 1)
        assert world.server.told == [b"1"]
        world.run(2)
        assert world.server.told == [b"1", ConnectionResetError]


@pytest.mark.logs_errors
def test_a_held_frame_that_raises_is_a_reset_as_any_callback():
    """Although it comes from the call that resumes."""
    with World(LINES) as world:
        world.server.acts = {b"1": world.server.pause_reading, b"2": lambda: 1 / 0}
        world.say(b"1\n2\n3\n")
        world.server.resume_reading()
        world.run(1)
        assert world.server.told == [b"1", b"2", ZeroDivisionError]
        assert world.peer.ending == "reset"


class EchoFrames(FramedProtocol):
    reader = LengthPrefixed(2, "big", 5000)

    def frame_received(self, frame):
        self.write_frame(frame)

    def pause_writing(self):
        self.pause_reading()

    def resume_writing(self):
        self.resume_reading()


@pytest.mark.parametrize("seed", range(4))
def test_frames_come_back_whole_in_any_weather(seed):
    """Short reads and writes, small segments, a slow line, and backpressure: every frame, in order, and a clean end."""
    faults = [ShortReads(0.3), ShortWrites(0.3), TryAgain(0.1)]
    link = Link(latency=0.01, jitter=0.02, segment_bytes=300, receive_buffer_bytes=2048, send_buffer_bytes=2048)
    system, grammar = SimulatedSystem(seed, link=link, faults=faults), Grammar()
    framing = EchoFrames.reader
    sent = [bytes([number % 251]) * (number * 37 % 3000) for number in range(150)]
    with Reactor(system=system) as reactor:
        reactor.observe(grammar)
        listener = reactor.listen(EchoFrames, "127.0.0.1", 0)
        peer = system.peer(listener.addresses[0])
        peer.send(b"".join(map(framing.frame, sent)))
        peer.fin()
        system.run(reactor, 3000, until=lambda: peer.ending and not reactor.connections)
        assert read_all(framing, [bytes(peer.data)]) == sent
        assert peer.ending == "EOF"
        grammar.check(ended=True)


@pytest.mark.parametrize(("behind", "refused"), [(b"", False), (b"RCPT TO:<forged>\n", True), (b"R", True)])
def test_tls_does_not_begin_while_plaintext_is_unread(behind, refused):
    """What was put behind STARTTLS in the clear is never taken for what came under TLS (CVE-2011-0411)."""
    with World(Delimited(b"\n", 100)) as world:
        connection, outcome = world.server.connection, []

        def start() -> None:
            try:
                connection.start_tls(server_context(), server_side=True)
            except Misuse as exc:
                outcome.append(f"{len(behind)} bytes of plaintext" in str(exc))
                connection.abort()

        world.server.acts[b"STARTTLS"] = start
        world.say(b"STARTTLS\n" + behind)
        assert outcome == [True] * refused
        assert world.server.told == ([b"STARTTLS", Aborted] if refused else [b"STARTTLS"])


# On real sockets


def test_a_real_client_is_echoed_frame_by_frame(reactor):
    """On every poller of the platform."""
    server = Server(reactor, EchoFrames)
    peer, _ = server.connected()
    with peer:
        frames = [b"x" * size for size in (0, 1, 5000, 77)]
        stream = b"".join(map(EchoFrames.reader.frame, frames))
        for at in range(0, len(stream), 600):
            peer.send(stream[at : at + 600])
        peer.fin()
        assert peer.read_to_end() == "EOF"
        assert read_all(EchoFrames.reader, [bytes(peer.data)]) == frames


def test_a_pause_holds_frames_on_a_real_socket_too(reactor):
    """Two frames in one segment: the second waits for the resume, and the end for the second."""
    server = Server(reactor, lambda: Frames(LINES))
    peer, protocol = server.connected()
    with peer:
        protocol.acts[b"1"] = protocol.pause_reading
        peer.send(b"1\n2\n")
        peer.fin()
        turn_until(reactor, lambda: protocol.told)
        for _ in range(3):
            reactor.run_once(0)
        assert protocol.told == [b"1"]
        protocol.resume_reading()
        turn_until(reactor, lambda: len(protocol.told) == 4)
        assert protocol.told == [b"1", b"2", "end", None]
        assert peer.read_to_end() == "EOF"


def test_a_line_that_is_too_long_does_not_make_those_before_it_dear():
    """They are cut out hundreds at a time all the same, and not each with the rest of the read split anew."""
    buffer = ReceiveBuffer()
    buffer.feed(b"x\n" * 4000 + b"y" * 5000 + b"\n")
    lines = Delimited(b"\n", 10)
    frames = splits = 0
    while ahead := lines.ahead(buffer):
        splits += 1
        frames += len(ahead)
        buffer.start += sum(len(frame) + 1 for frame in ahead)
    assert frames == 4000
    assert splits < 30
    with pytest.raises(FrameTooLong):
        lines.read(buffer)
