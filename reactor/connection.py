"""A connection: the table, the send queue and a socket, joined; and the hot path.

The state is `lifecycle`'s two words. `_move` alone assigns it and derives the rest: which reader serves the descriptor,
our FIN, the deadlines, the end. `_refresh` alone tells the poller what we wait for. Reading and writing never consult
the table: an open connection with nothing queued sends with one call, and receives with one call.

An error is latched once, where it is first seen, because the kernel tells it only once (K5). After a failed send the
queue is dropped, what the peer had said is still read, and only then comes `connection_lost` with that error (R5).
No callback is ever called from inside a call that the user makes.

Reading on costs little and saves the reply: closing a socket with unread input makes the kernel send a reset and throw
our own unsent output away (RFC 9293, 3.10.4; K1, K2). Hence CLOSING and LINGER read, count and discard.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from reactor import lifecycle
from reactor.buffers import SendQueue, as_view
from reactor.deadlines import Passed, needs_acknowledgements, next_look, passed
from reactor.errors import (
    WAIT,
    Aborted,
    FlushTimeout,
    HandshakeTimeout,
    IdleTimeout,
    Misuse,
    QueueOverflow,
    TLSTruncated,
    Unacknowledged,
    Unsent,
    WriteAfterEnd,
)
from reactor.lifecycle import CLOSED, LINGER, STARTING, Event, Input, Output, State
from reactor.loop import Loop
from reactor.options import Deadlines, Options, Watermarks
from reactor.pollers import ERROR, HANGUP, INVALID, READ, WRITE
from reactor.protocol import Protocol
from reactor.report import Report
from reactor.system import Socket, SocketAddress, address_text
from reactor.timers import TimerHandle
from reactor.trace import Observer, Record

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from reactor.tls import Codec

logger = logging.getLogger("reactor")

DELIVER, DISCARD, STOP_INPUT = Input.DELIVER, Input.DISCARD, Input.STOP
ACCEPT, DRAIN, STOP_OUTPUT = Output.ACCEPT, Output.DRAIN, Output.STOP

# Reads after a failed send, before the connection ends whatever else the peer may say: more than the largest usual
# receive buffer (Linux: tcp_rmem, 6 MiB) at the default read size, so that nothing the peer had said is cut.
_LAST_READS = 256


_TLS_EXTRAS: dict[str, Callable[[Any], Any]] = {
    "ssl_object": lambda tls: tls,
    "sslcontext": lambda tls: tls.context,
    "peercert": lambda tls: tls.getpeercert(),
    "cipher": lambda tls: tls.cipher(),
    "compression": lambda tls: tls.compression(),
}


def _ignore() -> None:
    """The reader of a connection that reads nothing any more."""


@attrs.define(eq=False, init=False, repr=False)
class Connection:
    """One end of a stream: asyncio's Transport, and beyond it `state` and `report`.

    Made by `Reactor.listen` and `Reactor.connect`, given to `connection_made`. To be used only in the loop's thread.
    """

    _loop: Loop
    _socket: Socket
    _fd: int
    _address: SocketAddress
    _number: int
    _options: Options
    _watermarks: Watermarks
    _read_bytes: int
    _protocol: Any
    _queue: SendQueue
    _codec: Codec | None  # TLS, where there is any
    _observer: Observer | None
    # Told when the connection is buried, and when it ended before its protocol began: by its listener or connector.
    _on_end: Callable[[], None] | None
    _on_failed: Callable[[Exception], None] | None

    # The life, and what `_derive` derives from it.
    _state: State
    on_readable: Callable[[], None]
    _interest: int | None  # what the poller was told; None: nothing, the descriptor is not registered
    _direct: bool  # may the first write of a turn go straight to the kernel?
    _turn: int  # the turn in which a write last did

    # What the user asked for.
    _paused: bool
    _ended_by: str | None  # the call that ended the output, for the error that a later write gets

    # What is so.
    _blocked: bool  # the kernel took less than was offered: wait until the socket is writable
    _gathered: bool  # the loop will call `flush` before it sleeps
    _bursting: bool  # ... and until then, what is written need only be queued
    _writing_paused: bool  # pause_writing was told, and resume_writing not yet
    _reason: Exception | None  # the first cause of an end that is not in order
    _broken: bool  # nothing can be sent any more
    _how: str | None  # how it ended
    _fin_sent: bool
    _displaced: bool  # the descriptor is somebody else's by now, or nobody's

    # Counts, in bytes.
    _received: int
    _discarded: int
    _accepted: int  # by the kernel
    _unsent: int  # taken by `write`, never given to the kernel
    _acknowledged: int  # when last asked

    # Times, in the loop's seconds.
    _read_at: float
    _sent_at: float  # the kernel last took, or was last seen to have delivered, something
    _since: float  # this state began
    _stages: tuple[tuple[str, float], ...]
    _watch: TimerHandle | None  # the next moment at which a deadline could have passed
    _armed_at: float  # when that was set, and what had been accepted by then
    _accepted_when_armed: int
    _report: Report | None  # the last one

    def __init__(
        self,
        loop: Loop,
        sock: Socket,
        address: SocketAddress,
        options: Options,
        origin: str,
        on_end: Callable[[], None] | None = None,
        on_failed: Callable[[Exception], None] | None = None,
        codec: Codec | None = None,
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._fd = sock.fileno()
        self._address = address
        loop.connections_made += 1
        self._number = loop.connections_made
        self._options = options
        self._watermarks = options.watermarks
        self._read_bytes = options.limits.read_bytes
        self._protocol = None
        self._queue = SendQueue()
        self._codec = codec
        self._observer = loop.observer
        self._on_end = on_end
        self._on_failed = on_failed
        self._state = STARTING
        self.on_readable = _ignore
        self._interest = None
        self._direct = False
        self._turn = -1
        self._paused = False
        self._ended_by = None
        self._blocked = self._gathered = self._bursting = self._writing_paused = False
        self._broken = self._fin_sent = self._displaced = False
        self._reason = self._how = self._watch = self._report = None
        self._received = self._discarded = self._accepted = self._unsent = self._acknowledged = 0
        self._read_at = self._sent_at = self._since = self._armed_at = loop.now
        self._accepted_when_armed = 0
        self._stages = ()
        loop.admit(self._fd, self)
        if self._observer is not None:
            self._record(origin, detail=address_text(address))

    def begin(self, factory: Callable[[], Any]) -> None:
        """Lets it begin, after the TLS handshake if there is one. Called by the loop, once, for who made it."""
        if self._state is not STARTING:
            return  # the reactor was closed meanwhile
        if self._codec is None:
            self._start(factory, register=True)
            return
        self._loop.poller.register(self._fd, READ)
        self._interest = READ
        self.on_readable = partial(self._shake_hands, self._codec, factory)
        self._arm()
        self._codec.shake()
        self._send_records()

    def _start(self, factory: Callable[[], Any], register: bool) -> None:
        protocol = factory()
        if register:
            # Before anything is told: a protocol that was told of a connection is owed its end as well.
            self._loop.poller.register(self._fd, READ)
            self._interest = READ
        self._protocol = protocol
        self._move(lifecycle.STARTED)
        if self._loop.draining:
            self._loop.post(self, self.drain)
        self._record("connection_made")
        protocol.connection_made(self)

    def _shake_hands(self, codec: Codec, factory: Callable[[], Any]) -> None:
        try:
            data = self._socket.recv(self._read_bytes)
        except OSError as exc:
            self._receive_failed(exc)
            return
        if not data:
            self._fail(TLSTruncated(f"{self!r}: the peer ended in the middle of the TLS handshake"))
            return
        self._read_at = self._loop.now
        try:
            done = codec.shake(data)
        except OSError as exc:
            # OpenSSL's own words, and its alert for the peer, which is sent as any last words are.
            self._because(exc)
            self._move(lifecycle.CLOSE)
            return
        self._send_records()
        if done and self._state is STARTING:
            self._on_failed = None  # what fails from here on is not the handshake
            self._loop.post(self, self._decrypt, b"")  # what came behind the handshake in the same read
            self._start(factory, register=False)

    # Writing

    def write(self, data: Buffer) -> None:
        """Sends bytes, or queues them: all of them, in order, before our FIN. Never blocks, never calls back.

        What must be kept and is mutable is copied. Raises WriteAfterEnd after your own `write_eof`, `close` or `abort`
        and after `connection_lost`, TypeError for what is not bytes-like, and never an OSError: a failure is told in
        `connection_lost`, and what is written until then counts as unsent.
        """
        if type(data) is not bytes:
            data = as_view(data)
        if not self._direct or self._turn == self._loop.turns:
            if self._bursting:
                self._queue.append(bytes(data))
                self._check_queue()
            else:
                self._write_later(bytes(data))  # no copy of what is bytes already
            return
        self._turn = self._loop.turns
        try:
            sent = self._socket.send(data)
        except OSError as exc:
            if exc.errno in WAIT:
                self._blocked = True
                self._write_later(bytes(data))
            else:
                self._unsent += len(data)
                self._send_failed(exc)
            return
        self._accepted += sent
        self._sent_at = self._loop.now
        if self._observer is not None:
            self._record("sent", sent)
        if sent != len(data):
            self._blocked = True
            rest = memoryview(data)[sent:]
            self._write_later(rest if type(data) is bytes else bytes(rest))

    def _write_later(self, data: bytes | memoryview) -> None:
        """Queues what cannot go at once; counts, or refuses, what can never go."""
        if self._ended_by is not None:
            raise WriteAfterEnd(f"write() of {len(data)} bytes refused: {self!r} was ended by {self._ended_by}")
        if not self._may_write():
            self._unsent += len(data)
            return
        if not data:
            return
        self._queue.append(data if self._codec is None else self._codec.encrypt(data))
        self._direct = False
        self._send_or_gather()
        self._check_queue()

    def _check_queue(self) -> None:
        if self._queue.size > self._options.limits.queue_bytes:
            limit = self._options.limits.queue_bytes
            self._abort(QueueOverflow(f"{self._queue.size} bytes wait for {self!r}, more than {limit}"))

    def writelines(self, chunks: Iterable[Buffer]) -> None:
        """Writes all the chunks, as one `write` of them joined would."""
        self.write(b"".join([as_view(chunk) for chunk in chunks]))

    def _send_or_gather(self) -> None:
        """Records, too: the first of a turn at once, the rest together before the loop sleeps."""
        if self._codec is not None and self._turn != self._loop.turns and not self._blocked and not self._gathered:
            self._turn = self._loop.turns
            self._send_queue()
        if self._queue.size:
            self._gather()

    def _send_records(self) -> None:
        """Sends what TLS itself has to say, while our side may still say anything."""
        if self._codec is not None and self._state.output in (Output.HOLD, ACCEPT) and not self._broken:
            self._queue.append(self._codec.take())
            self._send_or_gather()

    def _gather(self) -> None:
        if not self._gathered:
            self._gathered = True
            self._bursting = self._codec is None and self._may_write() and self._ended_by is None
            self._loop.gather(self)

    def flush(self) -> None:
        """Gives the kernel what was gathered in this turn, and tells a writer who is too fast. Called by the loop."""
        self._gathered = self._bursting = False
        if not self._blocked:
            self._send_queue()
        self._refresh()
        if self._queue.size > self._watermarks.high and self._may_write() and not self._writing_paused:
            self._writing_paused = True
            self._record("pause_writing")
            self._protocol.pause_writing()

    def _on_writable(self) -> None:
        self._send_queue()
        self._refresh()
        if self._writing_paused and self._may_write() and self._queue.size <= self._watermarks.low:
            self._writing_paused = False
            self._record("resume_writing")
            self._protocol.resume_writing()

    def _may_write(self) -> bool:
        """Whether the protocol's writes still have a use: only then is it told to pause and to resume them."""
        spoiled = self._codec is not None and self._codec.spoiled is not None
        return self._state.output is ACCEPT and not self._broken and not spoiled

    def _send_queue(self) -> None:
        """Sends until the queue is empty, the kernel takes no more, or the budget of one turn is used up."""
        queue, limits = self._queue, self._options.limits
        for _ in range(limits.sends_per_flush):
            if not queue.size:
                break
            head = queue.head(limits.send_bytes)
            try:
                sent = self._socket.send(head[0]) if len(head) == 1 else self._socket.sendmsg(head)
            except OSError as exc:
                if exc.errno not in WAIT:
                    self._send_failed(exc)
                    return
                break
            queue.advance(sent)
            self._accepted += sent
            self._sent_at = self._loop.now
            if self._observer is not None:
                self._record("sent", sent)
            if sent < sum(map(len, head)):
                break
        self._blocked = queue.size > 0
        if self._blocked or self._state is CLOSED:
            return
        if self._state.output is DRAIN:
            self._move(lifecycle.DRAINED)
        else:
            self._direct = self._may_write() and self._codec is None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As asyncio's: `pause_writing` comes above `high` bytes, `resume_writing` at or below `low`.

        `low` is a quarter of `high` by default, `high` four times `low`; without either, the options' hold again.
        """
        self._watermarks = self._options.watermarks.instead(high, low)
        if self._queue.size:
            self._gather()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """`(low, high)`, in bytes."""
        return self._watermarks.low, self._watermarks.high

    def get_write_buffer_size(self) -> int:
        """Bytes that wait here; those the kernel has accepted are not counted."""
        return self._queue.size

    # Reading

    def _deliver(self) -> None:
        try:
            data = self._socket.recv(self._read_bytes)
        except OSError as exc:
            self._receive_failed(exc)
            return
        if not data:
            self._peer_ended()
            return
        self._received += len(data)
        self._read_at = self._loop.now
        if self._observer is not None:
            self._record("received", len(data))
            self._record("data_received", len(data))
        self._protocol.data_received(data)

    def _read_records(self) -> None:
        try:
            data = self._socket.recv(self._read_bytes)
        except OSError as exc:
            self._receive_failed(exc)
            return
        if data:
            self._decrypt(data)
        elif self._codec is not None and self._codec.peer_ended:
            self._read_close_notify()
        else:
            hidden = self._reason if self._broken else self._loop.system.error(self._socket)
            self._fail(hidden or TLSTruncated(f"{self!r}: the peer's TCP ended without close_notify"))

    def _decrypt(self, data: bytes) -> None:
        assert self._codec is not None
        if not self.is_reading():
            return  # what the codec holds waits there until reading is resumed
        self._read_at = self._loop.now
        try:
            plaintext = self._codec.read(data)
        except OSError as exc:
            self._send_records()  # the alert that says why
            self._fail(exc)
            return
        self._send_records()
        if self._codec.peer_ended:
            self._loop.post(self, self._read_close_notify)
        elif self._codec.spoiled is not None:
            self._loop.post(self, self._decrypt, b"")  # in a call of its own, behind the data that came before
        if plaintext:
            self._received += len(plaintext)
            self._record("received", len(plaintext))
            self._record("data_received", len(plaintext))
            self._protocol.data_received(plaintext)

    def _read_close_notify(self) -> None:
        """The peer's end was read with its last data; it is told in a call of its own, and not while paused."""
        if self.is_reading():
            self._peer_ended()

    def _discard(self) -> None:
        try:
            data = self._socket.recv(self._read_bytes)
        except OSError as exc:
            self._receive_failed(exc)
            return
        if not data:
            self._peer_ended()
            return
        self._discarded += len(data)
        self._read_at = self._loop.now
        if self._observer is not None:
            self._record("discarded", len(data))
        if self._state is LINGER and self._discarded > self._options.limits.linger_bytes:
            self.end_linger()

    def _receive_failed(self, exc: OSError) -> None:
        if exc.errno == errno.EBADF:
            self.displaced()
        elif exc.errno not in WAIT:
            self._fail(exc)

    def _peer_ended(self) -> None:
        """A read of zero bytes: the peer's FIN, unless a reset hides behind it (K5, K7)."""
        hidden = self._reason if self._broken else self._loop.system.error(self._socket)
        if hidden is not None:
            self._fail(hidden)
            return
        self._record("peer FIN")
        delivering = self._state.input is DELIVER
        self._move(lifecycle.PEER_EOF)
        if not delivering:
            return
        self._record("eof_received")
        if not self._protocol.eof_received():
            self._move(lifecycle.CLOSE)

    def pause_reading(self) -> None:
        """No `data_received` until `resume_reading`. Nothing is lost: the kernel holds it, then the peer must wait.

        A reset still ends the connection at once (on epoll and poll); what was not read then counts as discarded.
        """
        self._paused = True
        self._derive()

    def resume_reading(self) -> None:
        """Reads again."""
        self._paused = False
        self._derive()
        if self._codec is not None and self.is_reading():
            self._loop.post(self, self._decrypt, b"")  # what it holds is announced by no poller

    def is_reading(self) -> bool:
        """Whether `data_received` may come."""
        return self._state.input is DELIVER and not self._paused

    # What the poller tells

    def on_events(self, events: int) -> None:
        """Serves any combination of events; READ alone goes to `on_readable` directly."""
        if self._interest is None:
            return  # meant for who had this descriptor's number before
        if events & INVALID:
            self.displaced()
            return
        if events & READ:
            self.on_readable()
        if events & WRITE and self._blocked:
            self._on_writable()
        elif events & (ERROR | HANGUP) and not events & READ:
            self._hung_up()

    def _hung_up(self) -> None:
        """The kernel tells, unasked, that a side is gone (K11, K12)."""
        if self._state is CLOSED or self._broken:
            return
        error = self._loop.system.error(self._socket)
        if error is not None:
            self._send_failed(error)
        elif self._state.input is STOP_INPUT:
            # The peer's FIN was read, and now nobody is left there to read: whatever we write cannot arrive.
            self._send_failed(BrokenPipeError(errno.EPIPE, "the peer closed both of its sides"))
        elif self.on_readable is not _ignore:
            self.on_readable()
        elif self._interest is not None:
            # Both sides are shut, and the rest waits to be read until reading is resumed. A hang-up cannot be masked.
            self._loop.poller.unregister(self._fd)
            self._interest = None

    def displaced(self) -> None:
        """The descriptor was closed behind the reactor's back (R14)."""
        self._displaced = True
        self._fail(OSError(errno.EBADF, f"the descriptor of {self!r} was closed by somebody else"))

    # Ending

    def write_eof(self) -> None:
        """Ends our output: what is queued is sent, then our FIN. Reading goes on. Again does nothing."""
        self._ended_by = self._ended_by or "write_eof()"
        self._move(lifecycle.END)

    def can_write_eof(self) -> bool:
        """Always true."""
        return True

    def close(self) -> None:
        """Ends in order: what is queued is sent, then our FIN, then the peer's is waited for. No more is delivered.

        `connection_lost` comes when that is done, or when a deadline has passed. Again does nothing.
        """
        self._ended_by = self._ended_by or "close()"
        self._move(lifecycle.CLOSE)

    def abort(self) -> None:
        """Ends now, with a reset: what is queued is dropped, and the peer can tell; it never sees a clean end."""
        self._ended_by = self._ended_by or "abort()"
        self._abort(Aborted(f"{self!r} was aborted"))

    def is_closing(self) -> bool:
        """Whether the end of both sides has begun: by `close`, `abort`, the peer and us in turn, or a failure."""
        return self._broken or (self._state.output is not ACCEPT and self._state.input is not DELIVER)

    def cut(self, exc: Exception) -> None:
        """The reactor's own end: what lingers is left to the kernel, what still sends is reset."""
        if self._state is LINGER:
            self.end_linger()
        else:
            self._abort(exc)

    def drain(self) -> None:
        """The reactor drains: asks the protocol to end, once it has begun, and unless it is ending already."""
        if self._protocol is None or self.is_closing():
            return
        self._record("draining")
        draining = getattr(self._protocol, "draining", None)
        if draining is None or getattr(draining, "__func__", None) is Protocol.draining:
            # Not `close()`: nobody but us knows of this end yet, so others may go on writing until connection_lost.
            self._move(lifecycle.CLOSE)
        else:
            draining()

    def abandon(self) -> None:
        """The loop closes."""
        self._on_failed = None
        self._abort(Aborted(f"the reactor was closed; {self!r} was reset"))

    def callback_failed(self, exc: Exception) -> None:
        """A callback raised: logged, and the connection is reset with it."""
        what = "raised" if self._state is CLOSED else "raised; the connection is reset"
        logger.error("a callback of %r %s", self, what, exc_info=exc)
        if self._state is CLOSED and self._report is None and self._reason is None:
            # It had just ended in order, and the last word on that is the protocol's.
            self._because(exc)
            self._how = "reset"
        self._abort(exc)

    def _abort(self, exc: Exception) -> None:
        if self._state is not CLOSED:
            self._break(exc)
            self._move(lifecycle.ABORT)

    def _fail(self, exc: Exception) -> None:
        """The kernel told an error, and nothing more can be read."""
        if self._state is not CLOSED:
            self._break(exc)
            self._move(lifecycle.FAILED)

    def _send_failed(self, exc: OSError) -> None:
        """The kernel told an error, and the peer's last words may wait to be read: read them, in turns to come."""
        if exc.errno == errno.EBADF:
            self.displaced()
        elif self._state is not CLOSED and not self._broken:
            self._break(exc)
            self._derive()
            self._loop.post(self, self._read_last_words, _LAST_READS)

    def _read_last_words(self, reads_left: int) -> None:
        if self._state is CLOSED:
            return
        before = self._received + self._discarded
        if self.is_reading():
            self._reader()()
        elif self._state.input is not STOP_INPUT:
            self._discard()
        if reads_left and self._received + self._discarded > before:
            self._loop.post(self, self._read_last_words, reads_left - 1)
        else:
            assert self._reason is not None
            self._fail(self._reason)

    def _break(self, exc: Exception) -> None:
        """Keeps the first cause, and drops what can no longer be sent."""
        self._because(exc)
        self._broken = True
        self._unsent += self._queue.clear()
        self._direct = self._bursting = self._blocked = False

    def _because(self, exc: Exception) -> None:
        if self._reason is None:
            self._reason = exc
            self._record("error", detail=f"{type(exc).__name__}: {exc}")

    # The one door to the state, and what is derived from it

    def _move(self, event: Event) -> None:
        before = self._state
        state = lifecycle.after(before, event)
        if state is before:
            return
        now = self._loop.look_at_clock()
        if before is not STARTING or self._codec is not None:  # without a handshake it takes no time to speak of
            self._stages += ((before.name, now - self._since),)
        self._since = now
        self._state = state
        self._bursting = False
        if before is STARTING and event is not lifecycle.STARTED and self._on_failed is not None:
            self._loop.post(self, self._on_failed, self._reason or Aborted(f"{self!r} was closed before it began"))
        if state.output is DRAIN and before.output is not DRAIN and self._codec is not None and not self._broken:
            self._queue.append(self._codec.end())  # close_notify; our FIN leaves behind it
            self._gather()
        if state is CLOSED:
            self._finish(before, event)
        elif state.output is DRAIN and not self._queue.size:
            self._move(lifecycle.DRAINED)
        else:
            if state.output is STOP_OUTPUT and before.output is not STOP_OUTPUT:
                self._send_fin()
            self._derive()
            self._arm()
            if self._state is LINGER:
                self._record("lingering")
                if not self._options.linger:
                    self.end_linger()

    def _send_fin(self) -> None:
        if self._broken:
            return
        system = self._loop.system
        try:
            system.shutdown_output(self._socket)
        except OSError as exc:
            self._send_failed(system.error(self._socket) or exc)
            return
        self._fin_sent = True
        self._record("our FIN")

    def _derive(self) -> None:
        """Chooses, at the transition, what the loop then calls without asking."""
        state = self._state
        if state is STARTING:
            return  # a handshake reads by itself
        if state.input is DISCARD:
            self.on_readable = self._discard
        elif state.input is DELIVER and not self._paused:
            self.on_readable = self._reader()
        else:
            self.on_readable = _ignore
        self._direct = self._may_write() and not self._queue.size and self._codec is None
        self._refresh()

    def _reader(self) -> Callable[[], None]:
        """What delivers: bytes as they come, or what TLS makes of them."""
        return self._deliver if self._codec is None else self._read_records

    def _refresh(self) -> None:
        """The one place that tells the poller what we wait for."""
        if self._state is CLOSED:
            return
        wanted = 0 if self.on_readable is _ignore or self._broken else READ
        if self._blocked:
            wanted |= WRITE
        if wanted == self._interest or (self._interest is None and not wanted):
            return
        try:
            if self._interest is None:
                self._loop.poller.register(self._fd, wanted)
            else:
                self._loop.poller.modify(self._fd, wanted)
            self._interest = wanted
        except OSError:
            self.displaced()

    def _finish(self, before: State, event: Event) -> None:
        """The end: no event reaches this connection any more; it is buried at the end of the turn."""
        if event is lifecycle.ABORT or (event is lifecycle.DEADLINE and before.output is DRAIN):
            self._how = "reset"
        elif self._broken:
            self._how = "failed"
        elif self._how is None:
            self._how = "in order"
        self.on_readable = _ignore
        self._direct = False
        self._arm()
        loop, registered = self._loop, self._interest is not None
        self._interest = None
        loop.doom(self)
        loop.dismiss(self._fd, registered)

    def bury(self) -> None:
        """Takes the last report, releases the descriptor, and tells the protocol. Called by the loop, once.

        Whatever goes wrong with one of these, the next is done.
        """
        try:
            self._report = self._take_last_report()
            self._loop.totals.add(self._report)
        finally:
            try:
                self._release()
            finally:
                self._tell_the_end()

    def _take_last_report(self) -> Report:
        if self._reason is None and self._unsent:
            self._because(Unsent(f"{self._unsent} bytes written to {self!r} after its end had begun were not sent"))
        report = self._take_report()
        if self._reason is None and report.unacknowledged != 0:
            # A reset that came after the peer's FIN is told by nothing else (K7).
            hidden = self._loop.system.error(self._socket)
            if hidden is not None:
                self._because(hidden)
                self._how = "failed"
                report = self._take_report()
        return report

    def _release(self) -> None:
        system = self._loop.system
        if self._displaced:
            system.forget(self._socket)
        elif self._how == "reset":
            self._record("our reset")
            system.reset(self._socket)
        else:
            if self._how == "in order" and not self._fin_sent:
                self._record("our FIN")
            system.close(self._socket)

    def _tell_the_end(self) -> None:
        self._record("closed", detail=str(self._report))
        self._ended_by = self._ended_by or "connection_lost()"
        # Let go, so that neither waits for the garbage collector to find the circle they are in.
        protocol, self._protocol = self._protocol, None
        try:
            if self._on_end is not None:
                self._on_end()
        finally:
            if protocol is not None:
                self._record("connection_lost")
                protocol.connection_lost(self._reason)

    # Deadlines

    def _arm(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._armed_at, self._accepted_when_armed = self._loop.now, self._accepted
        look = None if self._state is CLOSED else next_look(self._state, *self._times())
        self._watch = None if look is None else self._loop.set_timer(look, self, self._check_deadlines)

    def _times(self) -> tuple[Deadlines, float, float, float, float]:
        return self._options.deadlines, self._loop.now, self._read_at, self._sent_at, self._since

    def _check_deadlines(self) -> None:
        self._watch = None
        if self._accepted != self._accepted_when_armed and not needs_acknowledgements(self._state):
            # Something was sent, perhaps between two turns, when the loop's time stood still: never judge too early.
            self._sent_at = max(self._sent_at, self._armed_at)
        outstanding = None
        if needs_acknowledgements(self._state):
            outstanding = self._loop.system.outstanding(self._socket)
            acknowledged = self._count_acknowledged(outstanding)
            if acknowledged is not None and acknowledged > self._acknowledged:
                self._acknowledged = acknowledged
                self._sent_at = self._loop.now
        which = passed(self._state, *self._times(), outstanding == 0)
        deadlines = self._options.deadlines
        if which is None:
            self._arm()
        elif which is Passed.HANDSHAKE:
            self._break(HandshakeTimeout(f"{self!r}: no TLS handshake within {deadlines.handshake} s"))
            self._move(lifecycle.DEADLINE)
        elif which is Passed.LINGERED:
            self.end_linger(confirmed=outstanding == 0)
        elif which is Passed.IDLE:
            self._because(IdleTimeout(f"{self!r}: nothing received and nothing sent for {deadlines.idle} s"))
            self._move(lifecycle.CLOSE)
        else:
            stalled = f"the peer took nothing for {deadlines.flush} s after our end"
            slow = f"the peer did not take everything within {deadlines.flush_total} s after our end"
            self._break(FlushTimeout(f"{self!r}: {stalled if which is Passed.STALLED else slow}"))
            self._move(lifecycle.DEADLINE)

    def end_linger(self, confirmed: bool | None = None) -> None:
        """Lingers no longer. What the peer's TCP has not confirmed by now is told, not assumed.

        After a full silence that includes our FIN. Cut short, the bytes must do: what acknowledges the FIN may be under
        way, for Linux delays it by up to 40 ms.
        """
        assert self._state is LINGER
        if confirmed is None:
            acknowledged = self._count_acknowledged(self._loop.system.outstanding(self._socket))
            confirmed = acknowledged == self._accepted
        if not confirmed:
            self._because(Unacknowledged(f"{self!r}: the peer did not confirm everything before we left"))
            self._how = "cut"
        self._move(lifecycle.DEADLINE)

    # Looking

    @property
    def number(self) -> int:
        """Counts the reactor's connections from 1, in the order in which they came."""
        return self._number

    @property
    def state(self) -> State:
        """The state, one of `reactor.lifecycle.STATES`; compare with `is`."""
        return self._state

    @property
    def report(self) -> Report:
        """What became of the bytes: as it stands, or, once buried, as it ended."""
        return self._report or self._take_report()

    def _take_report(self) -> Report:
        outstanding = self._loop.system.outstanding(self._socket)
        acknowledged = self._count_acknowledged(outstanding)
        how = self._how or str(self._state)
        return Report(
            reason=self._reason,
            how=how,
            written=self._accepted + self._unsent + self._queue.size,
            accepted=self._accepted,
            acknowledged=acknowledged,
            unacknowledged=None if acknowledged is None else self._accepted - acknowledged,
            unsent=self._unsent + self._queue.size,
            received=self._received,
            discarded=self._discarded,
            # At an end in order that follows the peer's, our FIN leaves with the descriptor.
            fin_sent=self._fin_sent or how == "in order",
            fin_acknowledged=(outstanding == 0 if outstanding is not None else None) if self._fin_sent else None,
            stages=(*self._stages, (self._state.name, self._loop.now - self._since)),
        )

    def _count_acknowledged(self, outstanding: int | None) -> int | None:
        """Bytes that the peer's side has confirmed; None where nobody knows."""
        if not self._accepted:
            return 0
        if outstanding is None or (self._broken and not self._loop.system.is_tcp(self._socket)):
            return None  # a Unix socket forgets what was unread when its peer dies
        # Our FIN is the last thing sent, so while anything is outstanding, it is.
        return self._accepted - max(0, outstanding - self._fin_sent)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's: `peername`, `sockname`, `socket`; with TLS `ssl_object`, `sslcontext`, `peercert`, `cipher`,
        `compression`; and `tcp_state`, the kernel's own, where it tells."""
        if self._codec is not None and (look := _TLS_EXTRAS.get(name)) is not None:
            return look(self._codec.ssl_object)
        if name == "peername":
            return self._address
        if name == "socket":
            return self._socket
        try:
            if name == "sockname":
                return self._socket.getsockname()
            if name == "tcp_state":
                return self._loop.system.tcp_state(self._socket) or default
        except OSError:
            pass  # the socket is gone
        return default

    def set_protocol(self, protocol: Any) -> None:
        """The callbacks go to `protocol` from now on. It is not told `connection_made`."""
        if self._protocol is None:
            raise Misuse(f"set_protocol() refused: {self!r} has ended")
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """The protocol; None after `connection_lost`."""
        return self._protocol

    def _record(self, what: str, count: int | None = None, detail: str = "") -> None:
        if self._observer is not None:
            self._observer(Record(self._loop.now, f"#{self._number}", what, count, detail))

    def __repr__(self) -> str:
        queued = f" queued={self._queue.size}" if self._queue.size else ""
        return f"<Connection #{self._number} {address_text(self._address)} {self._state}{queued}>"
