"""The exploration finds nothing in the reactor, and finds every one of the bugs that are put into it here."""

from __future__ import annotations

import errno

import pytest

from reactor import lifecycle
from reactor.buffers import SendQueue
from reactor.connection import Connection
from reactor.lifecycle import CONFIRM, LINGER, Output
from reactor.listener import Listener
from reactor.pollers import READ, WRITE
from reactor.system import System
from reactor.testing import SimulatedSystem
from reactor.testing.__main__ import main
from reactor.testing.explore import explore, from_text, replay
from reactor.testing.machine import SCENARIOS

# One scenario of each kind, which between them write fast and slowly, and keep open or not.
DEEPER = ("tcp", "unix-keep-open", "pair-slow")
# Those with few steps at a time, and how deep they are explored: in a moment, and by the slow tests.
NARROW = {"tcp-troubled": (4, 6), "tcp-troubled-keep-open": (4, 6), "doorway": (6, 9)}


@pytest.mark.parametrize("scenario", DEEPER)
def test_no_schedule_of_three_steps_violates_anything(scenario):
    """Every interleaving to that depth; the command line goes deeper."""
    result = explore(scenario, 3)
    assert result.violation is None, f"{result.what}\n{result.text}"
    assert result.schedules > 1500
    assert result.states > 600


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name not in (*DEEPER, *NARROW)])
def test_no_schedule_of_two_steps_violates_anything(scenario):
    """Where the kind has been explored deeper: every interleaving of two steps."""
    result = explore(scenario, 2)
    assert result.violation is None, f"{result.what}\n{result.text}"
    assert result.schedules > 250
    assert result.states > 140


@pytest.mark.parametrize("scenario", list(NARROW))
def test_no_schedule_of_a_narrow_scenario_violates_anything(scenario):
    """Soft errors, a kernel that gives up or has no memory, an accept that refuses everybody: as deep as is quick."""
    result = explore(scenario, NARROW[scenario][0])
    assert result.violation is None, f"{result.what}\n{result.text}"
    assert result.schedules > 1500
    assert result.states > 700


@pytest.mark.slow
@pytest.mark.parametrize("scenario", list(NARROW))
def test_no_deep_schedule_of_a_narrow_scenario_violates_anything(scenario):
    """More than 20,000 schedules of each of these as well."""
    result = explore(scenario, NARROW[scenario][1])
    assert result.violation is None, f"{result.what}\n{result.text}"
    assert result.schedules > 20_000


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name not in NARROW])
def test_no_schedule_of_five_steps_violates_anything(scenario):
    """More than 20,000 schedules of each scenario."""
    result = explore(scenario, 5)
    assert result.violation is None, f"{result.what}\n{result.text}"
    assert result.schedules > 20_000


def test_exploring_twice_covers_the_same():
    """There is no chance in it."""
    first, second = explore("tcp", 2), explore("tcp", 2)
    assert first == second


def test_a_schedule_is_replayed_with_its_trace():
    """Each step, and what the connection recorded, and how it ended both ways."""
    lines: list[str] = []
    assert replay("tcp: write write close turn", lines.append) is None
    text = "\n".join(lines)
    assert "our FIN" in text
    assert "FlushTimeout" in text  # the silent peer
    assert "the peer read 12, EOF" in text  # the kind one
    assert lines[-1] == "no violation"


def test_an_unknown_scenario_is_refused_by_name():
    """The message lists those that exist."""
    with pytest.raises(ValueError, match="there is no scenario 'udp'; there are tcp, "):
        from_text("udp: write")


def test_the_command_line_explores_and_replays(capsys):
    """Its last line has the counts; the exit status says whether all is well."""
    assert main(["explore", "--depth", "2", "--scenario", "unix"]) == 0
    assert "distinct schedules" in capsys.readouterr().out.splitlines()[-1]
    assert main(["replay", "unix:", "write", "close"]) == 0
    assert capsys.readouterr().out.endswith("no violation\n")


# The checker, checked. Each variant breaks one thing that a reactor could plausibly get wrong.

BROKEN = {}


def broken(says: str, depth: int, *scenarios: str):
    """Registers a variant: what the violation says, and how deep the exploration must go in one of the scenarios."""

    def register(patch):
        BROKEN[patch.__name__] = (patch, says, depth, scenarios)
        return patch

    return register


def before(patch, name, action, cls=Connection):
    """Does something before a method."""
    original = getattr(cls, name)

    def method(self, *arguments, **named):
        action(self, *arguments)
        return original(self, *arguments, **named)

    patch.setattr(cls, name, method)


def after(patch, name, action, cls=Connection):
    """Does something after a method."""
    original = getattr(cls, name)

    def method(self, *arguments, **named):
        result = original(self, *arguments, **named)
        action(self, *arguments)
        return result

    patch.setattr(cls, name, method)


def instead(patch, name, action, cls=Connection):
    """Does something instead of a method, which it is given first."""
    original = getattr(cls, name)
    patch.setattr(cls, name, lambda self, *arguments, **named: action(original, self, *arguments, **named))


@broken("the peer saw a clean end after", 2, "tcp")
def fin_before_the_queue_is_empty(patch):
    patch.setitem(lifecycle.TABLE[lifecycle.OPEN], lifecycle.END, lifecycle.ENDED)


@broken("more was reported as acknowledged than arrived", 3, "tcp")
def close_without_a_fin(patch):
    instead(patch, "_send_fin", lambda original, self: setattr(self, "_fin_sent", True))


@broken("told as one in order, with 2 bytes unacknowledged", 2, "tcp")
def a_latched_error_forgotten(patch):
    def forget(self):
        if isinstance(self._reason, ConnectionError):
            self._reason = None

    before(patch, "bury", forget)


@broken("does not notice the error", 4, "tcp-keep-open")
def the_error_behind_a_fin_is_not_asked_for(patch):
    patch.setattr(SimulatedSystem, "error", lambda self, sock: None)


@broken("our FIN left: True; the report says False", 3, "tcp")
def linger_skipped(patch):
    patch.setitem(lifecycle.TABLE[lifecycle.CLOSING], lifecycle.DRAINED, lifecycle.CLOSED)
    patch.setitem(lifecycle.TABLE[lifecycle.ENDED], lifecycle.CLOSE, lifecycle.CLOSED)


@broken("never ends", 1, "tcp")
def linger_without_a_deadline(patch):
    instead(patch, "_arm", lambda original, self: None if self.state is LINGER else original(self))


@broken("never ends", 2, "tcp")
def flush_without_a_deadline(patch):
    instead(patch, "_arm", lambda original, self: None if self.state.output is Output.DRAIN else original(self))


@broken("told as one in order, with 2 bytes unacknowledged", 3, "tcp", "tcp-slow")
def lingering_ends_without_telling_what_is_unconfirmed(patch):
    instead(patch, "end_linger", lambda original, self, **named: self._move(lifecycle.DEADLINE))


@broken("peer_eof cannot happen in CLOSED", 2, "tcp")
def an_event_served_after_the_end(patch):
    after(patch, "_finish", lambda self, *arguments: self._loop.post(self, self._deliver))


@broken("connection_lost after l", 1, "tcp")
def connection_lost_twice(patch):
    def bury(original, self):
        protocol = self._protocol
        original(self)
        protocol.connection_lost(None)

    instead(patch, "bury", bury)


@broken("never ends", 1, "tcp")
def connection_lost_never(patch):
    before(patch, "bury", lambda self: setattr(self, "_protocol", None))


@broken("a close of a released descriptor", 1, "tcp")
def the_descriptor_closed_twice(patch):
    after(patch, "bury", lambda self: self._loop.system.close(self._socket))


@broken("the descriptor was not closed", 1, "tcp")
def the_descriptor_never_closed(patch):
    patch.setattr(SimulatedSystem, "close", lambda self, sock: None)


@broken("bytes were written, the report says", 3, "tcp")
def a_partial_writes_tail_lost(patch):
    def advance(original, self, count):
        chunks = self._chunks
        original(self, count)
        if self.size and count and isinstance(chunks[0], memoryview):
            self.size -= len(chunks.popleft())

    instead(patch, "advance", advance, SendQueue)


@broken("bytes were written, the report says", 4, "tcp")
def a_partial_writes_tail_sent_twice(patch):
    instead(
        patch,
        "advance",
        lambda original, self, count: original(self, count if count >= len(self._chunks[0]) else 0),
        SendQueue,
    )


@broken("bytes were written, the report says", 3, "tcp")
def the_first_partial_writes_tail_forgotten(patch):
    def later(original, self, data):
        if not isinstance(data, memoryview):
            original(self, data)

    instead(patch, "_write_later", later)


@broken("does not deliver what has arrived", 3, "tcp")
def readiness_ignored_after_a_pause(patch):
    instead(patch, "resume_reading", lambda original, self: setattr(self, "_paused", False))


@broken("data_received while reading is paused", 3, "tcp")
def reading_goes_on_while_paused(patch):
    instead(patch, "pause_reading", lambda original, self: setattr(self, "_paused", True))


@broken("data_received after our close", 3, "tcp")
def input_delivered_after_close(patch):
    patch.setattr(Connection, "_discard", Connection._deliver)


@broken("was to be a reset, and was a FIN", 1, "tcp")
def an_abort_sends_a_fin(patch):
    patch.setattr(SimulatedSystem, "reset", System.close)


@broken("told as an end in order", 3, "tcp")
def an_exception_in_a_callback_changes_nothing(patch):
    instead(patch, "callback_failed", lambda original, self, exc: None)


@broken("does not resume its writer", 4, "tcp")
def a_paused_writer_is_never_resumed(patch):
    def writable(original, self):
        self._send_queue()
        self._refresh()

    instead(patch, "_on_writable", writable)


@broken("never quiet", 2, "tcp")
def the_wish_to_write_is_never_withdrawn(patch):
    def refresh(original, self):
        original(self)
        if self._interest is not None:
            self._loop.poller.modify(self._fd, self._interest | WRITE)
            self._blocked = True

    instead(patch, "_refresh", refresh)


@broken("could send, and does not", 2, "tcp")
def nobody_waits_until_the_queue_can_be_sent(patch):
    def refresh(original, self):
        original(self)
        if self._interest is not None:
            self._loop.poller.modify(self._fd, self._interest & READ)

    instead(patch, "_refresh", refresh)


@broken("never quiet", 2, "tcp")
def the_peers_fin_is_ignored(patch):
    instead(patch, "peer_ended", lambda original, self: None)


@broken("bytes were written, the report says", 3, "tcp")
def close_drops_the_queue(patch):
    before(patch, "close", lambda self: self._queue.clear())


@broken("bytes were written, the report says", 3, "tcp")
def what_a_failure_left_unsent_is_not_counted(patch):
    def cleared(original, self, exc):
        self._queue.clear()
        original(self, exc)

    instead(patch, "_break", cleared)


@broken("the kernel said EAGAIN", 1, "tcp")
def eagain_ends_the_connection(patch):
    instead(patch, "_receive_failed", lambda original, self, exc: self.fail(exc))


@broken("never quiet", 3, "tcp")
def a_hang_up_is_ignored(patch):
    instead(patch, "_hung_up", lambda original, self, events: None)


@broken("0 were delivered and 0 discarded", 4, "tcp")
def the_peers_last_words_are_dropped_when_a_send_fails(patch):
    instead(patch, "_send_failed", lambda original, self, exc: self.fail(exc))


@broken("a soft error was told as the end", 3, "tcp-troubled")
def a_soft_error_taken_for_a_reset(patch):
    patch.setattr(SimulatedSystem, "tcp_lives", lambda self, sock: False)


@broken("a hang-up was told as a failure", 3, "unix-keep-open")
def a_hang_up_taken_for_a_failed_write(patch):
    def hung_up(original, self, events):
        original(self, events)
        self._send_failed(BrokenPipeError())

    instead(patch, "_hung_up", hung_up)


@broken("told as one in order, with 2 bytes unacknowledged", 4, "tcp-troubled")
def an_end_after_the_peers_waits_for_no_acknowledgement(patch):
    def check(original, self):
        if self.state is CONFIRM:
            self._move(lifecycle.ACKNOWLEDGED)
        else:
            original(self)

    instead(patch, "_check_acknowledged", check)


@broken("bytes were discarded, and nobody had closed", 4, "tcp-troubled")
def input_discarded_when_a_reset_meets_a_paused_reader(patch):
    def read(original, self):
        if self.is_reading():
            original(self)
        else:
            self._discard_last_words()

    instead(patch, "_read_last_words", read)


@broken("accept is asked again at once", 6, "doorway")
def an_accept_that_is_forbidden_is_asked_again_at_once(patch):
    instead(
        patch,
        "_starve",
        lambda original, self, exc: None if exc.errno == errno.EPERM else original(self, exc),
        Listener,
    )


@broken("write() taken after our end", 2, "tcp")
def a_write_after_close_is_dropped_in_silence(patch):
    def later(original, self, data):
        if self._ended_by is None:
            original(self, data)

    instead(patch, "_write_later", later)


@broken("outlived the drain's deadline", 2, "tcp-keep-open")
def a_drain_cuts_nothing(patch):
    instead(patch, "cut", lambda original, self, exc: None)
    instead(patch, "drain", lambda original, self: None)


@broken("the end was to be a reset, and was a FIN", 1, "tcp-forked")
def a_reset_that_waits_for_the_last_copy(patch):
    patch.setattr(SimulatedSystem, "reset", lambda self, sock: self.close(sock))


@broken("our FIN left: False; the report says True", 2, "tcp-forked", "unix-forked")
def a_fin_that_waits_for_the_last_copy(patch):
    patch.setattr(SimulatedSystem, "shutdown_output", lambda self, sock: None)


@pytest.mark.parametrize("name", list(BROKEN))
def test_the_exploration_finds(name, monkeypatch):
    """A reactor with this bug violates something within a few steps, and the same schedule shows it again."""
    patch, says, depth, scenarios = BROKEN[name]
    patch(monkeypatch)
    for scenario in scenarios:
        result = explore(scenario, depth)
        if result.violation is not None:
            assert says in result.what
            again = replay(result.text, lambda line: None)
            assert again is not None
            assert says in str(again)
            return
    pytest.fail(f"{name}: no violation in {result.schedules} schedules of {depth} steps")


def test_there_are_enough_broken_variants():
    """The checker is checked by many."""
    assert len(BROKEN) >= 25
