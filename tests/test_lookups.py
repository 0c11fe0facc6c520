"""Look-ups of names: threads of their own, shared, bounded; and what is cancelled holds nothing."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
import weakref

import pytest

from reactor import Deadlines, Options, Reactor
from reactor.addresses import Address
from reactor.lookups import MOST_THREADS, Lookups
from reactor.system import System
from reactor.testing import SimulatedSystem
from tests.helpers import PATIENCE, Recorder, Server, turn_until

ADDRESS = [Address(socket.AF_INET, ("127.0.0.1", 80))]


class World:
    """Look-ups whose threads take a step when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.told: list[object] = []
        self.threads: list = []
        self.none_can_be_had = False
        self.lookups = Lookups(self.resolve, self.start)

    def resolve(self, host, port):
        self.asked.append((host, port))
        if host == "nowhere":
            raise OSError("not found")
        return ADDRESS

    def start(self, step):
        if self.none_can_be_had:
            raise RuntimeError("can't start new thread")
        self.threads.append(step)

    def ask(self, host="name", port=80):
        return self.lookups.ask(host, port, lambda answer: self.told.append((host, answer)))

    def step(self, thread=0) -> None:
        if not self.threads[thread]():
            del self.threads[thread]

    def idle(self) -> bool:
        return not (self.threads or self.lookups._shared or self.lookups._waiting or self.lookups._threads)


def test_callers_of_one_name_share_a_look_up():
    """One thread, one question, and each is told; whoever asks afterwards asks anew."""
    world = World()
    for _ in range(3):
        world.ask()
    world.ask(port=81)
    assert len(world.threads) == 2
    world.step()
    assert world.asked == [("name", 80)]
    assert world.told == [("name", ADDRESS)] * 3
    world.step()
    assert world.asked == [("name", 80), ("name", 81)]
    assert world.idle()
    world.ask()
    assert len(world.threads) == 1


def test_a_failure_is_told_to_each_caller():
    """The exception holds no frame of the thread."""
    world = World()
    world.ask("nowhere")
    world.ask("nowhere")
    world.step()
    assert [(host, str(exc), exc.__traceback__) for host, exc in world.told] == [("nowhere", "not found", None)] * 2
    assert world.idle()


def test_a_further_name_waits_for_a_thread_when_all_of_them_wait():
    """It is taken by the first that is free, in the order of asking."""
    world = World()
    for number in range(MOST_THREADS):
        assert not world.ask(f"name{number}").waits_for_thread()
    late, later = world.ask("late"), world.ask("later")
    assert len(world.threads) == MOST_THREADS
    assert late.waits_for_thread()
    world.step(5)
    assert not late.waits_for_thread()
    assert later.waits_for_thread()
    world.step(5)
    world.step(5)
    assert [host for host, _ in world.told] == ["name5", "late", "later"]
    while world.threads:
        world.step()
    assert world.idle()


def test_a_cancelled_caller_is_not_told_and_not_held():
    """The others are; a look-up that is under way goes on for whoever asks next."""
    world = World()

    class Caller:
        def told(self, answer):
            raise AssertionError("told after cancel()")

    caller = Caller()
    lookup = world.lookups.ask("name", 80, caller.told)
    held = weakref.ref(caller)
    del caller
    lookup.cancel()
    assert held() is None
    world.ask()
    assert len(world.threads) == 1
    world.step()
    assert world.told == [("name", ADDRESS)]
    lookup.cancel()
    assert world.idle()


def test_what_waits_for_a_thread_and_is_not_wanted_any_more_is_not_asked():
    """Forty cancelled names are no work."""
    world = World()
    for number in range(MOST_THREADS):
        world.ask(f"name{number}")
    for _ in range(2):
        lookups = [world.ask("dropped"), world.ask("dropped")]
        for lookup in lookups:
            lookup.cancel()
    while world.threads:
        world.step()
    assert ("dropped", 80) not in world.asked
    assert world.idle()


def test_without_a_thread_there_is_no_look_up():
    """The call raises, and leaves nothing; while another thread is there, the name waits for it."""
    world = World()
    world.none_can_be_had = True
    with pytest.raises(RuntimeError, match="can't start"):
        world.ask()
    assert world.idle()
    world.none_can_be_had = False
    world.ask("first")
    world.none_can_be_had = True
    assert world.ask("second").waits_for_thread()
    world.step()
    world.step()
    assert [host for host, _ in world.told] == ["first", "second"]
    assert world.idle()


# On the reactor


class Mute(System):
    """A machine whose name server answers for dead.example when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = threading.Event()
        self.asked: list[str] = []

    def resolve(self, host, port):
        if host == "dead.example":
            self.asked.append(host)
            self.answer.wait(PATIENCE)
        return [Address(socket.AF_INET, ("127.0.0.1", port))]


@pytest.fixture
def mute():
    system = Mute()
    yield system
    system.answer.set()


def clients() -> tuple[list[Recorder], object]:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    return made, make


def test_a_look_up_does_not_wait_behind_calls_in_threads(poller, mute):
    """A pool that is full of blocked calls holds no connect up."""
    with Reactor(poller=poller, system=mute) as reactor:
        server = Server(reactor)
        for _ in range(64):
            reactor.run_in_thread(mute.answer.wait, PATIENCE)
        made, make = clients()
        reactor.connect(make, "localhost", server.address[1])
        turn_until(reactor, lambda: made and made[0].calls)
        assert made[0].calls == ["connection_made"]
        mute.answer.set()


def test_connects_to_one_dead_name_hold_one_thread(poller, mute):
    """Cancelled or not, however many they are; another name is looked up beside it."""
    with Reactor(poller=poller, system=mute) as reactor:
        server = Server(reactor)
        made, make = clients()
        for _ in range(100):
            reactor.connect(make, "dead.example", 80).cancel()
        waiting = [reactor.connect(make, "dead.example", 80) for _ in range(100)]
        assert mute.asked == ["dead.example"]
        reactor.connect(make, "localhost", server.address[1])
        turn_until(reactor, lambda: made and made[0].calls)
        assert len(made) == 1
        for connector in waiting:
            connector.cancel()
        assert reactor.connectors == ()


def test_a_cancelled_connect_is_held_by_nobody(poller, mute):
    """Although its look-up is under way, and cannot be stopped."""
    with Reactor(poller=poller, system=mute) as reactor:
        factory = type("Factory", (), {"__call__": lambda self: Recorder()})()
        connector = reactor.connect(factory, "dead.example", 80)
        connector.cancel()
        held = weakref.ref(connector), weakref.ref(factory)
        del connector, factory
        gc.collect()
        assert [one() for one in held] == [None, None]
        assert not reactor.statistics().elsewhere


@pytest.mark.parametrize("names", [0, MOST_THREADS])
def test_a_time_out_says_that_the_name_had_no_answer(names):
    """Not the address; and whether it was asked for at all."""
    system = SimulatedSystem()
    system.lookup_seconds = 1000.0
    with Reactor(system=system) as reactor:
        for number in range(names):
            reactor.connect(Recorder, f"name{number}.example", 80, options=Options(deadlines=Deadlines(connect=999)))
        client = Recorder()
        reactor.connect(lambda: client, "dead.example", 80, options=Options(deadlines=Deadlines(connect=7)))
        system.run(reactor, 10, until=lambda: client.failed)
        assert reactor.time() == 7.0
        what = "the name was not looked up" if names else "the look-up of the name got no answer"
        assert str(client.failed).startswith(f"cannot connect to dead.example:80: {what}")
        ((where, cause),) = client.failed.causes
        assert where == "dead.example:80"
        assert isinstance(cause, TimeoutError)


def test_a_slow_look_up_is_waited_for():
    """A name server that takes five seconds costs five seconds, for all who wait."""
    system = SimulatedSystem()
    system.hosts["slow.example"] = ["10.0.0.8"]
    system.lookup_seconds = 5.0
    acceptor = system.acceptor(("10.0.0.8", 80))
    with Reactor(system=system) as reactor:
        made, make = clients()
        for _ in range(3):
            reactor.connect(make, "slow.example", 80)
            system.run(reactor, 1.0)
        system.run(reactor, until=lambda: len(made) == 3)
        assert reactor.time() == 5.0
        assert [client.calls for client in made] == [["connection_made"]] * 3
        for client in made:
            client.connection.abort()
    acceptor.close()


def test_without_a_thread_a_connect_is_told_so(reactor, monkeypatch):
    """Once, by connection_failed; nothing stays."""

    def fail(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    made, make = clients()
    connector = reactor.connect(make, "localhost", 9)
    reactor.run()
    assert [client.calls for client in made] == [["connection_failed"]]
    assert "can't start new thread" in str(made[0].failed)
    assert connector.done()


_HANGS = """
import socket, time
socket.getaddrinfo = lambda *args, **words: time.sleep(60)
from reactor import Deadlines, Options, Protocol, Reactor
with Reactor() as reactor:
    reactor.connect(Protocol, "dead.example", 80, options=Options(deadlines=Deadlines(connect=0.05)))
    reactor.run()
print("over")
"""


def test_a_look_up_that_hangs_does_not_hold_up_the_exit():
    """The program ends when it ends, not when the resolver does."""
    ended = subprocess.run([sys.executable, "-c", _HANGS], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert ended.stdout == "over\n"
    assert "the look-up of the name got no answer" in ended.stderr
