"""Connects that race the addresses of a name, on real sockets: scenarios 36 and 37."""

from __future__ import annotations

import os
import select
import socket
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from reactor import Deadlines, Options, Reactor
from reactor.addresses import Address
from reactor.pollers import POLLERS
from reactor.system import System
from reactor.testing import BlackHole, SimulatedSystem
from tests.closing.support import LINUX, Clock
from tests.helpers import PATIENCE, Recorder, Server, turn_until

linux = pytest.mark.skipif(not LINUX, reason="only Linux drops the SYN for a full accept queue, and lists its sockets")


class Named(System):
    """A machine on which "name" has the addresses that the test says."""

    addresses: tuple[Address, ...] = ()

    def resolve(self, host, port):
        return list(self.addresses) if host == "name" else super().resolve(host, port)


class NamedByClock(Named, Clock):
    """The same, and time passes only when the test says so."""


class Clients:
    """A factory that keeps what it made."""

    def __init__(self):
        self.made = []

    def __call__(self):
        self.made.append(Recorder())
        return self.made[-1]

    def connected(self):
        return bool(self.made and self.made[-1].calls)


def address_of(sock: socket.socket) -> Address:
    return Address(sock.family, sock.getsockname())


@contextmanager
def black_hole(family: int, sockaddr: object):
    """A listening socket whose accept queue is full, so that whoever connects hangs; and those who filled it."""
    with ExitStack() as stack:
        hole = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        hole.bind(sockaddr)
        hole.listen(0)
        hole.setblocking(False)
        for _ in range(8):
            probe = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            probe.setblocking(False)
            code = probe.connect_ex(hole.getsockname())
            if family == socket.AF_UNIX:
                hangs = code != 0
            else:
                _, answered, _ = select.select([], [probe], [], 0.02)
                hangs = not answered and System().tcp_state(probe) == "SYN-SENT"
            if hangs:
                probe.close()
                yield hole
                return
        raise AssertionError("it is no black hole: everybody is let in")


def black_hole_v6():
    return black_hole(socket.AF_INET6, ("::1", 0))


def open_up(hole: socket.socket) -> None:
    """Takes everybody out of its queue, so that there is room for the next."""
    try:
        while True:
            hole.accept()[0].close()
    except BlockingIOError:
        pass


def sockets_to(address: Address) -> list[str]:
    """The states of this machine's sockets that are connected, or connecting, to that TCP address, as ss would list."""
    table = Path("/proc/net/tcp6" if address.family == socket.AF_INET6 else "/proc/net/tcp")
    rows = [line.split()[1:4] for line in table.read_text().splitlines()[1:]]
    return [state for _, remote, state in rows if remote.endswith(f":{address.sockaddr[1]:04X}")]


SYN_SENT = "02"


@linux
def test_a_black_holed_v6_costs_one_attempt_delay(poller):
    """Scenario 36: the good v4 is connected after 250 ms, and not a descriptor, not a SYN is left for the v6."""
    system = Named()
    with black_hole_v6() as hole, Reactor(poller=poller, system=system) as reactor:
        server = Server(reactor)
        system.addresses = (address_of(hole), Address(socket.AF_INET, server.address))
        took = [seconds_to_connect(reactor, server)]
        # The machine may be busy with something else: of three tries, one must show how fast it is.
        while min(took) >= 0.35 and len(took) < 3:
            took.append(seconds_to_connect(reactor, server))
        assert min(took) < 0.35, took
        server.listener.close()


def seconds_to_connect(reactor: Reactor, server: Server) -> float:
    """Connects past the black hole and ends in order; checks that nothing else is there, in between and afterwards."""
    hole, _ = reactor.system.addresses
    open_before, served = descriptors(), len(server.protocols)
    clients = Clients()
    began = reactor.time()
    reactor.connect(clients, "name", 1)
    turn_until(reactor, lambda: SYN_SENT in sockets_to(hole))
    turn_until(reactor, clients.connected)
    took = reactor.time() - began
    assert took >= 0.25
    assert SYN_SENT not in sockets_to(hole)
    (client,) = clients.made
    assert client.calls == ["connection_made"]
    assert client.connection.get_extra_info("peername") == server.address
    turn_until(reactor, lambda: len(server.protocols) > served)
    assert descriptors() == open_before + 2  # the two ends of the one connection
    client.connection.close()
    turn_until(reactor, lambda: client.ended and server.protocols[served].ended)
    assert client.lost is None
    assert descriptors() == open_before
    return took


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


@linux
def test_the_second_address_waits_for_its_time(poller):
    """Scenario 36, to the moment: nobody else is asked before Deadlines.attempt, whatever it is."""
    system = NamedByClock()
    with black_hole_v6() as hole, Reactor(poller=poller, system=system) as reactor:
        server = Server(reactor)
        system.addresses = (address_of(hole), Address(socket.AF_INET, server.address))
        clients = Clients()
        reactor.connect(clients, "name", 1, options=Options(deadlines=Deadlines(attempt=1.5)))
        turn_until(reactor, lambda: SYN_SENT in sockets_to(system.addresses[0]))
        began = system.time()
        system.skip(reactor, 1.499)
        assert clients.made == server.protocols == []
        assert len(reactor.ends) == 3  # the waker, the listener, one attempt
        system.skip(reactor, 0.002)
        assert system.time() - began == pytest.approx(1.501)
        turn_until(reactor, clients.connected)
        assert clients.made[0].calls == ["connection_made"]
        clients.made[0].connection.abort()
        server.listener.close()


@linux
def test_a_slow_winner_closes_those_who_hang(poller):
    """Scenario 36 with every family against us: of five addresses one lives, the last; four sockets are closed."""
    system = NamedByClock()
    with ExitStack() as stack:
        holes = [stack.enter_context(black_hole_v6()) for _ in range(2)]
        holes += [stack.enter_context(black_hole(socket.AF_INET, ("127.0.0.1", 0))) for _ in range(2)]
        reactor = stack.enter_context(Reactor(poller=poller, system=system))
        server = Server(reactor)
        system.addresses = (*map(address_of, holes), Address(socket.AF_INET, server.address))
        before = descriptors()
        clients = Clients()
        reactor.connect(clients, "name", 1)
        turn_until(reactor, lambda: SYN_SENT in sockets_to(system.addresses[0]))
        # v6, v4, v6, v4, then the one that lives.
        for count, nth in enumerate((0, 2, 1, 3), start=1):
            assert [SYN_SENT in sockets_to(address_of(hole)) for hole in holes].count(True) == count
            assert SYN_SENT in sockets_to(address_of(holes[nth]))
            assert clients.made == []
            system.skip(reactor, 0.251)
        turn_until(reactor, clients.connected)
        turn_until(reactor, lambda: server.protocols)
        assert clients.made[0].calls == ["connection_made"]
        assert not any(SYN_SENT in sockets_to(address_of(hole)) for hole in holes)
        assert descriptors() == before + 2
        clients.made[0].connection.abort()
        server.listener.close()


# The kernel takes a second here. With every poller, two winners that need none are in the next test.
@linux
@pytest.mark.parametrize("poller", [pytest.param(one, marks=[pytest.mark.slow] * (one != "epoll")) for one in POLLERS])
def test_of_two_winners_in_one_turn_one_is_told(poller):
    """Scenario 37: both holes open, both SYNs are answered before we look; the second is closed and never told."""
    system = NamedByClock()
    with ExitStack() as stack:
        four = stack.enter_context(black_hole(socket.AF_INET, ("127.0.0.1", 0)))
        holes = [stack.enter_context(black_hole_v6()), four]
        reactor = stack.enter_context(Reactor(poller=poller, system=system))
        system.addresses = tuple(map(address_of, holes))
        clients = Clients()
        reactor.connect(clients, "name", 1)
        turn_until(reactor, lambda: SYN_SENT in sockets_to(system.addresses[0]))
        system.skip(reactor, 0.251)
        attempts = [end for end in reactor.ends.values() if end is not reactor.waker]
        assert len(attempts) == 2
        for hole in holes:
            open_up(hole)
        # The kernel asks again a second after each SYN. We do not look meanwhile.
        accepted = [stack.enter_context(accept_from(hole)) for hole in holes]
        before = descriptors()
        reactor.run_once(0)
        assert len(clients.made) == 1
        assert clients.made[0].calls == ["connection_made"]
        assert descriptors() == before - 1
        (connection,) = reactor.connections
        won = [sock.getsockname()[:2] for sock in accepted].index(connection.get_extra_info("peername")[:2])
        winner, loser = accepted[won], accepted[1 - won]
        assert loser.recv(1) == b""  # our FIN: no reset, as nothing was lost
        winner.send(b"hello")
        turn_until(reactor, lambda: clients.made[0].data == b"hello")
        connection.abort()
        reactor.run()
    assert len(clients.made) == 1


def accept_from(hole: socket.socket) -> socket.socket:
    """The next connection in its queue, which the kernel may take a while to make."""
    hole.settimeout(PATIENCE)
    return hole.accept()[0]


def test_of_two_unix_winners_in_one_turn_one_is_told(poller, tmp_path):
    """Scenario 37, with two full Unix queues that have room again at the same moment."""
    system = NamedByClock()
    with ExitStack() as stack:
        holes = [stack.enter_context(black_hole(socket.AF_UNIX, str(tmp_path / name))) for name in "ab"]
        reactor = stack.enter_context(Reactor(poller=poller, system=system))
        system.addresses = tuple(map(address_of, holes))
        clients = Clients()
        connector = reactor.connect(clients, "name", 1)
        turn_until(reactor, lambda: reactor.statistics().timers == 3)  # the deadline, the next start, asking again
        system.skip(reactor, 0.251)
        for hole in holes:
            open_up(hole)
        while len(reactor.ends) != 3:  # the waker, and two attempts in one turn
            assert not connector.done()
            system._now += 0.005
            reactor.run_once(0)
        reactor.run_once(0)
        (client,) = clients.made
        assert client.calls == ["connection_made"]
        assert reactor.connections == (client.connection,)
        assert len(reactor.ends) == 2
        accepted = [stack.enter_context(accept_from(hole)) for hole in holes]
        won = [sock.getsockname() for sock in accepted].index(client.connection.get_extra_info("peername"))
        assert accepted[1 - won].recv(1) == b""
        client.connection.abort()
        reactor.run()
    assert len(clients.made) == 1


@linux
def test_the_deadline_ends_every_attempt_that_hangs(poller):
    """Scenarios 32 and 36: nobody answers; each address has its own cause, and no SYN is left."""
    system = NamedByClock()
    with black_hole_v6() as six, black_hole(socket.AF_INET, ("127.0.0.1", 0)) as four:
        with Reactor(poller=poller, system=system) as reactor:
            system.addresses = (address_of(six), address_of(four))
            clients = Clients()
            reactor.connect(clients, "name", 1)
            turn_until(reactor, lambda: SYN_SENT in sockets_to(address_of(six)))
            system.skip(reactor, 30)
            reactor.run()
        (client,) = clients.made
        assert client.calls == ["connection_failed"]
        assert [where for where, _ in client.failed.causes] == [address_of(six), address_of(four)]
        assert all(type(cause) is TimeoutError for _, cause in client.failed.causes)
        assert SYN_SENT not in sockets_to(address_of(six)) + sockets_to(address_of(four))


def simulated(black_hole: BlackHole):
    """A reactor on a simulated kernel, where "name" has a v6 and a v4 address, and what serves at both of them."""
    system = SimulatedSystem(faults=[black_hole])
    system.hosts["name"] = ["::1", "127.0.0.1"]
    reactor = Reactor(system=system)
    served = []

    def serve():
        served.append(Recorder())
        return served[-1]

    for host in system.hosts["name"]:
        reactor.listen(serve, host, 7000)
    return reactor, served


def test_a_simulated_black_hole_costs_exactly_one_attempt_delay():
    """Scenario 36 where time is exact: 250 ms and not a moment more."""
    reactor, served = simulated(BlackHole(among=lambda sender: sender.family == socket.AF_INET6))
    clients = Clients()
    with reactor:
        reactor.connect(clients, "name", 7000)
        while not clients.connected():
            reactor.run_once()
        assert reactor.time() == 0.25
        assert clients.made[0].connection.get_extra_info("peername") == ("127.0.0.1", 7000)
        while not served:
            reactor.run_once()
        # Two listeners, the two ends of one connection, the waker.
        assert len(reactor.ends) == 5


def test_of_two_simulated_winners_in_one_turn_one_is_told():
    """Scenario 37: a line that is mended after a second brings both answers at one moment; one end in order."""
    reactor, served = simulated(BlackHole(end=1.0))
    clients = Clients()
    with reactor:
        reactor.connect(clients, "name", 7000)
        while not clients.connected():
            reactor.run_once()
        assert reactor.time() == 1.0
        assert len(clients.made) == 1
        while not (len(served) == 2 and any(server.ended for server in served)):
            reactor.run_once()
        loser = next(server for server in served if server.ended)
        assert loser.calls == ["connection_made", "eof_received", "connection_lost"]
        assert loser.lost is None
        assert reactor.time() == 1.0
        clients.made[0].connection.close()
        while not all(server.ended for server in served):
            reactor.run_once()
    assert [server.lost for server in served] == [None, None]
    assert len(clients.made) == 1
