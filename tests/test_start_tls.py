"""`start_tls`: a connection that begins in the clear and goes on under TLS, in both roles."""

from __future__ import annotations

import smtplib
import ssl
import threading

import pytest

from reactor import Deadlines, HandshakeTimeout, Limits, Misuse, Options, Reactor, TLSTruncated
from reactor.lifecycle import CLOSED
from tests.closing.support import Clock, turn
from tests.helpers import Recorder, Server, turn_until
from tests.test_send_file import NARROW
from tests.test_tls import HOSTNAME_MISMATCH, VERSIONS, TLSPeer, alert, client_context, server_context


class Upgrading(Recorder):
    """A server that goes on under TLS when it is told `STARTTLS`, and echoes what comes then."""

    context = None
    upgraded = False

    def data_received(self, data):
        super().data_received(data)
        if self.upgraded:
            self.connection.write(b"you said " + data)
        elif self.data.endswith(b"STARTTLS\n"):
            self.upgraded = True
            self.data.clear()
            self.connection.write(b"go ahead\n")
            context = self.context or server_context()
            self.connection.start_tls(context, server_side=True, done=lambda: self.calls.append("done"))


class Client(Recorder):
    """A client that asks for TLS, and says `what` once it has it."""

    what = b"hello"

    def __init__(self, version=None, name="localhost"):
        super().__init__()
        self.version = version
        self.name = name

    def connection_made(self, connection):
        super().connection_made(connection)
        connection.write(b"STARTTLS\n")

    def data_received(self, data):
        super().data_received(data)
        if self.data == b"go ahead\n":
            self.data.clear()
            context = client_context(self.version)
            self.connection.start_tls(context, server_hostname=self.name, done=lambda: self.calls.append("done"))
            self.connection.write(self.what)


def upgraded(reactor, factory=Upgrading, options=None, context=None):
    """A server connection on its way to TLS, and its raw client, which has not said anything of it yet."""
    server = Server(reactor, factory, options=options)
    peer, protocol = server.connected()
    peer.send(b"STARTTLS\n")
    peer.read_until(len(b"go ahead\n"))
    assert peer.data == b"go ahead\n"
    return TLSPeer(peer.sock, reactor, context or client_context(), "localhost"), protocol


def ended(reactor, *protocols):
    turn_until(reactor, lambda: all(protocol.ended for protocol in protocols))


@VERSIONS
def test_both_sides_go_on_under_tls(reactor, version):
    """What is written at once waits for the handshake; `done` tells of it; the end is TLS's, in order."""
    server = Server(reactor, Upgrading)
    client = Client(version)
    reactor.connect(lambda: client, *server.address)
    turn_until(reactor, lambda: client.data == b"you said hello")
    (protocol,) = server.protocols
    assert client.connection.get_extra_info("ssl_object").version() == version.name.replace("v1_", "v1.")
    assert client.connection.get_extra_info("peercert")["subjectAltName"] == (("DNS", "localhost"),)
    assert protocol.data == b"hello"
    client.connection.close()
    ended(reactor, client, protocol)
    assert client.lost is protocol.lost is None
    assert protocol.calls[1:] == ["data_received", "done", "data_received", "eof_received", "connection_lost"]
    assert client.calls.count("done") == 1


def test_what_was_queued_before_leaves_in_the_clear_and_the_rest_does_not(reactor):
    """In order: the reply that did not fit at once, then the handshake, then what was written behind it."""
    before = bytes(range(256)) * 4000

    class Big(Upgrading):
        def data_received(self, data):
            if not self.upgraded:
                self.connection.write(before)
            super().data_received(data)
            if self.upgraded and not self.data:
                self.connection.write(b"under TLS")

    server = Server(reactor, Big, options=NARROW)
    peer, protocol = server.connected(receive_buffer=16384)
    with peer:
        peer.send(b"STARTTLS\n")
        peer.read_until(len(before) + len(b"go ahead\n"))
        assert peer.data == before + b"go ahead\n"
        secure = TLSPeer(peer.sock, reactor, client_context(), "localhost").shake()
        secure.read_until(len(b"under TLS"))
        assert secure.data == b"under TLS"
        assert protocol.report.written == len(before) + len(b"go ahead\n") + len(b"under TLS")


def test_unread_plaintext_refuses_it(reactor):
    """What was put behind the command in the clear must not be taken for what came under TLS."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        protocol.unread = 5
        with pytest.raises(Misuse, match="5 bytes of plaintext"):
            protocol.connection.start_tls(server_context(), server_side=True)
        protocol.unread = 0
        protocol.connection.start_tls(server_context(), server_side=True)


def test_what_arrives_in_the_clear_afterwards_is_never_delivered(reactor):
    """A command that was slipped in behind STARTTLS fails the handshake, whichever segment it came in."""
    peer, protocol = upgraded(reactor)
    with peer:
        peer.send_raw(b"MAIL FROM:<somebody>\r\n")
        peer.fin()
        ended(reactor, protocol)
    assert isinstance(protocol.lost, ssl.SSLError)
    assert protocol.data == b""


def send_this_file(connection):
    with open(__file__, "rb") as file:
        connection.send_file(file)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda connection: connection.close(), "not open"),
        (lambda connection: connection.write_eof(), "not open"),
        (lambda connection: connection.start_tls(server_context(), server_side=True), "under TLS already"),
        (send_this_file, "sending a file"),
    ],
    ids=["closed", "ended", "twice", "file"],
)
def test_it_is_refused_where_it_cannot_be_meant(reactor, spoil, says):
    """With the state that stands against it; nothing has changed."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        spoil(protocol.connection)
        with pytest.raises(Misuse, match=says):
            protocol.connection.start_tls(server_context(), server_side=True)
        protocol.connection.abort()
        ended(reactor, protocol)


@pytest.mark.parametrize(
    ("make", "arguments", "says"),
    [
        (server_context, {}, "the other side"),
        (client_context, {"server_side": True}, "the other side"),
        (client_context, {}, "server_hostname"),
        (lambda: "context", {}, "SSLContext"),
    ],
    ids=["server's", "client's", "nameless", "no context"],
)
def test_a_context_that_cannot_be_used_is_refused_at_once(reactor, make, arguments, says):
    """And the connection goes on in the clear."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        with pytest.raises((ValueError, TypeError), match=says):
            protocol.connection.start_tls(make(), **arguments)
        protocol.connection.write(b"still here")
        peer.read_until(10)
        assert peer.data == b"still here"


def test_a_certificate_for_another_name_ends_it_and_nothing_was_sent(reactor):
    """The client is told OpenSSL's reason, the server the client's alert; what waited for the handshake is unsent."""
    server = Server(reactor, Upgrading)
    client = Client(name="elsewhere.example")
    reactor.connect(lambda: client, *server.address)
    turn_until(reactor, lambda: client.ended)
    (protocol,) = server.protocols
    ended(reactor, protocol)
    assert isinstance(client.lost, ssl.SSLCertVerificationError)
    assert client.lost.verify_code == HOSTNAME_MISMATCH
    assert (client.report.accepted, client.report.unsent) == (len(b"STARTTLS\n"), len(Client.what))
    assert alert(protocol.lost.reason) == "BAD_CERTIFICATE"
    assert protocol.data == b""


def test_a_handshake_that_does_not_end_has_a_deadline():
    """The connection is reset with HandshakeTimeout; before that, it waits."""
    clock = Clock()
    with Reactor(system=clock) as reactor:
        peer, protocol = upgraded(reactor, options=Options(deadlines=Deadlines(handshake=5)))
        with peer:
            clock.skip(reactor, 4.5)
            assert not protocol.ended
            clock.skip(reactor, 1.0)
            assert isinstance(protocol.lost, HandshakeTimeout)
            assert peer.read_to_end() == "reset"


def test_the_deadline_ends_with_the_handshake():
    """Silence afterwards is nobody's fault."""
    clock = Clock()
    with Reactor(system=clock) as reactor:
        peer, protocol = upgraded(reactor, options=Options(deadlines=Deadlines(handshake=5)))
        with peer:
            peer.shake()
            turn_until(reactor, lambda: "done" in protocol.calls)
            clock.skip(reactor, 50)
            assert not protocol.ended
            assert len(reactor.timers) == 0


def test_close_during_the_handshake_sends_what_waits_for_it_first(reactor):
    """The handshake is completed, the bytes arrive under TLS, then close_notify and FIN."""

    class Hasty(Upgrading):
        def data_received(self, data):
            super().data_received(data)
            self.connection.write(b"last words")
            self.connection.close()

    peer, protocol = upgraded(reactor, Hasty)
    with peer:
        peer.shake()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"last words"
        peer.end()
        ended(reactor, protocol)
    assert protocol.lost is None


def test_close_during_the_handshake_with_nothing_to_send_does_not_wait_for_it(reactor):
    """There is nothing that the handshake would be for."""
    peer, protocol = upgraded(reactor)
    with peer:
        protocol.connection.close()
        turn(reactor)
        assert peer.read_to_end() != "reset"
        peer.close()
        ended(reactor, protocol)
    assert protocol.connection.state is CLOSED


def test_a_peer_that_ends_in_the_middle_of_the_handshake_is_truncation(reactor):
    """Not a clean end: what follows might have been cut off by anybody."""
    peer, protocol = upgraded(reactor)
    with peer:
        assert not peer.step(most=20)
        peer.fin()
        ended(reactor, protocol)
    assert isinstance(protocol.lost, TLSTruncated)


def test_a_peer_that_resets_in_the_middle_of_the_handshake_is_told_as_such(reactor):
    """As at any other time."""
    peer, protocol = upgraded(reactor)
    assert not peer.step(most=20)
    peer.reset()
    ended(reactor, protocol)
    assert isinstance(protocol.lost, ConnectionResetError)


def test_while_reading_is_paused_the_handshake_goes_on_and_data_waits(reactor):
    """Pausing is about plaintext."""
    peer, protocol = upgraded(reactor)
    with peer:
        protocol.connection.pause_reading()
        peer.shake()
        turn_until(reactor, lambda: "done" in protocol.calls)
        peer.send(b"hello")
        turn(reactor)
        assert protocol.data == b""
        protocol.connection.resume_reading()
        turn_until(reactor, lambda: protocol.data == b"hello")


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_handshake_in_small_pieces_and_data_in_its_last_segment(reactor, size):
    """Nothing depends on how TCP cuts it."""
    peer, protocol = upgraded(reactor)
    with peer:
        turn_until(reactor, lambda: peer.step(most=None))
        flight = peer.seal(b"at once")
        for start in range(0, len(flight), size):
            peer.send_raw(flight[start : start + size])
            turn(reactor, 1)
        turn_until(reactor, lambda: protocol.data == b"at once")
        assert protocol.calls.index("done") < len(protocol.calls) - 1


def test_the_queue_before_the_handshake_has_its_limit(reactor):
    """A peer that never shakes hands cannot make us keep everything."""
    peer, protocol = upgraded(reactor, options=Options(limits=Limits(queue_bytes=10_000)))
    with peer:
        protocol.connection.write(bytes(10_000))
        assert not protocol.ended
        protocol.connection.write(b"1")
        ended(reactor, protocol)
    assert protocol.report.unsent == 10_001


class Headed(Recorder):
    """Takes a line in the clear, and TLS from its very next byte, wherever TCP has cut."""

    def data_received(self, data):
        super().data_received(data)
        if "done" not in self.calls and b"\n" in self.data:
            _, _, rest = bytes(self.data).partition(b"\n")
            self.data.clear()
            done = lambda: self.calls.append("done")  # noqa: E731
            self.connection.start_tls(server_context(), server_side=True, received=rest, done=done)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "from a call of its own"])
def test_a_handshake_that_was_read_with_what_came_before_it_is_not_lost(reactor, late):
    """A ClientHello glued to a header is given to start_tls, and what the kernel has behind it comes after it."""

    class Later(Headed):
        def data_received(self, data):
            self.connection.pause_reading()
            reactor.call_soon(self.connection.resume_reading)
            reactor.call_soon(super().data_received, data)

    server = Server(reactor, Later if late else Headed)
    plain, protocol = server.connected()
    with plain:
        peer = TLSPeer(plain.sock, reactor, client_context(), "localhost")
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        hello = peer._outgoing.read()
        peer.send_raw(b"a line\n" + hello[:100])
        turn(reactor, 1)
        peer.send_raw(hello[100:])
        peer.shake()
        peer.send(b"under TLS")
        turn_until(reactor, lambda: protocol.data == b"under TLS")


class Smtp(Recorder):
    """As much of RFC 5321 and RFC 3207 as a client needs to say hello twice."""

    def connection_made(self, connection):
        super().connection_made(connection)
        connection.write(b"220 here\r\n")

    def data_received(self, data):
        super().data_received(data)
        command = data.split()[0].upper()
        if command == b"STARTTLS":
            self.connection.write(b"220 go ahead\r\n")
            self.connection.start_tls(server_context(), server_side=True)
        elif command == b"QUIT":
            self.connection.write(b"221 bye\r\n")
            self.connection.close()
        else:
            self.connection.write(b"250-here\r\n250 STARTTLS\r\n")


def test_the_standard_librarys_smtp_client_upgrades():
    """A real client of STARTTLS, in a thread of its own."""
    with Reactor() as reactor:
        server = Server(reactor, Smtp)
        said = []

        def converse():
            with smtplib.SMTP("localhost", server.address[1], timeout=20) as client:
                said.append(client.ehlo()[0])
                said.append(client.starttls(context=client_context())[0])
                said.append(client.ehlo()[0])
                said.append(client.sock.version())
            said.append("over")

        talker = threading.Thread(target=converse)
        talker.start()
        turn_until(reactor, lambda: "over" in said)
        talker.join()
        (protocol,) = server.protocols
        ended(reactor, protocol)
    assert said == [250, 220, 250, "TLSv1.3", "over"]


def test_what_was_written_in_the_clear_arrives_though_the_handshake_fails(reactor):
    """It is sent first, all of it; what was to come under TLS is unsent, so the end is a reset."""
    before = bytes(range(256)) * 8000
    server = Server(reactor, options=NARROW)
    peer, protocol = server.connected(receive_buffer=8192)
    with peer:
        protocol.connection.write(before)
        protocol.connection.start_tls(server_context(), server_side=True)
        protocol.connection.write(b"under TLS")
        peer.send(b"GET / HTTP/1.0\r\n\r\n")
        assert peer.read_to_end() == "reset"
        ended(reactor, protocol)
    assert peer.data.startswith(before)
    assert isinstance(protocol.lost, ssl.SSLError)
    assert (protocol.report.accepted, protocol.report.unsent) == (len(before), len(b"under TLS"))


def test_a_handshake_that_fails_after_close_ends_at_once(reactor):
    """What waited for it is unsent; the alert and a reset leave, and nobody waits for the flush deadline."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.start_tls(server_context(), server_side=True)
        protocol.connection.write(b"reply")
        protocol.connection.close()
        turn(reactor)
        assert not protocol.ended
        peer.send(b"GET / HTTP/1.0\r\n\r\n")
        assert peer.read_to_end() == "reset"
        ended(reactor, protocol)
    assert isinstance(protocol.lost, ssl.SSLError)
    assert protocol.report.unsent == len(b"reply")


def test_who_was_paused_by_the_handshake_is_resumed_after_it(reactor):
    """Although everything then goes out in one piece, and the socket was never full."""
    peer, protocol = upgraded(reactor)
    with peer:
        protocol.connection.write(bytes(100_000))
        turn_until(reactor, lambda: "pause_writing" in protocol.calls)
        peer.shake()
        peer.read_until(100_000)
        turn_until(reactor, lambda: "resume_writing" in protocol.calls)
        assert not protocol.connection.is_writing_paused()


def test_done_is_not_told_to_who_has_ended_our_output(reactor):
    """What it would most likely do is write."""

    class Hasty(Upgrading):
        def data_received(self, data):
            super().data_received(data)
            self.connection.write(b"queued")
            self.connection.close()

    peer, protocol = upgraded(reactor, Hasty)
    with peer:
        peer.shake()
        assert peer.read_to_end() == "EOF"
        peer.end()
        ended(reactor, protocol)
    assert peer.data == b"queued"
    assert "done" not in protocol.calls


def test_nothing_is_known_of_the_peer_before_the_handshake(reactor):
    """The default, not an exception."""
    peer, protocol = upgraded(reactor)
    with peer:
        assert protocol.connection.get_extra_info("peercert", "nobody") == "nobody"


def test_records_leave_also_in_a_turn_in_which_something_was_written(reactor):
    """A header in the clear and the handshake, in one callback; and the answer to a whole ClientHello that was read."""

    class Hello(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            connection.write(b"a line\n")
            done = lambda: self.calls.append("done")  # noqa: E731
            connection.start_tls(client_context(), server_hostname="localhost", done=done)

    server = Server(reactor, Headed)
    client = Hello()
    reactor.connect(lambda: client, *server.address)
    turn_until(reactor, lambda: "done" in client.calls and "done" in server.protocols[0].calls)
