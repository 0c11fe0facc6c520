"""A reactor on somebody else's loop: asyncio's, Tk's, another reactor's. And nobody wakes up for nothing."""

from __future__ import annotations

import asyncio
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reactor import Misuse, Protocol, Reactor
from reactor.embedding import Guest
from reactor.testing import SimulatedSystem
from samples.echo import Echo
from samples.embedding import asyncio_host, guest
from tests.helpers import PATIENCE, Recorder
from tests.samples.processes import ROOT, Sample, read_to_end

HOW_TO = ROOT / "docs" / "how-to" / "embedding.md"


class Host:
    """The least a host can be: one descriptor, one timer, and what was asked of it."""

    def __init__(self) -> None:
        self.watched: dict[int, object] = {}
        self.timers: dict[int, tuple[float, object]] = {}
        self.asked = 0

    def watch(self, fd, callback):
        self.watched[fd] = callback
        return lambda: self.watched.pop(fd)

    def call_later(self, delay, callback):
        self.asked += 1
        number = self.asked
        self.timers[number] = (delay, callback)
        return lambda: self.timers.pop(number)

    def fire(self) -> None:
        """The one timer is due."""
        ((number, (_, callback)),) = self.timers.items()
        del self.timers[number]
        callback()

    def readable(self) -> None:
        """The one descriptor is readable."""
        (callback,) = self.watched.values()
        callback()


# What a guest asks of its host


def test_a_guest_keeps_the_hosts_timer_right():
    """One timer at a time, the earliest; set anew only when it has changed; none when none is needed."""
    host, ran = Host(), []
    with Reactor() as reactor:
        guest = Guest(reactor, host.watch, host.call_later)
        assert list(host.watched) == [reactor.fileno()]
        assert not host.timers
        late = reactor.call_later(50, ran.append, "late")
        host.readable()
        ((delay, _),) = host.timers.values()
        assert 49 < delay <= 50
        asked = host.asked
        host.readable()
        host.readable()
        assert host.asked == asked  # nothing has changed
        reactor.call_later(0, ran.append, "soon")
        host.readable()
        if not ran:
            host.fire()
        assert ran == ["soon"]
        ((delay, _),) = host.timers.values()
        assert 49 < delay <= 50
        late.cancel()
        host.readable()
        assert not host.timers
        guest.leave()
        guest.leave()
        assert not host.watched


def test_a_call_that_waits_for_the_next_turn_gets_one():
    """What a turn left behind (a call posted by a call) is not slept over."""
    host, ran = Host(), []
    with Reactor() as reactor:
        Guest(reactor, host.watch, host.call_later)
        reactor.call_soon(reactor.call_soon, ran.append, 1)
        host.readable()
        ((delay, _),) = host.timers.values()
        assert delay == 0
        host.fire()
        assert ran == [1]


def test_a_guest_that_has_left_takes_no_turn():
    """Also when the host still calls what it had found ready; and its timer is taken back."""
    host = Host()
    with Reactor() as reactor:
        guest = Guest(reactor, host.watch, host.call_later)
        reactor.call_later(10, print)
        host.readable()
        (callback,) = host.watched.values()
        turns = reactor.turns
        guest.leave()
        assert not host.timers
        callback()
        assert reactor.turns == turns


def test_an_interrupt_goes_up_into_the_host_and_the_guest_lives_on():
    """KeyboardInterrupt leaves the turn; the host's timer is right all the same."""
    host, ran = Host(), []

    def interrupt():
        reactor.call_later(7, ran.append, "later")
        raise KeyboardInterrupt

    with Reactor() as reactor:
        Guest(reactor, host.watch, host.call_later)
        reactor.call_soon(interrupt)
        with pytest.raises(KeyboardInterrupt):
            host.readable()
        ((delay, _),) = host.timers.values()
        assert 6 < delay <= 7


def test_a_host_that_is_turned_inside_a_callback_is_told():
    """A modal dialog in a callback of the reactor's is Misuse, not a turn within a turn."""
    host, told = Host(), []

    def dialog():
        try:
            host.readable()
        except Misuse as exc:
            told.append(str(exc))

    with Reactor() as reactor:
        Guest(reactor, host.watch, host.call_later)
        reactor.call_soon(dialog)
        host.readable()
    assert "in the middle of a turn" in told[0]


@pytest.mark.parametrize("poller", ["poll", "select"])
def test_a_poller_without_a_descriptor_cannot_be_a_guest(poller):
    """OSError at once, and the host was asked nothing."""
    host = Host()
    with Reactor(poller=poller) as reactor, pytest.raises(OSError, match="descriptor"):
        Guest(reactor, host.watch, host.call_later)
    assert not host.watched


def test_a_drain_ends_the_guest():
    """`drained` comes once, when the summary is complete, and the guest has left."""
    host, told = Host(), []
    with Reactor() as reactor:
        reactor.listen(Recorder, "127.0.0.1", 0)
        Guest(reactor, host.watch, host.call_later, lambda: told.append(reactor.drained.finished))
        reactor.call_soon(reactor.drain, 5)
        for _ in range(5):
            if host.watched:
                host.readable()
        assert told == [True]
        assert not host.watched
        assert not host.timers


# In asyncio


class CountingSelector(selectors.DefaultSelector):
    """Counts the turns of asyncio's own loop."""

    turns = 0

    def select(self, timeout=None):
        self.turns += 1
        return super().select(timeout)


def in_asyncio(body) -> None:
    """Runs `body(loop, reactor)`, with the reactor as the loop's guest."""
    loop = asyncio.SelectorEventLoop(CountingSelector())
    try:
        with Reactor() as reactor:
            lodger = asyncio_host.guest_of(loop, reactor)
            loop.run_until_complete(asyncio.wait_for(body(loop, reactor), PATIENCE))
            lodger.leave()
    finally:
        loop.close()


def test_coroutines_talk_to_a_server_on_the_reactor():
    """asyncio's own streams against our echo, in one thread: every byte, and an end in order on both sides."""
    data = os.urandom(1 << 20)

    async def body(loop, reactor):
        listener = reactor.listen(Echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listener.addresses[0])
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data
        writer.close()
        await writer.wait_closed()

    in_asyncio(body)


def test_what_is_asked_between_two_turns_happens_in_asyncio():
    """Calls, timers and calls from threads, made by the host's own code while nothing else happens."""

    async def body(loop, reactor):
        for ask in (
            lambda done: reactor.call_soon(done.set),
            lambda done: reactor.call_later(0.01, done.set),
            lambda done: reactor.run_in_thread(int, done=lambda future: done.set()),
            lambda done: threading.Thread(target=reactor.call_soon_threadsafe, args=(done.set,)).start(),
        ):
            done = asyncio.Event()
            ask(done)
            await done.wait()

    in_asyncio(body)


def test_a_timer_is_never_early_in_asyncio():
    """Twenty timers in disorder come in order, each when it is due."""
    late = []

    async def body(loop, reactor):
        done = asyncio.Event()
        for number in reversed(range(20)):
            when = reactor.time() + 0.002 * number
            reactor.call_at(when, lambda when=when: late.append((when, reactor.time() - when)))
        reactor.call_later(0.06, done.set)
        await done.wait()

    in_asyncio(body)
    assert [when for when, _ in late] == sorted(when for when, _ in late)
    assert len(late) == 20
    assert all(lateness >= 0 for _, lateness in late)


def test_the_program_in_the_how_to_runs():
    """As it stands there, it serves its own client and drains."""
    (program,) = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.fullmatch(r"b'hello'\ndrained in \d\.\d s: \d connections? ended in order\n", ended.stdout)


# As the guest of another reactor, and in Tk


def test_a_reactor_serves_on_another():
    """A guest on a guest on a reactor: the innermost serves, and everything ends when it was drained."""
    with Reactor() as outer, Reactor() as middle, Reactor() as inner:
        left = []
        innermost = guest.guest_of(middle, inner, lambda: left.append("inner"))
        lodger = guest.guest_of(outer, middle)
        listener = inner.listen(Echo, "127.0.0.1", 0)
        with socket.create_connection(listener.addresses[0], PATIENCE) as client:
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            received = bytearray()

            def read() -> None:
                data = client.recv(100)
                received.extend(data)
                if not data:
                    outer.remove_reader(client)
                    inner.call_soon(inner.drain, 5)

            outer.add_reader(client, read)
            outer.call_later(PATIENCE, outer.stop)
            while not left:
                outer.run_once(PATIENCE)
        assert received == b"hello"
        assert inner.drained.clean
        innermost.leave()
        lodger.leave()
        assert not outer.ends.keys() - {outer.waker.fileno()}


@pytest.fixture
def start(no_descriptor_left):
    started: list[Sample] = []

    def begin(*command: str, **environment: str) -> Sample:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            started.append(Sample(list(command), subprocess.DEVNULL, subprocess.PIPE))
        return started[-1]

    yield begin
    for process in started:
        process.kill()


@pytest.mark.parametrize(("host", "number"), [("asyncio_host", signal.SIGTERM), ("guest", signal.SIGINT)])
def test_each_example_serves_and_drains(start, host, number):
    """Echo in full, then EOF; a signal ends it in order."""
    sample = start(sys.executable, "-W", "error", "-m", f"samples.embedding.{host}", "--port", "0")
    check_example(sample, number)


def check_example(sample: Sample, number: int) -> None:
    data = os.urandom(300_000)
    with sample.connect() as client:
        sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
        sender.start()
        assert read_to_end(client) == data
        sender.join()
    with sample.connect() as idle:
        idle.sendall(b"1")
        assert idle.recv(1) == b"1"
        sample.process.send_signal(number)
        assert idle.recv(1) == b""
    assert sample.ended() == 0, sample.errors
    assert sample.errors == ""


@pytest.fixture
def display():
    """A screen that nobody sees."""
    pytest.importorskip("tkinter")
    if shutil.which("Xvfb") is None:
        pytest.skip("there is no Xvfb here")
    read_end, write_end = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write_end), "-screen", "0", "640x480x24", "-nolisten", "tcp"],
        pass_fds=[write_end],
        stderr=subprocess.DEVNULL,
    )
    os.close(write_end)
    with os.fdopen(read_end) as told:
        number = told.readline().strip()
    if not number:
        server.wait(PATIENCE)
        pytest.skip("Xvfb does not start here")
    yield f":{number}"
    server.terminate()
    server.wait(PATIENCE)


def test_tk_serves_and_drains(start, display):
    """A window's main loop turns the reactor; a signal drains it although Tk waits in C."""
    sample = start(sys.executable, "-m", "samples.embedding.tk_host", "--port", "0", DISPLAY=display)
    check_example(sample, signal.SIGTERM)


def test_a_game_serves_and_drains(start):
    """A game's own loop lets the reactor wait for its frames."""
    pytest.importorskip("pygame", reason="pygame is not installed")
    command = (sys.executable, "-W", "error", "-m", "samples.embedding.pygame_host", "--port", "0")
    sample = start(*command, SDL_VIDEODRIVER="dummy", PYGAME_HIDE_SUPPORT_PROMPT="1")
    check_example(sample, signal.SIGTERM)


def test_a_game_serves_while_it_waits_for_its_frame(monkeypatch):
    """An answer need not wait for the next frame, and the frame is not a moment late for it."""
    monkeypatch.setenv("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    pygame_host = pytest.importorskip("samples.embedding.pygame_host", reason="pygame is not installed")
    system = SimulatedSystem()
    with Reactor(system=system) as reactor:
        listener = reactor.listen(Echo, "127.0.0.1", 0)
        peer = system.peer(listener.addresses[0])
        peer.send(b"1")
        assert pygame_host.wait_for_next_frame(reactor, 5.0) == 5.0 + pygame_host.FRAME
        assert (reactor.time(), peer.data) == (5.0, b"1")


def test_a_game_that_was_held_up_does_not_hurry_after_its_frames(monkeypatch):
    """Frames that were missed are not made up for; and each serves all the same."""
    monkeypatch.setenv("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    pygame_host = pytest.importorskip("samples.embedding.pygame_host", reason="pygame is not installed")
    with Reactor(system=SimulatedSystem()) as reactor:
        reactor.call_at(10.0, print)
        reactor.run()
        turns = reactor.turns
        assert pygame_host.wait_for_next_frame(reactor, 1.0) == 10.0
        assert reactor.turns == turns + 1


# Nobody wakes up for nothing

# Seconds of watching somebody who should sleep.
IDLE = 0.1


def test_an_idle_reactor_takes_no_turn(reactor):
    """With a listener, a connection, a far timer and a signal handler: one turn, which waits."""
    listener = reactor.listen(Recorder, "127.0.0.1", 0)
    reactor.call_later(3600, print)
    reactor.drain_on_signals(1)
    with socket.create_connection(listener.addresses[0], PATIENCE):
        while not reactor.connections or not hasattr(reactor.connections[0].get_protocol(), "connection"):
            reactor.run_once(0.01)
        reactor.run_once(0)
        began = reactor.turns
        waking = threading.Timer(IDLE, lambda: reactor.call_soon_threadsafe(reactor.stop))
        waking.start()
        reactor.run()
        waking.join()
    assert reactor.turns - began <= 2  # it slept; the thread woke it; and perhaps once more to stop


def test_an_idle_hour_is_one_turn():
    """In simulated time, where an hour is nothing: the timer's own turn, and no other."""
    with Reactor(system=SimulatedSystem()) as reactor:
        reactor.listen(Recorder, "127.0.0.1", 7000)
        reactor.call_later(3600, reactor.stop)
        reactor.run_once(0)
        began = reactor.turns
        reactor.run()
        assert reactor.time() == 3600
        assert reactor.turns - began == 1


def test_an_idle_guest_wakes_neither_itself_nor_its_host():
    """asyncio's loop sleeps through, with a guest that has a listener, a connection and a far timer."""
    counted = []

    async def body(loop, reactor):
        listener = reactor.listen(Recorder, "127.0.0.1", 0)
        reactor.call_later(3600, print)
        with socket.create_connection(listener.addresses[0], PATIENCE):
            while not reactor.connections:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            before = (reactor.turns, loop._selector.turns)
            await asyncio.sleep(IDLE)
            counted.append((reactor.turns - before[0], loop._selector.turns - before[1]))

    in_asyncio(body)
    ((guests, hosts),) = counted
    assert guests == 0
    assert hosts <= 2  # our own sleep's end


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "command",
    [["echo"], ["echo", "--workers", "2"], ["embedding.asyncio_host"], ["embedding.guest"]],
    ids=["echo", "workers", "asyncio", "guest"],
)
def test_an_idle_server_is_never_scheduled(start, command):
    """The kernel's own count: while nothing happens, no process of it runs at all."""
    name, *more = command
    server = start(sys.executable, "-W", "error", "-m", f"samples.{name}", "--port", "0", *more)
    with server.connect() as client:
        if name == "echo":
            client.sendall(b"1")
            assert client.recv(1) == b"1"
        before = settled(server.process.pid)
        time.sleep(IDLE)
        assert switches(server.process.pid) == before
    assert server.stop() == 0


def switches(pid: int) -> list[int]:
    """How often it, its threads and its children were scheduled."""
    counts = []
    for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
        lines = (task / "status").read_text().splitlines()
        counts += [int(line.split()[1]) for line in lines if "ctxt_switches" in line]
        for child in (task / "children").read_text().split():
            counts += switches(int(child))
    return counts


def settled(pid: int) -> list[int]:
    """The counts, once what the last event set off is over."""
    while True:
        before = switches(pid)
        time.sleep(0.02)
        if switches(pid) == before:
            return before


def test_a_guest_leaves_when_a_drain_between_its_turns_has_finished():
    """It ran to its end inside that call; the host learns of it in its next turn."""
    told = []
    with Reactor() as host, Reactor() as guest:

        def watch(fd, callback):
            host.add_reader(fd, callback)
            return lambda: host.remove_reader(fd)

        Guest(
            guest,
            watch,
            lambda seconds, callback: host.call_later(seconds, callback).cancel,
            lambda: told.append("drained"),
        )
        guest.listen(Protocol, "127.0.0.1", 0)
        host.call_soon(guest.drain, 1.0)
        host.run()
        assert told == ["drained"]
