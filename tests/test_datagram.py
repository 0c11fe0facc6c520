"""Datagram endpoints: UDP and Unix, connected or not; what is lost is told, and one bad datagram ends nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys

import pytest

from reactor import (
    Aborted,
    DatagramProtocol,
    Datagrams,
    Deadlines,
    FlushTimeout,
    Group,
    Limits,
    Misuse,
    Options,
    QueueOverflow,
    Reactor,
    Sockets,
    Watermarks,
    WriteAfterEnd,
)
from tests.helpers import turn_until

FAMILIES = {"udp4": socket.AF_INET, "udp6": socket.AF_INET6, "unix": socket.AF_UNIX}


class Recorder(DatagramProtocol):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.received: list[tuple[bytes, object]] = []
        self.errors: list[Exception] = []
        self.lost: Exception | str | None = "not yet"

    def connection_made(self, endpoint):
        super().connection_made(endpoint)
        self.calls.append("connection_made")

    def datagram_received(self, data, addr):
        assert type(data) is bytes
        self.calls.append("datagram_received")
        self.received.append((data, addr))

    def error_received(self, exc):
        self.calls.append("error_received")
        self.errors.append(exc)

    def pause_writing(self):
        self.calls.append("pause_writing")

    def resume_writing(self):
        self.calls.append("resume_writing")

    def connection_lost(self, exc):
        assert self.lost == "not yet"
        self.calls.append("connection_lost")
        self.lost = exc

    @property
    def ended(self) -> bool:
        return self.lost != "not yet"

    @property
    def data(self) -> list[bytes]:
        return [data for data, _ in self.received]


class Echo(Recorder):
    """Sends each datagram back."""

    def datagram_received(self, data, addr):
        super().datagram_received(data, addr)
        self.endpoint.sendto(data, addr)


class Place:
    """Where the endpoints of one test are: makes them, and raw sockets beside them."""

    def __init__(self, reactor: Reactor, kind: str, folder) -> None:
        self.reactor, self.kind, self.folder = reactor, kind, folder
        self.family = FAMILIES[kind]
        self.sockets: list[socket.socket] = []
        self.count = 0

    def local(self):
        if self.kind == "unix":
            self.count += 1
            return str(self.folder / f"socket{self.count}")
        return ("127.0.0.1" if self.kind == "udp4" else "::1", 0)

    def open(self, protocol=None, *, remote=None, local=True, options=None):
        """A begun endpoint's protocol."""
        protocol = protocol or Recorder()
        names = ("path", "remote_path") if self.kind == "unix" else ("local", "remote")
        where = {names[0]: self.local()} if local else {}
        if remote is not None:
            where[names[1]] = remote if self.kind == "unix" else remote[:2]
        self.reactor.datagram(lambda: protocol, options=options or Options(), **where)
        turn_until(self.reactor, lambda: hasattr(protocol, "endpoint"))
        return protocol

    def raw(self, receive_buffer: int | None = None) -> socket.socket:
        """A bound, non-blocking socket of the test's own."""
        sock = socket.socket(self.family, socket.SOCK_DGRAM)
        self.sockets.append(sock)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.bind(self.local())
        return sock

    def receive(self, sock: socket.socket, most: int = 1 << 18):
        """The next datagram that the raw socket is sent."""
        got = []

        def came() -> bool:
            try:
                got.append(sock.recvfrom(most))
            except BlockingIOError:
                return False
            return True

        turn_until(self.reactor, came)
        return got[0]

    def fill(self, receiver: socket.socket) -> int:
        """Sends until a Unix receiver takes no more; how many it holds."""
        filler = self.raw()
        for count in range(10_000):
            try:
                filler.sendto(b"", receiver.getsockname())
            except BlockingIOError:
                return count
        raise AssertionError("it took everything")

    def nobody(self):
        """An address at which nobody receives."""
        sock = self.raw()
        address = sock.getsockname()
        sock.close()
        return address


def address_of(protocol: Recorder):
    return protocol.endpoint.get_extra_info("sockname")


@pytest.fixture(params=list(FAMILIES))
def place(request, reactor, tmp_path):
    made = Place(reactor, request.param, tmp_path)
    yield made
    for sock in made.sockets:
        sock.close()


@pytest.fixture
def udp(reactor, tmp_path):
    made = Place(reactor, "udp4", tmp_path)
    yield made
    for sock in made.sockets:
        sock.close()


@pytest.fixture
def unix(reactor, tmp_path):
    made = Place(reactor, "unix", tmp_path)
    yield made
    for sock in made.sockets:
        sock.close()


# Sending and receiving


def test_what_is_sent_is_answered_datagram_by_datagram(place):
    """Boundaries are kept, the empty datagram's too, and `addr` is good for an answer."""
    server = place.open(Echo())
    client = place.raw()
    for data in (b"one", b"", b"three"):
        client.sendto(data, address_of(server))
    assert [place.receive(client)[0] for _ in range(3)] == [b"one", b"", b"three"]
    assert server.received == [(data, client.getsockname()) for data in (b"one", b"", b"three")]
    report = server.endpoint.report
    assert (report.received, report.received_bytes, report.sent, report.sent_bytes) == (3, 8, 3, 8)


def test_a_connected_endpoint_needs_no_address(place):
    """It sends to its remote, with or without the address, and hears the remote alone."""
    server = place.open(Echo())
    client = place.open(remote=address_of(server))
    stranger = place.raw()
    if place.kind == "unix":
        with pytest.raises(PermissionError):
            stranger.sendto(b"hello", address_of(client))
    else:
        stranger.sendto(b"hello", address_of(client))
    client.endpoint.sendto(b"")
    client.endpoint.sendto(bytearray(b"ping"), client.endpoint.get_extra_info("peername"))
    turn_until(place.reactor, lambda: len(client.received) == 2)
    assert client.data == [b"", b"ping"]
    with pytest.raises(ValueError, match="its remote address only"):
        client.endpoint.sendto(b"", address_of(client))


def test_an_unnamed_unix_sender_has_no_address(unix):
    """Nobody can answer it."""
    server = unix.open()
    client = unix.open(remote=address_of(server), local=False)
    client.endpoint.sendto(b"hello")
    turn_until(unix.reactor, lambda: server.received)
    assert server.received == [(b"hello", None)]
    with pytest.raises(ValueError, match="is a path, or an abstract name"):
        server.endpoint.sendto(b"hello", None)


def test_what_is_sent_before_the_beginning_is_sent(udp):
    """The endpoint that `datagram` returns can be used at once."""
    receiver, protocol = udp.raw(), Recorder()
    endpoint = udp.reactor.datagram(lambda: protocol, remote=receiver.getsockname())
    assert endpoint.get_protocol() is None
    endpoint.sendto(b"early")
    assert udp.receive(receiver)[0] == b"early"
    turn_until(udp.reactor, lambda: endpoint.get_protocol() is protocol)


def test_a_given_socket_is_used_and_belongs_to_the_reactor(reactor):
    """Also a connected pair's end; handed over twice it is refused."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with theirs:
        protocol = Recorder()
        endpoint = reactor.datagram(lambda: protocol, sock=ours)
        with pytest.raises(Misuse, match="belongs to"):
            reactor.datagram(Recorder, sock=ours)
        endpoint.sendto(b"out")
        assert theirs.recv(100) == b"out"
        theirs.send(b"in")
        turn_until(reactor, lambda: protocol.received)
        endpoint.close()
        turn_until(reactor, lambda: protocol.ended)
        assert ours.fileno() == -1


def test_an_asyncio_protocol_runs_unchanged(udp):
    """Names and meanings are asyncio's."""

    class Theirs(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport, self.lost = transport, False

        def datagram_received(self, data, addr):
            self.transport.sendto(data.upper(), addr)

        def connection_lost(self, exc):
            self.lost = exc is None

    protocol = Theirs()
    endpoint = udp.reactor.datagram(lambda: protocol, ("127.0.0.1", 0))
    client = udp.raw()
    client.sendto(b"abc", endpoint.get_extra_info("sockname"))
    assert udp.receive(client)[0] == b"ABC"
    assert udp.reactor.drain(5).finished
    assert protocol.lost


def test_a_busy_endpoint_lets_the_others_have_their_turn(udp):
    """No more is received in a turn than the budget."""
    server = udp.open(options=Options(datagrams=Datagrams(receives_per_turn=3)))
    client = udp.raw()
    for _ in range(7):
        client.sendto(b"x", address_of(server))
    before = []
    while len(server.received) < 7:
        udp.reactor.run_once(1)
        before.append(len(server.received))
    assert before == [3, 6, 7]


def test_a_long_queue_lets_the_others_have_their_turn(unix):
    """No more of it is sent in a turn than the budget."""
    receiver = unix.raw()
    sender = unix.open(remote=receiver.getsockname(), options=Options(datagrams=Datagrams(sends_per_flush=2)))
    held = unix.fill(receiver)
    for _ in range(5):
        sender.endpoint.sendto(b"x")
    for _ in range(held):
        receiver.recv(100)
    sent = []
    for _ in range(3):
        unix.reactor.run_once(1)
        sent.append(sender.endpoint.report.sent)
    assert sent == [2, 4, 5]


# What is lost is told


def test_nobody_there_is_told_and_the_endpoint_lives_on(place):
    """A connected endpoint hears ECONNREFUSED, by ICMP where there is a network."""
    if place.kind == "unix":
        server = place.raw()
        client = place.open(remote=server.getsockname())
        server.close()
    else:
        client = place.open(remote=place.nobody())
    client.endpoint.sendto(b"anybody?")
    turn_until(place.reactor, lambda: client.errors)
    assert [type(exc) for exc in client.errors] == [ConnectionRefusedError]
    assert not client.endpoint.is_closing()
    client.endpoint.close()
    turn_until(place.reactor, lambda: client.ended)
    assert client.lost is None


def test_the_answer_to_an_earlier_datagram_does_not_eat_the_next(udp):
    """A send that fails with what ICMP said is made again."""
    address = udp.nobody()
    client = udp.open(remote=address)
    client.endpoint.sendto(b"lost")
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.sockets.append(receiver)
    receiver.setblocking(False)
    receiver.bind(address)
    client.endpoint.sendto(b"arrives")
    assert udp.receive(receiver)[0] == b"arrives"
    turn_until(udp.reactor, lambda: client.errors)
    assert [type(exc) for exc in client.errors] == [ConnectionRefusedError]
    assert client.endpoint.report.sent == 2


def test_an_unconnected_endpoint_hears_nothing_of_a_missing_udp_receiver(udp):
    """The kernel tells only connected sockets what ICMP says."""
    sender, receiver = udp.open(), udp.raw()
    sender.endpoint.sendto(b"anybody?", udp.nobody())
    sender.endpoint.sendto(b"you?", receiver.getsockname())
    udp.receive(receiver)
    assert sender.errors == []


def test_the_longest_datagram_passes_and_a_longer_one_is_told(udp):
    """65,507 bytes is IPv4's limit; one more is EMSGSIZE, not a piece of it, and not an exception."""
    server = udp.open()
    client = udp.open(remote=address_of(server))
    client.endpoint.sendto(bytes(65508))
    assert client.errors == []
    client.endpoint.sendto(bytes(65507))
    turn_until(udp.reactor, lambda: server.received and client.errors)
    assert [exc.errno for exc in client.errors] == [errno.EMSGSIZE]
    assert [len(data) for data in server.data] == [65507]
    report = client.endpoint.report
    assert (report.taken, report.sent, report.refused, report.errors) == (2, 1, 1, 1)


def test_an_error_before_the_end_is_told_before_the_end(udp):
    """Also when the endpoint was closed in the same call."""
    client = udp.open(remote=udp.raw().getsockname())

    def last_act():
        client.endpoint.sendto(bytes(65508))
        client.endpoint.close()

    udp.reactor.call_soon(last_act)
    turn_until(udp.reactor, lambda: client.ended)
    assert client.calls == ["connection_made", "error_received", "connection_lost"]


def test_a_datagram_that_is_cut_is_told_and_not_delivered(place):
    """Longer than `Limits.read_bytes`: half a message is no message."""
    server = place.open(options=Options(limits=Limits(read_bytes=10)))
    client = place.raw()
    for size in (10, 11, 5):
        client.sendto(bytes(size), address_of(server))
    turn_until(place.reactor, lambda: len(server.received) == 2)
    assert [len(data) for data in server.data] == [10, 5]
    assert [exc.errno for exc in server.errors] == [errno.EMSGSIZE]
    assert server.endpoint.report.truncated == 1


def test_a_full_queue_is_told_once_with_its_extent(unix):
    """What waited is sent, in order; what did not fit is counted."""
    receiver = unix.raw()
    limited = Options(datagrams=Datagrams(queue_bytes=1000, sends_per_flush=2))
    sender = unix.open(remote=receiver.getsockname(), options=limited)
    for number in range(1000):
        sender.endpoint.sendto(b"%d" % number)
    report = sender.endpoint.report
    assert report.sent > 0
    assert report.unsent > 0
    assert report.taken == 1000 == report.sent + report.unsent + report.overflowed
    assert sender.errors == []
    turn_until(unix.reactor, lambda: sender.errors)
    (error,) = sender.errors
    assert isinstance(error, QueueOverflow)
    assert str(error).startswith(f"{report.overflowed} datagrams were dropped")
    arrived = [int(unix.receive(receiver)[0]) for _ in range(report.sent + report.unsent)]
    assert arrived == list(range(report.sent + report.unsent))


def test_empty_datagrams_fill_the_queue_as_well(unix):
    """Each costs its book-keeping, so no queue grows without limit."""
    sender = unix.open(remote=unix.raw().getsockname(), options=Options(datagrams=Datagrams(queue_bytes=1000)))
    for _ in range(2000):
        sender.endpoint.sendto(b"")
    assert sender.endpoint.report.overflowed > 0
    assert sender.endpoint.get_write_buffer_size() <= 1000


def test_a_sender_that_is_too_fast_is_paused_and_resumed(unix):
    """By the watermarks; and neither comes from inside `sendto`."""
    receiver = unix.raw()
    sender = unix.open(remote=receiver.getsockname(), options=Options(watermarks=Watermarks(high=1000, low=500)))
    assert sender.endpoint.get_write_buffer_limits() == (500, 1000)
    while sender.endpoint.get_write_buffer_size() <= 1000:
        sender.endpoint.sendto(b"x")
    assert sender.calls == ["connection_made"]
    unix.reactor.run_once(0)
    assert sender.calls == ["connection_made", "pause_writing"]
    for _ in range(sender.endpoint.report.taken):
        unix.receive(receiver)
    assert sender.calls == ["connection_made", "pause_writing", "resume_writing"]
    sender.endpoint.set_write_buffer_limits(high=40)
    assert sender.endpoint.get_write_buffer_limits() == (10, 40)


def test_one_full_receiver_holds_up_nobody_else(unix):
    """On an unconnected Unix socket what waits for one is passed by the others, and the loop does not spin."""
    stuck, free = unix.raw(), unix.raw()
    sender = unix.open()
    held = unix.fill(stuck)
    for number in range(5):
        sender.endpoint.sendto(b"%d" % number, stuck.getsockname())
    sender.endpoint.sendto(b"b", free.getsockname())
    assert unix.receive(free)[0] == b"b"
    turns = unix.reactor.turns
    unix.reactor.call_later(0.1, unix.reactor.stop)
    unix.reactor.run()
    assert unix.reactor.turns - turns < 20
    sender.endpoint.close()
    got = [unix.receive(stuck)[0] for _ in range(held + 5)]
    assert got[held:] == [b"0", b"1", b"2", b"3", b"4"]
    turn_until(unix.reactor, lambda: sender.ended)
    assert sender.lost is None


def test_what_waits_for_a_full_receiver_keeps_its_order(unix):
    """Asked in vain once, then sent."""
    receiver, sender = unix.raw(), unix.open()
    held = unix.fill(receiver)
    for data in (b"1", b"2", b"3"):
        sender.endpoint.sendto(data, receiver.getsockname())
    unix.reactor.run_once(1)
    assert sender.endpoint.report.sent == 0
    for _ in range(held):
        receiver.recv(100)
    assert [unix.receive(receiver)[0] for _ in range(3)] == [b"1", b"2", b"3"]


def test_more_full_receivers_than_a_turn_sends_hold_up_nobody(unix):
    """A receiver that is asked in vain costs none of the budget, and a long queue behind it needs no waiting."""
    sender = unix.open(options=Options(datagrams=Datagrams(sends_per_flush=2)))
    for _ in range(3):
        full = unix.raw()
        unix.fill(full)
        sender.endpoint.sendto(b"x", full.getsockname())
    assert sender.endpoint.report.sent == 0
    free = unix.raw()
    for number in range(8):
        sender.endpoint.sendto(b"%d" % number, free.getsockname())
    assert [unix.receive(free)[0] for _ in range(8)] == [b"%d" % number for number in range(8)]


# Ending


def test_close_sends_what_waits_and_receives_no_more(unix):
    """Then `connection_lost(None)`, once."""
    receiver = unix.raw()
    sender = unix.open(remote=receiver.getsockname())
    while not sender.endpoint.get_write_buffer_size():
        sender.endpoint.sendto(b"x")
    sender.endpoint.sendto(b"last")
    sender.endpoint.close()
    sender.endpoint.close()
    assert sender.endpoint.is_closing()
    with pytest.raises(WriteAfterEnd, match=r"ended by close\(\)"):
        sender.endpoint.sendto(b"late")
    receiver.sendto(b"unheard", address_of(sender))
    unix.reactor.run_once(0)
    unix.reactor.run_once(0)
    got = [unix.receive(receiver)[0] for _ in range(sender.endpoint.report.taken)]
    turn_until(unix.reactor, lambda: sender.ended)
    assert got[-1] == b"last"
    assert sender.lost is None
    assert sender.received == []
    assert sender.endpoint.report.unsent == 0


def test_close_gives_up_when_the_kernel_takes_nothing(unix):
    """After `Deadlines.flush` seconds without progress, and says how much was lost."""
    sender = unix.open(remote=unix.raw().getsockname(), options=Options(deadlines=Deadlines(flush=0.05)))
    while not sender.endpoint.get_write_buffer_size():
        sender.endpoint.sendto(b"x")
    sender.endpoint.close()
    turn_until(unix.reactor, lambda: sender.ended)
    assert isinstance(sender.lost, FlushTimeout)
    assert sender.endpoint.report.unsent == 1


def test_abort_drops_what_waits_and_counts_it(unix):
    """`connection_lost` says that it was this side's decision."""
    sender = unix.open(remote=unix.raw().getsockname())
    while not sender.endpoint.get_write_buffer_size():
        sender.endpoint.sendto(b"x")
    sender.endpoint.abort()
    assert sender.calls == ["connection_made"]
    turn_until(unix.reactor, lambda: sender.ended)
    assert isinstance(sender.lost, Aborted)
    assert sender.endpoint.report.unsent == 1
    assert sender.endpoint.report.reason is sender.lost
    with pytest.raises(WriteAfterEnd):
        sender.endpoint.sendto(b"late")


def test_the_socket_file_goes_with_the_endpoint_and_a_stale_one_is_replaced(unix):
    """As with a listener; a live one is EADDRINUSE."""
    path = str(unix.folder / "server")
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stale.bind(path)
    stale.close()
    protocol = Recorder()
    endpoint = unix.reactor.datagram(lambda: protocol, path=path)
    with pytest.raises(OSError, match="cannot receive datagrams at") as caught:
        unix.reactor.datagram(Recorder, path=path)
    assert caught.value.errno == errno.EADDRINUSE
    turn_until(unix.reactor, lambda: protocol.calls)
    endpoint.close()
    turn_until(unix.reactor, lambda: protocol.ended)
    assert not os.path.exists(path)


def test_a_drain_asks_endpoints_to_end(place):
    """`draining` closes by default, and the drain waits for it."""
    protocol = place.open()
    assert place.reactor.datagrams == (protocol.endpoint,)
    assert place.reactor.drain(5).finished
    assert protocol.lost is None


def test_a_drain_leaves_the_others_their_say(unix):
    """Who does not know of the end yet may send until `connection_lost`; what waits is sent."""
    receiver = unix.raw()
    sender = unix.open(remote=receiver.getsockname())
    while not sender.endpoint.get_write_buffer_size():
        sender.endpoint.sendto(b"x")
    unix.reactor.call_soon(unix.reactor.drain, 5)
    turn_until(unix.reactor, sender.endpoint.is_closing)
    sender.endpoint.sendto(b"last")
    got = [unix.receive(receiver)[0] for _ in range(sender.endpoint.report.taken)]
    assert got[-1] == b"last"
    turn_until(unix.reactor, lambda: sender.ended)
    assert sender.lost is None
    with pytest.raises(WriteAfterEnd, match=r"connection_lost\(\)"):
        sender.endpoint.sendto(b"late")


def test_a_drain_cuts_an_endpoint_that_does_not_end(unix):
    """At the deadline, with what it lost."""

    class Stubborn(Recorder):
        def draining(self):
            self.calls.append("draining")

    protocol = unix.open(Stubborn())
    assert unix.reactor.drain(0.05).finished
    assert protocol.calls == ["connection_made", "draining", "connection_lost"]
    assert isinstance(protocol.lost, Aborted)


def test_a_closed_reactor_ends_its_endpoints(udp):
    """And tells them."""
    protocol = udp.open()
    udp.reactor.close()
    assert isinstance(protocol.lost, Aborted)


def test_an_endpoint_closed_before_it_began_makes_no_protocol(udp):
    """Nobody is told of what never was."""
    udp.reactor.datagram(lambda: pytest.fail("made"), ("127.0.0.1", 0)).close()
    udp.reactor.run()


def test_a_descriptor_closed_by_somebody_else_is_told(udp):
    """It ends the endpoint, with EBADF, at the next use."""
    protocol = udp.open(remote=udp.raw().getsockname())
    os.close(protocol.endpoint.get_extra_info("socket").fileno())
    protocol.endpoint.sendto(b"x")
    turn_until(udp.reactor, lambda: protocol.ended)
    assert protocol.lost.errno == errno.EBADF
    assert protocol.endpoint.report.unsent == 1


# Exceptions


@pytest.mark.logs_errors
def test_one_bad_datagram_does_not_end_a_server(udp):
    """The exception is logged and counted; the next sender is served."""

    class Fragile(Echo):
        def datagram_received(self, data, addr):
            if data == b"bad":
                raise ZeroDivisionError
            super().datagram_received(data, addr)

    server = udp.open(Fragile())
    client = udp.raw()
    client.sendto(b"bad", address_of(server))
    client.sendto(b"good", address_of(server))
    assert udp.receive(client)[0] == b"good"
    assert server.endpoint.report.failures == 1
    assert not server.ended


@pytest.mark.logs_errors
def test_a_failing_error_received_keeps_no_other_error_back(udp):
    """Each is told, and then the end."""

    class Fragile(Recorder):
        def error_received(self, exc):
            super().error_received(exc)
            raise ZeroDivisionError

    client = udp.open(Fragile(), remote=udp.raw().getsockname())
    client.endpoint.sendto(bytes(65508))
    client.endpoint.sendto(bytes(65508))
    client.endpoint.close()
    turn_until(udp.reactor, lambda: client.ended)
    assert client.calls == ["connection_made", "error_received", "error_received", "connection_lost"]
    assert client.endpoint.report.failures == 2


@pytest.mark.logs_errors
def test_a_protocol_that_fails_to_begin_ends_its_endpoint(udp):
    """With its own exception; a factory that fails leaves nothing behind."""

    class Unborn(Recorder):
        def connection_made(self, endpoint):
            super().connection_made(endpoint)
            raise ZeroDivisionError

    protocol = udp.open(Unborn())
    turn_until(udp.reactor, lambda: protocol.ended)
    assert isinstance(protocol.lost, ZeroDivisionError)
    udp.reactor.datagram(lambda: 1 // 0, ("127.0.0.1", 0))
    turn_until(udp.reactor, lambda: not udp.reactor.datagrams)


@pytest.mark.logs_errors
def test_a_failing_draining_ends_in_order_all_the_same(udp):
    """The drain does not wait for its deadline."""

    class Fragile(Recorder):
        def draining(self):
            raise ZeroDivisionError

    protocol = udp.open(Fragile())
    assert udp.reactor.drain(30).seconds < 10
    assert protocol.lost is None


# What cannot be meant


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "exactly one kind"),
        ({"local": ("127.0.0.1", 0), "path": "x"}, ValueError, "exactly one kind"),
        ({"local": ("localhost", 0)}, ValueError, "resolve it first"),
        ({"remote": ("example.org", 53)}, ValueError, "resolve it first"),
        ({"local": ("127.0.0.1", 70000)}, ValueError, "a port is"),
        ({"local": ("127.0.0.1", 0), "remote": ("::1", 9)}, ValueError, "different families"),
        ({"local": ("127.0.0.1", 0), "options": None}, TypeError, "must be a reactor.Options"),
        ({"local": ("192.0.2.1", 0)}, OSError, "cannot receive datagrams at 192.0.2.1:0"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(reactor, arguments, error, message):
    """With words that say what is wrong, and no descriptor left open."""
    with pytest.raises(error, match=message):
        reactor.datagram(Recorder, **arguments)
    with pytest.raises(TypeError, match="makes a protocol"):
        reactor.datagram(None, ("127.0.0.1", 0))


def test_a_stream_socket_is_refused(reactor):
    """It stays its owner's."""
    with socket.socket() as sock, pytest.raises(ValueError, match="a datagram socket is needed"):
        reactor.datagram(Recorder, sock=sock)


@pytest.mark.parametrize(
    "address",
    [None, ("localhost", 9), ("127.0.0.1", "9"), ("127.0.0.1", 70000), ("::1", 9), ["127.0.0.1", 9], ("127.0.0.1",), 9],
)
def test_an_address_that_would_block_or_fail_is_refused(udp, address):
    """A name's look-up blocks, so `sendto` takes numbers only."""
    protocol = udp.open()
    with pytest.raises(ValueError, match="numeric address of its family"):
        protocol.endpoint.sendto(b"x", address)
    with pytest.raises(TypeError, match="bytes-like"):
        protocol.endpoint.sendto("text", ("127.0.0.1", 9))


# Options


def test_broadcast_is_off_unless_asked_for(udp):
    """Without it the kernel's refusal is told."""
    careful = udp.open()
    careful.endpoint.sendto(b"all", ("255.255.255.255", 9))
    turn_until(udp.reactor, lambda: careful.errors)
    assert [exc.errno for exc in careful.errors] == [errno.EACCES]
    loud = udp.open(options=Options(datagrams=Datagrams(broadcast=True)))
    assert loud.endpoint.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)


def test_a_port_can_be_shared_when_asked_for(reactor):
    """Otherwise it is taken."""
    shared = Options(datagrams=Datagrams(reuse_port=True))
    first = reactor.datagram(Recorder, ("127.0.0.1", 0), options=shared)
    address = first.get_extra_info("sockname")
    reactor.datagram(Recorder, address, options=shared)
    with pytest.raises(OSError, match="cannot receive datagrams at"):
        reactor.datagram(Recorder, address)


def test_buffer_sizes_are_asked_for(reactor):
    """Linux doubles what is asked for, for its own book-keeping."""
    sized = Options(sockets=Sockets(send_buffer_bytes=20000, receive_buffer_bytes=30000))
    sock = reactor.datagram(Recorder, ("127.0.0.1", 0), options=sized).get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= 20000
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 30000


@pytest.mark.skipif(sys.platform != "linux", reason="the loopback interface has another name elsewhere")
@pytest.mark.parametrize("kind", ["udp4", "udp6"])
def test_members_of_a_group_receive_what_is_sent_to_it(reactor, tmp_path, kind):
    """On the interface asked for; a group that is none is refused with its name."""
    group, everywhere = ("224.0.0.254", "0.0.0.0") if kind == "udp4" else ("ff01::4242", "::")
    options = Options(datagrams=Datagrams(groups=(Group(address=group, interface="lo"),)))
    first, second = Recorder(), Recorder()
    endpoint = reactor.datagram(lambda: first, (everywhere, 0), options=options)
    port = endpoint.get_extra_info("sockname")[1]
    reactor.datagram(lambda: second, (everywhere, port), options=options)
    index = socket.if_nametoindex("lo")
    with socket.socket(FAMILIES[kind], socket.SOCK_DGRAM) as sender:
        if kind == "udp4":
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("@8xi", index))
        else:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        try:
            sender.sendto(b"to all", (group, port))
        except OSError as exc:
            pytest.skip(f"no multicast on the loopback interface here: {exc}")
    turn_until(reactor, lambda: first.received and second.received)
    assert first.data == second.data == [b"to all"]
    wrong = Options(datagrams=Datagrams(groups=(Group(address="127.0.0.1"),)))
    with pytest.raises(OSError, match="cannot join Group"):
        reactor.datagram(Recorder, ("127.0.0.1", 0), options=wrong)
