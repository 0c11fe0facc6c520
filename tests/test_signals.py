"""Signals: none is lost, whoever else handles some, in whatever order they begin and end."""

from __future__ import annotations

import os
import signal
import socket
import textwrap
import threading
from itertools import permutations

import pytest

from reactor import Misuse, Reactor
from tests.helpers import PATIENCE, turn_until
from tests.test_forks import run

NUMBER = signal.SIGUSR1


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Handlers and the wake-up descriptor are as before the test."""
    before = {number: signal.getsignal(number) for number in (NUMBER, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_comes_through_however_many_others_came_before_it(reactor):
    """More of them in one callback than any pipe holds; those of one number are joined, and SIGTERM is served."""
    told = []
    reactor.add_signal_handler(NUMBER, told.append, "usr1")
    reactor.add_signal_handler(signal.SIGTERM, told.append, "term")

    def busy():
        for _ in range(2000):
            signal.raise_signal(NUMBER)
        signal.raise_signal(signal.SIGTERM)

    reactor.call_soon(busy)
    turn_until(reactor, lambda: "term" in told)
    assert told == ["usr1", "term"]
    signal.raise_signal(NUMBER)
    turn_until(reactor, lambda: told == ["usr1", "term", "usr1"])


def test_the_last_reactor_that_took_a_signal_gets_it_and_the_one_before_it_has_it_next(poller):
    """In every order of ending; afterwards what handled it before all of them does so again."""
    for order in permutations(range(3)):
        told: list[int] = []
        reactors = [Reactor(poller=poller) for _ in range(3)]
        for name, reactor in enumerate(reactors):
            reactor.add_signal_handler(NUMBER, told.append, name)
        alive = list(range(3))
        for name in order:
            signal.raise_signal(NUMBER)
            for one in alive:
                reactors[one].run_once(0)
            assert told == [alive[-1]]
            told.clear()
            reactors[name].close()
            alive.remove(name)
        assert signal.set_wakeup_fd(-1) == -1


def test_a_handler_of_somebody_else_stays(reactor):
    """What was put there after the reactor took the signal is not taken away; the reactor may take it again."""
    told = []

    def theirs(number, frame):
        told.append("theirs")

    before = signal.getsignal(NUMBER)
    try:
        reactor.add_signal_handler(NUMBER, told.append, "ours")
        signal.signal(NUMBER, theirs)
        signal.raise_signal(NUMBER)
        reactor.run_once(0)
        assert told == ["theirs"]
        assert reactor.remove_signal_handler(NUMBER)
        assert signal.getsignal(NUMBER) is theirs
        reactor.add_signal_handler(NUMBER, told.append, "ours")
        signal.signal(NUMBER, theirs)
        reactor.add_signal_handler(NUMBER, told.append, "ours again")
        signal.raise_signal(NUMBER)
        turn_until(reactor, lambda: told == ["theirs", "ours again"])
        reactor.remove_signal_handler(NUMBER)
        assert signal.getsignal(NUMBER) is theirs
    finally:
        signal.signal(NUMBER, before)


def test_a_handler_between_two_reactors_comes_back_when_the_second_ends(poller):
    """Each gives back exactly what it took."""
    before = signal.getsignal(NUMBER)
    told = []

    def theirs(number, frame):
        told.append("theirs")

    with Reactor(poller=poller) as first:
        first.add_signal_handler(NUMBER, told.append, "first")
        signal.signal(NUMBER, theirs)
        with Reactor(poller=poller) as second:
            second.add_signal_handler(NUMBER, told.append, "second")
            signal.raise_signal(NUMBER)
            turn_until(second, lambda: told == ["second"])
        assert signal.getsignal(NUMBER) is theirs
        signal.signal(NUMBER, before)


def test_a_call_that_is_taken_back_meanwhile_is_not_made(reactor):
    """The signal came, and its handler was removed before the loop came to it."""
    reactor.add_signal_handler(NUMBER, pytest.fail, "was called")
    signal.raise_signal(NUMBER)
    reactor.remove_signal_handler(NUMBER)
    reactor.run_once(0)


def test_a_reactor_with_signals_is_closed_in_the_main_thread_only(reactor):
    """Else nobody could give them back: Misuse, and nothing is closed."""
    reactor.add_signal_handler(NUMBER, print)
    refused = []

    def close():
        try:
            reactor.close()
        except Misuse as exc:
            refused.append(str(exc))

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert "which only the main thread can remove" in refused[0]
    reactor.call_soon(reactor.stop)
    reactor.run()
    reactor.close()


def test_a_loop_in_another_thread_is_told_while_the_main_thread_waits(poller):
    """Also while that is held up in a system call that the signal does not interrupt; and once for each signal."""
    run(
        """
        told = []
        ours, theirs = socket.socketpair()
        reactor = Reactor()
        reactor.add_signal_handler(signal.SIGUSR1, lambda: (told.append(1), theirs.send(b"x")))
        reactor.add_signal_handler(signal.SIGUSR2, reactor.stop)
        reactor.call_later(30, print)
        thread = threading.Thread(target=reactor.run)
        thread.start()
        for count in range(1, 4):
            killer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
            killer.start()
            ours.recv(1)  # restarted by the kernel: no Python code runs here until there is something
            killer.join()
            check(told == [1] * count, told)
        os.kill(os.getpid(), signal.SIGUSR2)
        thread.join(20)
        check(not thread.is_alive(), "not stopped")
        check(told == [1, 1, 1], told)
        reactor.close()
        """,
        poller,
    )


# The interpreter's wake-up descriptor, of which there is one


@pytest.fixture
def other():
    """Somebody else's wake-up descriptor, as asyncio has one."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_another_ones_wake_up_descriptor_is_left_and_while_we_wait_what_is_his_is_passed_on(reactor, other):
    """It is the reactor's only during run(); a signal that only the other handles reaches him."""
    ours, theirs = other
    before = signal.signal(signal.SIGUSR2, lambda number, frame: None)
    try:
        signal.set_wakeup_fd(theirs.fileno())
        reactor.add_signal_handler(NUMBER, reactor.stop)
        assert signal.set_wakeup_fd(theirs.fileno()) == theirs.fileno()

        def during():
            signal.raise_signal(signal.SIGUSR2)
            reactor.call_later(0.01, signal.raise_signal, NUMBER)

        reactor.call_soon(during)
        reactor.run()
        assert ours.recv(100) == bytes([signal.SIGUSR2])
        assert signal.set_wakeup_fd(theirs.fileno()) == theirs.fileno()
        signal.raise_signal(NUMBER)
        turn_until(reactor, lambda: not reactor._posted)
        reactor.remove_signal_handler(NUMBER)
        assert signal.set_wakeup_fd(-1) == theirs.fileno()
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGUSR2, before)


def test_a_wake_up_descriptor_whose_number_is_anothers_by_now_is_not_given_back(reactor, other):
    """Nor is anything written there."""
    _, theirs = other
    new, peer = socket.socketpair()
    for sock in (new, peer):
        sock.setblocking(False)
    before = signal.signal(signal.SIGUSR2, lambda number, frame: None)
    with peer, new:
        number = theirs.fileno()
        signal.set_wakeup_fd(number)
        reactor.add_signal_handler(NUMBER, reactor.stop)

        def replace():
            os.dup2(new.fileno(), number)
            signal.raise_signal(signal.SIGUSR2)
            reactor.call_later(0.01, signal.raise_signal, NUMBER)

        reactor.call_soon(replace)
        reactor.run()
        with pytest.raises(BlockingIOError):
            peer.recv(100)
        assert signal.set_wakeup_fd(-1) == reactor.waker.signal_fileno()
        reactor.remove_signal_handler(NUMBER)
    signal.signal(signal.SIGUSR2, before)


def test_the_wake_up_descriptor_goes_on_to_the_next_reactor(poller):
    """One that ends leaves it to one that still has signals, which a host may wait for in C."""
    with Reactor(poller=poller) as first, Reactor(poller=poller) as second:
        first.add_signal_handler(NUMBER, print)
        second.add_signal_handler(signal.SIGUSR2, print)
        first.close()
        now = signal.set_wakeup_fd(-1)
        assert now == second.waker.signal_fileno()
        signal.set_wakeup_fd(now)


def test_a_reactor_that_runs_inside_a_callback_of_another_leaves_both_their_signals(poller):
    """Each gets its own, the outer one when its turn comes."""
    told = []
    with Reactor(poller=poller) as outer, Reactor(poller=poller) as inner:
        outer.add_signal_handler(NUMBER, lambda: (told.append("outer"), outer.stop()))
        inner.add_signal_handler(signal.SIGUSR2, lambda: (told.append("inner"), inner.stop()))

        def nested():
            signal.raise_signal(NUMBER)
            inner.call_later(0.01, signal.raise_signal, signal.SIGUSR2)
            inner.run()
            told.append("back")

        outer.call_soon(nested)
        outer.call_later(PATIENCE, outer.stop)
        outer.run()
    assert told == ["inner", "back", "outer"]


ASYNCIO = """
    import asyncio

    async def use_signals():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, told.append, "hup")
        os.kill(os.getpid(), signal.SIGHUP)
        while "hup" not in told:
            await asyncio.sleep(0.01)

    told = []
    reactor = Reactor()
    reactor.listen(Protocol, "127.0.0.1", 0)

    def drains():
        reactor.call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        reactor.call_later(20, check, False, "SIGTERM was not served")
        reactor.run()
        check(reactor.drained.finished, "not drained")
"""


@pytest.mark.parametrize(
    "program",
    [
        # asyncio, and it has ended, before we have a signal; and after that.
        "asyncio.run(use_signals()); reactor.drain_on_signals(5); drains()",
        "reactor.drain_on_signals(5); asyncio.run(use_signals()); drains()",
        # In the middle of run(): inside a callback.
        "reactor.drain_on_signals(5); reactor.call_soon(lambda: asyncio.run(use_signals())); drains()",
        "reactor.call_soon(lambda: (reactor.drain_on_signals(5), asyncio.run(use_signals()))); drains()",
        # Beside: a loop that lives on, whose signals come while we run, and are served when it runs again.
        """
loop = asyncio.new_event_loop()
loop.add_signal_handler(signal.SIGHUP, told.append, "hup")
reactor.drain_on_signals(5)
reactor.call_soon(os.kill, os.getpid(), signal.SIGHUP)
drains()
check(told == [], "served by nobody")
loop.call_later(0.05, loop.stop)
loop.run_forever()
check(told == ["hup"], "lost")
reactor.close()
os.kill(os.getpid(), signal.SIGHUP)
loop.call_later(0.05, loop.stop)
loop.run_forever()
check(told == ["hup"] * 2, "lost after our end")
loop.close()
""",
        # The same signal: asyncio had it before, and has it again.
        """
loop = asyncio.new_event_loop()
loop.add_signal_handler(signal.SIGTERM, told.append, "term")
reactor.drain_on_signals(5)
drains()
check(told == [], "both were told")
reactor.close()
os.kill(os.getpid(), signal.SIGTERM)
loop.call_later(0.05, loop.stop)
loop.run_forever()
check(told == ["term"], told)
loop.close()
""",
        # asyncio's loop is closed while we run, and takes the wake-up descriptor with it.
        """
loop = asyncio.new_event_loop()
loop.add_signal_handler(signal.SIGHUP, told.append, "hup")
reactor.drain_on_signals(5)
reactor.call_soon(loop.close)
drains()
""",
    ],
)
def test_asyncio_may_have_signals_before_beside_and_after_us(program):
    """Neither takes the other's away, whoever begins and ends first."""
    run(textwrap.dedent(ASYNCIO) + program)


@pytest.mark.parametrize("asyncio_first", [False, True])
def test_a_guest_of_asyncio_has_its_signals_and_asyncio_its_own(asyncio_first):
    """Whoever asked first. Neither needs the wake-up descriptor, or takes it from the other."""
    run(
        f"""
        import asyncio
        from reactor.embedding import Guest

        async def main():
            loop = asyncio.get_running_loop()
            told = []

            def watch(fd, callback):
                loop.add_reader(fd, callback)
                return lambda: loop.remove_reader(fd)

            guest = Guest(reactor, watch, lambda seconds, callback: loop.call_later(seconds, callback).cancel)
            ours = lambda: reactor.add_signal_handler(signal.SIGUSR1, told.append, "ours")
            theirs = lambda: loop.add_signal_handler(signal.SIGUSR2, told.append, "theirs")
            for ask in (theirs, ours) if {asyncio_first} else (ours, theirs):
                ask()
            for _ in range(3):
                for number in (signal.SIGUSR1, signal.SIGUSR2):
                    killer = threading.Timer(0.02, os.kill, (os.getpid(), number))
                    killer.start()
                    while len(told) % 2 == (number == signal.SIGUSR2):
                        await asyncio.sleep(0.01)
                    killer.join()
            check(told == ["ours", "theirs"] * 3, told)
            guest.leave()
            loop.remove_signal_handler(signal.SIGUSR2)

        with Reactor(poller="epoll") as reactor:
            asyncio.run(main())
        check(signal.set_wakeup_fd(-1) == -1, "a wake-up descriptor is left")
        """
    )
