"""Datagrams: one call, one whole message, no connection; and yet nothing is lost in silence that this side knows of.

`sendto` goes straight to the kernel while nothing waits; what the kernel does not take is queued, in order, up to
`Datagrams.queue_bytes`. What does not fit there, what the kernel refuses (EMSGSIZE), what ICMP says of the other side
(ECONNREFUSED) and what was cut on arrival is told in `error_received`, and counted in `report`. The endpoint lives on:
each of these is the fate of one datagram. What the network drops nobody knows.

The life has two steps, and they go one way: `close` (or a drain) ends receiving and further sends; when the queue is
empty, at `Deadlines.flush` without progress, or at `abort`, the endpoint is over.

A callback that raises does not end the endpoint, as it would a connection: the fault was one datagram's, often forged,
and all other senders stand behind the same endpoint. No stream is cut, so no truncated reply can be taken for a whole
one. It is logged and counted. Only a protocol that fails to begin, in its factory or `connection_made`, ends it.

ICMP answers come late: `send` on a connected UDP socket may fail for an *earlier* datagram, and has not sent this one
then. So it is asked once more. An unconnected Unix socket is always called writable, whoever's queue is full: it is
asked again after a while, and a full receiver holds up only what is meant for it.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from reactor.addresses import Address, SocketAddress, address_text, numeric, same_place, unix_name
from reactor.buffers import as_view
from reactor.errors import (
    DISPLACED,
    TRY_AGAIN,
    WAIT,
    Aborted,
    FlushTimeout,
    Misuse,
    QueueOverflow,
    WriteAfterEnd,
    free_frames,
    named,
    numbered,
)
from reactor.loop import Loop
from reactor.options import Options
from reactor.pollers import ERROR, INVALID, READ, WRITE
from reactor.protocol import DatagramProtocol
from reactor.syscalls import NO_SIGNAL
from reactor.system import DatagramSocket, Socket
from reactor.timers import TimerHandle

if TYPE_CHECKING:
    from typing_extensions import Buffer

logger = logging.getLogger("reactor")

# What a waiting datagram takes besides its bytes (a tuple, a bytes object, its place in the queue), so that a queue of
# empty datagrams has a limit as well.
OVERHEAD_BYTES = 128
# Until a full Unix receiver is asked again: soon enough for a reader that only pauses, and 100 calls a second.
_ASK_AGAIN = 0.010


@attrs.frozen(kw_only=True)
class DatagramReport:
    """What became of an endpoint's datagrams. Always `taken == sent + refused + overflowed + unsent`."""

    # What `connection_lost` was given: None when everything was given to the kernel (or while the endpoint lives).
    reason: Exception | None
    # Taken by `sendto`; given to the kernel; refused by it (too long, no route ...); dropped when the queue was full;
    # still waiting here, or dropped by the end.
    taken: int
    sent: int
    refused: int
    overflowed: int
    unsent: int
    # Delivered to `datagram_received`; cut on arrival, because longer than `Limits.read_bytes`, and not delivered.
    received: int
    truncated: int
    # In bytes.
    sent_bytes: int
    received_bytes: int
    # Calls of `error_received`, and callbacks that raised.
    errors: int
    failures: int

    def __str__(self) -> str:
        words = [f"sent {self.sent}", f"received {self.received}"]
        words += [
            f"{name} {count}"
            for name in ("refused", "overflowed", "unsent", "truncated", "errors", "failures")
            if (count := getattr(self, name))
        ]
        return ", ".join(words)


class Datagram:
    """A datagram endpoint: asyncio's DatagramTransport, and beyond it `report`.

    Made by `Reactor.datagram`, given to `connection_made`. To be used only in the loop's thread. Observers (see
    `reactor.trace`) are told of connections only.
    """

    def __init__(
        self,
        loop: Loop,
        sock: DatagramSocket,
        factory: Callable[[], Any],
        options: Options,
        asked: Address | None = None,
    ) -> None:
        """`asked` is the remote address as it was asked for: the kernel may have another form of it (0.0.0.0)."""
        self._loop = loop
        self._socket = sock
        self._fd = sock.fileno()
        self._options = options
        self._watermarks = options.watermarks
        self._family = sock.family
        self._remote = loop.system.datagram_peer(sock)
        self._connected = self._remote is not None
        self._inet = loop.system.is_tcp(sock)
        self._local = sock.getsockname()
        self._protocol: Any = None
        self._asked = None if asked is None else asked.sockaddr
        # The address last found good, most often the one that is answered now; and its normal form.
        self._known: SocketAddress = None
        self._to: SocketAddress = None
        self._queue: deque[tuple[bytes, SocketAddress]] = deque()
        self._queue_bytes = 0
        self._interest: int | None = None
        self._gathered = self._writing_paused = False
        self._begun = self._over = self._displaced = False
        self._closing = False
        self._ended_by: str | None = None  # the user's call that ended it, for the error that a later send gets
        self._reason: Exception | None = None
        # Not told yet: errors, and how many datagrams found the queue full.
        self._untold: deque[Exception] = deque()
        self._overflow = 0
        self._telling = False
        self._ask_again: TimerHandle | None = None
        self._flush_watch: TimerHandle | None = None
        self._progress_at = loop.now
        self._sent = self._refused = self._overflowed = self._unsent = self._received = self._truncated = 0
        self._sent_bytes = self._received_bytes = self._errors = self._failures = 0
        begin = loop.post(self, self._begin, factory)
        try:
            loop.admit(self._fd, self)
        except BaseException:
            begin.cancel()
            raise

    def _begin(self, factory: Callable[[], Any]) -> None:
        if self._over:
            return
        protocol = factory()
        # Before anything is told: a protocol that was told of an endpoint is owed its end as well.
        self._loop.watch(self._fd, READ)
        self._interest = READ
        self._protocol = protocol
        protocol.connection_made(self)
        self._begun = True
        self._refresh()
        if self._loop.draining:
            self._loop.post(self, self.drain)

    # Sending

    def sendto(self, data: Buffer, addr: SocketAddress = None) -> None:
        """Sends one datagram, or queues it. Never blocks, never calls back, never raises an OSError.

        Connected, it goes to the remote address, and `addr` may be left out; else `addr` is where, in numbers:
        ValueError for a name, because its look-up would block. A zone (`fe80::1%eth0`) is looked up for each datagram;
        the scope number in fourth place costs nothing. An empty datagram is sent, too. What is lost here is told in
        `error_received`. Raises WriteAfterEnd after `close`, `abort` or `connection_lost`: nobody would hear.
        """
        if type(data) is not bytes:
            data = as_view(data)
        if self._ended_by is not None:
            raise WriteAfterEnd(f"sendto() of {len(data)} bytes refused: {self!r} was ended by {self._ended_by}")
        if self._connected:
            if addr is not None and addr != self._remote:
                self._check_remote(addr)
        elif addr == self._known and addr is not None:
            addr = self._to
        else:
            try:
                addr = self._normal(addr)
            except OSError as exc:
                self._refuse(exc)
                return
        if self._over:
            self._unsent += 1
        elif self._queue or not self._give(data, addr):
            self._put_off(bytes(data), addr)  # no copy of what is bytes already

    def _check_remote(self, addr: SocketAddress) -> None:
        """Written in another way, it is the same address."""
        try:
            there = self._normal(addr)
        except OSError:  # its zone has no interface: it is not where we are connected to
            there = None
        if not same_place(there, self._remote) and (self._asked is None or not same_place(there, self._asked)):
            raise ValueError(f"{self!r} sends to its remote address only, not to {addr!r}")

    def _normal(self, addr: SocketAddress) -> SocketAddress:
        """The address in normal form. ValueError for what is none; OSError for a zone that has no interface."""
        if not self._inet:
            there: SocketAddress = unix_name("the address that sendto() takes", addr)
        else:
            there = numeric(self._family, addr, self._loop.system.zone_index)
            if there is None:
                raise ValueError(f"{self!r} sends to a numeric address of its family, not to {addr!r}")
            if "%" in addr[0]:
                return there  # not remembered: an interface of that name may be made anew, with another number
        self._known, self._to = addr, there
        return there

    def _refuse(self, exc: OSError) -> None:
        self._refused += 1
        self._untold.append(exc)
        self._tell_soon()

    def _put_off(self, data: bytes, addr: SocketAddress) -> None:
        size = len(data) + OVERHEAD_BYTES
        if self._queue_bytes + size > self._options.datagrams.queue_bytes:
            self._overflowed += 1
            self._overflow += 1
            self._tell_soon()
            return
        self._queue.append((data, addr))
        self._queue_bytes += size
        self._gather()

    def _give(self, data: bytes | memoryview, addr: SocketAddress) -> bool:
        """Offers one datagram to the kernel; False when it must wait."""
        before: int | None = 0
        now = self._loop.now  # first: in a forked child the loop refuses
        for _ in range(2 if self._connected and self._inet else 1):
            try:
                if self._connected:
                    sent = self._socket.send(data, NO_SIGNAL)
                else:
                    sent = self._socket.sendto(data, NO_SIGNAL, addr)
            except OSError as exc:
                if exc.errno in TRY_AGAIN:
                    return False
                if exc.errno in DISPLACED:
                    # Not at once: who sends is in the middle of its own work.
                    self._loop.post(self, self.displaced)
                    return False
                failure = numbered(exc) if self._connected else named(exc, f"a datagram to {address_text(addr)}")
                if failure.errno != before:
                    self._untold.append(failure)
                    self._tell_soon()
                before = failure.errno
            else:
                self._sent += 1
                self._sent_bytes += sent
                self._progress_at = now
                return True
        self._refused += 1
        return True

    def _send_queue(self) -> None:
        """Offers what waits, in order, until the kernel takes no more or the budget of one turn is used up.

        A full Unix receiver is asked once, and costs no budget: those behind it would else never have their turn.
        """
        self._stop_asking()
        one_fate = self._inet or self._connected
        full: set[SocketAddress] = set()
        kept: list[tuple[bytes, SocketAddress]] = []
        budget = self._options.datagrams.sends_per_flush
        while self._queue and budget:
            data, addr = item = self._queue.popleft()
            if addr in full:
                kept.append(item)
                continue
            if self._give(data, addr):
                budget -= 1
                self._queue_bytes -= len(data) + OVERHEAD_BYTES
                continue
            kept.append(item)
            full.add(addr)
            if one_fate:
                break
        self._queue.extendleft(reversed(kept))
        if full and budget and not one_fate:
            self._ask_again = self._loop.set_timer(self._loop.now + _ASK_AGAIN, self, self._on_writable)

    def _stop_asking(self) -> None:
        if self._ask_again is not None:
            self._ask_again.cancel()
            self._ask_again = None

    def _gather(self) -> None:
        if not self._gathered:
            self._loop.gather(self)
            self._gathered = True

    def flush(self) -> None:
        """Waits for what was queued in this turn, and tells a sender who is too fast. Called by the loop."""
        self._gathered = False
        if self._over:
            return
        self._refresh()
        if self._queue_bytes > self._watermarks.high and self._may_tell_flow() and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def _on_writable(self) -> None:
        before = len(self._queue)
        self._send_queue()
        if before and len(self._queue) == before and self._ask_again is None:
            self._loop.came_to_nothing(self)
        self._after_sending()
        if self._writing_paused and self._queue_bytes <= self._watermarks.low and self._may_tell_flow():
            self._writing_paused = False
            self._protocol.resume_writing()

    def _may_tell_flow(self) -> bool:
        return self._begun and not self._closing and not self._over

    def _after_sending(self) -> None:
        if self._closing and not self._queue:
            self._end(None)
        else:
            self._refresh()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As asyncio's: `pause_writing` comes above `high` bytes, `resume_writing` at or below `low`.

        `low` is a quarter of `high` by default, `high` four times `low`; without either, the options' hold again.
        """
        self._watermarks = self._options.watermarks.instead(high, low)
        if self._queue:
            self._gather()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """`(low, high)`, in bytes."""
        return self._watermarks.low, self._watermarks.high

    def get_write_buffer_size(self) -> int:
        """Bytes that wait here, with 128 more for the book-keeping of each datagram."""
        return self._queue_bytes

    # Receiving

    def on_readable(self) -> None:
        """Delivers what came, up to the budget of one turn. Called by the loop."""
        most = self._options.limits.read_bytes
        before = self._received + self._truncated
        for _ in range(self._options.datagrams.receives_per_turn):
            if self._interest is None or not self._interest & READ:
                return  # ended by an earlier one
            try:
                # One byte more than is taken: the only sign of a datagram that was cut which each platform gives.
                data, addr = self._socket.recvfrom(most + 1)
            except OSError as exc:
                if exc.errno in WAIT:
                    break
                if exc.errno in DISPLACED:
                    self.displaced()
                    return
                self._tell(exc)
                continue
            if len(data) > most:
                self._truncated += 1
                where = "an unnamed sender" if addr is None else address_text(addr)
                self._tell(OSError(errno.EMSGSIZE, f"a datagram from {where} was longer than {most} bytes"))
                continue
            self._received += 1
            self._received_bytes += len(data)
            if not self._connected:
                self._known = self._to = addr
            self._protocol.datagram_received(data, addr)
        if self._received + self._truncated == before:
            self._loop.came_to_nothing(self)

    def rest(self) -> None:
        """Asks the poller for nothing, for a while. Called by the loop."""
        self._want(0)

    def go_on(self) -> None:
        """Asks the poller for what it should by now. Called by the loop."""
        self._refresh()

    def on_events(self, events: int) -> None:
        """Serves any combination of events. An error is what ICMP says of something sent earlier."""
        if self._interest is None:
            return  # meant for who had this descriptor's number before
        if events & INVALID:
            self.displaced()
            return
        if events & ERROR:
            error = self._loop.system.pending_error(self._socket)
            if error is not None:
                self._untold.append(error)
                self._tell_soon()
            else:
                self._loop.system.clear_error_queue(self._socket)
        if events & WRITE and self._interest & WRITE:
            self._on_writable()
        if events & READ:
            self.on_readable()

    def _tell(self, exc: Exception) -> None:
        self._errors += 1
        self._protocol.error_received(exc)

    def _tell_soon(self) -> None:
        """Never from inside a call of the user's; and together, so that an overflow is told once, with its extent."""
        if not self._telling:
            self._telling = True
            self._loop.post(self, self._tell_errors)

    def _tell_errors(self) -> None:
        self._telling = False
        if self._protocol is None:
            return
        if self._overflow:
            count, self._overflow = self._overflow, 0
            limit = self._options.datagrams.queue_bytes
            dropped = f"{count} datagrams were dropped: the queue of {self!r} is limited to {limit} bytes"
            self._untold.append(QueueOverflow(dropped))
        for _ in range(len(self._untold)):
            try:
                self._tell(self._untold.popleft())
            except Exception as exc:
                self.callback_failed(exc)

    # Ending

    def close(self) -> None:
        """Receives no more, sends what waits, then ends. Again does nothing.

        `connection_lost(None)` comes when everything was given to the kernel; FlushTimeout when the kernel has taken
        nothing for `Deadlines.flush` seconds.
        """
        self._ended_by = self._ended_by or "close()"
        self._close()

    def _close(self) -> None:
        if self._closing or self._over:
            return
        self._closing = True
        if not self._queue:
            self._end(None)
            return
        self._progress_at = self._loop.look_at_clock()
        self._check_flush()
        self._refresh()

    def _check_flush(self) -> None:
        patience = self._options.deadlines.flush
        deadline = self._progress_at + patience
        if self._loop.woke < deadline:
            self._flush_watch = self._loop.set_timer(deadline, self, self._check_flush)
        else:
            self._end(FlushTimeout(f"{self!r}: the kernel took nothing for {patience} s after close()"))

    def abort(self) -> None:
        """Ends now: what waits is dropped, and counted as unsent."""
        self._ended_by = self._ended_by or "abort()"
        self._end(Aborted(f"{self!r} was aborted"))

    def is_closing(self) -> bool:
        """Whether the end has begun."""
        return self._closing or self._over

    def cut(self, exc: Exception) -> None:
        """The reactor's own end."""
        self._end(exc)

    def drain(self) -> None:
        """The reactor drains: asks the protocol to end, unless it is ending already. One that fails to is closed."""
        if not self._begun or self.is_closing():
            return
        draining = getattr(self._protocol, "draining", None)
        if draining is None or getattr(draining, "__func__", None) is DatagramProtocol.draining:
            # Not `close()`: nobody but us knows of this end yet, so others may go on sending until connection_lost.
            self._close()
            return
        try:
            draining()
        except Exception:
            self._close()
            raise

    def abandon(self) -> None:
        """The loop closes."""
        self._end(Aborted(f"the reactor was closed, and {self!r} with it"))

    def forked(self) -> Sequence[Socket]:
        """This is a forked child, and the endpoint its parent's."""
        self._interest = None
        self._gathered = False  # a send must ask the loop, which refuses
        return (self._socket,)

    def displaced(self) -> None:
        """The descriptor was closed behind the reactor's back."""
        self._displaced = True
        self._end(OSError(errno.EBADF, f"the descriptor of {self!r} was closed by somebody else"))

    def callback_failed(self, exc: Exception) -> None:
        """A callback raised: logged and counted. One that never began ends; the others have more senders to serve."""
        self._failures += 1
        logger.error("a callback of %r raised%s", self, "" if self._begun else "; it ends", exc_info=exc)
        if not self._begun:
            self._end(exc)

    def _end(self, exc: Exception | None) -> None:
        """No event reaches this endpoint any more; it is buried at the end of the turn."""
        if self._over:
            return
        self._over = True
        self._reason = exc
        self._unsent += len(self._queue)
        self._queue.clear()
        self._queue_bytes = 0
        self._stop_asking()
        if self._flush_watch is not None:
            self._flush_watch.cancel()
        registered, self._interest = self._interest is not None, None
        self._loop.doom(self)
        if not self._loop.dismiss(self._fd, registered):
            # Somebody else closed it, so from here on nothing is asked of the number, which may be another's by now.
            self._displaced = True
            self._loop.system.forget(self._socket)

    def bury(self) -> None:
        """Releases the descriptor, and tells the protocol. Called by the loop, once."""
        if not self._displaced:
            self._loop.system.close_listening(self._socket)
        self._ended_by = self._ended_by or "connection_lost()"
        self._loop.totals.datagrams_unsent += self._unsent
        self._tell_errors()
        self._untold.clear()
        protocol, self._protocol = self._protocol, None
        try:
            if protocol is not None:
                protocol.connection_lost(self._reason)
        finally:
            free_frames(self._reason)  # which is kept

    def _refresh(self) -> None:
        """The one place that tells the poller what we wait for."""
        if self._interest is None:
            return  # not begun, or over
        wanted = 0 if self._closing else READ
        if self._queue and self._ask_again is None:
            wanted |= WRITE
        if not self._loop.resting or self not in self._loop.resting:
            self._want(wanted)

    def _want(self, wanted: int) -> None:
        if wanted == self._interest or self._interest is None:
            return
        try:
            self._loop.poller.modify(self._fd, wanted)
            self._interest = wanted
        except OSError:
            self.displaced()

    # Looking

    @property
    def report(self) -> DatagramReport:
        """What became of the datagrams, as it stands, or as it ended."""
        unsent = self._unsent + len(self._queue)
        return DatagramReport(
            reason=self._reason,
            taken=self._sent + self._refused + self._overflowed + unsent,
            sent=self._sent,
            refused=self._refused,
            overflowed=self._overflowed,
            unsent=unsent,
            received=self._received,
            truncated=self._truncated,
            sent_bytes=self._sent_bytes,
            received_bytes=self._received_bytes,
            errors=self._errors,
            failures=self._failures,
        )

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's: `sockname` and `peername` (both still known after the end), and `socket`."""
        if name == "sockname":
            try:
                return self._socket.getsockname()
            except OSError:
                return self._local
        if name == "peername":
            return default if self._remote is None else self._remote
        return self._socket if name == "socket" else default

    def set_protocol(self, protocol: Any) -> None:
        """The callbacks go to `protocol` from now on. It is not told `connection_made`."""
        if self._protocol is None:
            raise Misuse(f"set_protocol() refused: {self!r} has not begun, or has ended")
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """The protocol; None before `connection_made` and after `connection_lost`."""
        return self._protocol

    def __repr__(self) -> str:
        words = ["<Datagram", address_text(self._local or "")]
        if self._connected:
            words.append(f"to {address_text(self._remote)}")
        if self._queue:
            words.append(f"queued={len(self._queue)}")
        if self.is_closing():
            words.append("over" if self._over else "closing")
        return " ".join(words) + ">"
