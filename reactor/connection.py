"""A connection: bytes in and bytes out, over the life that `life` gives it; and the hot path.

Reading and writing never consult the lifecycle table: an open connection with nothing queued sends with one call, and
receives with one call. Which reader serves the descriptor, and whether a write may go straight to the kernel, was
chosen when the state began (`_derive`).

The first write of a turn goes to the kernel at once; what follows is gathered, and leaves together before the loop
sleeps (all of it, where more than one write per turn has become the rule: docs/decisions/0006). What the kernel does
not take waits in the queue, up to `Limits.queue_bytes`, and the protocol is told to pause and to resume at the
watermarks. Under TLS the same queue is made into records as they can be sent (`secure`).

No callback is ever called from inside a call that the user makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from reactor import lifecycle
from reactor.buffers import EMPTY, FileRange, SendQueue, as_view
from reactor.errors import DISPLACED, Aborted, FileUnusable, Misuse, QueueOverflow, WriteAfterEnd
from reactor.life import ACCEPT, DELIVER, DONE, DRAIN, RESET, Life, ignore
from reactor.lifecycle import CLOSED, LAST_WORDS, LINGER, OPEN, STARTING
from reactor.pollers import ERROR, HANGUP, INVALID, READ, WRITE
from reactor.protocol import Protocol
from reactor.secure import Secure
from reactor.syscalls import NO_SIGNAL
from reactor.timers import Handle

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Buffer

_TLS_EXTRAS: dict[str, Callable[[Any], Any]] = {
    "ssl_object": lambda tls: tls,
    "sslcontext": lambda tls: tls.context,
    "peercert": lambda tls: tls.getpeercert(),
    "cipher": lambda tls: tls.cipher(),
    "compression": lambda tls: tls.compression(),
}


class _Call(Handle):
    """A call that is made only while its connection has a protocol."""

    __slots__ = ()

    def run(self) -> None:
        if self.owner is not None and self.owner.get_protocol() is not None:
            super().run()


@attrs.define(eq=False, init=False, repr=False)
class Connection(Life):
    """One end of a stream: asyncio's Transport, and beyond it `state`, `report`, `send_file` and `start_tls`.

    Made by `Reactor.listen` and `Reactor.connect`, given to `connection_made`. To be used only in the loop's thread.
    """

    def begin(self, factory: Callable[[], Any]) -> None:
        """Lets it begin, after the TLS handshake if there is one. Called by the loop, once, for who made it."""
        if self._state is not STARTING:
            return  # the reactor was closed meanwhile
        secure = self._secure
        if secure is None:
            self._start(factory, register=True)
            return
        self._loop.watch(self._fd, READ)
        self._interest = READ
        self.on_readable = secure.shake
        self._arm()
        # No lambda: the frame of one holds the connection, whatever `free_frames` does.
        secure.begin(partial(self._start, factory, register=False), EMPTY)

    def _start(self, factory: Callable[[], Any], register: bool) -> None:
        if register:
            # Before anything is made or told: a protocol that was told of a connection is owed its end as well.
            self._loop.watch(self._fd, READ)
            self._interest = READ
        protocol = factory()
        self._protocol = protocol
        self._move(lifecycle.STARTED)
        if self._loop.draining:
            self._loop.post(self, self.drain)
        if self._observer is not None:
            self._record("connection_made")
        protocol.connection_made(self)

    # Writing

    def write(self, data: Buffer) -> None:
        """Sends bytes, or queues them: all of them, in order, before our FIN. Never blocks, never calls back.

        What must be kept and is mutable is copied. Raises WriteAfterEnd after your own `write_eof`, `close` or `abort`
        and after `connection_lost`, TypeError for what is not bytes-like, and never an OSError: a failure is told in
        `connection_lost`, and what is written until then counts as unsent.
        """
        if type(data) is not bytes:
            data = as_view(data)
        if self._bursting:
            self._queue.append(bytes(data))  # no copy of what is bytes already
            if self._queue.size > self._options.limits.queue_bytes:
                self._check_queue()
            return
        if not self._direct or self._turn == self._loop.turns:
            self._write_later(bytes(data))
            return
        self._turn = self._loop.turns
        try:
            sent = self._socket.send(data, NO_SIGNAL)
        except OSError as exc:
            if self._must_wait(exc):
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
        elif data:
            self._own_queue().append(data)
            self.send_or_gather()
            self._check_queue()

    def _own_queue(self) -> SendQueue:
        if self._queue is EMPTY:
            self._queue = SendQueue()
        self._direct = False
        return self._queue

    def _check_queue(self) -> None:
        limit = self._options.limits.queue_bytes
        if self._queue.size > limit and self._queue.held() > limit:
            self._abort(QueueOverflow(f"{self._queue.held()} bytes wait for {self!r}, more than {limit}"))

    def writelines(self, chunks: Iterable[Buffer]) -> None:
        """Writes all the chunks, as one `write` of them joined would."""
        self.write(b"".join([as_view(chunk) for chunk in chunks]))

    def send_file(self, file: BinaryIO, offset: int = 0, count: int | None = None) -> None:
        """Sends a part of a regular file, in order with what is written before and after, without holding it in memory.

        From `offset`, `count` bytes, or all up to its present end. The descriptor is duplicated: `file` may be closed
        at once, and its position does not matter. What is not sent yet counts in `get_write_buffer_size`, so that
        `pause_writing` and `resume_writing` tell how it goes, but not against `Limits.queue_bytes`. Where the
        connection is plain, the kernel copies it (sendfile(2)); under TLS it is read a piece at a time.

        If the file becomes shorter meanwhile, or cannot be read, the connection is reset with FileUnusable: the peer
        never takes what came for the whole. ValueError for what is no regular file, or a part that it does not have;
        OSError when it cannot be duplicated; WriteAfterEnd as for `write`.
        """
        if self._ended_by is not None:
            raise WriteAfterEnd(f"send_file() refused: {self!r} was ended by {self._ended_by}")
        part = self._loop.system.file_range(file, offset, count)
        if part and self._may_write():
            self._own_queue().append_file(part)
            self.send_or_gather()
        else:
            self._unsent += len(part)
            part.close()

    def send_or_gather(self) -> None:
        """Records, too: the first of a turn at once, the rest together before the loop sleeps.

        Then a writer is told to pause or to resume as well: never from inside a call.
        """
        if self._secure is not None and self._turn != self._loop.turns and not self._blocked and not self._gathered:
            self._turn = self._loop.turns
            self._send_queue()
        if self._queue.size or self._blocked or self._has_records() or self._writing_paused:
            self._gather()

    def _has_records(self) -> bool:
        return self._secure is not None and self._secure.has_more(self._queue, self._state.output is DRAIN)

    def flush(self) -> None:
        """Gives the kernel what was gathered in this turn, and tells a writer who is too fast. Called by the loop."""
        # More than one write: several wait, or one does behind the one that has gone directly.
        burst = len(self._queue) > 1 or (self._turn == self._loop.turns and not self._blocked)
        self._gathered = self._bursting = False
        if not self._blocked:
            self._send_queue()
        if burst:
            # Who writes more than once in a turn will do so again: then the first write is gathered, too, and all of
            # them are one system call. A turn with one write undoes it (`_send_queue`).
            self._direct = False
        self._refresh()
        self._tell_writer()

    def _on_writable(self) -> None:
        if not self._send_queue():
            self._loop.came_to_nothing(self)
        self._refresh()
        self._tell_writer()

    def _tell_writer(self) -> None:
        waiting = self.get_write_buffer_size()
        if self._writing_paused:
            if waiting <= self._watermarks.low and self._may_write():
                self._writing_paused = False
                self._record("resume_writing")
                self._protocol.resume_writing()
        elif waiting > self._watermarks.high and self._may_write():
            self._writing_paused = True
            self._record("pause_writing")
            self._protocol.pause_writing()

    def _send_queue(self) -> bool:
        """Sends until nothing is left, the kernel takes no more, or the budget of one turn is used up.

        False when something waits and the kernel took nothing.
        """
        took = False
        secure, limits, system = self._secure, self._options.limits, self._loop.system
        draining = self._state.output is DRAIN
        out = self._queue if secure is None else secure.records
        for _ in range(limits.sends_per_flush):
            try:
                if secure is not None and not out.size and secure.has_more(self._queue, draining):
                    secure.seal(self._queue, limits.send_bytes, system.read_file)
            except OSError as exc:  # the file's, or OpenSSL's
                self._abort(exc)
                return True
            if not out.size:
                break
            head = out.head(limits.send_bytes)
            first = head[0]
            try:
                if type(first) is FileRange:
                    sent = system.send_file(self._socket, first, limits.send_bytes)
                else:
                    sent = (
                        self._socket.send(first, NO_SIGNAL)
                        if len(head) == 1
                        else self._socket.sendmsg(head, (), NO_SIGNAL)
                    )
            except FileUnusable as exc:
                self._abort(exc)
                return True
            except OSError as exc:
                if not self._must_wait(exc):
                    self._send_failed(exc)
                    return True
                break
            took = True
            offered = min(sum(map(len, head)), limits.send_bytes)
            out.advance(sent)
            if secure is None:
                self._accepted += sent
            elif not out.size:
                self._accepted += secure.open_sealed(self._queue)
            self._sent_at = self._loop.now
            if self._observer is not None:
                self._record("sent", sent)
            if sent < offered:
                break
        self._blocked = bool(out.size) or (secure is not None and secure.has_more(self._queue, draining))
        if not self._queue.size:
            self._queue = EMPTY
            self._bursting = False
        if not self._blocked and self._state is not CLOSED:
            self._all_sent()
        return took or not self._blocked

    def _all_sent(self) -> None:
        output = self._state.output
        if output is DRAIN:
            if self._is_flushed():
                self._move(lifecycle.DRAINED)
        elif output is RESET:
            self._check_acknowledged()
            self._arm()
        else:
            self._direct = self._secure is None and self._may_write()

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
        """Bytes that wait here, what TLS itself has to say included; those the kernel has accepted are not counted."""
        return self._queue.size if self._secure is None else self._queue.size + self._secure.own_bytes

    # Reading

    def _deliver(self) -> None:
        try:
            data = self._socket.recv(self._read_bytes)
        except OSError as exc:
            self._receive_failed(exc)
            return
        if not data:
            self.peer_ended()
            return
        self._received += len(data)
        self._read_at = self._loop.now
        if self._observer is not None:
            self._record("received", len(data))
            self._record("data_received", len(data))
        self._protocol.data_received(data)

    def receive(self, most: int | None = None) -> bytes | None:
        """One read for TLS, of `most` bytes. None: there is nothing, or it failed, and that was seen to."""
        try:
            data = self._socket.recv(self._read_bytes if most is None else min(most, self._read_bytes))
        except OSError as exc:
            self._receive_failed(exc)
            return None
        if data:
            self._read_at = self._loop.now
        return data

    def deliver(self, plaintext: bytes) -> None:
        """What TLS has made of it."""
        self._received += len(plaintext)
        if self._observer is not None:
            self._record("received", len(plaintext))
            self._record("data_received", len(plaintext))
        self._protocol.data_received(plaintext)

    def _discard(self) -> None:
        try:
            data = self._socket.recv(self._read_bytes)
        except OSError as exc:
            self._receive_failed(exc)
            return
        if not data:
            self.peer_ended()
            return
        self._read_at = self._loop.now
        self.count_discarded(len(data))
        if self._state is LINGER and self._discarded > self._options.limits.linger_bytes:
            self.end_linger()

    def count_discarded(self, count: int) -> None:
        """So much came that nobody wants."""
        self._discarded += count
        if self._observer is not None:
            self._record("discarded", count)

    def _receive_failed(self, exc: OSError) -> None:
        if exc.errno in DISPLACED:
            self.displaced()
        elif self._must_wait(exc):
            self._loop.came_to_nothing(self)
        elif self._secure is not None and self.is_reading() and self._secure.has_input():
            self._send_failed(exc)  # behind what came before it and was not delivered yet
        else:
            self.fail(exc)

    def hidden_error(self) -> Exception | None:
        """Whether a reset hides behind a read of zero bytes (K5, K7)."""
        return self._reason if self._state is LAST_WORDS else self._loop.system.error(self._socket)

    def peer_ended(self) -> None:
        """A read of zero bytes: the peer's FIN, unless a reset hides behind it."""
        hidden = self.hidden_error()
        if hidden is not None:
            self.fail(hidden)
        else:
            self.input_ended()

    def input_ended(self) -> None:
        """The peer has ended its side, and everything before that was delivered."""
        if self._observer is not None:
            self._record("peer FIN")
        delivering = self._state.input is DELIVER
        self._move(lifecycle.PEER_EOF)
        if delivering:
            if self._observer is not None:
                self._record("eof_received")
            if not self._protocol.eof_received():
                self._move(lifecycle.CLOSE)
        self._refresh()  # only now: most connections end with this, and the poller need not be told twice

    def pause_reading(self) -> None:
        """No `data_received` until `resume_reading`. Nothing is lost: the kernel holds it, then the peer must wait.

        If the connection fails meanwhile (a reset, say), what had arrived waits for `resume_reading` as well, and the
        failure is told behind it. After `Deadlines.unread` it is counted as discarded, and the failure told.
        """
        self._paused = True
        self._derive()
        self._refresh()

    def resume_reading(self) -> None:
        """Reads again."""
        self._paused = False
        self._derive()
        self._refresh()
        self._read_unannounced()

    # TLS

    def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        received: bytes = b"",
        done: Callable[[], object] | None = None,
    ) -> None:
        """Goes on under TLS, from the next byte in both directions. What was written before leaves in the clear.

        `received` is what was read already and belongs to the handshake: a ClientHello right behind a header, say.

        What is written from now on waits for the handshake, and is sent only when the peer's certificate is found good
        (for `server_hostname`, unless the context was told otherwise). Then `done()` is called, in the loop, unless you
        have ended our output meanwhile. A handshake that fails is told as `connection_lost` with OpenSSL's reason; one
        that takes longer than `Deadlines.handshake` as HandshakeTimeout.

        Misuse unless the connection is open in both directions and not under TLS; while a file is being sent; and while
        the protocol holds plaintext that it has not looked at (`unread`, as `FramedProtocol` has it): whoever sits
        in between could have put it there, to be taken for what came under TLS (CVE-2011-0411). A protocol with a
        buffer of its own must see to that itself. ValueError for a context that cannot be used.
        """
        refused = f"start_tls() refused: {self!r}"
        if self._state is not OPEN:
            raise Misuse(f"{refused} is not open in both directions")
        if self._secure is not None:
            raise Misuse(f"{refused} is under TLS already")
        if self._queue.files:
            raise Misuse(f"{refused} is still sending a file")
        unread = getattr(self._protocol, "unread", 0)
        if unread:
            raise Misuse(f"{refused} has {unread} bytes of plaintext that its protocol has not read")
        from reactor.tls import codecs  # here: who uses no TLS does not pay for OpenSSL

        make = codecs(context, server_side=server_side, server_hostname=server_hostname)
        self._secure = secure = Secure(make())
        secure.join(self)
        try:
            secure.begin(partial(self._upgraded, done or ignore), self._queue, received)
        except BaseException:
            self._secure = None
            raise
        # What is queued stays so until it is sent, in the clear.
        self._bursting = False
        patience = self._options.deadlines.handshake
        secure.deadline = self._loop.set_timer(self._loop.time() + patience, self, self.handshake_late)
        self._derive()
        self._refresh()

    def _upgraded(self, done: Callable[[], object]) -> None:
        if self._ended_by is None:
            done()

    def secured(self) -> None:
        """The handshake is complete: the descriptor is read, and the queue sent, accordingly."""
        self._derive()
        self._refresh()
        if self._queue.size:
            self._gather()

    def is_broken(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._state.output is DONE

    def choose_reader(self) -> None:
        """TLS has changed its mind about reading."""
        self._derive()
        self._refresh()

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """`call_soon`, on this connection's account."""
        self._loop.post(self, callback, *args)

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle:
        """As the reactor's, but for this connection: only while it has a protocol, and what it raises resets it."""
        handle = _Call(self, callback, args)
        self._loop.post_handle(handle)
        return handle

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
            self._hung_up(events)

    def _hung_up(self, events: int) -> None:
        """The kernel tells, unasked, of an error, or that both sides are gone (K11, K12).

        A hang-up alone is no failure: a Unix peer that sent everything and closed gives it while its data is still to
        be read (K19). If something waits to be sent, the next send tells whether it can arrive.
        """
        system = self._loop.system
        error = system.error(self._socket)
        if error is not None:
            self._send_failed(error)
        elif system.clear_error_queue(self._socket) and not events & HANGUP:
            pass  # that was all, and the connection is as it was
        elif self._blocked:
            self._on_writable()
        elif self.on_readable is not ignore:
            self.on_readable()
        elif events & HANGUP:
            # Nothing is wanted until reading is resumed or something is written. A hang-up cannot be masked.
            self.rest()
        else:
            self._loop.came_to_nothing(self)

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

    def abort(self, exc: Exception | None = None, *, flush: bool = False) -> None:
        """Ends now, with a reset: what is queued is dropped, and the peer can tell; it never sees a clean end.

        With `flush=True` what was written is sent first, and the reset follows when the peer's TCP has acknowledged it
        (`Deadlines.flush` without progress ends that). For a stream that was cut elsewhere: nothing that came before
        the cut is lost, and nobody takes it for the whole. A connection that has flushed and ended already is left so.

        `connection_lost` is given `exc`, else Aborted; unless something else was the first cause.
        """
        self._ended_by = self._ended_by or "abort()"
        exc = exc or Aborted(f"{self!r} was aborted")
        if flush:
            self._reset_when_flushed(exc)
        else:
            self._abort(exc)

    def is_closing(self) -> bool:
        """Whether the end of both sides has begun: by `close`, `abort`, the peer and us in turn, or a failure."""
        state = self._state
        return state.output is DONE or (
            state is not STARTING and state.output is not ACCEPT and state.input is not DELIVER
        )

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

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's: `peername`, `sockname`, `socket`; with TLS `ssl_object`, `sslcontext`, `peercert`, `cipher`,
        `compression`; and `tcp_state`, the kernel's own, where it tells."""
        if self._secure is not None and (look := _TLS_EXTRAS.get(name)) is not None:
            try:
                return look(self._secure.ssl_object)
            except ValueError:
                return default  # no handshake is complete yet
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
