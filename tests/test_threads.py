"""Other threads: every call of theirs is made once and in order, and an end in the middle of it harms nobody."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import pytest

from reactor import Reactor, ReactorClosed
from reactor.pollers import POLLERS
from tests.helpers import PATIENCE, turn_until

THREADS = 8


def post_from_threads(reactor: Reactor, calls_per_thread: int) -> None:
    """Each of eight threads has its own numbers called; checks that each was, once, in its order, in the loop."""
    expected = [0] * THREADS
    wrong: list[tuple[int, int]] = []
    ours = threading.get_ident()

    def called(thread: int, number: int) -> None:
        if expected[thread] != number or threading.get_ident() != ours:
            wrong.append((thread, number))
        expected[thread] += 1
        if expected[thread] == calls_per_thread:
            over.append(thread)
            if len(over) == THREADS:
                reactor.stop()

    def post(thread: int) -> None:
        begin.wait()
        for number in range(calls_per_thread):
            reactor.call_soon_threadsafe(called, thread, number)

    over: list[int] = []
    begin = threading.Barrier(THREADS)
    threads = [threading.Thread(target=post, args=(thread,)) for thread in range(THREADS)]
    too_late = reactor.call_later(PATIENCE, reactor.stop)
    for thread in threads:
        thread.start()
    reactor.run()
    too_late.cancel()
    for thread in threads:
        thread.join()
    assert not wrong
    assert expected == [calls_per_thread] * THREADS


def test_every_call_of_eight_threads_is_made_once_and_in_order():
    """80,000 calls, while the loop goes to sleep and is woken again and again."""
    with Reactor() as reactor:
        post_from_threads(reactor, 10_000)


@pytest.mark.slow
def test_every_one_of_a_million_calls_is_made_once_and_in_order():
    """The same on each poller, which the calls reach by nothing but a byte."""
    for poller in POLLERS:
        with Reactor(poller=poller) as reactor:
            post_from_threads(reactor, 1_000_000 // THREADS)


class CountingSocket:
    """The waker's own end, which counts the bytes it is given."""

    def __init__(self, sock) -> None:
        self._sock = sock
        self.sent = 0

    def send(self, data, flags):
        self.sent += len(data)
        return self._sock.send(data, flags)

    def __getattr__(self, name):
        return getattr(self._sock, name)


def test_any_number_of_calls_is_one_wake_up(reactor):
    """A byte for the first; none for the others, until the loop has read it; none for calls made in the loop."""
    counting = reactor.waker._theirs = CountingSocket(reactor.waker._theirs)
    made = []

    def post() -> None:
        for number in range(1000):
            reactor.call_soon_threadsafe(made.append, number)

    for wake_ups in (1, 2):
        thread = threading.Thread(target=post)
        thread.start()
        thread.join()
        assert counting.sent == wake_ups
        turn_until(reactor, lambda: len(made) == 1000 * wake_ups)  # noqa: B023 (within this round)
    sent = counting.sent
    reactor.call_soon(lambda: [reactor.call_soon(made.clear) for _ in range(100)])
    turn_until(reactor, lambda: not made)
    assert counting.sent == sent + 1  # for the first, which was asked for between two turns


def test_a_call_is_taken_back_from_another_thread(reactor):
    """cancel() before the loop has come to it: it is not made."""
    made = []
    thread = threading.Thread(target=lambda: reactor.call_soon_threadsafe(made.append, 1).cancel())
    thread.start()
    thread.join()
    reactor.run()
    assert made == []


def test_a_signal_handler_may_ask_for_a_call():
    """call_soon_threadsafe from a handler of the program's own, which runs in the middle of anything."""
    made = []
    with Reactor() as reactor:

        def handler(number, frame):
            reactor.call_soon_threadsafe(made.append, number)
            if len(made) > 50:
                reactor.stop()

        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            reactor.call_later(PATIENCE, reactor.stop)
            reactor.run()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert set(made) == {signal.SIGALRM}
    assert len(made) > 50


# Calls in threads


def test_what_has_not_begun_is_cancelled_at_close(poller):
    """close() waits for no thread: queued calls never run, running ones finish alone, and nobody is told."""
    begun, release, ran, told = threading.Event(), threading.Event(), [], []

    def block() -> bool:
        begun.set()
        return release.wait(PATIENCE)

    reactor = Reactor(poller=poller)
    # More than a pool has threads, 32 at most: so those behind them wait.
    blocked = [reactor.run_in_thread(block, done=told.append) for _ in range(64)]
    queued = [reactor.run_in_thread(ran.append, number, done=told.append) for number in range(10)]
    assert begun.wait(PATIENCE)
    reactor.close()
    assert all(future.cancelled() for future in queued)
    running = [future for future in blocked if not future.cancelled()]
    assert 0 < len(running) <= 32
    assert not any(future.done() for future in running)
    release.set()
    assert all(future.result(PATIENCE) for future in running)
    assert ran == told == []


def test_a_call_that_is_cancelled_in_time_is_told_as_such(reactor):
    """future.cancel() of one that waits: `done` is called with it, and run() does not wait for ever."""
    release, told = threading.Event(), []
    blocked = [reactor.run_in_thread(release.wait, PATIENCE) for _ in range(64)]
    last = reactor.run_in_thread(told.append, "ran", done=lambda future: told.append(future.cancelled()))
    assert last.cancel()
    turn_until(reactor, lambda: told)
    release.set()
    reactor.run()
    assert told == [True]
    assert all(future.result() for future in blocked)


# The end in the middle of it


def test_threads_that_call_while_the_reactor_closes_are_refused_and_harm_nobody():
    """Each thread sees ReactorClosed and nothing else; what it still posted is not called; no byte goes astray."""
    for _ in range(10):
        refused, others = [], []
        reactor, made = Reactor(), []

        def post(reactor=reactor, made=made, refused=refused, others=others) -> None:
            try:
                while True:
                    for _ in range(20):
                        reactor.call_soon_threadsafe(made.append, 1)
                    time.sleep(0)  # or four of them keep the interpreter from the loop
            except ReactorClosed:
                refused.append(True)
            except BaseException as exc:
                others.append(exc)

        threads = [threading.Thread(target=post) for _ in range(4)]
        for thread in threads:
            thread.start()
        turn_until(reactor, lambda made=made: made)
        reactor.close()
        called = len(made)
        # Whoever gets the numbers of the waker's descriptors now must not get its bytes.
        pairs = [socket.socketpair() for _ in range(4)]
        for thread in threads:
            thread.join(PATIENCE)
        assert refused == [True] * 4
        assert others == []
        assert len(made) == called
        for one, other in pairs:
            one.close()
            assert other.recv(10) == b""
            other.close()


def test_a_byte_in_flight_never_meets_a_reused_descriptor():
    """A wake-up that has begun is finished before the descriptor is closed."""
    reactor = Reactor()
    waker_end = reactor.waker._theirs
    with waker_end._lock:  # as if a thread were inside send
        closing = threading.Thread(target=waker_end.close)
        closing.start()
        closing.join(0.05)
        assert closing.is_alive()
        os.fstat(waker_end.fileno())
    closing.join(PATIENCE)
    assert waker_end.fileno() == -1
    reactor.close()


def test_a_stop_from_a_thread_is_never_lost():
    """Whether the loop sleeps or is about to, run() returns."""
    with Reactor() as reactor:
        reactor.call_later(PATIENCE, print)
        for number in range(200):
            # From the next instant to well into the sleep.
            delay = number % 10 * 0.0002
            thread = threading.Timer(delay, reactor.call_soon_threadsafe, args=(reactor.stop,))
            thread.start()
            began = time.monotonic()
            reactor.run()
            assert time.monotonic() - began < PATIENCE / 2
            thread.join()
