"""Timers and handles."""

from __future__ import annotations

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from reactor.timers import Handle, Timers


def run_all(timers: Timers, now: float) -> None:
    while (handle := timers.pop_due(now)) is not None:
        handle.run()


def test_timers_run_when_due_the_earliest_first_and_equals_in_the_order_set():
    """Order is by time, then by age."""
    timers, ran = Timers(), []
    for when, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (3.0, "d")):
        timers.add(when, None, ran.append, name)
    run_all(timers, 0.5)
    assert ran == []
    run_all(timers, 2.0)
    assert ran == ["a", "b", "c"]
    assert timers.next_deadline() == 3.0
    assert len(timers) == 1


def test_a_cancelled_timer_never_runs_and_lets_go_of_what_it_held():
    """Cancelling frees the callback and its arguments at once."""

    class Held:
        pass

    held = Held()
    alive = weakref.ref(held)
    timers = Timers()
    handle = timers.add(1.0, None, lambda what: None, held)
    del held
    handle.cancel()
    handle.cancel()
    gc.collect()
    assert alive() is None
    assert handle.cancelled()
    assert len(timers) == 0
    assert timers.next_deadline() is None
    assert timers.pop_due(10.0) is None


def test_cancelling_after_it_ran_does_nothing():
    """A late cancel does not spoil the count."""
    timers, ran = Timers(), []
    handle = timers.add(1.0, None, ran.append, 1)
    timers.add(2.0, None, ran.append, 2)
    run_all(timers, 1.0)
    handle.cancel()
    assert len(timers) == 1
    run_all(timers, 2.0)
    assert ran == [1, 2]


def test_a_timer_may_cancel_itself_and_others_while_it_runs():
    """Cancelling from inside a timer is as good as from outside."""
    timers, ran = Timers(), []
    second = timers.add(1.0, None, ran.append, "second")

    def first():
        ran.append("first")
        second.cancel()

    timers.add(0.5, None, first)
    run_all(timers, 5.0)
    assert ran == ["first"]
    assert len(timers) == 0


def test_the_heap_does_not_grow_with_cancelled_timers():
    """A million set and cancelled leave at most twice the live ones, and some."""
    timers = Timers()
    for number in range(1000):
        timers.add(float(number), None, print)
    for number in range(100_000):
        timers.add(float(number), None, print).cancel()
    assert len(timers) == 1000
    assert len(timers._heap) < 2200


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=200), st.integers(0, 20))
def test_exactly_the_due_and_live_ones_run(plan, now):
    """Whatever is set and cancelled: what is due runs once, in order; the others wait."""
    timers, ran = Timers(), []
    expected = []
    for index, (when, cancel) in enumerate(plan):
        handle = timers.add(float(when), None, ran.append, (when, index))
        if cancel:
            handle.cancel()
        elif when <= now:
            expected.append((when, index))
    run_all(timers, float(now))
    assert ran == sorted(expected)
    assert len(timers) == sum(1 for when, cancel in plan if not cancel and when > now)


def test_handles_say_what_they_are():
    """A repr shows what a debugger needs."""
    handle = Handle(None, print, ("x",))
    assert "print" in repr(handle)
    handle.cancel()
    assert "cancelled" in repr(handle)
    assert Timers().add(3.5, None, print).when() == 3.5


def test_the_next_ones_can_be_looked_at():
    """In the order in which they are due, without those that were cancelled; nothing is taken out."""
    timers = Timers()
    handles = {when: timers.add(when, None, print) for when in (5.0, 1.0, 3.0, 2.0, 4.0)}
    handles[2.0].cancel()
    assert [handle.when() for handle in timers.upcoming(3)] == [1.0, 3.0, 4.0]
    assert len(timers) == 4
    assert timers.upcoming(0) == []
