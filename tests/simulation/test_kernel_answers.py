"""What a kernel says is not always what it seems: the real loop on the simulated kernel, in each such situation.

Soft errors, hang-ups, acknowledgements that never come, a reset that nobody reads, an accept that refuses everybody,
and events that nothing can be done about.
"""

from __future__ import annotations

import errno
import logging
import socket

import pytest

from reactor import DatagramProtocol, Deadlines, Limits, Options, Reactor, Sockets, Unacknowledged, relay
from reactor.pollers import ERROR, READ
from reactor.testing import (
    DescriptorLimit,
    Fault,
    ForbiddenAccepts,
    Link,
    Shortage,
    ShortReads,
    ShortWrites,
    SimulatedSystem,
    SoftErrors,
    TryAgain,
)
from tests.helpers import Recorder
from tests.simulation.kernels import RECVERR, SO_TIMESTAMPING, TIMES_OF_SENDS

# So many turns are a pause with a back-off over some seconds, and no spin.
FEW_TURNS = 100
DATA = bytes(range(256)) * 400


class World:
    """One connection of a reactor, and the scripted peer at its other end."""

    def __init__(self, *, unix=False, keep_open=False, options=None, link=None, faults=(), seed=0):
        self.system = SimulatedSystem(seed, link=link, faults=faults)
        self.reactor = Reactor(system=self.system)
        self.sock, self.peer = self.system.connected(unix=unix)
        self.protocol = Recorder(keep_open)
        self.reactor.connect(lambda: self.protocol, sock=self.sock, options=options or Options())
        self.run(0.0)
        for _ in range(3):
            self.reactor.run_once(0)
        self.connection = self.protocol.connection

    def run(self, seconds=1.0):
        self.system.run(self.reactor, seconds)

    def turns_in(self, seconds):
        """How many turns the loop takes in so much virtual time."""
        before = self.reactor.turns
        self.run(seconds)
        return self.reactor.turns - before

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.reactor.close()
        assert self.system.bad_calls == []
        assert not self.system.descriptors


# Soft errors


@pytest.mark.parametrize("ended", [False, True], ids=["open", "peer-ended"])
@pytest.mark.parametrize("paused", [False, True], ids=["reading", "paused"])
def test_an_icmp_error_ends_nothing(ended, paused):
    """Whatever the connection does meanwhile, everything arrives and the end is in order."""
    with World(keep_open=True) as world:
        world.connection.write(b"first part, ")
        if paused:
            world.connection.pause_reading()
        if ended:
            world.peer.fin()
            world.system.icmp(world.peer)
        world.run()
        world.system.icmp(world.peer)
        world.run()
        world.system.icmp(world.peer)
        world.connection.resume_reading()
        world.run()
        world.connection.write(b"last part")
        world.connection.close()
        world.peer.fin()
        world.run(10.0)
        assert (world.peer.data, world.peer.ending) == (b"first part, last part", "EOF")
        assert world.protocol.lost is None


def test_an_icmp_error_during_a_slow_flush_ends_nothing():
    """Nor does one that waits when a deadline looks at the socket."""
    options = Options(sockets=Sockets(send_buffer_bytes=1000))
    with World(options=options, link=Link(receive_buffer_bytes=1000)) as world:
        world.peer.stop_reading()
        world.connection.write(DATA)
        world.connection.close()
        for _ in range(20):
            world.system.icmp(world.peer)
            world.run(2.0)
            world.peer.read(500)
        world.peer.resume_reading()
        world.system.icmp(world.peer)
        world.peer.fin()
        world.run(60.0)
        assert (world.peer.data, world.peer.ending) == (DATA, "EOF")
        assert world.protocol.lost is None


def test_a_reset_behind_an_icmp_error_is_a_reset():
    """The state tells the two apart."""
    with World() as world:
        world.system.icmp(world.peer)
        world.peer.reset()
        world.run()
        assert isinstance(world.protocol.lost, ConnectionResetError)


@pytest.mark.parametrize("seed", range(5))
def test_in_a_weather_of_icmp_errors_an_echo_survives(seed):
    """Every poll tells of one; every byte comes back."""

    class Echo(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.connection.write(data)

    faults = [SoftErrors(1.0), ShortReads(0.3), ShortWrites(0.3), TryAgain(0.2)]
    system = SimulatedSystem(seed, link=Link(latency=0.01, segment_bytes=700), faults=faults)
    with Reactor(system=system) as reactor:
        protocols = []
        listener = reactor.listen(lambda: protocols.append(Echo()) or protocols[-1], "127.0.0.1", 0)
        peer = system.peer(listener.addresses[0])
        peer.send(DATA)
        peer.fin()
        system.run(reactor, 300.0, until=lambda: peer.ending)
        assert (peer.data, peer.ending) == (DATA, "EOF")
        system.run(reactor, 10.0)
        assert [protocol.lost for protocol in protocols] == [None]


def test_with_recverr_on_a_given_socket_an_icmp_error_ends_nothing():
    """Then a recv and a send tell it, and the connection lives all the same."""
    system = SimulatedSystem()
    with Reactor(system=system) as reactor:
        sock, peer = system.connected()
        sock.setsockopt(*RECVERR[socket.AF_INET], 1)
        protocol = Recorder()
        reactor.connect(lambda: protocol, sock=sock)
        system.run(reactor, 1.0)
        system.icmp(peer)
        system.run(reactor, 1.0)
        protocol.connection.write(b"still ")
        system.icmp(peer)
        protocol.connection.write(b"here")
        system.run(reactor, 1.0)
        peer.send(b"so am I")
        peer.fin()
        system.run(reactor, 10.0)
        assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert (protocol.data, protocol.lost) == (b"so am I", None)
        assert (peer.data, peer.ending) == (b"still here", "EOF")


# Hang-ups of Unix sockets


@pytest.mark.parametrize("faults", [(), (ShortReads(),), (ShortReads(0.5), TryAgain(0.5))], ids=["", "short", "again"])
@pytest.mark.parametrize("keep_open", [False, True])
@pytest.mark.parametrize("paused", [False, True], ids=["reading", "paused"])
def test_a_unix_peer_that_sent_everything_and_closed_loses_nothing(faults, keep_open, paused):
    """The hang-up is told all the time; every byte is delivered, then the end, which is in order."""
    with World(unix=True, keep_open=keep_open, faults=faults, options=Options(limits=Limits(read_bytes=1000))) as world:
        if paused:
            world.connection.pause_reading()
        world.peer.send(DATA)
        world.peer.close()
        assert world.turns_in(10.0) < FEW_TURNS or not paused
        if paused:
            assert world.protocol.data == b""
            world.connection.resume_reading()
            world.run(10.0)
        assert world.protocol.data == DATA
        if keep_open:
            assert world.turns_in(10.0) < FEW_TURNS
            assert not world.protocol.ended
            world.connection.close()
            world.run(10.0)
        assert world.protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert world.protocol.lost is None


def test_what_cannot_be_sent_to_a_unix_peer_that_closed_is_told_behind_its_last_words():
    """Then something is lost, and it is a failure."""
    with World(unix=True) as world:
        world.peer.send(b"last words")
        world.peer.close()
        world.connection.write(b"never read")
        world.run()
        assert world.protocol.data == b"last words"
        assert isinstance(world.protocol.lost, BrokenPipeError)
        assert world.protocol.report.unsent == 10


def test_what_a_unix_peer_left_unread_is_told_behind_its_last_words():
    """ECONNRESET: what we wrote was not read."""
    with World(unix=True) as world:
        world.peer.stop_reading()
        world.connection.write(b"never read")
        world.run()
        world.peer.send(b"last words")
        world.peer.close()
        world.run()
        assert world.protocol.data == b"last words"
        assert isinstance(world.protocol.lost, ConnectionResetError)


@pytest.mark.parametrize("seed", range(4))
def test_a_relay_of_a_unix_server_that_closes_passes_everything_on(seed):
    """As a proxy in front of a server that answers and closes: the whole answer and a clean end, to a slow reader."""
    system = SimulatedSystem(seed, link=Link(latency=0.01, receive_buffer_bytes=2000), faults=[ShortReads(0.3)])
    with Reactor(system=system) as reactor:
        protocols, peers = [Recorder(), Recorder()], []
        for protocol, unix in zip(protocols, (False, True), strict=True):
            sock, peer = system.connected(unix=unix)
            reactor.connect(lambda one=protocol: one, sock=sock, options=Options(limits=Limits(read_bytes=3000)))
            peers.append(peer)
        system.run(reactor, 1.0)
        done = []
        relay(protocols[0].connection, protocols[1].connection, done=done.append)
        client, server = peers
        client.stop_reading()
        client.send(b"GET /\n")
        system.run(reactor, 1.0)
        assert server.data == b"GET /\n"
        server.send(DATA)
        server.close()
        while client.ending is None:
            client.read(1000)
            system.run(reactor, 0.05)
        assert (client.data, client.ending) == (DATA, "EOF")
        client.fin()
        system.run(reactor, 60.0)
        assert done[0].failure is None


# A kernel that gives up after a part


def stalled_peer(acknowledged, **deadlines):
    """A peer that ends first, and whose TCP then acknowledges so many bytes of 10,000, and no more until it reads."""
    link = Link(receive_buffer_bytes=acknowledged, send_buffer_bytes=20_000)
    world = World(link=link, options=Options(deadlines=Deadlines(**deadlines)))
    world.peer.stop_reading()
    world.connection.write(b"r" * 10_000)
    world.peer.fin()
    world.run()
    assert world.protocol.calls[-1] == "eof_received"
    return world


def test_an_end_after_the_peers_waits_until_everything_is_acknowledged():
    """None is told when the peer's TCP has every byte, and not before."""
    with stalled_peer(acknowledged=4000) as world:
        world.run(3.0)
        assert not world.protocol.ended
        world.peer.resume_reading()
        world.run(3.0)
        assert (len(world.peer.data), world.peer.ending) == (10_000, "EOF")
        assert world.protocol.lost is None
        assert world.protocol.report.unacknowledged == 0


def test_a_peer_that_reads_on_slowly_after_its_end_is_waited_for():
    """Each acknowledgement is progress."""
    with stalled_peer(acknowledged=1000, flush=5.0) as world:
        for _ in range(8):
            world.run(4.0)
            assert not world.protocol.ended
            world.peer.read(1000)
        world.peer.resume_reading()
        world.run(3.0)
        assert len(world.peer.data) == 10_000
        assert world.protocol.lost is None


def test_a_peer_that_ended_and_acknowledges_no_more_is_told_as_such():
    """After `Deadlines.flush` without progress the connection says how much was not acknowledged."""
    with stalled_peer(acknowledged=4000, flush=5.0) as world:
        world.run(3.0)
        assert not world.protocol.ended
        assert world.turns_in(10.0) < FEW_TURNS
        assert isinstance(world.protocol.lost, Unacknowledged)
        assert world.protocol.report.unacknowledged == 6000
        # The kernel goes on trying, and one day gives up: nobody was told that all is well.
        world.system.run(world.reactor, 600.0)
        world.peer.resume_reading()
        assert (len(world.peer.data), world.peer.ending) == (4000, "reset")


def test_a_kernel_that_gives_up_while_we_wait_is_told_as_a_time_out():
    """TCP_USER_TIMEOUT, or too many probes without an answer."""
    with stalled_peer(acknowledged=4000, flush=60.0) as world:
        world.run(3.0)
        world.system.give_up(world.peer)
        world.run(60.0)
        assert isinstance(world.protocol.lost, TimeoutError)
        assert world.protocol.report.unacknowledged == 6000
        world.peer.resume_reading()
        assert (len(world.peer.data), world.peer.ending) == (4000, "reset")


def test_a_fin_of_ours_that_the_peer_never_acknowledges_is_not_told_as_an_end_in_order():
    """The same when we ended first, and the peer's end came later."""
    link = Link(receive_buffer_bytes=4000, send_buffer_bytes=20_000)
    with World(link=link) as world:
        world.peer.stop_reading()
        world.connection.write(b"r" * 10_000)
        world.connection.close()
        world.run()
        world.peer.fin()
        world.run(2.0)
        assert not world.protocol.ended
        world.run(60.0)
        assert isinstance(world.protocol.lost, Unacknowledged)
        assert world.protocol.report.unacknowledged == 6000


# A reset while nobody reads


def paused_reader(**options):
    world = World(link=Link(receive_buffer_bytes=1 << 20), options=Options(**options))
    world.connection.pause_reading()
    world.peer.send(DATA)
    world.run()
    world.peer.reset()
    return world


@pytest.mark.parametrize("wrote", [False, True], ids=["silent", "wrote"])
def test_input_that_arrived_before_a_reset_is_delivered_when_reading_is_resumed(wrote):
    """All of it, then the error, whoever was told of the reset first."""
    with paused_reader() as world:
        if wrote:
            world.connection.write(b"too late")
        assert world.turns_in(10.0) < FEW_TURNS
        assert not world.protocol.ended
        assert world.protocol.data == b""
        world.connection.resume_reading()
        world.run()
        assert world.protocol.data == DATA
        assert isinstance(world.protocol.lost, ConnectionResetError)
        assert world.protocol.report.discarded == 0


def test_a_reader_that_pauses_after_each_piece_gets_every_piece():
    """As one that is held back by a slow writer does."""
    with paused_reader(limits=Limits(read_bytes=10_000)) as world:
        world.protocol.data_received = lambda data: (world.protocol.data.extend(data), world.connection.pause_reading())
        for _ in range(len(DATA) // 10_000 + 1):
            assert not world.protocol.ended
            world.run()
            world.connection.resume_reading()
        world.run()
        assert world.protocol.data == DATA
        assert isinstance(world.protocol.lost, ConnectionResetError)


def test_whoever_never_resumes_learns_of_the_reset_in_bounded_time():
    """After `Deadlines.unread` what had arrived is counted as discarded, and the error told."""
    with paused_reader(deadlines=Deadlines(unread=30.0)) as world:
        world.run(29.0)
        assert not world.protocol.ended
        world.run(3.0)
        assert world.protocol.data == b""
        assert isinstance(world.protocol.lost, ConnectionResetError)
        assert world.protocol.report.discarded == len(DATA)


@pytest.mark.parametrize("fault", [Shortage(0.0, 5.0), TryAgain(0.5)], ids=["no-memory", "again"])
@pytest.mark.parametrize("paused", [False, True], ids=["reading", "paused"])
def test_input_that_arrived_before_a_reset_survives_reads_that_fail_for_a_while(fault, paused):
    """A read that finds no memory, or would wait, is no proof that there is nothing more."""
    with World(link=Link(receive_buffer_bytes=1 << 20), options=Options(limits=Limits(read_bytes=5000))) as world:
        world.connection.pause_reading()
        world.peer.send(DATA)
        world.peer.reset()
        world.system.faults = [fault]
        world.connection.write(b"too late")
        if paused:
            world.run(2.0)
        world.connection.resume_reading()
        world.run(20.0)
        assert world.protocol.data == DATA
        assert isinstance(world.protocol.lost, ConnectionResetError)
        assert world.protocol.report.discarded == 0


# An accept that refuses everybody


class Counted(ForbiddenAccepts):
    """How often accept was asked while it was forbidden."""

    asked = 0

    def on_accept(self, system, sock):
        number = super().on_accept(system, sock)
        self.asked += number != 0
        return number


def test_an_accept_that_is_forbidden_is_asked_again_after_a_pause(caplog):
    """The caller waits in the queue, one warning is logged, and later it is served."""
    caplog.set_level(logging.INFO, "reactor")
    rule = Counted(0.0, 20.0)
    system = SimulatedSystem(faults=[rule])
    with Reactor(system=system) as reactor:
        protocols = []
        options = Options(limits=Limits(accepts_per_turn=1))
        listener = reactor.listen(
            lambda: protocols.append(Recorder()) or protocols[-1], "127.0.0.1", 0, options=options
        )
        peer = system.peer(listener.addresses[0])
        peer.send(b"hello")
        system.run(reactor, 19.0)
        assert reactor.turns < FEW_TURNS
        assert rule.asked < FEW_TURNS
        assert peer.ending is None
        system.run(reactor, 3.0)
        assert [protocol.data for protocol in protocols] == [b"hello"]
        assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_a_listener_that_is_forbidden_to_accept_can_be_closed():
    """It does not wait for a rule that may never end."""
    system = SimulatedSystem(faults=[ForbiddenAccepts()])
    with Reactor(system=system) as reactor:
        listener = reactor.listen(Recorder, "127.0.0.1", 0)
        peer = system.peer(listener.addresses[0])
        system.run(reactor, 5.0)
        listener.close()
        system.run(reactor, 5.0)
        assert not reactor.listeners
        assert peer.ending == "reset"


def test_a_forbidden_accept_costs_no_lingering_connection_its_patience():
    """Unlike a famine: no descriptor that is freed would help."""
    system = SimulatedSystem()
    with Reactor(system=system) as reactor:
        protocols = []
        listener = reactor.listen(lambda: protocols.append(Recorder()) or protocols[-1], "127.0.0.1", 0)
        slow = system.peer(listener.addresses[0])
        system.run(reactor, 1.0)
        slow.stop_reading()
        protocols[0].connection.write(b"reply")
        protocols[0].connection.close()
        system.faults = [ForbiddenAccepts()]
        system.peer(listener.addresses[0])
        system.run(reactor, 0.5)
        assert not protocols[0].ended
        system.faults = [DescriptorLimit(len(system.descriptors))]
        system.run(reactor, 0.5)
        assert protocols[0].ended


# Events that nothing can be done about


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize(("reads", "writes"), [(True, False), (False, True), (True, True)], ids=["r", "w", "rw"])
def test_a_want_of_memory_is_waited_out(number, unix, reads, writes, caplog):
    """Sends and reads fail for ten seconds, though the descriptor is ready: no spin, and nothing is lost."""
    caplog.set_level(logging.INFO, "reactor")
    with World(unix=unix, keep_open=True) as world:
        world.system.faults = [Shortage(0.0, world.system.now + 10.0, number)]
        if reads:
            world.peer.send(DATA)
        if writes:
            world.connection.write(DATA)
        assert world.turns_in(9.0) < FEW_TURNS
        assert world.protocol.data == b""
        assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
        world.run(5.0)
        assert world.protocol.data == (DATA if reads else b"")
        assert world.peer.data == (DATA if writes else b"")
        world.peer.fin()
        world.connection.close()
        world.run(10.0)
        assert world.protocol.lost is None


def test_an_error_queue_that_a_given_socket_has_on_is_no_spin():
    """SO_TIMESTAMPING leaves an entry for each send; the connection lives and ends in order."""
    with World(keep_open=True) as world:
        world.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, TIMES_OF_SENDS)
        for _ in range(200):
            world.connection.write(b"x")
            world.run(0.001)
        assert world.turns_in(10.0) < FEW_TURNS
        world.connection.pause_reading()
        world.connection.write(b"y")
        assert world.turns_in(10.0) < FEW_TURNS
        world.connection.resume_reading()
        world.peer.send(b"end")
        world.peer.fin()
        world.connection.close()
        world.run(10.0)
        assert world.peer.data == b"x" * 200 + b"y"
        assert world.protocol.lost is None


def test_writes_during_a_want_of_memory_do_not_end_its_pause(caplog):
    """Whoever goes on writing makes no spin of it, and every byte is sent in order."""
    caplog.set_level(logging.INFO, "reactor")
    with World() as world:
        world.system.faults = [Shortage(0.0, world.system.now + 20.0)]
        for number in range(100):
            data = DATA[1000 * number : 1000 * (number + 1)]
            world.reactor.call_later(0.1 * number, world.connection.write, data)
        assert world.turns_in(19.0) < 5 * FEW_TURNS
        assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
        world.run(5.0)
        assert world.peer.data == DATA[:100_000]


@pytest.mark.parametrize("unix", [False, True], ids=["udp", "unix"])
def test_a_datagram_endpoint_waits_out_a_want_of_memory(unix, tmp_path):
    """The socket is ready all the time: no spin, and what had come is received afterwards."""
    system = SimulatedSystem()
    received = []

    class Receiver(DatagramProtocol):
        def datagram_received(self, data, addr):
            received.append(data)

    with Reactor(system=system) as reactor:
        here = str(tmp_path / "here") if unix else ("127.0.0.1", 5000)
        reactor.datagram(Receiver, **({"path": here} if unix else {"local": here}))
        sender = system.datagram_socket("" if unix else ("127.0.0.1", 0))
        system.run(reactor, 0.1)
        sender.sendto(b"waits", here)
        system.faults = [Shortage(0.0, 10.0)]
        before = reactor.turns
        system.run(reactor, 9.0)
        assert reactor.turns - before < FEW_TURNS
        system.run(reactor, 5.0)
        assert received == [b"waits"]
        sender.close()


class FalseAlarm(Fault):
    """Each poll tells of an error that is no longer there, of every socket that is read."""

    def on_ready(self, system, ready):
        return [(fd, events | ERROR if events & READ else events) for fd, events in ready]


def test_an_error_that_is_no_longer_there_costs_no_unix_datagram(tmp_path):
    """Unix sockets have no error queue: whoever empties one there takes datagrams."""
    system = SimulatedSystem()
    received = []

    class Receiver(DatagramProtocol):
        def datagram_received(self, data, addr):
            received.append(data)

    with Reactor(system=system) as reactor:
        path = str(tmp_path / "here")
        reactor.datagram(Receiver, path=path)
        sender = system.datagram_socket("")
        system.run(reactor, 0.1)
        system.faults = [FalseAlarm()]
        for data in (b"one", b"two"):
            sender.sendto(data, path)
        system.run(reactor, 1.0)
        assert received == [b"one", b"two"]
        sender.close()


@pytest.mark.parametrize("connected", [True, False])
def test_an_error_queue_of_a_datagram_socket_is_no_spin(connected):
    """IP_RECVERR: the error is told, and the queue does not keep the loop awake."""
    system = SimulatedSystem()
    told = []

    class Teller(DatagramProtocol):
        def error_received(self, exc):
            told.append(exc)

    with Reactor(system=system) as reactor:
        nobody = ("127.0.0.1", 9)
        sock = system.datagram_socket(("127.0.0.1", 0), nobody if connected else None)
        endpoint = reactor.datagram(Teller, sock=sock)
        sock.setsockopt(*RECVERR[socket.AF_INET], 1)
        system.run(reactor, 0.1)
        for _ in range(3):
            endpoint.sendto(b"anybody?", nobody)
            system.run(reactor, 1.0)
        before = reactor.turns
        system.run(reactor, 10.0)
        assert reactor.turns - before < FEW_TURNS
        assert [type(exc) for exc in told] == [ConnectionRefusedError] * 3
        endpoint.close()


class Resting:
    """An end whose events come to nothing, as the loop sees it."""

    def __init__(self):
        self.rests = self.returns = 0

    def rest(self):
        self.rests += 1

    def go_on(self):
        self.returns += 1

    def callback_failed(self, exc):
        raise exc


def test_an_end_that_pauses_and_comes_to_nothing_once_more_meanwhile_comes_back():
    """A read that somebody asks for during the pause may fail as well: the pause ends all the same."""
    with Reactor(system=SimulatedSystem()) as reactor:
        end = Resting()
        for _ in range(20):
            if not end.rests:
                reactor.call_soon(reactor.came_to_nothing, end)
                reactor.run_once(0)
        assert end.rests == 1
        reactor.run_once(0)
        reactor.run_once(0)
        reactor.call_soon(reactor.came_to_nothing, end)
        reactor.run_once(0)
        reactor.run()
        assert end.returns == 1
