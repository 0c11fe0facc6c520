"""What things cost, in operations, not in seconds: a slower machine changes nothing, a careless change does."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections import Counter

import attrs
import pytest

from reactor import Options, Reactor
from reactor.system import System
from tests.helpers import Recorder, Server, turn_until


class CountingSocket:
    """A socket that counts what is asked of it."""

    def __init__(self, sock, counts):
        self._sock = sock
        self._counts = counts

    def __getattr__(self, name):
        self._counts[name] += 1
        return getattr(self._sock, name)


class CountingPoller:
    """A poller that counts what it is told."""

    def __init__(self, poller, counts):
        self._poller = poller
        self._counts = counts

    def __getattr__(self, name):
        self._counts[name] += 1
        return getattr(self._poller, name)


class Counting(System):
    """A machine that counts what accepted sockets, the poller and the clock are asked."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def time(self):
        self.counts["time"] += 1
        return super().time()

    def poller(self, kind):
        return CountingPoller(super().poller(kind), self.counts)

    def accept(self, listening):
        sock, address = super().accept(listening)
        return CountingSocket(sock, self.counts), address

    def is_tcp(self, sock):
        return True


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.connection.write(data)


@pytest.fixture
def system():
    return Counting()


@pytest.fixture
def counted(poller, system, no_descriptor_left):
    with Reactor(poller=poller, system=system) as reactor:
        yield reactor


class HeadAndBody(Recorder):
    """Answers with two writes."""

    def data_received(self, data):
        super().data_received(data)
        self.connection.write(bytes(200))
        self.connection.write(bytes(1024))


def test_an_echo_is_one_recv_and_one_send(counted, system):
    """And one poll, which finds it; nothing is told to the poller."""
    server = Server(counted, Echo)
    peer, protocol = server.connected()
    with peer:
        for _ in range(3):  # the first turns also serve the waker
            counted.run_once(0)
        system.counts.clear()
        for number in range(1, 51):
            peer.sock.send(b"x" * 100)
            turn_until(counted, lambda number=number: len(protocol.data) == 100 * number)
        assert system.counts["recv"] == 50
        assert system.counts["send"] == 50
        assert system.counts["modify"] == system.counts["sendmsg"] == 0
        assert system.counts["time"] <= system.counts["poll"] * 2


def test_a_burst_of_writes_is_two_sends(counted, system):
    """The first at once, the other 999 in one piece; the poller is told nothing."""
    server = Server(counted)
    peer, protocol = server.connected()
    with peer:
        system.counts.clear()
        counted.call_soon(lambda: [protocol.connection.write(b"line\n") for _ in range(1000)])
        peer.read_until(5000)
        assert system.counts["send"] + system.counts["sendmsg"] == 2
        assert system.counts["modify"] == 0


def test_bursts_that_follow_a_burst_are_one_send_each(counted, system):
    """Who wrote more than once in a turn is expected to do so again; a turn with a single write ends that."""
    server = Server(counted)
    peer, protocol = server.connected()

    def sends(*writes):
        system.counts.clear()
        before = len(peer.data)
        counted.call_soon(lambda: [protocol.connection.write(data) for data in writes])
        peer.read_until(before + len(b"".join(writes)))
        return system.counts["send"] + system.counts["sendmsg"]

    with peer:
        assert sends(b"a", b"b", b"c") == 2
        assert sends(b"d", b"e", b"f") == 1
        assert sends(b"g", b"h") == 1
        assert sends(b"i") == 1
        assert sends(b"j", b"k", b"l") == 2
        assert peer.data == b"abcdefghijkl"
        assert system.counts["modify"] == 0


def test_two_writes_per_turn_become_one_send(counted, system):
    """A head and a body, as every HTTP server writes them: two sends the first time, one from then on."""
    server = Server(counted, HeadAndBody)
    peer, _ = server.connected()
    with peer:
        sends = []
        for number in range(4):
            system.counts.clear()
            peer.send(b"?")
            peer.read_until(1224 * (number + 1))
            sends.append(system.counts["send"] + system.counts["sendmsg"])
        assert sends == [2, 1, 1, 1]
        assert system.counts["modify"] == 0


def test_a_burst_that_does_not_fit_tells_the_poller_twice(counted, system):
    """Once to wait until it is writable, once when all is gone."""
    options = attrs.evolve(Options(), sockets=attrs.evolve(Options().sockets, send_buffer_bytes=8192))
    server = Server(counted, options=options)
    peer, protocol = server.connected(receive_buffer=4096)
    with peer:
        system.counts.clear()
        counted.call_soon(lambda: [protocol.connection.write(bytes(10_000)) for _ in range(50)])
        peer.read_until(500_000)
        turn_until(counted, lambda: protocol.connection.get_write_buffer_size() == 0)
        assert system.counts["modify"] == 2


def test_a_connection_is_registered_and_unregistered_once(counted, system):
    """From the accept to the burial: one of each, no change in between, one close."""
    server = Server(counted, Echo)
    counted.run_once(0)
    system.counts.clear()
    with server.peer() as peer:
        peer.send(b"hello")
        peer.fin()
        assert peer.read_to_end() == "EOF"
    assert server.protocols[0].ended
    assert (system.counts["register"], system.counts["unregister"], system.counts["close"]) == (1, 1, 1)
    assert system.counts["modify"] <= 1  # after the peer's FIN nothing more is read


@pytest.mark.parametrize("count", [100, 200])
def test_an_idle_connection_costs_a_turn_nothing(counted, system, count):
    """A turn of one busy connection beside many idle ones asks as little as alone."""
    server = Server(counted, Echo)
    idle = [server.peer() for _ in range(count)]
    turn_until(counted, lambda: len(server.protocols) == count)
    busy, protocol = server.connected()
    counted.run_once(0)
    system.counts.clear()
    busy.sock.send(b"x")
    turn_until(counted, lambda: protocol.data)
    assert sum(system.counts[name] for name in ("recv", "send", "sendmsg", "register", "modify", "unregister")) == 2
    for peer in [*idle, busy]:
        peer.close()


def test_an_idle_connection_has_few_allocations():
    """What the loop keeps for one, its protocol and address included: below 1,100 bytes on a 64-bit CPython."""
    if sys.implementation.name != "cpython" or sys.maxsize < 2**32:
        pytest.skip("sizes are those of a 64-bit CPython")
    # Not the grammar's observer of every test: what it remembers is not the loop's.
    with Reactor(poller="poll") as reactor:
        reactor.observer = None
        server = Server(reactor)
        server.protocols = Counter()  # the same protocols are not kept twice

        class Plain(Recorder.__mro__[1]):
            __slots__ = ("connection",)

        server.listener._factory = Plain
        peers = [server.peer() for _ in range(50)]
        turn_until(reactor, lambda: len(reactor.connections) == 50)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            more = [server.peer() for _ in range(200)]
            peer_size = tracemalloc.get_traced_memory()[0] - before
            turn_until(reactor, lambda: len(reactor.connections) == 250)
            for _ in range(3):
                reactor.run_once(0)
            gc.collect()
            each = (tracemalloc.get_traced_memory()[0] - before - peer_size) / 200
        finally:
            tracemalloc.stop()
        for peer in peers + more:
            peer.close()
        assert each < 1100


def test_work_per_timer_does_not_grow_with_their_number(counted):
    """Ten times the timers, and the heap's own depth is all that grows."""
    for number in range(10_000):
        counted.call_later(1000 + number, print)
    compared = Counter()

    class Noticing(float):
        """A deadline that counts how often it is compared."""

        def __lt__(self, other):
            compared["times"] += 1
            return float.__lt__(self, other)

    counted.call_at(Noticing(counted.time() + 500), print).cancel()
    assert compared["times"] <= 20
