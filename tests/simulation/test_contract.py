"""What a kernel does, each fact in one body, run against the machine's own kernel and against the simulated one.

Where they differ, the simulation is wrong. K numbers are those of the facts the project is built on.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from contextlib import contextmanager
from functools import partial

import attrs
import pytest

from reactor.addresses import Address
from reactor.options import Limits, Options, Sockets
from reactor.pollers import ERROR, HANGUP, READ, WRITE
from reactor.syscalls import NO_SIGNAL
from reactor.system import System
from reactor.testing import DescriptorLimit, SimulatedSystem
from tests.simulation.kernels import (
    PATIENCE,
    RECVERR,
    SO_TIMESTAMPING,
    TIMES_OF_SENDS,
    Kernel,
    is_known_to_tcp,
    tell_host_unreachable,
)

SMALL = Options(sockets=Sockets(send_buffer_bytes=4096, receive_buffer_bytes=4096))
IMPATIENT = Options(sockets=Sockets(send_buffer_bytes=4096, receive_buffer_bytes=4096, user_timeout=0.5))


class Streams(Kernel):
    """Listening sockets and connections of one transport."""

    def __init__(self, system: System, transport: str, path: str) -> None:
        super().__init__(system)
        self.transport = transport
        self.path = path
        self.copies: list[int] = []

    def copy(self, sock) -> None:
        """Somebody else has a descriptor of it, too, as after a fork."""
        if isinstance(self.system, SimulatedSystem):
            sock.copies += 1
        else:
            self.copies.append(os.dup(sock.fileno()))

    def close(self) -> None:
        while self.copies:
            os.close(self.copies.pop())
        super().close()

    @property
    def tcp(self) -> bool:
        return self.transport != "unix"

    def listen(self, options: Options | None = None):
        options = options or Options()
        if not self.tcp:
            (listening,) = self.system.listen_unix(self.path, options)
        else:
            host = "127.0.0.1" if self.transport == "tcp4" else "::1"
            (listening,) = self.system.listen_tcp(host, 0, options)
        self.opened.append(listening)
        return listening

    def connect(self, listening, options: Options | None = None):
        """A connected client's socket."""
        client = self.dial(Address(listening.family, listening.getsockname()), options)
        self.system.finish_connect(client)
        return client

    def dial(self, address: Address, options: Options | None = None):
        """A client's socket that has its answer, whatever it is."""
        client = self.system.start_connect(address, options or Options())
        self.opened.append(client)
        self.wait(client, WRITE)
        return client

    def accept(self, listening):
        self.wait(listening, READ)
        server, _ = self.system.accept(listening)
        self.opened.append(server)
        return server

    def pair(self, options: Options | None = None):
        """Both ends of a new connection."""
        listening = self.listen(options)
        client = self.connect(listening, options)
        server = self.accept(listening)
        self.system.close_listening(listening)
        return server, client

    def host_unreachable(self, sock) -> None:
        """ICMP says it of the peer of this connection."""
        if isinstance(self.system, SimulatedSystem):
            sock.unreachable(errno.EHOSTUNREACH)
        else:
            tell_host_unreachable(sock)

    def take_time_stamp(self, sock) -> None:
        """One entry less in the error queue, which must not be empty."""
        sock.recvmsg(1, 1000, socket.MSG_ERRQUEUE)

    def wait(self, sock, interest: int) -> int:
        events = self.events(sock, interest, PATIENCE)
        assert events & (interest | ERROR | HANGUP), "nothing happened"
        return events

    def recv(self, sock, most: int = 65536) -> bytes:
        """Waits until a read has an answer."""
        self.wait(sock, READ)
        return sock.recv(most)

    def fill(self, sock) -> int:
        """Sends until the kernel takes no more; returns how much that was."""
        total, quiet = 0, 0
        while quiet < 2:
            try:
                total += sock.send(b"x" * 1024)
                quiet = 0
            except BlockingIOError:
                # What is on its way may still arrive and make room.
                quiet = 0 if self.events(sock, WRITE, 0.1) else quiet + 1
        return total

    def fill_until_given_up(self, sock) -> int:
        """Sends until the kernel gives the connection up; returns how much it had taken."""
        total = self.fill(sock)
        self.eventually(lambda: self.events(sock, 0) & ERROR)
        assert self.so_error(sock) == errno.ETIMEDOUT
        return total

    def has_orphan_of(self, client) -> bool:
        """Whether the kernel at the other end still sends what its program had written."""
        if isinstance(self.system, SimulatedSystem):
            return not client.peer.dead
        return is_known_to_tcp(client.getpeername(), client.getsockname())

    def send_for_ever(self, sock) -> None:
        """Sends whenever it can, until an error ends it."""
        while True:
            try:
                sock.send(b"x" * 1024)
            except BlockingIOError:
                self.wait(sock, WRITE)

    def drain(self, sock) -> tuple[int, str]:
        """Reads to the end: how much, and how it ended."""
        total = 0
        while True:
            try:
                data = self.recv(sock)
            except ConnectionResetError:
                return total, "reset"
            if not data:
                return total, "EOF"
            total += len(data)


@pytest.fixture
def make_kernel(keep, tmp_path):
    return lambda transport: keep(Streams, transport, str(tmp_path / "socket"))


@pytest.fixture
def kernel(make_kernel, transport):
    return make_kernel(transport)


@pytest.fixture
def tcp(make_kernel):
    return make_kernel("tcp4")


@pytest.fixture
def unix(make_kernel):
    return make_kernel("unix")


# Bytes and ends in order


def test_bytes_arrive_in_order_both_ways(kernel):
    """What one side sends, the other reads."""
    server, client = kernel.pair()
    assert client.send(b"ping") == 4
    assert kernel.recv(server) == b"ping"
    assert server.sendmsg([b"po", b"ng"]) == 4
    assert kernel.recv(client, 2) == b"po"
    assert kernel.recv(client) == b"ng"


def test_an_empty_socket_says_eagain(kernel):
    """Nothing to read is BlockingIOError, and the poller says writable only."""
    server, _ = kernel.pair()
    with pytest.raises(BlockingIOError):
        server.recv(10)
    assert kernel.events(server, READ | WRITE) == WRITE


def test_an_interest_of_zero_tells_nothing_of_data(kernel):
    """Unread data is no event for who did not ask."""
    server, client = kernel.pair()
    client.send(b"x")
    kernel.wait(server, READ)
    assert kernel.events(server, 0) == 0


def test_readiness_is_level_triggered(kernel):
    """What was told and not read is told again."""
    server, client = kernel.pair()
    client.send(b"xy")
    assert kernel.wait(server, READ) == READ
    assert kernel.wait(server, READ) == READ
    assert server.recv(1) == b"x"
    assert kernel.wait(server, READ) == READ


def test_a_fin_reads_as_an_empty_read_behind_the_data(kernel):
    """`b""` comes after the last byte, every time it is asked."""
    server, client = kernel.pair()
    client.send(b"last")
    kernel.system.shutdown_output(client)
    assert kernel.recv(server) == b"last"
    assert kernel.recv(server) == b""
    assert kernel.recv(server) == b""
    assert kernel.system.error(server) is None


def test_after_our_shutdown_a_send_is_epipe_and_reading_goes_on(kernel):
    """shutdown(SHUT_WR) ends one side."""
    server, client = kernel.pair()
    kernel.system.shutdown_output(server)
    with pytest.raises(BrokenPipeError):
        server.send(b"x")
    client.send(b"still")
    assert kernel.recv(server) == b"still"


def test_a_second_shutdown_changes_nothing(kernel):
    """It does not raise while the peer's side is open."""
    server, client = kernel.pair()
    kernel.system.shutdown_output(server)
    kernel.system.shutdown_output(server)
    assert kernel.recv(client) == b""


def test_half_closed_the_reply_arrives(kernel):
    """The HOWTO's exchange: the client ends its output and still gets its reply."""
    server, client = kernel.pair()
    client.send(b"request")
    kernel.system.shutdown_output(client)
    assert kernel.recv(server) == b"request"
    assert kernel.recv(server) == b""
    server.send(b"reply")
    kernel.system.close(server)
    assert kernel.recv(client) == b"reply"
    assert kernel.recv(client) == b""


def test_a_closed_descriptor_is_ebadf_and_minus_one(kernel):
    """Using what was closed is an error."""
    server, _ = kernel.pair()
    kernel.system.close(server)
    assert server.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        server.recv(1)
    assert caught.value.errno == errno.EBADF


def test_a_freed_descriptor_number_is_given_away_again(kernel):
    """The lowest free number comes first."""
    listening = kernel.listen()
    first, second = kernel.connect(listening), kernel.connect(listening)
    number = first.fileno()
    assert second.fileno() > number
    kernel.system.close(first)
    assert kernel.connect(listening).fileno() == number


def test_the_poller_forgets_a_descriptor_that_was_closed(tcp):
    """epoll says nothing of it, and registering its successor works."""
    server, client = tcp.pair()
    number = server.fileno()
    tcp.poller.register(number, READ)
    tcp.system.close(server)
    client.send(b"x")
    assert number not in dict(tcp.poller.poll(0))


def test_registering_twice_or_changing_the_unregistered_is_an_error(tcp):
    """The poller is strict."""
    server, client = tcp.pair()
    tcp.poller.register(server.fileno(), READ)
    with pytest.raises(FileExistsError):
        tcp.poller.register(server.fileno(), READ)
    with pytest.raises(FileNotFoundError):
        tcp.poller.modify(client.fileno(), READ)
    tcp.poller.unregister(server.fileno())


# Buffers


def test_a_full_buffer_says_eagain_and_room_makes_it_writable(kernel):
    """A peer that does not read stops us; one that reads lets us go on."""
    server, client = kernel.pair(Options(sockets=Sockets(send_buffer_bytes=65536, receive_buffer_bytes=65536)))
    total = kernel.fill(server)
    assert total > 0
    assert not kernel.events(server, WRITE)
    got = 0
    while got < total:
        got += len(kernel.recv(client))
    assert kernel.wait(server, WRITE) & WRITE
    assert server.send(b"more") == 4
    assert kernel.recv(client) == b"more"


def test_a_send_takes_what_there_is_room_for(kernel):
    """A partial send says how much."""
    server, client = kernel.pair(SMALL)
    sent = server.send(b"x" * 10_000_000)
    assert 0 < sent < 10_000_000
    assert len(kernel.recv(client)) > 0


def test_a_user_timeout_counts_while_the_window_is_closed(tcp):
    """TCP_USER_TIMEOUT: a peer that reads nothing for so long is given up, also when its kernel still answers."""
    options = attrs.evolve(SMALL, sockets=attrs.evolve(SMALL.sockets, user_timeout=0.5))
    server, client = tcp.pair(options)
    with pytest.raises(TimeoutError):
        tcp.send_for_ever(server)
    assert tcp.events(server, 0) == HANGUP
    assert tcp.system.outstanding(server) > 0
    assert client.recv(1) == b"x"


@pytest.mark.parametrize("ended", [False, True], ids=["open", "peer-ended-first"])
def test_a_kernel_that_gives_up_tells_its_program_and_not_the_peer(tcp, ended):
    """ETIMEDOUT and CLOSED on one side; the other is still connected, and meets a reset behind what had arrived."""
    server, client = tcp.pair(IMPATIENT)
    if ended:
        tcp.system.shutdown_output(client)
        assert tcp.recv(server) == b""
    total = tcp.fill_until_given_up(server)
    assert tcp.system.tcp_state(server) == "CLOSED"
    assert tcp.so_error(server) == 0
    outstanding = tcp.system.outstanding(server)
    assert 0 < outstanding < total
    assert tcp.system.tcp_state(client) == ("FIN-WAIT-2" if ended else "ESTABLISHED")
    assert not tcp.events(client, 0)
    assert tcp.drain(client) == (total - outstanding, "reset")


@pytest.mark.parametrize("ended", [False, True], ids=["open", "peer-ended-first"])
def test_what_an_orphan_had_accepted_is_lost_when_the_kernel_gives_it_up(tcp, ended):
    """The close was in order and everything had been taken; the peer read nothing for too long (K22)."""
    server, client = tcp.pair(IMPATIENT)
    if ended:
        tcp.system.shutdown_output(client)
        assert tcp.recv(server) == b""
    total = tcp.fill(server)
    tcp.system.close(server)
    tcp.eventually(lambda: not tcp.has_orphan_of(client))
    assert tcp.system.tcp_state(client) == ("FIN-WAIT-2" if ended else "ESTABLISHED")
    got, ending = tcp.drain(client)
    assert ending == "reset"
    assert 0 < got < total


def test_a_closed_window_alone_is_no_reason_to_give_up_what_has_a_program(tcp):
    """Without TCP_USER_TIMEOUT the connection lives as long as its peer answers, also when the peer ended first."""
    server, client = tcp.pair(SMALL)
    tcp.system.shutdown_output(client)
    assert tcp.recv(server) == b""
    total = tcp.fill(server)
    assert tcp.so_error(server) == 0
    assert tcp.system.tcp_state(server) == "CLOSE-WAIT"
    tcp.system.shutdown_output(server)
    assert tcp.drain(client) == (total, "EOF")


def test_outstanding_falls_to_zero_when_the_peer_has_it(tcp):
    """SIOCOUTQ counts what is not acknowledged (K9)."""
    server, client = tcp.pair()
    server.send(b"x" * 1000)
    tcp.eventually(lambda: tcp.system.outstanding(server) == 0)
    assert len(tcp.recv(client)) == 1000


def test_outstanding_counts_our_fin_behind_a_closed_window(tcp):
    """The FIN is one more, and does not arrive before the data (K9)."""
    server, client = tcp.pair(SMALL)
    tcp.fill(server)
    before = tcp.system.outstanding(server)
    assert before > 0
    tcp.system.shutdown_output(server)
    assert tcp.system.outstanding(server) == before + 1
    assert tcp.system.tcp_state(server) == "FIN-WAIT-1"
    assert tcp.drain(client)[1] == "EOF"
    tcp.eventually(lambda: tcp.system.outstanding(server) == 0)
    assert tcp.system.tcp_state(server) == "FIN-WAIT-2"


def test_a_unix_socket_knows_only_that_everything_was_read(unix):
    """Zero means read; anything else means nothing (scenario 62)."""
    server, client = unix.pair()
    server.send(b"xyz")
    assert unix.system.outstanding(server) is None
    assert unix.recv(client) == b"xyz"
    assert unix.system.outstanding(server) == 0


def test_the_states_of_rfc_9293(tcp):
    """The kernel's own words for the two sides of an end in order."""
    server, client = tcp.pair()
    state = tcp.system.tcp_state
    assert state(server) == state(client) == "ESTABLISHED"
    tcp.system.shutdown_output(client)
    tcp.eventually(lambda: state(client) == "FIN-WAIT-2")
    assert state(server) == "CLOSE-WAIT"
    tcp.system.shutdown_output(server)
    tcp.eventually(lambda: state(server) == "CLOSED")
    assert tcp.recv(client) == b""


# Closing (K1 to K4)


def test_closing_with_unread_input_resets_the_peer(tcp):
    """One unread byte, and what the kernel had accepted is thrown away (K1)."""
    server, client = tcp.pair(SMALL)
    total = tcp.fill(server)
    client.send(b"?")
    tcp.wait(server, READ)
    tcp.system.close(server)
    got, ending = tcp.drain(client)
    assert ending == "reset"
    assert got < total


def test_late_bytes_after_a_close_reset_the_connection(tcp):
    """Reading everything before the close is not enough (K2)."""
    server, client = tcp.pair(SMALL)
    total = tcp.fill(server)
    tcp.system.close(server)
    client.send(b"late")
    got, ending = tcp.drain(client)
    assert ending == "reset"
    assert got < total


def test_shutdown_read_on_and_close_loses_nothing(tcp):
    """The whole case for lingering (K3)."""
    server, client = tcp.pair(SMALL)
    total = tcp.fill(server)
    tcp.system.shutdown_output(server)
    client.send(b"late")
    assert tcp.recv(server) == b"late"
    assert tcp.drain(client) == (total, "EOF")
    tcp.system.close(client)
    assert tcp.recv(server) == b""


def test_a_close_in_order_sends_on_what_was_accepted(tcp):
    """The kernel keeps its word when nobody speaks (K3)."""
    server, client = tcp.pair(SMALL)
    total = tcp.fill(server)
    tcp.system.close(server)
    assert tcp.drain(client) == (total, "EOF")


# Copies of a descriptor: duplicates, and those that a fork makes (K20)


def test_a_close_says_nothing_while_there_is_a_copy(kernel):
    """The peer waits on."""
    server, client = kernel.pair()
    kernel.copy(server)
    kernel.system.close(server)
    assert kernel.events(client, READ, 0.05) == 0


def test_our_fin_leaves_although_there_is_a_copy(kernel):
    """It is a shutdown; behind what was sent."""
    server, client = kernel.pair()
    kernel.copy(server)
    server.send(b"last words")
    kernel.system.finish(server)
    assert kernel.recv(client) == b"last words"
    assert kernel.recv(client) == b""


def test_our_fin_cannot_leave_after_a_reset(tcp):
    """The shutdown says so; to finish is to close then, and raises nothing."""
    server, client = tcp.pair()
    tcp.system.reset(client)
    tcp.wait(server, READ)
    with pytest.raises(OSError):
        tcp.system.shutdown_output(server)
    tcp.system.finish(server)


@pytest.mark.parametrize("before", ["nothing", "unread", "unsent"])
def test_our_reset_leaves_although_there_is_a_copy(tcp, before):
    """At once, and not only when the last copy is closed; unread input and unsent output are no matter."""
    server, client = tcp.pair(SMALL)
    tcp.copy(server)
    if before == "unread":
        client.send(b"unread")
        tcp.wait(server, READ)
    elif before == "unsent":
        tcp.fill(server)
    tcp.system.reset(server)
    assert tcp.drain(client)[1] == "reset"


def test_an_end_at_once_is_told_over_a_unix_socket_although_there_is_a_copy(unix):
    """The peer reads what was sent, then the end; it cannot send any more."""
    server, client = unix.pair()
    unix.copy(server)
    server.send(b"last words")
    unix.system.reset(server)
    assert unix.recv(client) == b"last words"
    assert unix.recv(client) == b""
    with pytest.raises(BrokenPipeError):
        client.send(b"x", NO_SIGNAL)


# Resets (K5 to K8, K12, K13)


def test_a_reset_is_told_once_by_recv_and_then_looks_like_a_fin(tcp):
    """ECONNRESET, then b"" (K5)."""
    server, client = tcp.pair()
    tcp.system.reset(client)
    tcp.wait(server, READ)
    with pytest.raises(ConnectionResetError):
        server.recv(10)
    assert server.recv(10) == b""
    assert tcp.system.error(server) is None
    with pytest.raises(BrokenPipeError):
        server.send(b"x")


def test_a_reset_is_told_once_by_send(tcp):
    """The send eats the error; the read after it knows nothing (K5)."""
    server, client = tcp.pair()
    tcp.system.reset(client)
    tcp.wait(server, READ)
    with pytest.raises(ConnectionResetError):
        server.send(b"x")
    assert server.recv(10) == b""


def test_a_reset_is_told_once_by_so_error(tcp):
    """SO_ERROR clears it (K5)."""
    server, client = tcp.pair()
    tcp.system.reset(client)
    tcp.wait(server, READ)
    assert tcp.system.error(server).errno == errno.ECONNRESET
    assert tcp.system.error(server) is None
    assert server.recv(10) == b""


def test_data_before_a_reset_stays_readable(tcp):
    """First the data, then the error (K6)."""
    server, client = tcp.pair()
    client.send(b"last words")
    tcp.wait(server, READ)
    tcp.system.reset(client)
    tcp.eventually(lambda: tcp.events(server, 0) & ERROR)
    assert server.recv(100) == b"last words"
    with pytest.raises(ConnectionResetError):
        server.recv(100)


def test_a_failed_send_leaves_the_data_readable(tcp):
    """The peer's words survive our error (K6, R5)."""
    server, client = tcp.pair()
    client.send(b"last words")
    tcp.wait(server, READ)
    tcp.system.reset(client)
    tcp.eventually(lambda: tcp.events(server, 0) & ERROR)
    with pytest.raises(ConnectionResetError):
        server.send(b"x")
    assert server.recv(100) == b"last words"
    assert server.recv(100) == b""


GONE = READ | WRITE | HANGUP


def test_data_before_a_reset_stays_readable_after_so_error_was_asked(tcp):
    """SO_ERROR takes the error and leaves the data; the read behind it gives b"" (K6, K24)."""
    server, client = tcp.pair()
    client.send(b"last words")
    tcp.wait(server, READ)
    tcp.system.reset(client)
    tcp.eventually(lambda: tcp.events(server, 0) & ERROR)
    assert tcp.events(server, READ | WRITE) == GONE | ERROR
    assert tcp.so_error(server) == errno.ECONNRESET
    assert tcp.so_error(server) == 0
    for rest in (b"last ", b"words", b"", b""):
        assert tcp.events(server, 0) == HANGUP
        assert tcp.events(server, READ | WRITE) == GONE
        assert server.recv(5) == rest
    assert tcp.system.tcp_state(server) == "CLOSED"


def test_data_before_a_reset_stays_readable_after_a_send_has_failed(tcp):
    """The send takes the error; the poller says readable until the last byte and after it (K6, K24)."""
    server, client = tcp.pair()
    client.send(b"last words")
    tcp.wait(server, READ)
    tcp.system.reset(client)
    tcp.eventually(lambda: tcp.events(server, 0) & ERROR)
    with pytest.raises(ConnectionResetError):
        server.send(b"x")
    with pytest.raises(BrokenPipeError):
        server.send(b"x")
    assert tcp.so_error(server) == 0
    for rest in (b"last ", b"words", b""):
        assert tcp.events(server, READ | WRITE) == GONE
        assert server.recv(5) == rest


def test_the_error_stays_behind_the_data_of_a_reset_however_long_nobody_reads(tcp):
    """ERROR and HANGUP are told all the time; reading takes the data first, and then the error (K6)."""
    server, client = tcp.pair()
    client.send(b"last words")
    tcp.wait(server, READ)
    tcp.system.reset(client)
    tcp.eventually(lambda: tcp.events(server, 0) & ERROR)
    assert server.recv(5) == b"last "
    assert tcp.events(server, 0) == ERROR | HANGUP
    assert server.recv(5) == b"words"
    assert tcp.events(server, 0) == ERROR | HANGUP
    with pytest.raises(ConnectionResetError):
        server.recv(5)
    assert tcp.events(server, 0) == HANGUP


def test_data_and_a_fin_before_a_reset_stay_readable(tcp):
    """The end of the stream comes in order, and only SO_ERROR or a send tells the rest, as EPIPE (K6, K7)."""
    server, client = tcp.pair()
    client.send(b"last words")
    tcp.system.shutdown_output(client)
    tcp.wait(server, READ)
    tcp.system.reset(client)
    tcp.eventually(lambda: tcp.events(server, 0) & ERROR)
    assert server.recv(5) == b"last "
    assert tcp.events(server, READ | WRITE) == GONE | ERROR
    assert tcp.so_error(server) == errno.EPIPE
    assert server.recv(5) == b"words"
    assert server.recv(5) == b""
    assert tcp.events(server, READ | WRITE) == GONE


def test_a_peek_leaves_the_data_and_takes_the_error(kernel):
    """MSG_PEEK answers as a read would; of an error that is all there is, too."""
    server, client = kernel.pair()
    server.send(b"never read")
    client.send(b"last words")
    kernel.wait(server, READ)
    kernel.wait(client, READ)
    kernel.system.close(client)
    kernel.eventually(lambda: kernel.events(server, 0) & ERROR)
    assert server.recv(4, socket.MSG_PEEK) == b"last"
    assert server.recv(100) == b"last words"
    with pytest.raises(ConnectionResetError):
        server.recv(1, socket.MSG_PEEK)
    assert server.recv(1, socket.MSG_PEEK) == b""


def test_a_shutdown_that_fails_after_a_reset_takes_nothing(tcp):
    """ENOTCONN; the data and the error wait as before."""
    server, client = tcp.pair()
    client.send(b"last words")
    tcp.wait(server, READ)
    tcp.system.reset(client)
    tcp.eventually(lambda: tcp.events(server, 0) & ERROR)
    with pytest.raises(OSError, match="not connected"):
        tcp.system.shutdown_output(server)
    assert server.recv(100) == b"last words"
    with pytest.raises(ConnectionResetError):
        server.recv(100)


# Soft errors (K18)


def test_a_soft_error_is_told_by_so_error_alone_and_once(tcp):
    """No event, no failed call; the connection goes on in its state (RFC 9293, MUST-56)."""
    server, client = tcp.pair()
    client.send(b"hi")
    tcp.wait(server, READ)
    tcp.host_unreachable(server)
    assert tcp.events(server, READ | WRITE) == READ | WRITE
    assert server.recv(10) == b"hi"
    with pytest.raises(BlockingIOError):
        server.recv(10)
    assert tcp.so_error(server) == errno.EHOSTUNREACH
    assert tcp.so_error(server) == 0
    assert tcp.system.tcp_state(server) == "ESTABLISHED"
    assert server.send(b"still here") == 10
    assert tcp.recv(client) == b"still here"


def test_a_send_does_not_tell_a_soft_error_and_its_acknowledgement_takes_it_back(tcp):
    """What was said has been disproved."""
    server, client = tcp.pair()
    tcp.host_unreachable(server)
    assert server.send(b"still here") == 10
    tcp.eventually(lambda: tcp.system.outstanding(server) == 0)
    assert tcp.so_error(server) == 0
    assert tcp.recv(client) == b"still here"


def test_the_peers_fin_takes_a_soft_error_back(tcp):
    """So none is left when both sides have ended."""
    server, client = tcp.pair()
    tcp.host_unreachable(server)
    tcp.system.shutdown_output(client)
    assert tcp.recv(server) == b""
    assert tcp.so_error(server) == 0


def test_a_soft_error_hides_behind_a_read_of_zero_bytes_and_is_no_reset(tcp):
    """SO_ERROR asked there answers as after a reset; only the state tells the two apart."""
    server, client = tcp.pair()
    tcp.system.shutdown_output(client)
    tcp.wait(server, READ)
    tcp.host_unreachable(server)
    assert server.recv(10) == b""
    assert tcp.so_error(server) == errno.EHOSTUNREACH
    assert tcp.system.tcp_state(server) == "CLOSE-WAIT"
    assert server.send(b"reply") == 5
    assert tcp.recv(client) == b"reply"


def test_after_a_reset_the_state_is_closed_and_the_soft_error_is_told_last(tcp):
    """First what ended the connection, then what did not."""
    server, client = tcp.pair()
    tcp.host_unreachable(server)
    tcp.system.reset(client)
    tcp.eventually(lambda: tcp.events(server, 0) & ERROR)
    assert tcp.system.tcp_state(server) == "CLOSED"
    assert [tcp.so_error(server) for _ in range(3)] == [errno.ECONNRESET, errno.EHOSTUNREACH, 0]


def test_with_recverr_on_an_icmp_error_fails_one_call_and_the_connection_goes_on(tcp):
    """IP_RECVERR: an event, and an error of recv, on a connection that lives. Nothing is in the error queue."""
    server, client = tcp.pair()
    server.setsockopt(*RECVERR[server.family], 1)
    client.send(b"hi")
    tcp.wait(server, READ)
    tcp.host_unreachable(server)
    assert tcp.events(server, READ | WRITE) == READ | WRITE | ERROR
    assert server.recv(10) == b"hi"
    with pytest.raises(OSError, match="No route to host"):
        server.recv(10)
    with pytest.raises(BlockingIOError):
        tcp.take_time_stamp(server)
    assert tcp.events(server, READ | WRITE) == WRITE
    assert tcp.system.tcp_state(server) == "ESTABLISHED"
    tcp.host_unreachable(server)
    with pytest.raises(OSError, match="No route to host"):
        server.send(b"x")
    assert server.send(b"still here") == 10
    assert tcp.recv(client) == b"still here"


def test_an_error_queue_keeps_a_connection_ready_until_it_is_read(tcp):
    """SO_TIMESTAMPING: each send leaves an entry, ERROR is told all the time, and SO_ERROR says nothing."""
    server, _ = tcp.pair()
    server.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, TIMES_OF_SENDS)
    for _ in range(2):
        assert server.send(b"x") == 1
        tcp.eventually(lambda: tcp.events(server, 0))
    assert tcp.so_error(server) == 0
    with pytest.raises(BlockingIOError):
        server.recv(10)
    for _ in range(2):
        assert tcp.events(server, 0) == ERROR
        tcp.take_time_stamp(server)
    with pytest.raises(BlockingIOError):
        tcp.take_time_stamp(server)
    assert tcp.events(server, 0) == 0
    assert tcp.system.tcp_state(server) == "ESTABLISHED"


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_a_send_or_recv_without_memory_leaves_everything_as_it_is(kernel, number):
    """The descriptor stays ready; the same call succeeds when there is memory again."""
    server, client = kernel.pair()
    client.send(b"waits")
    kernel.wait(server, READ)
    for call in (lambda: server.recv(10), lambda: server.send(b"x")):
        failed = kernel.failure(number, "transfer", call)
        assert failed is not None
        assert failed.errno == number
        assert kernel.events(server, READ | WRITE) == READ | WRITE
    assert server.recv(10) == b"waits"
    assert server.send(b"sent once") == 9
    assert kernel.recv(client) == b"sent once"


def test_a_reset_after_the_fin_hides_behind_it(tcp):
    """recv goes on giving b""; SO_ERROR says EPIPE (K7)."""
    server, client = tcp.pair()
    tcp.system.shutdown_output(client)
    assert tcp.recv(server) == b""
    server.send(b"reply nobody reads")
    tcp.wait(client, READ)
    tcp.system.close(client)  # with unread input: a reset
    tcp.eventually(lambda: tcp.events(server, 0) & ERROR)
    assert server.recv(10) == b""
    assert tcp.system.error(server).errno == errno.EPIPE
    assert server.recv(10) == b""


def test_a_reset_after_the_fin_is_told_by_send(tcp):
    """EPIPE, either way (K7)."""
    server, client = tcp.pair()
    tcp.system.shutdown_output(client)
    assert tcp.recv(server) == b""
    tcp.system.reset(client)
    tcp.eventually(lambda: tcp.events(server, 0) & HANGUP)
    with pytest.raises(BrokenPipeError):
        server.send(b"x")


def test_a_reset_while_our_fin_waits_is_told_by_recv(tcp):
    """A lingering socket learns that its reply was discarded (K8)."""
    server, client = tcp.pair()
    server.send(b"reply")
    tcp.system.shutdown_output(server)
    tcp.wait(client, READ)
    tcp.system.close(client)
    tcp.wait(server, READ)
    with pytest.raises(ConnectionResetError):
        server.recv(10)


def test_an_empty_interest_tells_a_reset_but_not_a_fin(tcp):
    """A paused connection learns of the one and not of the other (K12)."""
    server, client = tcp.pair()
    tcp.system.shutdown_output(client)
    tcp.wait(server, READ)
    assert tcp.events(server, 0) == 0
    tcp.system.reset(client)
    tcp.eventually(lambda: tcp.events(server, 0))
    assert tcp.events(server, 0) == ERROR | HANGUP


def test_both_sides_shut_is_a_hang_up_that_cannot_be_masked(kernel):
    """With an empty interest it would spin (K12)."""
    server, client = kernel.pair()
    kernel.system.shutdown_output(client)
    kernel.system.shutdown_output(server)
    kernel.wait(server, READ)
    kernel.eventually(lambda: kernel.events(server, 0) == HANGUP)


def test_all_events_of_a_reset(tcp):
    """Readable, writable, an error and a hang-up at once."""
    server, client = tcp.pair()
    tcp.system.reset(client)
    tcp.wait(server, READ)
    assert tcp.events(server, READ | WRITE) == READ | WRITE | ERROR | HANGUP


def test_after_a_reset_there_is_no_peer_and_no_shutdown(tcp):
    """ENOTCONN for both (K13)."""
    server, client = tcp.pair()
    tcp.system.reset(client)
    tcp.wait(server, READ)
    for call in (server.getpeername, lambda: tcp.system.shutdown_output(server)):
        with pytest.raises(OSError, match="not connected") as caught:
            call()
        assert caught.value.errno == errno.ENOTCONN


def test_a_reset_keeps_what_was_outstanding(tcp):
    """What was not acknowledged when the reset came stays counted."""
    server, client = tcp.pair(SMALL)
    tcp.fill(server)
    before = tcp.system.outstanding(server)
    assert before > 0
    tcp.system.reset(client)
    tcp.eventually(lambda: tcp.events(server, 0) & ERROR)
    assert tcp.system.outstanding(server) == before


def test_our_own_reset_shows_the_peer_an_error(tcp):
    """SO_LINGER with zero seconds and a close (K13)."""
    server, client = tcp.pair()
    server.send(b"half a reply")
    tcp.wait(client, READ)
    tcp.system.reset(server)
    assert tcp.drain(client) == (12, "reset")


def test_resetting_what_has_ended_in_order_is_no_reset(tcp):
    """With both ends through there is nobody left to be told."""
    server, client = tcp.pair()
    tcp.system.shutdown_output(server)
    assert tcp.recv(client) == b""
    tcp.system.shutdown_output(client)
    assert tcp.recv(server) == b""
    tcp.eventually(lambda: tcp.system.tcp_state(client) == "CLOSED")
    tcp.system.reset(server)
    assert tcp.system.error(client) is None
    assert client.recv(10) == b""


# Listening and connecting (K14, K15)


def test_accept_of_nobody_is_eagain(kernel):
    """An empty queue is not ready either."""
    listening = kernel.listen()
    assert not kernel.events(listening, READ)
    with pytest.raises(BlockingIOError):
        kernel.system.accept(listening)


def test_a_connect_succeeds_before_the_accept(kernel):
    """The kernel answers; what is sent waits for the program."""
    listening = kernel.listen()
    client = kernel.connect(listening)
    client.send(b"early")
    server = kernel.accept(listening)
    assert kernel.recv(server) == b"early"


def test_a_connection_reset_in_the_queue_is_accepted_all_the_same(tcp):
    """accept succeeds; getpeername says ENOTCONN, recv ECONNRESET (K14)."""
    listening = tcp.listen()
    client = tcp.connect(listening)
    tcp.wait(listening, READ)
    tcp.system.reset(client)
    server = tcp.accept(listening)
    with pytest.raises(OSError, match="not connected"):
        server.getpeername()
    with pytest.raises(ConnectionResetError):
        server.recv(10)


def test_closing_a_listener_resets_who_waits_in_its_queue(kernel):
    """So who drains accepts first (K15)."""
    listening = kernel.listen()
    client = kernel.connect(listening)
    kernel.wait(listening, READ)
    kernel.system.close_listening(listening)
    assert kernel.drain(client) == (0, "reset")


def test_nobody_listens(tcp):
    """The connect is refused."""
    listening = tcp.listen()
    address = Address(listening.family, listening.getsockname())
    tcp.system.close_listening(listening)
    client = tcp.dial(address)
    with pytest.raises(ConnectionRefusedError):
        tcp.system.finish_connect(client)


def test_no_socket_file(unix):
    """Nothing there is FileNotFoundError, at once."""
    with pytest.raises(FileNotFoundError):
        unix.system.start_connect(unix.system.unix_address(unix.path + "-nobody"), Options())


def test_a_full_unix_queue_says_eagain(unix):
    """There is no connect under way then, and nothing to wait for."""
    listening = unix.listen(Options(limits=Limits(backlog=1)))
    address = Address(listening.family, listening.getsockname())
    for _ in range(2):
        unix.opened.append(unix.system.start_connect(address, Options()))
    with pytest.raises(BlockingIOError):
        unix.system.start_connect(address, Options())


def test_an_address_is_bound_once(kernel):
    """EADDRINUSE, naming it."""
    listening = kernel.listen()
    name = listening.getsockname()
    again = partial(kernel.system.listen_tcp, *name[:2]) if kernel.tcp else partial(kernel.system.listen_unix, name)
    with pytest.raises(OSError, match="cannot listen on") as caught:
        again(Options())
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("::", "::1", True),
        (None, "127.0.0.1", True),
        ("127.0.0.1", None, True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "::1", False),
        ("::", "0.0.0.0", False),
    ],
)
def test_two_names_that_mean_one_address_cannot_both_be_bound(tcp, first, second, clash):
    """All addresses include each of their family; without a host it is both families."""
    (one,) = tcp.system.listen_tcp(first, 0, Options())
    tcp.opened.append(one)
    again = partial(tcp.system.listen_tcp, second, one.getsockname()[1], Options())
    if clash:
        with pytest.raises(OSError, match="cannot listen on") as caught:
            again()
        assert caught.value.errno == errno.EADDRINUSE
    else:
        tcp.opened += again()


@pytest.mark.parametrize(("bound", "asked"), [("0.0.0.0", "::1"), ("::", "127.0.0.1")])
def test_all_addresses_of_one_family_are_none_of_the_other(tcp, bound, asked):
    """A caller who comes by the other is refused."""
    (listening,) = tcp.system.listen_tcp(bound, 0, Options())
    tcp.opened.append(listening)
    (address,) = tcp.system.resolve_numeric(asked, listening.getsockname()[1])
    client = tcp.dial(address)
    with pytest.raises(ConnectionRefusedError):
        tcp.system.finish_connect(client)


def test_without_a_host_a_v4_caller_comes_as_v6_writes_it(tcp):
    """One dual-stack socket hears both families."""
    (listening,) = tcp.system.listen_tcp(None, 0, Options())
    tcp.opened.append(listening)
    (address,) = tcp.system.resolve_numeric("127.0.0.1", listening.getsockname()[1])
    client = tcp.dial(address)
    server = tcp.accept(listening)
    host, port = client.getsockname()
    assert server.getpeername() == (f"::ffff:{host}", port, 0, 0)
    assert server.getsockname() == ("::ffff:127.0.0.1", listening.getsockname()[1], 0, 0)
    client.send(b"hello")
    assert tcp.recv(server) == b"hello"


def test_names_of_both_ends_agree(tcp):
    """One side's name is the other's peer."""
    server, client = tcp.pair()
    assert server.getsockname() == client.getpeername()
    assert server.getpeername() == client.getsockname()


@contextmanager
def famine(kernel: Streams):
    """No descriptor is left, in the simulated process or in this one."""
    if isinstance(kernel.system, SimulatedSystem):
        kernel.system.faults = [DescriptorLimit(len(kernel.system.descriptors))]
        yield
        kernel.system.faults = []
        return
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest_free:
        number = lowest_free.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_no_descriptor_left_is_emfile_and_the_caller_waits(kernel):
    """accept fails, and succeeds when a descriptor is free again: nobody was refused."""
    listening = kernel.listen()
    client, other = kernel.connect(listening), kernel.connect(listening)
    kernel.wait(listening, READ)
    with famine(kernel):
        with pytest.raises(OSError, match="Too many open files") as caught:
            kernel.system.accept(listening)
        assert caught.value.errno == errno.EMFILE
        kernel.system.close(other)
        server = kernel.accept(listening)
    client.send(b"still here")
    assert kernel.recv(server) == b"still here"


def test_with_no_descriptor_left_even_nobody_is_emfile(kernel):
    """accept takes the descriptor first, and then looks who waits; a connect needs one, too."""
    listening = kernel.listen()
    address = Address(listening.family, listening.getsockname())
    with famine(kernel):
        for call in (lambda: kernel.system.accept(listening), lambda: kernel.system.start_connect(address, Options())):
            with pytest.raises(OSError, match="Too many open files"):
                call()
    with pytest.raises(BlockingIOError):
        kernel.system.accept(listening)


def test_an_accept_that_is_forbidden_takes_nobody_out_of_the_queue(kernel):
    """EPERM, each time it is asked; the listener stays readable, and later the caller is accepted (K25)."""
    listening = kernel.listen()
    client = kernel.connect(listening)
    kernel.wait(listening, READ)
    for _ in range(3):
        failed = kernel.failure(errno.EPERM, "accept", lambda: kernel.system.accept(listening))
        assert isinstance(failed, PermissionError)
        assert kernel.events(listening, READ) == READ
    server = kernel.accept(listening)
    client.send(b"still here")
    assert kernel.recv(server) == b"still here"


def test_an_accept_is_forbidden_whether_or_not_somebody_waits(kernel):
    """The rule is asked before the queue is looked at."""
    listening = kernel.listen()
    failed = kernel.failure(errno.EPERM, "accept", lambda: kernel.system.accept(listening))
    assert isinstance(failed, PermissionError)
    assert not kernel.events(listening, READ)


# Unix sockets


def test_a_unix_hang_up_comes_while_data_is_still_to_be_read(unix):
    """Readable, writable and hung up at once; SO_ERROR says nothing, and every byte is there (K19)."""
    server, client = unix.pair()
    client.send(b"last words")
    unix.system.close(client)
    for rest in (b"last ", b"words", b"", b""):
        assert unix.events(server, 0) == HANGUP
        assert unix.events(server, READ | WRITE) == GONE
        assert unix.so_error(server) == 0
        assert server.recv(5) == rest


def test_a_unix_peer_that_only_ends_its_output_does_not_hang_up(unix):
    """Its end is read like any other, and it still reads."""
    server, client = unix.pair()
    client.send(b"last")
    unix.system.shutdown_output(client)
    assert unix.events(server, 0) == 0
    assert unix.events(server, READ | WRITE) == READ | WRITE
    assert server.recv(10) == b"last"
    assert server.recv(10) == b""
    server.send(b"reply")
    assert unix.recv(client) == b"reply"


def test_a_failed_send_to_a_unix_peer_leaves_its_last_words(unix):
    """EPIPE, as often as it is tried, and the data stays readable (K19)."""
    server, client = unix.pair()
    client.send(b"last words")
    unix.system.close(client)
    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            server.send(b"x")
    assert unix.so_error(server) == 0
    assert server.recv(100) == b"last words"
    assert server.recv(100) == b""


def test_a_unix_socket_has_no_error_queue_and_whoever_asks_for_it_reads(unix):
    """MSG_ERRQUEUE is ignored: it takes data, and it takes the error of a peer that left something unread."""
    server, client = unix.pair()
    with pytest.raises(BlockingIOError):
        server.recvmsg(0, 0, socket.MSG_ERRQUEUE)
    server.send(b"never read")
    client.send(b"data")
    unix.system.close(client)
    assert server.recvmsg(0, 0, socket.MSG_ERRQUEUE)[0] == b""
    assert server.recvmsg(2, 0, socket.MSG_ERRQUEUE)[0] == b"da"
    assert server.recv(10) == b"ta"
    with pytest.raises(ConnectionResetError):
        server.recvmsg(0, 0, socket.MSG_ERRQUEUE)
    assert unix.so_error(server) == 0
    assert server.recvmsg(0, 0, socket.MSG_ERRQUEUE)[0] == b""


def test_what_a_unix_peer_left_unread_may_be_told_by_so_error_first(unix):
    """ECONNRESET there, then the data, then b"" (K19)."""
    server, client = unix.pair()
    server.send(b"never read")
    client.send(b"last")
    unix.system.close(client)
    assert unix.events(server, READ | WRITE) == GONE | ERROR
    assert unix.so_error(server) == errno.ECONNRESET
    assert unix.events(server, READ | WRITE) == GONE
    assert server.recv(100) == b"last"
    assert server.recv(100) == b""


def test_a_unix_peers_close_is_a_hang_up_at_once(unix):
    """Also with an empty interest (K11)."""
    server, client = unix.pair()
    unix.system.close(client)
    assert unix.events(server, 0) == HANGUP
    assert unix.recv(server) == b""


def test_a_unix_peer_that_is_gone_keeps_its_name(unix):
    """Unlike TCP's ENOTCONN."""
    server, client = unix.pair()
    unix.system.close(server)
    assert client.getpeername() == unix.path


def test_what_a_unix_peer_sent_before_its_close_is_read_first(unix):
    """Nothing that was sent is lost."""
    server, client = unix.pair()
    client.send(b"last")
    unix.system.close(client)
    assert unix.recv(server) == b"last"
    assert unix.recv(server) == b""


def test_a_unix_close_with_unread_input_is_told_once(unix):
    """ECONNRESET behind the data, then b"" (scenario 60)."""
    server, client = unix.pair()
    server.send(b"never read")
    client.send(b"last")
    unix.system.close(client)
    assert unix.events(server, 0) == ERROR | HANGUP
    assert unix.recv(server) == b"last"
    with pytest.raises(ConnectionResetError):
        server.recv(10)
    assert server.recv(10) == b""


def test_a_send_to_a_closed_unix_peer_is_epipe(unix):
    """And leaves the pending error for SO_ERROR."""
    server, client = unix.pair()
    server.send(b"never read")
    unix.system.close(client)
    with pytest.raises(BrokenPipeError):
        server.send(b"x")
    assert unix.system.error(server).errno == errno.ECONNRESET


def test_a_unix_socket_cannot_reset(unix):
    """The peer reads what was sent, and then the end."""
    server, client = unix.pair()
    server.send(b"half")
    unix.system.reset(server)
    assert unix.drain(client) == (4, "EOF")


def test_shutting_a_unix_socket_whose_peer_has_gone_is_no_error(unix):
    """Unlike TCP's ENOTCONN."""
    server, client = unix.pair()
    unix.system.close(client)
    unix.system.shutdown_output(server)
    assert unix.recv(server) == b""


def test_a_pair_wakes(make_kernel):
    """What the reactor's waker is made of: a byte, and then silence."""
    kernel = make_kernel("unix")
    ours, theirs = kernel.system.pair()
    kernel.opened += [ours, theirs]
    theirs.send(b"\0")
    assert kernel.wait(ours, READ) == READ
    assert ours.recv(10) == b"\0"
    assert not kernel.events(ours, READ)
