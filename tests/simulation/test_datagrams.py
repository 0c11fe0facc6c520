"""Datagrams in the simulated kernel: each fact in one body for both kernels, and endpoints over a line that loses."""

from __future__ import annotations

import errno
import socket

import pytest

from reactor import Aborted, DatagramProtocol, Reactor
from reactor.addresses import Address
from reactor.options import Datagrams, Group, Options, Sockets
from reactor.pollers import ERROR, READ, WRITE
from reactor.system import System
from reactor.testing import Link, SimulatedSystem, Stalled
from tests.simulation.kernels import PATIENCE, RECVERR, Kernel

FAMILIES = {"udp4": socket.AF_INET, "udp6": socket.AF_INET6, "unix": socket.AF_UNIX}


class Endpoints(Kernel):
    """Datagram sockets of one family."""

    def __init__(self, system: System, kind: str, folder) -> None:
        super().__init__(system)
        self.kind, self.folder = kind, folder
        self.family = FAMILIES[kind]

    def open(self, remote=None, options: Options | None = None, local: bool = True):
        if self.kind == "unix":
            sockaddr = str(self.folder / f"socket{len(self.opened)}")
        else:
            sockaddr = ("127.0.0.1", 0) if self.kind == "udp4" else ("::1", 0, 0, 0)
        here = Address(self.family, sockaddr) if local else None
        there = None if remote is None else Address(self.family, remote)
        self.opened.append(self.system.open_datagram(here, there, options or Options()))
        return self.opened[-1]

    def receive(self, sock, most: int = 1 << 18):
        assert self.events(sock, READ, PATIENCE) & READ, "nothing came"
        return sock.recvfrom(most)

    def refusal(self, sock) -> OSError | None:
        """What ICMP has said within a while."""
        self.eventually(lambda: self.events(sock, 0) & ERROR)
        return self.system.error(sock)

    def nobody(self):
        sock = self.open()
        address = sock.getsockname()
        self.system.close_listening(sock)
        return address

    def fill(self, send) -> int:
        """Sends until the kernel says EAGAIN; how often it did not."""
        for count in range(10_000):
            try:
                send()
            except BlockingIOError:
                return count
        raise AssertionError("it took everything")


@pytest.fixture
def make_kernel(keep, tmp_path):
    return lambda kind: keep(Endpoints, kind, tmp_path)


@pytest.fixture(params=list(FAMILIES))
def kernel(request, make_kernel):
    return make_kernel(request.param)


@pytest.fixture(params=["udp4", "udp6"])
def udp(request, make_kernel):
    return make_kernel(request.param)


@pytest.fixture
def unix(make_kernel):
    return make_kernel("unix")


# The contract


def test_boundaries_are_kept_and_the_sender_is_told(kernel):
    """One send, one receive; the empty datagram is one, too."""
    sender, receiver = kernel.open(), kernel.open()
    assert not kernel.events(receiver, READ)
    for data in (b"one", b"", b"three"):
        assert sender.sendto(data, receiver.getsockname()) == len(data)
    assert [kernel.receive(receiver) for _ in range(3)] == [
        (data, sender.getsockname()) for data in (b"one", b"", b"three")
    ]
    with pytest.raises(BlockingIOError):
        receiver.recvfrom(100)


def test_what_does_not_fit_the_read_is_cut_and_lost(kernel):
    """The next receive gives the next datagram."""
    sender, receiver = kernel.open(), kernel.open()
    sender.sendto(b"123456", receiver.getsockname())
    sender.sendto(b"next", receiver.getsockname())
    assert kernel.receive(receiver, 4)[0] == b"1234"
    assert kernel.receive(receiver, 4)[0] == b"next"


def test_a_connected_socket_sends_without_an_address(kernel):
    """And tells whom it is connected to; another tells nobody."""
    server = kernel.open()
    client = kernel.open(server.getsockname())
    assert kernel.system.datagram_peer(client) == server.getsockname()
    assert kernel.system.datagram_peer(server) is None
    client.send(b"ping")
    data, address = kernel.receive(server)
    server.sendto(data, address)
    assert kernel.receive(client)[0] == b"ping"
    with pytest.raises(OSError, match=r"not connected|[Dd]estination address required"):
        server.send(b"whom?")


def test_a_connected_udp_socket_hears_its_remote_alone(udp):
    """To a stranger nobody is there."""
    server, stranger = udp.open(), udp.open()
    client = udp.open(server.getsockname())
    stranger.sendto(b"hello", client.getsockname())
    server.sendto(b"mine", client.getsockname())
    assert udp.receive(client)[0] == b"mine"
    assert not udp.events(client, READ)


def test_icmp_tells_a_connected_socket_once(udp):
    """ECONNREFUSED, unasked, by whichever call comes first; then it is forgotten."""
    client = udp.open(udp.nobody(), local=False)
    client.send(b"anybody?")
    assert udp.refusal(client).errno == errno.ECONNREFUSED
    assert udp.system.error(client) is None
    client.send(b"anybody?")
    assert udp.events(client, READ, PATIENCE) & ERROR
    with pytest.raises(ConnectionRefusedError):
        client.recvfrom(100)
    with pytest.raises(BlockingIOError):
        client.recvfrom(100)


def test_icmp_fails_the_next_send_which_is_not_sent(udp):
    """So it must be made again."""
    address = udp.nobody()
    client = udp.open(address)
    client.send(b"lost")
    assert udp.events(client, 0, PATIENCE) & ERROR
    with pytest.raises(ConnectionRefusedError):
        client.send(b"not sent")
    assert client.send(b"sent again") == 10


def test_an_unconnected_udp_socket_is_told_nothing(udp):
    """Whom it has sent to is forgotten at once."""
    sender = udp.open()
    sender.sendto(b"anybody?", udp.nobody())
    assert not udp.events(sender, READ, 0.02)
    assert udp.system.error(sender) is None


def queued_error(sock) -> bytes:
    """Takes one entry out of the error queue: the datagram that did not arrive."""
    data, _, flags, _ = sock.recvmsg(100, 1000, socket.MSG_ERRQUEUE)
    assert flags & socket.MSG_ERRQUEUE
    return data


@pytest.mark.parametrize("connected", [True, False])
def test_an_error_queue_keeps_a_udp_socket_ready_until_it_is_read(udp, connected):
    """IP_RECVERR: ERROR is told all the time, though SO_ERROR has nothing more to say and recv would wait."""
    address = udp.nobody()
    client = udp.open(address if connected else None)
    client.setsockopt(*RECVERR[client.family], 1)
    client.sendto(b"lost", address) if not connected else client.send(b"lost")
    assert udp.events(client, 0, PATIENCE) == ERROR
    assert udp.so_error(client) == errno.ECONNREFUSED
    assert udp.so_error(client) == 0
    with pytest.raises(BlockingIOError):
        client.recvfrom(100)
    assert udp.events(client, READ | WRITE) == WRITE | ERROR
    assert queued_error(client) == b"lost"
    assert udp.events(client, READ | WRITE) == WRITE
    with pytest.raises(BlockingIOError):
        queued_error(client)


def test_reading_an_error_queue_takes_the_pending_error_or_sets_the_next(udp):
    """The last entry takes the error with it; one that is followed by another leaves that one's."""
    address = udp.nobody()
    client = udp.open()
    client.setsockopt(*RECVERR[client.family], 1)
    for data in (b"first", b"second"):
        client.sendto(data, address)
        assert udp.refusal(client).errno == errno.ECONNREFUSED
        udp.eventually(lambda: udp.so_error(client) == 0)
    assert queued_error(client) == b"first"
    assert udp.so_error(client) == errno.ECONNREFUSED
    client.sendto(b"third", address)
    assert udp.refusal(client).errno == errno.ECONNREFUSED
    assert queued_error(client) == b"second"
    assert queued_error(client) == b"third"
    assert udp.so_error(client) == 0
    assert udp.events(client, READ | WRITE) == WRITE


def test_a_unix_socket_has_no_error_queue_and_whoever_asks_for_it_takes_a_datagram(unix):
    """MSG_ERRQUEUE is ignored: the datagram is gone."""
    sender, receiver = unix.open(), unix.open()
    with pytest.raises(BlockingIOError):
        receiver.recvmsg(0, 0, socket.MSG_ERRQUEUE)
    sender.sendto(b"taken", receiver.getsockname())
    data, _, flags, _ = receiver.recvmsg(0, 0, socket.MSG_ERRQUEUE)
    assert data == b""
    assert flags == socket.MSG_TRUNC
    with pytest.raises(BlockingIOError):
        receiver.recvfrom(100)


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_a_datagram_that_finds_no_memory_is_neither_sent_nor_taken(kernel, number):
    """The socket stays ready, and the same call succeeds when there is memory again."""
    sender, receiver = kernel.open(), kernel.open()
    sender.sendto(b"waits", receiver.getsockname())
    assert kernel.events(receiver, READ, PATIENCE) == READ
    for call in (lambda: receiver.recvfrom(100), lambda: sender.sendto(b"lost?", receiver.getsockname())):
        failed = kernel.failure(number, "transfer", call)
        assert failed is not None
        assert failed.errno == number
        assert kernel.events(receiver, READ) == READ
        assert kernel.events(sender, WRITE) == WRITE
    assert kernel.receive(receiver)[0] == b"waits"
    assert not kernel.events(receiver, READ)


@pytest.mark.parametrize(("kind", "longest"), [("udp4", 65507), ("udp6", 65527), ("unix", 212992 - 32)])
def test_the_longest_datagram(make_kernel, kind, longest):
    """One byte more is EMSGSIZE, and nothing is sent."""
    kernel = make_kernel(kind)
    sender, receiver = kernel.open(), kernel.open(options=Options(sockets=Sockets(receive_buffer_bytes=1 << 18)))
    with pytest.raises(OSError, match="too long") as caught:
        sender.sendto(bytes(longest + 1), receiver.getsockname())
    assert caught.value.errno == errno.EMSGSIZE
    assert sender.sendto(bytes(longest), receiver.getsockname()) == longest
    assert len(kernel.receive(receiver)[0]) == longest


def test_a_full_udp_receiver_drops_in_silence(udp):
    """The sender goes on, and always may."""
    receiver = udp.open(options=Options(sockets=Sockets(receive_buffer_bytes=4096)))
    sender = udp.open(receiver.getsockname())
    for number in range(100):
        assert sender.send(b"%03d" % number) == 3
    assert udp.events(sender, WRITE) == WRITE
    arrived = []
    while udp.events(receiver, READ):
        arrived.append(int(receiver.recvfrom(100)[0]))
    assert arrived == list(range(len(arrived)))
    assert 0 < len(arrived) < 100


def test_a_full_unix_receiver_makes_its_sender_wait(unix):
    """A connected sender is writable again when the receiver has read."""
    receiver = unix.open()
    sender = unix.open(receiver.getsockname())
    assert unix.fill(lambda: sender.send(b"x")) == 11
    assert not unix.events(sender, WRITE)
    unix.receive(receiver)
    assert unix.events(sender, WRITE) == WRITE
    assert sender.send(b"x") == 1


def test_an_unconnected_unix_sender_is_called_writable_whoever_is_full(unix):
    """So its readiness says nothing."""
    receiver, sender = unix.open(), unix.open()
    unix.fill(lambda: sender.sendto(b"x", receiver.getsockname()))
    assert unix.events(sender, WRITE) == WRITE
    with pytest.raises(BlockingIOError):
        sender.sendto(b"x", receiver.getsockname())


def test_a_unix_receiver_that_is_gone_refuses_and_then_is_forgotten(unix):
    """First ECONNREFUSED, then ENOTCONN."""
    receiver = unix.open()
    sender = unix.open(receiver.getsockname())
    unix.system.close(receiver)
    with pytest.raises(ConnectionRefusedError):
        sender.send(b"x")
    with pytest.raises(OSError, match="not connected") as caught:
        sender.send(b"x")
    assert caught.value.errno == errno.ENOTCONN


def test_a_connected_unix_socket_takes_nothing_from_strangers(unix):
    """EPERM tells them."""
    server, stranger = unix.open(), unix.open()
    client = unix.open(server.getsockname())
    with pytest.raises(PermissionError):
        stranger.sendto(b"x", client.getsockname())


def test_an_unnamed_unix_sender_has_no_address(unix):
    """Nobody can answer."""
    receiver = unix.open()
    unix.open(receiver.getsockname(), local=False).send(b"x")
    assert unix.receive(receiver) == (b"x", None)


def test_an_address_is_had_once(kernel):
    """EADDRINUSE names it."""
    sock = kernel.open()
    with pytest.raises(OSError, match="cannot receive datagrams at") as caught:
        kernel.system.open_datagram(Address(kernel.family, sock.getsockname()), None, Options())
    assert caught.value.errno == errno.EADDRINUSE


# Endpoints over a simulated line


class Recorder(DatagramProtocol):
    """Remembers what it was told, and answers if it should."""

    def __init__(self, echo: bool = False) -> None:
        self.echo, self.data, self.errors, self.lost = echo, [], [], "not yet"

    def datagram_received(self, data, addr):
        self.data.append(data)
        if self.echo:
            self.endpoint.sendto(data, addr)

    def error_received(self, exc):
        self.errors.append(exc)

    def connection_lost(self, exc):
        self.lost = exc


class Asker(Recorder):
    """Asks each question again, every second, until it is answered."""

    def __init__(self, reactor: Reactor, questions: int) -> None:
        super().__init__()
        self.reactor, self.open = reactor, {b"%d" % number for number in range(questions)}

    def connection_made(self, endpoint):
        super().connection_made(endpoint)
        self.ask()

    def ask(self):
        for question in sorted(self.open):
            self.endpoint.sendto(question)
        if self.open:
            self.reactor.call_later(1, self.ask)
        else:
            self.endpoint.close()

    def datagram_received(self, data, addr):
        super().datagram_received(data, addr)
        self.open.discard(data)


def lossy_run(seed: int):
    """Twenty questions over a line that loses a third; what each side received, and when it was over."""
    system = SimulatedSystem(seed, link=Link(latency=0.02, jitter=0.05, loss=1 / 3))
    with Reactor(system=system) as reactor:
        server, asker = Recorder(echo=True), Asker(reactor, 20)
        endpoint = reactor.datagram(lambda: server, ("127.0.0.1", 0))
        reactor.datagram(lambda: asker, remote=endpoint.get_extra_info("sockname"))
        system.run(reactor, seconds=600, until=lambda: asker.lost != "not yet")
        assert asker.lost is None
        assert set(server.data) == set(asker.data) == {b"%d" % number for number in range(20)}
        return server.data, asker.data, system.now


def test_a_line_that_loses_is_the_same_twice_from_its_seed():
    """Losses and late-comers too, in the same order, to the same moment."""
    first = lossy_run(7)
    assert lossy_run(7) == first
    assert lossy_run(8) != first
    server, asker, seconds = first
    assert len(server) > len(asker) >= 20, "nothing was lost"
    assert server[:20] != sorted(server[:20]), "nothing came out of order"
    assert seconds >= 1


def test_a_scripted_socket_is_the_other_side():
    """It needs no descriptor and no reactor."""
    system = SimulatedSystem(link=Link(latency=0.5))
    with Reactor(system=system) as reactor:
        server = Recorder(echo=True)
        endpoint = reactor.datagram(lambda: server, ("0.0.0.0", 5353))
        client = system.datagram_socket(("127.0.0.1", 0))
        client.sendto(b"question", ("127.0.0.1", 5353))
        system.run(reactor, seconds=0.9)
        assert server.data == [b"question"]
        with pytest.raises(BlockingIOError):
            client.recvfrom(100)
        system.run(reactor, seconds=0.2)
        assert client.recvfrom(100) == (b"question", ("127.0.0.1", 5353))
        client.close()
        assert endpoint.report.received == endpoint.report.sent == 1
    assert isinstance(server.lost, Aborted)
    assert not system.bad_calls


@pytest.mark.parametrize("unix", [False, True])
def test_endpoints_behave_as_over_the_real_kernel(unix):
    """Refused, too long, and a full receiver that reads later."""
    system = SimulatedSystem()
    with Reactor(system=system) as reactor:
        other = system.datagram_socket("/other" if unix else ("127.0.0.1", 9))
        protocol = Recorder()
        where = {"remote_path": "/other"} if unix else {"remote": ("127.0.0.1", 9)}
        endpoint = reactor.datagram(lambda: protocol, **where)
        for number in range(30):
            endpoint.sendto(b"%d" % number)
        system.run(reactor, seconds=1)
        assert bool(endpoint.get_write_buffer_size()) == unix
        for number in range(30):
            assert other.recvfrom(100)[0] == b"%d" % number
            system.run(reactor, seconds=0.1)
        endpoint.sendto(bytes(300_000))
        other.close()
        endpoint.sendto(b"x")
        system.run(reactor, seconds=1)
        assert [exc.errno for exc in protocol.errors] == [errno.EMSGSIZE, errno.ECONNREFUSED]
        assert reactor.drain(1).finished
        assert protocol.lost is None
    assert not system.bad_calls


def test_a_server_that_nobody_asks_stalls():
    """A message instead of a hang, with the socket in it."""
    system = SimulatedSystem()
    with Reactor(system=system) as reactor:
        reactor.datagram(Recorder, ("127.0.0.1", 53))
        with pytest.raises(Stalled, match=r"<datagram fd \d+ \('127.0.0.1', 53\)"):
            reactor.run()
        with pytest.raises(OSError, match="multicast is not simulated"):
            reactor.datagram(
                Recorder, ("0.0.0.0", 0), options=Options(datagrams=Datagrams(groups=(Group(address="224.0.0.1"),)))
            )
