"""Deadlines, as tables of times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Deadlines
from reactor.deadlines import Passed, next_look, passed
from reactor.lifecycle import CLOSED, CLOSING, ENDED, ENDING, LAST, LINGER, OPEN, PEER_END, STARTING, STATES

D = Deadlines(
    idle=60.0, flush=30.0, flush_total=100.0, linger_grace=1.0, linger_silence=5.0, linger_total=20.0, connect=9.0
)


@pytest.mark.parametrize(
    ("state", "now", "read_at", "sent_at", "since", "confirmed", "expected"),
    [
        # A handshake has so long, whatever is said meanwhile.
        (STARTING, 29.9, 29, 29, 0, False, None),
        (STARTING, 30.0, 29, 29, 0, False, Passed.HANDSHAKE),
        # Idle: neither received nor sent, in the states that the protocol still uses.
        (OPEN, 59.9, 0, 0, 0, False, None),
        (OPEN, 60.0, 0, 0, 0, False, Passed.IDLE),
        (OPEN, 100.0, 50, 0, 0, False, None),
        (OPEN, 100.0, 0, 50, 0, False, None),
        (ENDED, 60.0, 0, 0, 0, False, Passed.IDLE),
        (PEER_END, 60.0, 0, 0, 0, False, Passed.IDLE),
        # A flush stalls when the peer takes nothing; progress puts it off, the total does not wait.
        (CLOSING, 29.9, 0, 0, 0, False, None),
        (CLOSING, 30.0, 0, 0, 0, False, Passed.STALLED),
        (CLOSING, 30.0, 29, 0, 0, False, Passed.STALLED),
        (CLOSING, 59.9, 0, 30, 0, False, None),
        (CLOSING, 99.9, 0, 99, 0, False, None),
        (CLOSING, 100.0, 0, 99, 0, False, Passed.FLUSH_TOTAL),
        (ENDING, 130.0, 100, 0, 100, False, Passed.STALLED),
        (LAST, 30.0, 0, 0, 0, False, Passed.STALLED),
        (LAST, 1000.0, 0, 995, 990, False, None),
        # Lingering: enough when confirmed and quiet for the grace, or silent, or in all.
        (LINGER, 0.9, 0, 0, 0, True, None),
        (LINGER, 1.0, 0, 0, 0, True, Passed.LINGERED),
        (LINGER, 1.0, 0, 0, 0, False, None),
        (LINGER, 1.5, 1, 0, 0, True, None),
        (LINGER, 4.9, 0, 0, 0, False, None),
        (LINGER, 5.0, 0, 0, 0, False, Passed.LINGERED),
        (LINGER, 8.0, 4, 0, 0, False, None),
        (LINGER, 8.0, 0, 4, 0, False, None),
        (LINGER, 20.0, 19.5, 0, 0, True, Passed.LINGERED),
        (LINGER, 24.9, 24, 5, 0, False, None),
        (LINGER, 25.0, 24, 5, 0, False, Passed.LINGERED),
    ],
)
def test_a_deadline_passes_when_it_should(state, now, read_at, sent_at, since, confirmed, expected):
    """State and times in, the deadline that has passed out."""
    assert passed(state, D, now, read_at, sent_at, since, confirmed) is expected


@pytest.mark.parametrize("state", [OPEN, ENDED, PEER_END])
def test_without_an_idle_deadline_these_wait_for_ever(state):
    """No timer is set for them at all."""
    assert next_look(state, Deadlines(), 0, 0, 0, 0) is None


def test_looks_come_at_doubling_intervals_and_end_at_the_deadline():
    """A stalled flush of 30 s is looked at half a dozen times, the last time exactly when it is due."""
    deadlines, looks, now = Deadlines(), [], 0.0
    while passed(CLOSING, deadlines, now, 0, 0, 0, False) is None:
        now = next_look(CLOSING, deadlines, now, 0, 0, 0)
        looks.append(now)
    assert len(looks) <= 6
    assert looks[-1] == 30.0


TIME = st.floats(0, 1000)


@given(
    st.sampled_from([state for state in STATES if state is not CLOSED]),
    st.builds(
        Deadlines,
        idle=st.none() | st.floats(0.001, 100),
        flush=st.floats(0.001, 100),
        flush_total=st.none() | st.floats(0.001, 100),
        linger_grace=st.floats(0, 100),
        linger_silence=st.floats(0.001, 100),
        linger_total=st.floats(0.001, 100),
    ),
    TIME,
    TIME,
    TIME,
    st.booleans(),
)
def test_whoever_waits_with_a_deadline_comes_to_its_end(state, deadlines, read_at, sent_at, since, confirmed):
    """Looking whenever told to, with nothing happening, ends in a passed deadline after a bounded number of looks."""
    now = max(read_at, sent_at, since)
    for _ in range(200):
        if passed(state, deadlines, now, read_at, sent_at, since, confirmed) is not None:
            return
        look = next_look(state, deadlines, now, read_at, sent_at, since)
        if look is None:
            assert deadlines.idle is None
            assert state not in (STARTING, CLOSING, LAST, LINGER, ENDING)
            return
        assert look > now or look == pytest.approx(now)
        now = max(look, now)
    pytest.fail("it would wait for ever")


def test_a_bounded_flush_is_looked_at_no_later_than_its_bound():
    """However late the next look at the peer's progress would be."""
    deadlines = Deadlines(flush=100.0, flush_total=3.0)
    assert next_look(CLOSING, deadlines, now=10.0, read_at=10.0, sent_at=10.0, since=10.0) == 13.0
