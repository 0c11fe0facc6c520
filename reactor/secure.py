"""TLS in the life of one connection: the handshake, records out, plaintext in, and both ends.

The send queue stays plaintext, so what a protocol is told of it (`get_write_buffer_size`, its report) is in the bytes
it wrote. `seal` makes records of the queue's head only when the kernel has taken the records before; the plaintext in
them leaves the queue when their last byte is taken. So whatever stands in the queue, a file too, is encrypted in order
and a piece at a time, and our close_notify behind all of it.

The handshake needs no state of its own: until it is complete, nothing is sealed, and what is read goes to `shake`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import ref

from reactor.buffers import FileRange, SendQueue
from reactor.errors import TLSTruncated, free_frames
from reactor.lifecycle import Input
from reactor.timers import TimerHandle

if TYPE_CHECKING:
    import ssl

    from reactor.connection import Connection
    from reactor.tls import Codec


# Read at once from a peer whose last read made no plaintext: one record (RFC 8446, 5.1), so that a turn is not spent on
# key updates or renegotiation.
_BARREN_READ_BYTES = 16 * 1024


class Secure:
    """What a connection has besides, when it talks TLS."""

    __slots__ = (
        "_barren",
        "_codec",
        "_connection",
        "_end_bytes",
        "_ended",
        "_sealed",
        "_then",
        "_truncated",
        "deadline",
        "heard",
        "on_failed",
        "own_bytes",
        "records",
        "shaking",
    )

    def __init__(self, codec: Codec, on_failed: Callable[[Exception], None] | None = None) -> None:
        self._codec = codec
        self._connection: ref[Connection] | None = None
        self._then: Callable[[], object] | None = None
        # Told when the connection ended before its protocol began: by its listener or connector.
        self.on_failed = on_failed
        # What the kernel is to get, and how much of the queue's head is in it.
        self.records = SendQueue()
        self._sealed = 0
        # How much of it TLS itself has to say: handshakes, alerts, key updates.
        self.own_bytes = 0
        # Bytes that were read after the handshake; whether the last of them made no plaintext; TCP's end behind them,
        # an error unless the peer's close_notify is among them.
        self.heard = 0
        self._barren = False
        self._truncated: TLSTruncated | None = None
        # The handshake is under way; if it has a deadline apart from the connection's, that.
        self.shaking = True
        self.deadline: TimerHandle | None = None
        # Our close_notify is among the records, or was sent; its length on the wire (0 after a handshake that failed).
        self._ended = False
        self._end_bytes = 0

    def join(self, connection: Connection) -> None:
        """Says whose it is: once, and before anything else."""
        self._connection = ref(connection)  # or the two would wait for the garbage collector

    def begin(self, then: Callable[[], object], sent_in_the_clear: SendQueue, received: bytes = b"") -> None:
        """Begins the handshake, behind what was queued before; `then()` is called when it is complete."""
        self._codec.shake()
        self._then = then
        self._sealed = sent_in_the_clear.copy_to(self.records)
        self.send_records()
        if received:
            self._codec.hold(received)
            self._its.post(self._go_on_shaking)

    @property
    def _its(self) -> Connection:
        assert self._connection is not None
        connection = self._connection()
        assert connection is not None  # whatever calls here belongs to the connection, and holds it
        return connection

    # Reading

    def reader(self) -> Callable[[], None]:
        """What serves the descriptor while plaintext is wanted."""
        return self.shake if self.shaking else self.read

    def wants_input(self) -> bool:
        """Whether OpenSSL has to read before it can encrypt or end: then what comes goes to it, wanted or not."""
        return self._codec.wants_input and not self._ended

    def is_congested(self) -> bool:
        """Whether so much of TLS's own output waits that nothing is read which could make it say more."""
        return self.own_bytes > self._its.get_write_buffer_limits()[1]

    def shake(self) -> None:
        """Something came, and belongs to the handshake."""
        connection = self._its
        data = connection.receive()
        if data is None:
            return
        if data:
            self._go_on_shaking(data)
        else:
            connection.fail(TLSTruncated(f"{connection!r}: the peer ended in the middle of the TLS handshake"))

    def _go_on_shaking(self, data: bytes = b"") -> None:
        """Takes the handshake as far as what came allows."""
        connection = self._its
        if not self.shaking:
            return  # it ended meanwhile
        try:
            complete = self._codec.shake(data)
        except OSError as exc:
            self.stop()
            connection.handshake_failed(exc)
            return
        self.send_records()
        if complete and not connection.is_broken():
            self.stop()
            self.on_failed = None  # what fails from here on is not the handshake
            connection.secured()
            connection.post(self.go_on)  # what came behind the handshake in the same read
            then, self._then = self._then, None
            assert then is not None
            then()

    def read(self) -> None:
        """Something came, and its plaintext is wanted, or OpenSSL wants to read."""
        connection = self._its
        data = connection.receive(_BARREN_READ_BYTES if self._barren else None)
        if data is None:
            return
        self.heard += len(data)
        if not data and self._truncated is None:
            self._truncated = TLSTruncated(f"{connection!r}: the peer's TCP ended without close_notify")
        self.go_on(data)

    def has_input(self) -> bool:
        """Whether plaintext, or the peer's close_notify, has come and was not told yet."""
        return not self.shaking and self._codec.has_input()

    def go_on(self, data: bytes = b"") -> None:
        """Delivers what has become complete, then the end of the input: both pass here, in the order of the stream.

        While reading is paused, what the codec holds waits there.
        """
        connection, codec = self._its, self._codec
        waited, delivering = self.wants_input(), connection.is_reading()
        if not delivering and not (waited and connection.state.input is Input.DISCARD):
            codec.hold(data)
            return
        try:
            plaintext = codec.read(data)
        except OSError as exc:
            self.send_records()  # the alert that says why
            connection.fail(exc)
            return
        self._barren = not plaintext and len(data) >= _BARREN_READ_BYTES
        self.send_records(resumed=waited)
        if not delivering:
            self._discard(plaintext)
        elif plaintext:
            if codec.peer_ended or self.spoiled or self._truncated is not None:
                connection.post(self.go_on)  # in a call of its own, behind the data
            connection.deliver(plaintext)
        elif codec.peer_ended:
            connection.input_ended()
        elif self._truncated is not None:
            connection.fail(connection.hidden_error() or self._truncated)

    def _discard(self, plaintext: bytes) -> None:
        connection = self._its
        connection.choose_reader()
        if plaintext:
            connection.count_discarded(len(plaintext))
        if self._truncated is not None:
            connection.peer_ended()

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """For looking (`getpeercert`, `cipher`), not for calling."""
        return self._codec.ssl_object

    @property
    def spoiled(self) -> bool:
        """Whether what came was not TLS, or was tampered with: then nothing can be written any more, either."""
        return self._codec.spoiled is not None

    # Writing

    def send_records(self, *, resumed: bool = False) -> None:
        """Sends what TLS itself has to say, while our side may still say anything; and what had to wait for a read."""
        if self._ended or self._its.is_broken():
            return
        data = self._codec.take()
        if data or resumed:
            self.records.append(data)
            self.own_bytes += len(data)
            self._its.send_or_gather()
            if self.is_congested():
                self._its.choose_reader()

    def has_more(self, queue: SendQueue, draining: bool) -> bool:
        """Whether anything could be sent now. During the handshake the queue cannot."""
        if self.records.size:
            return True
        if self._codec.wants_input:
            return False
        return not self.shaking if queue.size else draining and not self._ended

    def seal(self, queue: SendQueue, limit_bytes: int, read_file: Callable[[FileRange, int], bytes]) -> None:
        """Makes records of the queue's first `limit_bytes`; behind an empty queue, the close_notify.

        Only when `has_more`, and no records are left. The OSErrors of `read_file`, and ssl.SSLError.
        """
        if queue.size:
            for chunk in queue.head(limit_bytes):
                data = read_file(chunk, limit_bytes) if isinstance(chunk, FileRange) else chunk
                taken = self._codec.encrypt(data)
                self._sealed += taken
                if taken < len(data):
                    break
            self.records.append(self._codec.take())
        elif self._codec.end():
            end = self._codec.take()
            self.records.append(end)
            self._ended, self._end_bytes = True, len(end)
            self.stop()
        if self._codec.wants_input:
            self._its.choose_reader()

    def open_sealed(self, queue: SendQueue) -> int:
        """The kernel has taken all records: what was in them leaves the queue. Returns how much that was."""
        count, self._sealed = self._sealed, 0
        queue.advance(count)
        congested, self.own_bytes = self.is_congested(), 0
        if congested:
            self._its.choose_reader()
        return count

    def drop_records(self) -> None:
        """Nothing can be sent any more."""
        self.records.clear()
        self._sealed = self.own_bytes = 0

    def drop_unsealed(self, queue: SendQueue) -> int:
        """Drops what cannot be made into records any more; what is in them already, or in the clear, is still sent."""
        return queue.truncate(self._sealed)

    def is_only_ending(self, queue: SendQueue) -> bool:
        """Whether nothing but our close_notify is left to be sent."""
        return self._ended and not queue.size and self.records.size == self._end_bytes

    @property
    def end_bytes_sent(self) -> int:
        """How much of our close_notify the kernel has."""
        return self._end_bytes - self.records.size if self._ended else 0

    def is_flushed(self) -> bool:
        """Whether the kernel has all of it, the close_notify included."""
        return self._ended and not self.records.size

    # The end

    def stop(self) -> None:
        """No handshake is under way any more: complete, failed, or not to be."""
        self.shaking = False
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def never_began(self, reason: Exception) -> None:
        """The connection ends before its protocol began; whoever made it is told."""
        if self.on_failed is not None:
            self._its.post(self.on_failed, reason)

    def let_go(self) -> None:
        """The connection is over, and told so."""
        self._then = self.on_failed = None
        free_frames(self._codec.spoiled)
