"""The loop: its order, its calls, what wakes it and what keeps it running; on every poller."""

from __future__ import annotations

import errno
import os
import select
import selectors
import signal
import socket
import threading
import time

import attrs
import pytest

from reactor import (
    DatagramProtocol,
    Deadlines,
    FlushTimeout,
    Misuse,
    Options,
    Protocol,
    Reactor,
    ReactorClosed,
    Sockets,
)
from reactor.pollers import POLLERS
from reactor.system import System
from reactor.testing import SimulatedSystem
from tests.closing.support import Clock
from tests.helpers import Recorder, Server, turn_until


def test_a_reactor_with_nothing_to_wait_for_returns(reactor):
    """run() ends when nothing could ever wake it."""
    reactor.run()
    assert reactor.turns == 0


def test_calls_run_in_order_and_those_posted_meanwhile_in_the_next_turn(reactor):
    """call_soon never runs a call inside the turn's batch that posted it."""
    ran = []

    def first():
        ran.append(("first", reactor.turns))
        reactor.call_soon(lambda: ran.append(("third", reactor.turns)))

    reactor.call_soon(first)
    reactor.call_soon(lambda: ran.append(("second", reactor.turns)))
    reactor.run()
    (_, turn), *_ = ran
    assert ran == [("first", turn), ("second", turn), ("third", turn + 1)]


def test_a_turn_serves_then_fires_then_calls(reactor):
    """Ready descriptors come before timers, timers before posted calls."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        order = []

        def read():
            order.append("ready")
            reactor.remove_reader(ours)

        reactor.call_soon(order.append, "call")
        reactor.call_at(reactor.time(), order.append, "timer")
        reactor.add_reader(ours, read)
        theirs.send(b"x")
        reactor.run_once()
        assert order == ["ready", "timer", "call"]


def test_a_cancelled_call_is_not_made(reactor):
    """Handles can be taken back until they run."""
    ran = []
    reactor.call_soon(ran.append, 1).cancel()
    reactor.call_later(0, ran.append, 2).cancel()
    handle = reactor.call_soon(ran.append, 3)
    reactor.run()
    handle.cancel()
    assert ran == [3]


def test_timers_wait_and_never_come_early(reactor):
    """A call made later is made no earlier than it was asked for."""
    times = []
    start = reactor.time()
    reactor.call_later(0.03, lambda: times.append(reactor.time() - start))
    reactor.call_later(0.01, lambda: times.append(reactor.time() - start))
    reactor.run()
    assert times[0] >= 0.01
    assert times[1] >= 0.03


def test_a_timer_that_sets_itself_for_the_past_does_not_starve_the_loop(reactor):
    """One turn fires no more timers than there were."""
    fired = []

    def again():
        fired.append(reactor.turns)
        if len(fired) < 5:
            reactor.call_at(0, again)

    reactor.call_at(0, again)
    reactor.run()
    assert len(set(fired)) == 5


@pytest.mark.parametrize("when", [float("nan"), float("inf")])
def test_a_time_that_never_comes_is_refused(reactor, when):
    """ValueError at once, not a poller that overflows later."""
    with pytest.raises(ValueError, match="time that comes"):
        reactor.call_at(when, print)


def test_a_timer_years_away_fits_the_poller(reactor):
    """Waiting is cut to what the poller's milliseconds can hold."""
    handle = reactor.call_later(1e12, print)
    reactor.run_once(0)
    reactor.call_soon(handle.cancel)
    reactor.run()


def test_stop_ends_run_after_the_turn_and_ends_nothing_else(reactor):
    """What is pending stays pending, and run() may be called again."""
    ran = []
    reactor.call_soon(reactor.stop)
    reactor.call_soon(lambda: (ran.append(1), reactor.call_soon(ran.append, 2)))
    reactor.run()
    assert ran == [1]
    reactor.run()
    assert ran == [1, 2]


@pytest.mark.logs_errors
def test_a_call_that_raises_is_logged_and_the_loop_lives_on(reactor, caplog):
    """The traceback is in the log; the next call is made."""
    ran = []
    reactor.call_soon(lambda: 1 / 0)
    reactor.call_soon(ran.append, 1)
    reactor.call_later(0, lambda: 1 / 0)
    reactor.run()
    assert ran == [1]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError] * 2


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_run_and_loses_nothing(reactor, kind):
    """KeyboardInterrupt and SystemExit go up; what was posted is still called by the next run()."""
    ran = []

    def interrupt():
        raise kind

    reactor.call_soon(interrupt)
    reactor.call_soon(ran.append, 1)
    with pytest.raises(kind):
        reactor.run()
    reactor.run()
    assert ran == [1]


def test_running_inside_a_turn_is_refused(reactor):
    """A loop turns in one place at a time; the error names what was asked."""
    errors = []

    def inside():
        for call in (reactor.run, reactor.run_once, reactor.close):
            try:
                call()
            except Misuse as exc:
                errors.append(str(exc))

    reactor.call_soon(inside)
    reactor.run()
    assert [error.split(" ")[0] for error in errors] == ["run()", "run_once()", "close()"]


def test_a_closed_reactor_refuses_everything_by_name(poller):
    """ReactorClosed says what was asked; closing again is fine."""
    reactor = Reactor(poller=poller)
    reactor.close()
    reactor.close()
    for call in (
        reactor.run,
        reactor.run_once,
        lambda: reactor.call_soon(print),
        lambda: reactor.call_later(1, print),
        lambda: reactor.call_soon_threadsafe(print),
        lambda: reactor.listen(Protocol, "127.0.0.1", 0),
        lambda: reactor.connect(Protocol, "127.0.0.1", 1),
        lambda: reactor.add_reader(0, print),
        lambda: reactor.run_in_thread(print),
        lambda: reactor.drain(1),
    ):
        with pytest.raises(ReactorClosed, match=r"refused: <Reactor closed> is closed"):
            call()


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_waiting_for_less_than_nothing_is_refused(reactor, timeout):
    """run_once takes zero or more seconds."""
    with pytest.raises(ValueError, match="run_once"):
        reactor.run_once(timeout)


def test_an_unknown_poller_is_refused_with_the_choices():
    """The message lists what there is."""
    with pytest.raises(ValueError, match=r"no poller 'kpoll' here; there are .*select"):
        Reactor(poller="kpoll")


def test_the_environment_names_the_default_poller(monkeypatch):
    """REACTOR_POLLER chooses; an argument wins over it."""
    for name, kind in POLLERS.items():
        monkeypatch.setenv("REACTOR_POLLER", name)
        with Reactor() as reactor:
            assert type(reactor.poller) is kind
        with Reactor(poller="select") as reactor:
            assert type(reactor.poller) is POLLERS["select"]


def test_any_selector_can_be_the_poller():
    """A selectors.BaseSelector runs an echo, pausing included."""

    class Echo(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.connection.write(data)

    for kind in (selectors.DefaultSelector, selectors.SelectSelector):
        with Reactor(poller=kind()) as reactor:
            server = Server(reactor, Echo)
            peer, protocol = server.connected()
            with peer:
                protocol.connection.pause_reading()
                peer.send(b"hello")
                protocol.connection.resume_reading()
                peer.read_until(5)
                peer.fin()
                assert peer.read_to_end() == "EOF"
            assert protocol.lost is None


# Threads


def test_threads_wake_the_loop_and_their_calls_keep_their_order(reactor):
    """call_soon_threadsafe from several threads: every call once, in order per thread."""
    calls = []

    def post(name):
        for number in range(500):
            reactor.call_soon_threadsafe(calls.append, (name, number))

    threads = [threading.Thread(target=post, args=(name,)) for name in range(4)]
    keep_alive = reactor.call_later(30, print)
    for thread in threads:
        thread.start()
    turn_until(reactor, lambda: len(calls) == 2000)
    for thread in threads:
        thread.join()
    keep_alive.cancel()
    for name in range(4):
        assert [number for who, number in calls if who == name] == list(range(500))


def test_a_sleeping_loop_is_woken_by_a_thread(reactor):
    """The call is made although the poll would have waited for long."""
    reactor.call_later(30, print)
    thread = threading.Timer(0.02, lambda: reactor.call_soon_threadsafe(reactor.stop))
    thread.start()
    began = time.monotonic()
    reactor.run()
    thread.join()
    assert time.monotonic() - began < 10


def test_a_call_posted_while_the_waker_is_being_read_is_not_slept_over(reactor):
    """The byte that wakes is never read away before the call behind it is seen."""
    called = []
    waker = reactor.waker
    read = waker._ours.recv

    class Racing:
        """The waker's socket, with a thread that posts a call just as it is read."""

        def recv(self, size):
            if len(called) < 3:
                posted = threading.Thread(target=lambda: reactor.call_soon_threadsafe(called.append, "posted"))
                posted.start()
                posted.join()
            return read(size)

        def __getattr__(self, name):
            return getattr(real, name)

    real, waker._ours = waker._ours, Racing()
    reactor.call_soon_threadsafe(called.append, "first")
    reactor.call_later(10, print)
    turn_until(reactor, lambda: "posted" in called)
    reactor.run_once(0)
    waker._ours = real
    reactor.call_soon_threadsafe(called.append, "last")
    began = time.monotonic()
    reactor.run_once(5)
    reactor.run_once(0)
    assert called[-1] == "last"
    assert time.monotonic() - began < 2


def test_run_waits_for_a_thread_and_tells_its_result_in_the_loop(reactor):
    """run_in_thread calls `done` in the loop's thread, with result or exception."""
    told = []

    def done(future):
        told.append((threading.current_thread(), future.exception() or future.result()))

    reactor.run_in_thread(lambda a, b: a + b, 2, 3, done=done)
    reactor.run_in_thread(int, "x", done=done)
    reactor.run()
    assert {thread for thread, _ in told} == {threading.current_thread()}
    assert {repr(value)[:10] for _, value in told} == {"5", "ValueError"}


@pytest.mark.logs_errors
def test_a_failure_in_a_thread_that_nobody_waits_for_is_logged(reactor, caplog):
    """Without `done` an exception does not vanish."""
    reactor.run_in_thread(int, "x")
    reactor.run()
    assert "a call in a thread failed" in caplog.text


def test_closing_does_not_wait_for_a_thread_and_takes_no_answer(poller):
    """What runs on is let run; its `done` is not called."""
    release, told = threading.Event(), []
    reactor = Reactor(poller=poller)
    future = reactor.run_in_thread(release.wait, 20, done=told.append)
    reactor.close()
    release.set()
    future.result(20)
    assert told == []


# Foreign descriptors


def test_foreign_descriptors_are_watched_for_each_side(reactor):
    """Readers and writers are called while ready, and no more once removed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        calls = []
        reactor.add_reader(ours, calls.append, "readable")
        reactor.run_once(0)
        reactor.run_once(0)
        assert calls == []
        reactor.add_writer(ours.fileno(), calls.append, "writable")
        reactor.run_once(1)
        assert calls == ["writable"]
        assert reactor.remove_writer(ours)
        assert not reactor.remove_writer(ours)
        theirs.send(b"x")
        reactor.run_once(1)
        assert calls == ["writable", "readable"]
        reactor.add_reader(ours, calls.append, "replaced")
        reactor.run_once(1)
        assert calls[-1] == "replaced"
        assert reactor.remove_reader(ours)
        reactor.run()


def test_a_watched_descriptor_that_hangs_up_calls_its_reader(reactor):
    """A pipe whose writer is gone is readable: the end of file."""
    reading, writing = os.pipe()
    ends = []

    def read():
        ends.append(os.read(reading, 10))
        reactor.remove_reader(reading)

    reactor.add_reader(reading, read)
    os.close(writing)
    reactor.run()
    os.close(reading)
    assert ends == [b""]


def test_a_descriptor_that_belongs_to_the_reactor_is_refused(reactor):
    """Watching a connection's descriptor would steal its events; the error names the connection."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer, pytest.raises(Misuse, match=r"belongs to <Connection #1"):
        reactor.add_reader(protocol.connection.get_extra_info("socket"), print)
    assert not reactor.remove_reader(protocol.connection.get_extra_info("socket"))


def test_a_closed_file_is_refused(reactor):
    """A descriptor of -1 is somebody's closed socket."""
    ours, theirs = socket.socketpair()
    ours.close()
    theirs.close()
    with pytest.raises(ValueError, match="is closed"):
        reactor.add_reader(ours, print)


@pytest.mark.parametrize("name", [name for name in POLLERS if name == "epoll"])
def test_a_regular_file_cannot_be_polled_with_epoll_and_nothing_is_left_behind(name, tmp_path):
    """The kernel's EPERM comes up, and the reactor still ends by itself."""
    with Reactor(poller=name) as reactor, open(tmp_path / "file", "w") as file:
        with pytest.raises(PermissionError):
            reactor.add_reader(file, print)
        reactor.run()


@pytest.mark.logs_errors
@pytest.mark.parametrize("name", [name for name in POLLERS if name in ("poll", "select")])
def test_a_watched_descriptor_closed_behind_our_back_is_found_and_logged(name, caplog):
    """The HOWTO's sweep: the dead one is dropped, and the loop neither fails nor spins."""
    with Reactor(poller=name) as reactor:
        ours, theirs = socket.socketpair()
        with theirs:
            reactor.add_reader(ours, print)
            ours.close()
            reactor.run()
        assert "was closed while it was watched" in caplog.text


# Signals


def test_a_signal_is_served_in_the_loop_and_given_back(reactor):
    """The handler runs like any callback; afterwards the old one is back."""
    before = signal.getsignal(signal.SIGUSR1)
    told = []

    def handler(what):
        told.append(what)
        reactor.stop()

    reactor.add_signal_handler(signal.SIGUSR1, handler, "usr1")
    reactor.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    keep_alive = reactor.call_later(30, print)
    reactor.run()
    keep_alive.cancel()
    assert told == ["usr1"]
    assert reactor.remove_signal_handler(signal.SIGUSR1)
    assert not reactor.remove_signal_handler(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is before


def test_closing_gives_the_signals_back(poller):
    """No handler of a closed reactor stays behind, nor its wake-up descriptor."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Reactor(poller=poller) as reactor:
        reactor.drain_on_signals(1)
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_signals_outside_the_main_thread_are_refused(reactor):
    """Python allows them only there; the error says so."""
    errors = []

    def attempt():
        try:
            reactor.add_signal_handler(signal.SIGUSR1, print)
        except ValueError as exc:
            errors.append(str(exc))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert errors == ["signals can be handled only in the main thread"]


def test_a_signal_that_cannot_be_caught_is_refused_and_leaves_nothing(reactor):
    """SIGKILL is the kernel's own."""
    with pytest.raises((OSError, ValueError)):
        reactor.add_signal_handler(signal.SIGKILL, print)
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_that_is_no_number_is_refused_and_leaves_nothing(reactor):
    """TypeError, and the interpreter writes to no descriptor of ours."""
    with pytest.raises(TypeError):
        reactor.add_signal_handler("SIGTERM", print)
    assert signal.set_wakeup_fd(-1) == -1


def test_two_reactors_may_take_signals_and_end_in_any_order(poller):
    """The one that ends first does not make the other deaf, and the other's end is no error."""
    told = []
    first, second = Reactor(poller=poller), Reactor(poller=poller)
    first.add_signal_handler(signal.SIGUSR1, told.append, "first")
    second.add_signal_handler(signal.SIGUSR2, told.append, "second")
    first.close()
    second.call_soon(os.kill, os.getpid(), signal.SIGUSR2)
    second.call_later(5, print)
    turn_until(second, lambda: told)
    second.close()
    assert told == ["second"]
    assert signal.set_wakeup_fd(-1) == -1


# Embedding


def test_another_loop_can_wait_for_this_one(poller):
    """fileno() becomes readable when there is something to serve, and timeout() tells the next timer."""
    with Reactor(poller=poller) as reactor:
        try:
            fd = reactor.fileno()
        except OSError as exc:
            assert "run_once" in str(exc)  # noqa: PT017
            assert poller in ("poll", "select")
            return
        assert reactor.timeout() is None
        ran = []
        far = reactor.call_later(60, print)
        assert 0 < reactor.timeout() <= 60
        far.cancel()
        reactor.call_later(0.02, ran.append, "timer")
        while not ran:
            select.select([fd], [], [], reactor.timeout())
            reactor.run_once(0)
        reactor.call_soon(ran.append, "call")
        assert reactor.timeout() == 0
        assert select.select([fd], [], [], 5)[0] == [fd]
        reactor.run_once(0)
        assert ran == ["timer", "call"]


def test_writes_made_between_turns_wake_the_host(poller):
    """What a host's own callback writes leaves without waiting for another event."""
    with Reactor(poller=poller) as reactor:
        server = Server(reactor)
        peer, protocol = server.connected()
        with peer:
            turn_until(reactor, lambda: reactor.timeout() is None)
            protocol.connection.write(b"first")
            protocol.connection.write(b"second")
            assert reactor.timeout() == 0
            reactor.run_once()
            peer.read_until(11)
            assert peer.data == b"firstsecond"


def test_a_close_between_turns_lets_the_host_know_of_its_deadline(poller):
    """The host that waits for fileno() is woken, and timeout() then tells when to look again."""
    with Reactor(poller=poller) as reactor:
        server = Server(reactor)
        peer, protocol = server.connected()
        with peer:
            turn_until(reactor, lambda: reactor.timeout() is None)
            protocol.connection.close()
            if poller == "epoll":
                assert select.select([reactor.fileno()], [], [], 5)[0]
            reactor.run_once(0)
            assert 0 < reactor.timeout() <= 1


def test_a_deadline_is_not_early_because_nothing_happened_before(poller, transport, tmp_path):
    """After an idle gap, or a long callback, a state's deadlines count from when it began."""
    options = Options(deadlines=Deadlines(flush=30))
    clock = Clock()
    with Reactor(poller=poller, system=clock) as reactor:
        options = attrs.evolve(options, sockets=Sockets(send_buffer_bytes=8192))
        server = Server(reactor, Recorder, transport, str(tmp_path / "socket"), options)
        peer, protocol = server.connected(receive_buffer=4096)
        with peer:
            clock._now += 40  # a host that was busy with something else
            protocol.connection.write(bytes(1 << 20))
            protocol.connection.close()
            clock.skip(reactor, 29.5)
            assert not protocol.ended
            clock.skip_until(reactor, lambda: protocol.ended)
            assert isinstance(protocol.lost, FlushTimeout)


@pytest.mark.parametrize("timeout", [1e10, float("inf")])
def test_a_very_long_wait_fits_the_poller(reactor, timeout):
    """A host may say "for ever" in its own way."""
    reactor.call_soon(print)
    reactor.run_once(timeout)


def test_what_cannot_be_called_is_refused_at_once(reactor):
    """TypeError where it was asked for, not a log line later."""
    for ask in (
        lambda: reactor.call_soon(None),
        lambda: reactor.call_later(1, "x"),
        lambda: reactor.call_soon_threadsafe(None),
        lambda: reactor.listen(None, "127.0.0.1", 0),
        lambda: reactor.connect(Recorder(), "127.0.0.1", 1),
    ):
        with pytest.raises(TypeError):
            ask()
    reactor.run()


def test_statistics_count(reactor):
    """What happened is there to be looked at."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        peer.send(b"abc")
        turn_until(reactor, lambda: protocol.data == b"abc")
        now = reactor.statistics()
        assert (now.connections, now.listeners, now.ended.connections) == (1, 1, 0)
        assert (now.watched, now.elsewhere) == (2, 0)
        assert reactor.connections == (protocol.connection,)
        assert reactor.listeners == (server.listener,)
    turn_until(reactor, lambda: protocol.ended)
    now = reactor.statistics()
    assert (now.connections, now.ended.connections, now.ended.received) == (0, 1, 3)
    assert now.turns == reactor.turns


def test_turns_are_told_with_what_took_long_in_them():
    """How long each waited and worked, and the calls that made everybody else wait; the others are not named."""
    system, turns = SimulatedSystem(), []
    with Reactor(system=system) as reactor:
        reactor.observe_turns(turns.append, slow=0.02)
        ours, peer = system.connected()

        def work():
            system.now += 0.03

        def read():
            reactor.remove_reader(ours)
            work()

        reactor.add_reader(ours, read)
        peer.send(b"x")
        reactor.call_later(0.1, work)
        reactor.call_later(0.2, lambda: None)
        reactor.call_soon(lambda: None)
        reactor.run()
        ours.close()
        assert [turn.number for turn in turns] == list(range(1, reactor.turns + 1))
    slow = [(turn, call) for turn in turns for call in turn.slow]
    assert len(slow) == 2
    (first, served), (second, called) = slow
    assert first.ready >= 1
    assert first.worked == served.seconds == 0.03
    assert served.what.startswith("<Descriptor")
    assert "work" in called.what
    assert second.waited == pytest.approx(0.07)
    assert sum(turn.waited for turn in turns) == pytest.approx(0.2 - 2 * 0.03)


def test_an_observer_of_turns_that_raises_is_told_no_more(reactor, caplog):
    """It is logged, once, and the loop goes on."""
    told = []

    def observer(turn):
        told.append(turn)
        raise LookupError("looked too closely")

    reactor.observe_turns(observer)
    for delay in (0.0, 0.001, 0.002):
        reactor.call_later(delay, lambda: None)
    reactor.run()
    assert len(told) == 1
    assert "told no more" in caplog.text
    caplog.clear()


def test_what_a_watched_call_raises_is_told_as_ever(reactor, caplog):
    """Watching changes nothing for whoever is watched."""
    reactor.observe_turns(lambda turn: None)

    def fail():
        raise LookupError("as ever")

    reactor.call_soon(fail)
    reactor.run()
    assert "as ever" in caplog.text
    caplog.clear()


@pytest.mark.parametrize("wrong", [{"observer": None}, {"slow": None}, {"slow": -1}, {"slow": float("nan")}], ids=str)
def test_turns_are_observed_only_by_what_can_observe(reactor, wrong):
    """Refused at the call, not in every callback to come."""
    with pytest.raises((TypeError, ValueError)):
        reactor.observe_turns(**{"observer": print, **wrong})


def test_a_slow_call_is_named_even_if_it_cannot_name_itself(reactor):
    """A repr that raises is no failure of the call, and a long one is cut."""

    class Nameless:
        def __init__(self, name):
            self.name = name

        def __call__(self):
            pass

        def __repr__(self):
            return self.name * 1000

    turns = []
    reactor.observe_turns(turns.append, slow=0)
    for name in (None, "long"):
        reactor.call_soon(Nameless(name))
    reactor.run()
    words = [call.what for turn in turns for call in turn.slow]
    assert "<Handle>" in words
    assert max(map(len, words)) <= 300


# What cannot be made


class Failing(System):
    """A machine without some of what a loop needs."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def pair(self):
        if self.what == "pair":
            raise OSError(errno.EMFILE, "no more descriptors")
        return super().pair()

    def poller(self, kind):
        poller = super().poller(kind)
        if self.what == "register":
            poller.register = self.fail
        return poller

    def fail(self, fd, interest):
        raise OSError(errno.ENOMEM, "no more memory")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="/proc tells what is open")
@pytest.mark.parametrize("what", ["pair", "register"])
def test_a_reactor_that_cannot_be_made_leaves_no_descriptor(what):
    """Neither its poller's nor its waker's."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no more"):
        Reactor(poller="poll" if what == "register" else "epoll", system=Failing(what))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_call_that_cannot_wake_the_loop_is_not_made(reactor, monkeypatch):
    """call_soon_threadsafe raises, and takes the call back."""

    def fail():
        raise MemoryError

    made = []
    monkeypatch.setattr(reactor.waker, "wake", fail)
    with pytest.raises(MemoryError):
        reactor.call_soon_threadsafe(made.append, 1)
    monkeypatch.undo()
    reactor.run()
    assert made == []


# In a forked child (tests/test_forks.py forks; here the loop is only told)


def test_a_loop_that_is_a_childs_copy_refuses_everything_and_closes_its_copies_only(poller, tmp_path):
    """Whatever it was doing: one end was served, one has ended and is not buried, one rests, one was never watched."""
    reactor = Reactor(poller=poller)
    server = Server(reactor, Recorder, "unix", str(tmp_path / "socket"))
    peer, protocol = server.connected()
    ours, theirs = socket.socketpair()
    with peer, ours, theirs:
        endpoint = reactor.datagram(DatagramProtocol, ("127.0.0.1", 0))
        reactor.add_reader(ours, print)
        reactor.connect(Recorder, sock=theirs.dup())
        other = server.peer()
        reactor.run_once(0)
        with other:
            reactor.connections[-1].abort()
            number = protocol.connection.get_extra_info("socket").fileno()
            copy = os.dup(number)
            reactor.forked()
            reactor.forked()
            assert reactor.is_inherited()
            assert "another process" in repr(reactor)
            for call in (reactor.run, reactor.stop, protocol.connection.close, endpoint.abort, server.listener.close):
                with pytest.raises(Misuse, match="make a Reactor here"):
                    call()
            with pytest.raises(Misuse):
                protocol.connection.write(b"hello")
            reactor.close()
            reactor.close()
            with pytest.raises(OSError):
                os.fstat(number)
            os.close(copy)
            assert (tmp_path / "socket").exists()
    assert protocol.calls == ["connection_made"]


def test_a_closed_loop_is_closed_in_a_child_as_well(poller):
    """There is nothing to inherit."""
    reactor = Reactor(poller=poller)
    reactor.close()
    reactor.forked()
    with pytest.raises(ReactorClosed):
        reactor.run()
