"""What the scenarios of closing share: a reply that shows where it was cut, a script, and one check of an end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reactor import Options, Reactor
from reactor.options import Sockets
from reactor.system import System
from tests.helpers import PATIENCE, Peer, Recorder, Server, turn_until

# 3 MB of numbered lines: what is lost, doubled or out of order shows.
REPLY = b"".join(b"%07d\n" % number for number in range(375_000))
# A send buffer that this reply never fits into, so that most of it waits in the connection's own queue.
NARROW = Sockets(send_buffer_bytes=256 * 1024)
QUEUEING = Options(sockets=NARROW)

LINUX = sys.platform == "linux"
TCP = pytest.mark.parametrize("transport", ["tcp4", "tcp6"])
UNIX = pytest.mark.parametrize("transport", ["unix"])

_STATES = {
    "01": "ESTABLISHED",
    "04": "FIN-WAIT-1",
    "05": "FIN-WAIT-2",
    "06": "TIME-WAIT",
    "07": "CLOSED",
    "08": "CLOSE-WAIT",
    "09": "LAST-ACK",
    "0B": "CLOSING",
}


class Scripted(Recorder):
    """A Recorder that then does, in each callback, what the script has for it: a call of the connection."""

    def __init__(self, keep_open: bool = False, **script: Callable) -> None:
        super().__init__(keep_open)
        self.script = script

    def _follow(self, name: str) -> None:
        act = self.script.get(name)
        if act is not None:
            act(self.connection)

    def connection_made(self, connection):
        super().connection_made(connection)
        self._follow("connection_made")

    def data_received(self, data):
        super().data_received(data)
        self._follow("data_received")

    def eof_received(self):
        super().eof_received()
        self._follow("eof_received")
        return self.keep_open

    def pause_writing(self):
        super().pause_writing()
        self._follow("pause_writing")

    def resume_writing(self):
        super().resume_writing()
        self._follow("resume_writing")

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self._follow("connection_lost")

    def draining(self):
        self.calls.append("draining")
        self._follow("draining")


def scripted(keep_open: bool = False, **script: Callable) -> Callable[[], Scripted]:
    """A factory of such protocols."""
    return lambda: Scripted(keep_open, **script)


def reply_and_close(connection) -> None:
    connection.write(REPLY)
    connection.close()


class Clock(System):
    """The machine's own kernel, but hours pass only when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0

    def time(self) -> float:
        return self._now

    def skip(self, reactor: Reactor, seconds: float, step: float = 0.5) -> None:
        """Lets time pass, in small steps, and the loop see each."""
        until = self._now + seconds
        while self._now < until:
            self._now = min(until, self._now + step)
            turn(reactor)

    def skip_until(self, reactor: Reactor, condition: Callable[[], object]) -> None:
        """Lets time pass until then: the real kernel's acknowledgements may take 40 ms, and are progress."""
        give_up = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < give_up, "waited in vain"
            self.skip(reactor, 3)


class Mute(Clock):
    """A platform whose kernel does not tell what was acknowledged."""

    def outstanding(self, sock):
        return None


def server_on(reactor: Reactor, transport: str, tmp_path: Path, factory=Recorder, options: Options | None = None):
    """A server on that transport, whatever the reactor."""
    return Server(reactor, factory, transport, str(tmp_path / "socket"), options)


def ended(*protocols: Recorder) -> None:
    """Turns the loop until each of them was told its end."""
    turn_until(protocols[0].connection._loop, lambda: all(protocol.ended for protocol in protocols))


def check_end(protocol: Recorder, calls: str, told=None, how: str = "in order", **counts: object) -> None:
    """The exact callbacks, the reason (None, an exception or its type), how, and the report's other fields."""
    assert protocol.calls == calls.split()
    if isinstance(told, type):
        assert type(protocol.lost) is told, repr(protocol.lost)
    else:
        assert protocol.lost is told
    report = protocol.report
    assert report.reason is protocol.lost
    assert report.how == how
    check_account(protocol)
    for name, expected in counts.items():
        assert getattr(report, name) == expected, f"{name} is {getattr(report, name)}, not {expected}"
    assert protocol.connection.state.name == "CLOSED"


def check_account(protocol: Recorder) -> None:
    """Every byte written is somewhere: acknowledged, on its way, or never sent."""
    report = protocol.report
    assert report.written == report.accepted + report.unsent
    if report.acknowledged is not None:
        assert report.written == report.acknowledged + report.unacknowledged + report.unsent
        assert report.acknowledged >= 0
        assert report.unacknowledged >= 0
    elif LINUX and not isinstance(protocol.connection._loop.system, Mute):
        # Only a Unix socket forgets what became of unread bytes.
        assert not isinstance(protocol.connection.get_extra_info("peername"), tuple)


def check_cut(protocol: Recorder, peer: Peer, whole: bytes) -> None:
    """The peer has a beginning of the reply: at least what was acknowledged, at most what was accepted."""
    report = protocol.report
    got = bytes(peer.data)
    assert whole.startswith(got)
    assert len(got) < len(whole)
    assert (report.acknowledged or 0) <= len(got) <= report.accepted


def states_seen(protocol: Recorder) -> list[str]:
    """The states the connection went through, once it had begun."""
    return [name for name, _ in protocol.report.stages if name != "STARTING"]


def kernel_state(peer: Peer) -> Callable[[], str | None]:
    """Asks the kernel for the state of the server's side of this peer's connection; None when it has none any more."""
    client, server = peer.sock.getsockname(), peer.sock.getpeername()
    wanted = (f"{server[1]:04X}", f"{client[1]:04X}")
    table = Path("/proc/net/tcp6" if ":" in server[0] else "/proc/net/tcp")

    def ask() -> str | None:
        for line in table.read_text().splitlines()[1:]:
            local, remote, state = line.split()[1:4]
            if (local.rpartition(":")[2], remote.rpartition(":")[2]) == wanted:
                return _STATES.get(state, state)
        return None

    return ask


def turns_in(reactor: Reactor, seconds: float = 0.05) -> int:
    """How often the loop turns in that time when nobody disturbs it: a spin would be thousands."""
    before = reactor.turns
    reactor.call_later(seconds, reactor.stop)
    reactor.run()
    return reactor.turns - before


def turn(reactor: Reactor, times: int = 3) -> None:
    """Some turns that wait for nothing."""
    for _ in range(times):
        reactor.run_once(0)


def processor_time(reactor: Reactor, seconds: float) -> float:
    """The share of one processor that the loop takes in that time."""
    reactor.call_later(seconds, reactor.stop)
    began, used = time.monotonic(), time.process_time()
    reactor.run()
    return (time.process_time() - used) / (time.monotonic() - began)
