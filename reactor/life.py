"""A connection's state, and all that follows from it: its FIN, its deadlines, its end, its report.

The state is `lifecycle`'s two words. `_move` alone assigns it and derives the rest: which reader serves the descriptor,
our FIN, the deadlines, the end. `_refresh` alone tells the poller what we wait for. `Connection` adds the bytes:
reading, writing, and what a user calls.

An error is latched once, where it is first seen, because the kernel tells it only once (K5). After a failure the
queue is dropped, what had arrived is still delivered (LAST_WORDS), and only then comes `connection_lost` with that
error (R5).
While reading is paused, what had arrived waits for `resume_reading`, for `Deadlines.unread` at most.
No callback is ever called from inside a call that the user makes.

Reading on costs little and saves the reply: closing a socket with unread input makes the kernel send a reset and throw
our own unsent output away (RFC 9293, 3.10.4; K1, K2). Hence CLOSING and LINGER read, count and discard.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from reactor import lifecycle
from reactor.addresses import SocketAddress, address_text
from reactor.buffers import EMPTY, SendQueue
from reactor.deadlines import Passed, needs_acknowledgements, next_look, passed
from reactor.errors import (
    DISPLACED,
    SOFT,
    WAIT,
    Aborted,
    FlushTimeout,
    HandshakeTimeout,
    IdleTimeout,
    Misuse,
    Unacknowledged,
    Unsent,
    free_frames,
)
from reactor.lifecycle import CLOSED, CONFIRM, FAILING, LAST, LAST_WORDS, LINGER, STARTING, Event, Input, Output, State
from reactor.loop import Loop
from reactor.options import Deadlines, Options, Watermarks
from reactor.pollers import READ, WRITE
from reactor.report import Report
from reactor.system import Socket
from reactor.timers import TimerHandle
from reactor.trace import Observer, Record

if TYPE_CHECKING:
    from reactor.secure import Secure

logger = logging.getLogger("reactor")

DELIVER, DISCARD, STOP_INPUT = Input.DELIVER, Input.DISCARD, Input.STOP
ACCEPT, DRAIN, STOP_OUTPUT, RESET, DONE = Output.ACCEPT, Output.DRAIN, Output.STOP, Output.RESET, Output.DONE

# Read after a failure, in full reads, before the connection ends whatever else the peer may say: more than the largest
# usual receive buffer (Linux: tcp_rmem, 6 MiB), so that nothing the peer had said is cut.
_LAST_BYTES = 64 * 1024 * 1024
# Between two reads while the kernel has no memory for one, in seconds.
_READ_AGAIN = 0.010


def ignore() -> None:
    """The reader of a connection that reads nothing any more."""


@attrs.define(eq=False, init=False, repr=False)
class Life:
    """What a connection is, apart from its bytes."""

    _loop: Loop
    _socket: Socket
    _fd: int
    _address: SocketAddress
    _number: int
    _options: Options
    _watermarks: Watermarks
    _read_bytes: int
    _protocol: Any
    _queue: SendQueue  # what was written and the kernel has not accepted; EMPTY, which all share, when that is nothing
    _secure: Secure | None  # TLS, where there is any
    _observer: Observer | None
    _on_end: Callable[[], None] | None  # tells the listener that the connection is buried

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
    # Once buried: what was outstanding then, and when that was.
    _last_look: tuple[int | None, float] | None

    def __init__(
        self,
        loop: Loop,
        sock: Socket,
        address: SocketAddress,
        options: Options,
        origin: str,
        on_end: Callable[[], None] | None = None,
        secure: Secure | None = None,
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
        self._queue = EMPTY
        self._secure = secure
        self._observer = loop.observer
        self._on_end = on_end
        self._state = STARTING
        self.on_readable = ignore
        self._interest = None
        self._direct = False
        self._turn = -1
        self._paused = False
        self._ended_by = None
        self._blocked = self._gathered = self._bursting = self._writing_paused = False
        self._fin_sent = self._displaced = False
        self._reason = self._how = self._watch = self._last_look = None
        self._received = self._discarded = self._accepted = self._unsent = self._acknowledged = 0
        self._read_at = self._sent_at = self._since = loop.now
        self._stages = ()
        if secure is not None:
            secure.join(self)  # type: ignore[arg-type]  # the subclass is a Connection
        loop.admit(self._fd, self)  # type: ignore[arg-type]  # the subclass has the rest of an End
        if self._observer is not None:
            self._record(origin, detail=address_text(address))

    def _record(self, what: str, count: int | None = None, detail: str = "") -> None:
        if self._observer is not None:
            self._observer(Record(self._loop.now, f"#{self._number}", what, count, detail))

    # The one door to the state, and what is derived from it

    def _move(self, event: Event) -> None:
        before = self._state
        state = lifecycle.after(before, event)
        if state is before:
            return
        now = self._loop.look_at_clock()
        secure = self._secure
        if before is not STARTING or secure is not None:  # without a handshake it takes no time to speak of
            self._stages += ((before.name, now - self._since),)
        self._since = now
        self._state = state
        self._bursting = False
        if before is STARTING and secure is not None and event is not lifecycle.STARTED:
            secure.never_began(self._reason or Aborted(f"{self!r} was closed before it began"))
        if state is CLOSED:
            self._finish(before, event)
        elif state.output is DRAIN and self._is_flushed():
            self._move(lifecycle.DRAINED)
        else:
            self._act_on(state, before)
            if self._state is not state:
                return  # an effect has moved it on
            self._derive()
            if event is not lifecycle.PEER_EOF:  # what the protocol says to that decides; see `peer_ended`
                self._refresh()
            self._arm()
            if self.is_lingering() and not self._options.linger:
                self.end_linger()

    def _act_on(self, state: State, before: State) -> None:
        """What becomes of the output at the transition to a state that is not the last."""
        if (state.output is DRAIN and self._secure is not None) or (state.output is RESET and not self._is_flushed()):
            self._gather()  # TLS's close_notify, for one; our FIN or reset comes behind it
        elif state.output is STOP_OUTPUT and before.output is not STOP_OUTPUT:
            self._send_fin()
        if self._state is LINGER:
            self._record("lingering")
        elif self._state is CONFIRM or self._state.output is RESET:
            self._check_acknowledged()

    def is_lingering(self) -> bool:
        """Whether all is sent, our FIN too, and nothing is left to do but to wait for the peer."""
        return self._state is LINGER or self._state is CONFIRM

    def _check_acknowledged(self) -> None:
        """Ends CONFIRM, or the flush before a reset, once the peer's TCP has everything, or if nobody can tell."""
        if self._state is FAILING and self._is_in_grace():
            return
        if self._is_flushed():
            acknowledged = self._count_acknowledged(self._loop.system.outstanding(self._socket))
            if acknowledged is None or acknowledged == self._accepted:
                self._move(lifecycle.ACKNOWLEDGED)

    def _is_in_grace(self) -> bool:
        """Whether something was sent a moment ago: where a reset drops it, the peer's program has to read it first."""
        said_something = self._accepted or self._secure is not None
        return bool(said_something) and self._loop.now < self._sent_at + self._options.deadlines.linger_grace

    def _is_flushed(self) -> bool:
        """Whether the kernel has everything that was written, and TLS's own last words."""
        if self._queue.size:
            return False
        if self._secure is None:
            return True
        # Behind a failure there is no close_notify: a stream that was cut must not look whole.
        return not self._secure.records.size if self._state.output is RESET else self._secure.is_flushed()

    def _send_fin(self) -> None:
        system = self._loop.system
        try:
            system.shutdown_output(self._socket)
        except OSError as exc:
            self._fin_failed(system.error(self._socket) or exc)
            return
        self._fin_sent = True
        self._record("our FIN")

    def _fin_failed(self, exc: OSError) -> None:
        if self._state is CONFIRM:
            self._check_acknowledged()  # a peer that has everything and is gone by now has lost nothing
        self._send_failed(exc)

    def _derive(self) -> None:
        """Chooses, at the transition, what the loop then calls without asking."""
        state, secure = self._state, self._secure
        if state is STARTING:
            return  # a handshake reads by itself
        delivering = state.input is DELIVER and not self._paused
        if secure is not None and secure.shaking and state.input is not STOP_INPUT:
            self.on_readable = secure.shake  # whatever becomes of the plaintext: what is queued waits for it
        elif state.input is DISCARD and (secure is None or not secure.wants_input()):
            self.on_readable = self._discard
        elif secure is not None and (delivering or state.input is DISCARD) and not secure.is_congested():
            self.on_readable = secure.read
        elif secure is None and delivering:
            self.on_readable = self._deliver
        else:
            self.on_readable = ignore
        self._direct = secure is None and state.output is ACCEPT and not self._queue.size

    def _refresh(self) -> None:
        """The one place that tells the poller what we wait for."""
        if self._state is CLOSED:
            return
        if self._state is CONFIRM or self._state is LAST_WORDS:
            # Nothing but a hang-up can be told here, and a hang-up cannot be masked: it would be told for ever (K12).
            self.rest()
            return
        if self._loop.resting and self in self._loop.resting:
            return
        wanted = 0 if self.on_readable is ignore else READ
        if self._blocked:
            wanted |= WRITE
        if wanted == self._interest or (self._interest is None and not wanted):
            return
        try:
            if self._interest is None:
                self._loop.watch(self._fd, wanted)
            else:
                self._loop.poller.modify(self._fd, wanted)
            self._interest = wanted
        except OSError:
            self.displaced()

    def rest(self) -> None:
        """Out of the poller, until something is wanted again. Also called by the loop, for a while."""
        if self._interest is not None:
            self._interest = None
            if not self._loop.rest(self._fd):
                self.displaced()

    def go_on(self) -> None:
        """In the poller again, as it should be by now. Called by the loop."""
        self._refresh()

    def _gather(self) -> None:
        """`flush` is called before the loop sleeps."""
        if not self._gathered:
            self._loop.gather(self)  # type: ignore[arg-type]
            self._gathered = True
            self._bursting = bool(self._queue.size) and self._ended_by is None and self._may_write()

    def _may_write(self) -> bool:
        """Whether the protocol's writes still have a use: only then is it told to pause and to resume them."""
        return self._state.output is ACCEPT and not (self._secure is not None and self._secure.spoiled)

    def is_reading(self) -> bool:
        """Whether `data_received` may come."""
        return self._state.input is DELIVER and not self._paused

    def is_writing_paused(self) -> bool:
        """Whether `pause_writing` was told, and `resume_writing` not yet."""
        return self._writing_paused

    # Failures

    def forked(self) -> Sequence[Socket]:
        """This is a forked child, and the connection its parent's."""
        self.on_readable = ignore
        self._interest = None
        self._gathered = self._bursting = False
        self._direct = True  # so that a write asks the loop, which refuses
        return (self._socket,)

    def displaced(self) -> None:
        """The descriptor was closed behind the reactor's back (R14)."""
        self._displaced = True
        self.fail(OSError(errno.EBADF, f"the descriptor of {self!r} was closed by somebody else"))

    def abandon(self) -> None:
        """The loop closes."""
        if self._secure is not None:
            self._secure.on_failed = None
        self.cut(Aborted(f"the reactor was closed before {self!r} had ended"))

    def drop(self) -> None:
        """Nobody wants it any more, and no protocol began: a plain close, of which nobody is told."""
        if self._state is STARTING:
            if self._secure is not None:
                self._secure.on_failed = None
            self._move(lifecycle.DEADLINE)

    def cut(self, exc: Exception) -> None:
        """The reactor's own end: last words that the kernel has are left to the kernel, what still sends is reset."""
        if self.is_lingering():
            self.end_linger()
        elif self._state.output is STOP_OUTPUT:
            # Our output has ended in order; a reset would throw away what of it is still under way.
            self._because(exc)
            self._how = "cut"
            self._move(lifecycle.FAILED)
        else:
            self._abort(exc)

    def callback_failed(self, exc: Exception) -> None:
        """A callback raised: logged, and the connection is reset with it."""
        what = "raised" if self._state is CLOSED else "raised; the connection is reset"
        logger.error("a callback of %r %s", self, what, exc_info=exc)
        self._abort(exc)

    def fail(self, exc: Exception) -> None:
        """The kernel told an error, and nothing more can be read."""
        if self._state is not CLOSED:
            self._break(exc)
            self._move(lifecycle.FAILED)

    def handshake_failed(self, exc: Exception) -> None:
        """Nothing can be said here but OpenSSL's alert; a reset follows it, so that nobody takes it for an end."""
        assert self._secure is not None
        self._unsent += self._secure.drop_unsealed(self._queue)
        self._secure.send_records()
        self._reset_when_flushed(exc)

    def _reset_when_flushed(self, exc: Exception) -> None:
        """A failure that overtakes nothing: what was written goes first, then the reset."""
        if self._state is not CLOSED:
            self._because(exc)
            self._move(lifecycle.RESET)

    def _abort(self, exc: Exception) -> None:
        if self._state is not CLOSED:
            self._break(exc)
            self._move(lifecycle.ABORT)
        elif self._last_look is None and self._reason is None:
            # It has just ended in order, and the last word on that is the protocol's.
            self._because(exc)
            self._how = "reset"

    def _send_failed(self, exc: OSError) -> None:
        """The kernel told an error, and the peer's last words may wait to be read: read them, in turns to come."""
        if self._state is CLOSED or self._state is LAST_WORDS:
            return
        if exc.errno in DISPLACED:
            self.displaced()
        elif self._state is LAST and self._secure is not None and self._secure.is_only_ending(self._queue):
            # The peer has ended, and need not wait for our close_notify (RFC 8446, 6.1). Has it all else?
            if self._count_acknowledged(self._loop.system.outstanding(self._socket)) == self._accepted:
                self._secure.drop_records()
                self._move(lifecycle.DRAINED)
            else:
                self.fail(exc)
        else:
            self._break(exc)
            self._move(lifecycle.SEND_FAILED)
            if self._state is LAST_WORDS:
                self._loop.last_reads[self] = _LAST_BYTES // self._read_bytes + 1
                self._read_unannounced()

    def _read_unannounced(self) -> None:
        """Posts the reads of what no poller tells of: what TLS holds, and what came before a failure."""
        if self._secure is not None and self.is_reading() and not self._secure.shaking:
            self._loop.post(self, self._secure.go_on)
        if self._state is LAST_WORDS:
            self._loop.post(self, self._read_last_words)

    def _must_wait(self, exc: OSError) -> bool:
        """Whether a call that failed so is to be made again when the poller says so, rather than a failure."""
        return exc.errno in WAIT or (exc.errno in SOFT and self._loop.system.tcp_lives(self._socket))

    def _read_last_words(self) -> None:
        """One read of what had arrived before the failure, and a call for the next. While paused, it waits."""
        if self._state is not LAST_WORDS:
            return
        if self._paused:
            if not self._has_input():
                self._fail_at_last()
            return
        before = self._bytes_read()
        self._deliver() if self._secure is None else self._secure.reader()()
        if self._state is not LAST_WORDS:
            return
        reads = self._loop.last_reads
        if self._bytes_read() > before and reads[self] > 1:
            reads[self] -= 1
            self._loop.post(self, self._read_last_words)
        elif self._bytes_read() == before and self._loop.system.has_input(self._socket):
            # The kernel wants memory, and nothing tells when it has some again. `Deadlines.unread` bounds this.
            self._loop.set_timer(self._loop.now + _READ_AGAIN, self, self._read_last_words)
        else:
            self._fail_at_last()

    def _has_input(self) -> bool:
        """Whether anything that had arrived was not delivered: in the protocol's buffer, in TLS, or in the kernel."""
        return bool(
            getattr(self._protocol, "unread", 0)
            or (self._secure is not None and self._secure.has_input())
            or self._loop.system.has_input(self._socket)
        )

    def _bytes_read(self) -> int:
        return self._received + self._discarded + (0 if self._secure is None else self._secure.heard)

    def _fail_at_last(self) -> None:
        assert self._reason is not None
        self.fail(self._reason)

    def _discard_last_words(self) -> None:
        """The protocol did not resume reading in time: counts and drops what had arrived, then tells the failure."""
        for _ in range(self._loop.last_reads[self]):
            before = self._discarded
            self._discard()
            if self._discarded == before and not self._loop.system.has_input(self._socket):
                break
        self._fail_at_last()

    def _break(self, exc: Exception) -> None:
        """Keeps the first cause, and drops what can no longer be sent."""
        self._because(exc)
        self._unsent += self._queue.clear()
        if self._secure is not None:
            self._secure.drop_records()
        self._direct = self._bursting = self._blocked = False

    def _because(self, exc: Exception) -> None:
        if self._reason is None:
            self._reason = exc
            self._record("error", detail=f"{type(exc).__name__}: {exc}")

    # The end

    def _finish(self, before: State, event: Event) -> None:
        """No event reaches this connection any more; it is buried at the end of the turn."""
        waited = event is lifecycle.ACKNOWLEDGED or event is lifecycle.DEADLINE
        if event is lifecycle.ABORT or event is lifecycle.RESET or (waited and before.output in (DRAIN, RESET)):
            self._how = "reset"
        elif self._how is None:
            self._how = "in order" if waited and before.output is STOP_OUTPUT else "failed"
        self.on_readable = ignore
        self._direct = False
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._secure is not None:
            self._secure.stop()
        loop, registered = self._loop, self._interest is not None
        self._interest = None
        loop.last_reads.pop(self, None)
        loop.doom(self)
        if not loop.dismiss(self._fd, registered):
            # Somebody else closed it, so from here on nothing is asked of the number, which may be another's by now.
            self._displaced = True
            loop.system.forget(self._socket)

    def bury(self) -> None:
        """Looks at the socket for the last time, releases it, and tells the protocol. Called by the loop, once.

        Whatever goes wrong with one of these, the next is done.
        """
        try:
            self._look_for_the_last_time()
        finally:
            try:
                self._release()
            finally:
                self._tell_the_end()

    def _look_for_the_last_time(self) -> None:
        loop = self._loop
        if self._reason is None and self._unsent:
            self._because(Unsent(f"{self._unsent} bytes written to {self!r} after its end had begun were not sent"))
        outstanding = loop.system.outstanding(self._socket)
        acknowledged = self._count_acknowledged(outstanding)
        if self._reason is None and acknowledged != self._accepted:
            # A reset that came after the peer's FIN is told by nothing else (K7).
            hidden = loop.system.error(self._socket)
            if hidden is not None:
                self._because(hidden)
                self._how = "failed"
        self._last_look = (outstanding, loop.now)
        loop.totals.add(
            in_order=self._reason is None,
            received=self._received,
            discarded=self._discarded,
            written=self._accepted + self._unsent,
            unsent=self._unsent,
            unacknowledged=0 if acknowledged is None else self._accepted - acknowledged,
        )

    def _release(self) -> None:
        system = self._loop.system
        if self._displaced:
            return
        if self._how == "reset" or (self._how == "failed" and self._unsent):
            # Whenever something was dropped: a FIN would pass off the rest for the whole.
            self._record("our reset")
            system.reset(self._socket)
        elif self._fin_sent:
            system.close(self._socket)
        else:
            system.finish(self._socket)

    def _tell_the_end(self) -> None:
        if self._observer is not None:
            self._record("closed", detail=str(self.report))
        self._ended_by = self._ended_by or "connection_lost()"
        # Let go, so that neither waits for the garbage collector to find the circle they are in.
        protocol, self._protocol = self._protocol, None
        try:
            if self._on_end is not None:
                self._on_end()
        finally:
            try:
                if protocol is not None:
                    if self._observer is not None:
                        self._record("connection_lost")
                    protocol.connection_lost(self._reason)
            finally:
                self._let_go()

    def _let_go(self) -> None:
        """Nothing is left for the garbage collector: the reason, which is kept, holds none of the frames it came by."""
        if self._reason is not None:
            free_frames(self._reason)
        if self._secure is not None:
            self._secure.let_go()

    # Deadlines

    def _arm(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._state.output is ACCEPT and self._options.deadlines.idle is None:
            return  # by far the most common: it waits for the application, without a deadline
        look = next_look(self._state, *self._times(self._loop.now))
        if look is not None:
            self._watch = self._loop.set_timer(look, self, self._check_deadlines, self._loop.now, self._accepted)

    def _times(self, now: float) -> tuple[Deadlines, float, float, float, float]:
        return self._options.deadlines, now, self._read_at, self._sent_at, self._since

    def _check_deadlines(self, armed_at: float, accepted_by_then: int) -> None:
        self._watch = None
        if self._accepted != accepted_by_then and not needs_acknowledgements(self._state):
            # Something was sent, perhaps between two turns, when the loop's time stood still: never judge too early.
            self._sent_at = max(self._sent_at, armed_at)
        outstanding = None
        if needs_acknowledgements(self._state):
            outstanding = self._loop.system.outstanding(self._socket)
            acknowledged = self._count_acknowledged(outstanding)
            if acknowledged is not None and acknowledged > self._acknowledged:
                self._acknowledged = acknowledged
                self._sent_at = self._loop.now
            if self._state is CONFIRM or self._state.output is RESET:
                self._check_acknowledged()
            if self._state is CONFIRM and (error := self._loop.system.error(self._socket)) is not None:
                self.fail(error)  # the poller does not watch for it any more
            if self._state is CLOSED:
                return
        # Not by `now`: a callback of this turn may have taken long, and what came meanwhile waits for the next poll.
        which = passed(self._state, *self._times(self._loop.woke), outstanding == 0)
        deadlines = self._options.deadlines
        if which is None:
            self._arm()
        elif which is Passed.HANDSHAKE:
            self.handshake_late()
        elif which is Passed.LINGERED:
            self.end_linger(confirmed=outstanding == 0)
        elif which is Passed.UNREAD:
            self._discard_last_words()
        elif which is Passed.IDLE:
            self._because(IdleTimeout(f"{self!r}: nothing received and nothing sent for {deadlines.idle} s"))
            self._move(lifecycle.CLOSE)
        else:
            stalled = f"the peer took nothing for {deadlines.flush} s after our end"
            slow = f"the peer did not take everything within {deadlines.flush_total} s after our end"
            self._break(FlushTimeout(f"{self!r}: {stalled if which is Passed.STALLED else slow}"))
            self._move(lifecycle.DEADLINE)

    def handshake_late(self) -> None:
        """The TLS handshake has had its time."""
        late = HandshakeTimeout(f"{self!r}: no TLS handshake within {self._options.deadlines.handshake} s")
        if self._state is STARTING:
            self._break(late)
            self._move(lifecycle.DEADLINE)
        else:
            self._abort(late)

    def end_linger(self, confirmed: bool | None = None) -> None:
        """Lingers no longer. What the peer's TCP has not confirmed by now is told, not assumed.

        After a full silence that includes our FIN. Cut short, the bytes must do: what acknowledges the FIN may be under
        way, for Linux delays it by up to 40 ms.
        """
        assert self.is_lingering()
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
        if self._last_look is None:
            outstanding, now = self._loop.system.outstanding(self._socket), self._loop.now
        else:
            outstanding, now = self._last_look
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
            fin_sent=self._fin_sent,
            fin_acknowledged=(outstanding == 0 if outstanding is not None else None) if self._fin_sent else None,
            stages=(*self._stages, (self._state.name, now - self._since)),
        )

    def _count_acknowledged(self, outstanding: int | None) -> int | None:
        """Bytes that the peer's side has confirmed; None where nobody knows. Under TLS, at least so many."""
        if not self._accepted:
            return 0
        failed = self._state is LAST_WORDS or self._how in ("failed", "reset")
        if outstanding is None or (failed and not self._loop.system.is_tcp(self._socket)):
            return None  # a Unix socket forgets what was unread when its peer dies
        # Our FIN is the last thing sent, so while anything is outstanding, it is; under TLS, behind our close_notify.
        ends = self._fin_sent if self._secure is None else self._fin_sent + self._secure.end_bytes_sent
        return max(0, self._accepted - max(0, outstanding - ends))

    def set_protocol(self, protocol: Any) -> None:
        """The callbacks go to `protocol` from now on. It is not told `connection_made`.

        Nor what was told before: `is_writing_paused` and `is_reading` answer that.
        """
        if self._protocol is None:
            raise Misuse(f"set_protocol() refused: {self!r} has ended, or not begun")
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """The protocol; None after `connection_lost`."""
        return self._protocol

    def __repr__(self) -> str:
        queued = f" queued={self._queue.size}" if self._queue.size else ""
        return f"<Connection #{self._number} {address_text(self._address)} {self._state}{queued}>"

    # What `Connection` has: where the bytes are read

    def _deliver(self) -> None:
        raise NotImplementedError

    def _discard(self) -> None:
        raise NotImplementedError
