"""TLS: the codec alone, in memory; and connections that speak it, on every poller, with TLS 1.2 and 1.3.

How connections that speak TLS end has its own file, `closing/test_tls_ends.py`.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import cycle

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor import Aborted, Deadlines, Limits, Options, QueueOverflow, Reactor, TLSTruncated, WriteAfterEnd
from reactor.lifecycle import ENDED, OPEN, STARTING
from reactor.options import Sockets
from reactor.tls import Codec
from tests.closing.support import Clock, turn
from tests.helpers import Peer, Recorder, Server, sealed, sealed_end, turn_until

VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name
)
BIG = bytes(range(256)) * 4096  # 1 MiB
# X509_V_ERR_HOSTNAME_MISMATCH, as `ssl.SSLCertVerificationError.verify_code` has it.
HOSTNAME_MISMATCH = 62


# Certificates and contexts


@cache
def authority() -> trustme.CA:
    """Signs everything that is trusted here."""
    return trustme.CA()


@cache
def certificate(name: str) -> trustme.LeafCert:
    return authority().issue_cert(name)


def server_context(version: ssl.TLSVersion | None = None, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate(name).configure_cert(context)
    return of_version(context, version)


def client_context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return of_version(context, version)


@contextmanager
def broken_tls() -> Iterator[None]:
    """What came cannot be read: OpenSSL's plain error, none that waits for more. Its words are those of its version."""
    with pytest.raises(ssl.SSLError) as caught:
        yield
    assert caught.type is ssl.SSLError


def alert(reason: str) -> str:
    """The alert as TLS itself names it: what OpenSSL sets before it differs between versions."""
    return reason.partition("_ALERT_")[2]


def of_version(context: ssl.SSLContext, version: ssl.TLSVersion | None) -> ssl.SSLContext:
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


# Peers and servers


class TLSPeer(Peer):
    """A raw peer that speaks TLS by hand: records, close_notify and FIN leave when the test says so, and not before.

    `data` is plaintext. `ending` is "EOF" for a FIN behind close_notify, "truncated" for a FIN alone, "reset", or
    OpenSSL's name for what it could not read. A peer without a hostname is a server.
    """

    def __init__(
        self,
        sock: socket.socket,
        reactor: Reactor,
        context: ssl.SSLContext,
        hostname: str | None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        super().__init__(sock, reactor)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=hostname is None, server_hostname=hostname, session=session
        )
        # The other side's close_notify was read.
        self.notified = False
        # Bytes that the kernel gave us, plaintext or not.
        self.wire = 0

    def step(self, most: int | None = None) -> bool:
        """Goes on with the handshake as far as what came allows, saying `most` bytes; whether it is complete here.

        When it is, what is still to be sent waits for the next `send`, so that a request leaves in the same segment.
        """
        while (data := self._receive()) is not None:
            if not data:
                self._incoming.write_eof()
                break
            self._incoming.write(data)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self.send_raw(self._outgoing.read()[:most])
            return False
        except ssl.SSLError:
            self.send_raw(self._outgoing.read())  # the alert
            raise
        return True

    def shake(self) -> TLSPeer:
        """The whole handshake, turning the loop; ssl.SSLError or ConnectionResetError when it fails."""
        turn_until(self.reactor, self.step)
        self.send_raw(self._outgoing.read())
        return self

    def seal(self, data: bytes) -> bytes:
        """The records of some plaintext, behind whatever TLS had to send before; they are not sent."""
        if data:
            self.tls.write(data)
        return self._outgoing.read()

    def close_notify(self) -> bytes:
        """The record that ends our side, once; it is not sent."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()

    def send(self, data: bytes) -> None:
        self.send_raw(self.seal(data))

    def send_raw(self, data: bytes) -> None:
        """Bytes as they are, whatever TLS would say of them."""
        if data:
            super().send(data)

    def spoil(self) -> None:
        """Lets TLS fail here, as if the other side had sent nonsense; the alert waits for the next `send`."""
        self._incoming.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        with broken_tls():
            self.tls.read(1)

    def end(self) -> None:
        """Ends our side in order."""
        self.send_raw(self.close_notify())
        self.fin()

    def read_some(self, most: int = 65536) -> bool:
        try:
            data = self._receive(most)
        except ConnectionResetError:
            self.ending = "reset"
            return True
        if data is None:
            return False
        if not data:
            self.ending = "EOF" if self.notified else "truncated"
            return True
        self._incoming.write(data)
        try:
            while not self.notified:
                plaintext = self.tls.read(16384)
                self.data += plaintext
                self.notified = not plaintext
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.notified = True
        except ssl.SSLError as exc:
            self.ending = exc.reason
        return True

    def _receive(self, most: int = 65536) -> bytes | None:
        try:
            data = self.sock.recv(most)
        except BlockingIOError:
            return None
        self.wire += len(data)
        return data


class TLSServer(Server):
    """A Server whose listener speaks TLS, and whose clients do."""

    def __init__(
        self,
        reactor: Reactor,
        version: ssl.TLSVersion | None,
        factory: Callable[[], Recorder] = Recorder,
        options: Options | None = None,
        context: ssl.SSLContext | None = None,
        **where: object,
    ) -> None:
        self.reactor = reactor
        self.version = version
        self.protocols = []

        def make() -> Recorder:
            self.protocols.append(factory())
            return self.protocols[-1]

        self.listener = reactor.listen(
            make,
            **(where or {"host": "127.0.0.1", "port": 0}),
            tls=context or server_context(version),
            options=options or Options(),
        )
        self.address = self.listener.addresses[0]
        families = {str: socket.AF_UNIX, 2: socket.AF_INET, 4: socket.AF_INET6}
        self.family = families[str if isinstance(self.address, str) else len(self.address)]

    def tls_peer(
        self,
        context: ssl.SSLContext | None = None,
        hostname: str = "localhost",
        session: ssl.SSLSession | None = None,
        receive_buffer: int | None = None,
    ) -> TLSPeer:
        """A client that has not begun its handshake."""
        context = context or client_context(self.version)
        return TLSPeer(self.peer(receive_buffer).sock, self.reactor, context, hostname, session)

    def connected(self, receive_buffer: int | None = None, **arguments: object) -> tuple[TLSPeer, Recorder]:
        """A client whose handshake is complete, and the protocol that serves it."""
        count = len(self.protocols)
        peer = self.tls_peer(receive_buffer=receive_buffer, **arguments).shake()
        turn_until(self.reactor, lambda: len(self.protocols) > count)
        return peer, self.protocols[-1]


@pytest.fixture
def clock():
    """Time that passes only when the test says so."""
    return Clock()


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.connection.write(data)


def ended(*protocols: Recorder) -> None:
    """Turns the loop until each was told its end."""
    turn_until(protocols[0].connection._loop, lambda: all(protocol.ended for protocol in protocols))


# The codec alone


class Side:
    """One codec, and what it makes of what it hears."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.done = False
        self.data = bytearray()

    def hear(self, data: bytes = b"") -> None:
        if self.done:
            self.data += self.codec.read(data)
        elif self.codec.shake(data):
            self.done = True
            self.data += self.codec.read()


def sides(version: ssl.TLSVersion | None) -> tuple[Side, Side]:
    """A client and a server that have said nothing yet."""
    client = Codec(client_context(version), server_side=False, server_hostname="localhost")
    return Side(client), Side(Codec(server_context(version), server_side=True))


def in_pieces(sizes: list[int]) -> Callable[[bytes], Iterator[bytes]]:
    """Cuts what is said into pieces of these sizes, over and over."""
    endless = cycle(sizes)

    def cut(data: bytes) -> Iterator[bytes]:
        while data:
            size = next(endless)
            yield data[:size]
            data = data[size:]

    return cut


def talk(client: Side, server: Side, cut: Callable[[bytes], Iterator[bytes]] | None = None) -> None:
    """Carries what either says to the other, until both are silent."""
    cut = cut or in_pieces([100_000])
    silent = False
    while not silent:
        silent = True
        for here, there in ((client, server), (server, client)):
            for piece in cut(here.codec.take()):
                there.hear(piece)
                silent = False


def met(version: ssl.TLSVersion | None = None) -> tuple[Side, Side]:
    """A client and a server after their handshake."""
    client, server = sides(version)
    client.hear()
    talk(client, server)
    assert client.done
    assert server.done
    return client, server


@VERSIONS
def test_two_codecs_shake_hands_and_read_each_other(version):
    """After the handshake each reads what the other encrypted, and only that."""
    client, server = met(version)
    assert client.codec.ssl_object.version() == server.codec.ssl_object.version() == version.name.replace("v1_", "v1.")
    assert server.codec.read(sealed(client.codec, b"question")) == b"question"
    assert client.codec.read(sealed(server.codec, b"answer")) == b"answer"
    assert not client.codec.peer_ended
    assert not server.codec.peer_ended


@VERSIONS
@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 3_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_amount_of_any_bytes_goes_through(version, size, kind):
    """Nothing, a record and its neighbours, and many records; as bytes and as views."""
    client, server = met(version)
    data = (BIG * 3)[:size]
    records = sealed(client.codec, memoryview(data) if kind is memoryview else kind(data))
    assert bool(records) is bool(size)
    assert server.codec.read(records) == data
    assert client.codec.take() == server.codec.take() == b""


@VERSIONS
@pytest.mark.parametrize("first", ["client", "server"])
def test_either_side_ends_alone_and_still_hears_the_other(version, first):
    """After one side's close_notify the other goes on for a megabyte, ends too, and all of it is read."""
    client, server = met(version)
    here, there = (client.codec, server.codec) if first == "client" else (server.codec, client.codec)
    assert there.read(sealed(here, b"last words") + sealed_end(here)) == b"last words"
    assert there.peer_ended
    assert not here.peer_ended
    assert here.read(sealed(there, BIG)) == BIG
    assert not here.peer_ended
    assert here.read(sealed(there, b"bye") + sealed_end(there)) == b"bye"
    assert here.peer_ended


@VERSIONS
def test_both_sides_may_end_at_once(version):
    """Two close_notify that cross are both read."""
    client, server = met(version)
    last = sealed_end(client.codec), sealed_end(server.codec)
    assert client.codec.read(last[1]) == server.codec.read(last[0]) == b""
    assert client.codec.peer_ended
    assert server.codec.peer_ended


@VERSIONS
def test_nothing_is_read_behind_close_notify(version):
    """Whatever follows the peer's end is no data of the peer's, and no error."""
    client, server = met(version)
    assert server.codec.read(sealed_end(client.codec) + b"anything") == b""
    assert server.codec.peer_ended
    assert server.codec.read(b"more") == b""
    assert client.codec.read(sealed(server.codec, b"still here")) == b"still here"


@VERSIONS
def test_a_conversation_in_single_bytes_is_the_same_conversation(version):
    """Handshake, data and ends may be cut at every byte."""
    client, server = sides(version)
    one_by_one = in_pieces([1])
    client.hear()
    talk(client, server, one_by_one)
    for piece in one_by_one(sealed(client.codec, b"question") + sealed_end(client.codec)):
        assert not server.codec.peer_ended
        server.hear(piece)
    assert server.data == b"question"
    assert server.codec.peer_ended
    for piece in one_by_one(sealed(server.codec, b"answer") + sealed_end(server.codec)):
        assert not client.codec.peer_ended
        client.hear(piece)
    assert client.data == b"answer"
    assert client.codec.peer_ended


@VERSIONS
@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 3000), min_size=1), messages=st.lists(st.binary(max_size=40_000), max_size=5))
def test_it_does_not_matter_where_the_bytes_are_cut(version, sizes, messages):
    """Any cuts, any messages: what is read is what was written, in order."""
    client, server = sides(version)
    cut = in_pieces(sizes)
    client.hear()
    talk(client, server, cut)
    for message in messages:
        for piece in cut(sealed(client.codec, message)):
            server.hear(piece)
    assert server.data == b"".join(messages)


@VERSIONS
@settings(max_examples=60, deadline=None)
@given(messages=st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=4), data=st.data())
def test_our_end_may_come_in_the_middle_of_a_record_of_the_peers(version, messages, data):
    """Wherever the peer's stream stands when we end ours, the rest of it is read whole, and its end is seen."""
    client, server = met(version)
    stream = b"".join(sealed(client.codec, message) for message in messages) + sealed_end(client.codec)
    here = data.draw(st.integers(0, len(stream)), "where we end")
    server.hear(stream[:here])
    said = sealed_end(server.codec)
    server.hear(stream[here:])
    assert server.data == b"".join(messages)
    assert server.codec.peer_ended
    assert client.codec.read(said) == b""
    assert client.codec.peer_ended


def test_our_end_may_come_before_what_came_with_the_handshake_was_read():
    """TLS 1.3: a request behind the client's last words of the handshake is still there after our end."""
    client, server = sides(ssl.TLSVersion.TLSv1_3)
    client.hear()
    server.hear(client.codec.take())
    client.hear(server.codec.take())
    assert client.done
    assert server.codec.shake(sealed(client.codec, b"request"))
    sealed_end(server.codec)
    assert server.codec.read() == b"request"


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=600))
def test_what_is_not_tls_is_an_error_of_openssls_in_the_handshake(garbage):
    """Any bytes in place of a hello: wait for more, or ssl.SSLError; nothing else, and never a success."""
    for side in sides(None):
        side.codec.shake()
        try:
            assert side.codec.shake(garbage) is False
        except ssl.SSLError:
            pass


@VERSIONS
@settings(max_examples=60, deadline=None)
@given(garbage=st.binary(min_size=1, max_size=600))
def test_what_is_not_tls_is_an_error_of_openssls_afterwards(version, garbage):
    """Any bytes in place of a record: wait for more, or ssl.SSLError; nothing is ever read from them."""
    for side in met(version):
        try:
            assert side.codec.read(garbage) == b""
        except ssl.SSLError:
            pass


@VERSIONS
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_tampered_record_is_never_read(version, data):
    """One byte of two records changed, anywhere: what is read is a beginning of the truth, or ssl.SSLError comes."""
    client, server = met(version)
    stream = bytearray(sealed(client.codec, b"first") + sealed(client.codec, b"second"))
    where = data.draw(st.integers(0, len(stream) - 1), "where")
    stream[where] ^= data.draw(st.integers(1, 255), "how")
    try:
        assert server.codec.read(bytes(stream)) in (b"", b"first")
    except ssl.SSLError:
        pass


@VERSIONS
@settings(max_examples=60, deadline=None)
@given(flight=st.integers(0, 3), where=st.integers(0, 10_000), how=st.integers(1, 255))
def test_a_tampered_handshake_fails_or_does_no_harm(version, flight, where, how):
    """One byte changed anywhere: nothing but ssl.SSLError is raised, and who is done on both sides is not deceived."""
    client, server = sides(version)
    client.hear()
    here, there = client, server
    try:
        for number in range(4):
            said = bytearray(here.codec.take())
            if number == flight and said:
                said[where % len(said)] ^= how
            there.hear(bytes(said))
            here, there = there, here
        if client.done and server.done:
            assert server.codec.read(sealed(client.codec, b"truth")) in (b"truth", b"")
    except ssl.SSLError:
        pass


@VERSIONS
def test_what_came_before_a_spoiled_record_is_read_first(version):
    """It was whole and authentic: the next `read` raises, and every one after it."""
    client, server = met(version)
    good, spoiled = sealed(client.codec, b"good"), bytearray(sealed(client.codec, b"spoiled"))
    spoiled[-1] ^= 1
    assert server.codec.read(good + bytes(spoiled)) == b"good"
    for _ in range(2):
        with broken_tls():
            server.codec.read()
    assert not server.codec.peer_ended
    with pytest.raises(ssl.SSLError, match="ALERT"):
        client.codec.read(server.codec.take())


@VERSIONS
def test_a_record_that_is_cut_short_is_not_an_end(version):
    """What is complete is read, the rest waits; only close_notify says that the peer has ended."""
    client, server = met(version)
    stream = sealed(client.codec, b"first") + sealed(client.codec, b"second")
    assert server.codec.read(stream[:-1]) == b"first"
    assert not server.codec.peer_ended
    assert server.codec.read(stream[-1:]) == b"second"


@VERSIONS
@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_a_certificate_that_does_not_convince_is_told_to_both(version, wrong):
    """The client's shake raises the reason, its alert is to be sent, and the server's shake raises that."""
    context = client_context(version) if wrong == "name" else of_version(ssl.create_default_context(), version)
    name = "elsewhere" if wrong == "name" else "localhost"
    client = Codec(context, server_side=False, server_hostname=name)
    server = Codec(server_context(version), server_side=True)
    client.shake()
    server.shake(client.take())
    with pytest.raises(ssl.SSLCertVerificationError):
        client.shake(server.take())
    with pytest.raises(ssl.SSLError, match="ALERT"):
        server.shake(client.take())


@VERSIONS
def test_an_end_before_or_after_a_failed_handshake_harms_nothing(version):
    """`end` never raises; behind a failure it still gives the alert that says why."""
    client, server = sides(version)
    assert sealed_end(server.codec) == b""
    client.hear()
    sealed_end(client.codec)
    _, server = sides(version)
    with pytest.raises(ssl.SSLError):
        server.hear(b"GET / HTTP/1.0\r\n\r\n")
    sealed_end(server.codec)
    server = Side(Codec(server_context(ssl.TLSVersion.TLSv1_3), server_side=True))
    client, _ = sides(ssl.TLSVersion.TLSv1_2)
    client.hear()
    with broken_tls():
        server.hear(client.codec.take())
    with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        client.hear(sealed_end(server.codec))


# Connections


@VERSIONS
@pytest.mark.parametrize("where", ["tcp4", "tcp6", "unix"])
def test_an_echo_comes_back_and_ends_in_order(reactor, version, where, tmp_path):
    """The reply is the plaintext, and so are the counts; close_notify is answered by ours and a FIN."""
    at = {"path": str(tmp_path / "socket")} if where == "unix" else {"host": "127.0.0.1", "port": 0}
    if where == "tcp6":
        at["host"] = "::1"
    server = TLSServer(reactor, version, Echo, **at)
    peer, protocol = server.connected()
    with peer:
        peer.send(b"hello")
        peer.read_until(5)
        peer.end()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"hello"
    ended(protocol)
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert protocol.lost is None
    assert protocol.data == b"hello"
    report = protocol.report
    assert (report.received, report.discarded, report.unsent, report.fin_sent) == (5, 0, 0, True)
    assert (report.written, report.accepted) == (5, 5)
    assert server.listener.handshakes_failed == 0


@VERSIONS
def test_a_request_in_the_segment_that_ends_the_handshake_is_delivered(reactor, version):
    """It comes after connection_made, in the same turn or the next, without another byte from the client."""
    server = TLSServer(reactor, version, Echo)
    with server.tls_peer() as peer:
        turn_until(reactor, peer.step)
        peer.send(b"hello")
        peer.read_until(5)
        assert peer.data == b"hello"


@VERSIONS
def test_a_protocol_that_ends_its_output_at_once_still_hears_the_request(reactor, version):
    """`write_eof` in connection_made, and a request in the segment that ends the handshake: it is delivered."""

    class Greeter(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            connection.write(b"greeting")
            connection.write_eof()

    server = TLSServer(reactor, version, Greeter)
    with server.tls_peer() as peer:
        turn_until(reactor, peer.step)
        peer.send(b"request")
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"greeting"
        peer.end()
        ended(*server.protocols)
    (protocol,) = server.protocols
    assert protocol.data == b"request"
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert protocol.lost is None


@VERSIONS
def test_a_protocol_that_pauses_at_once_is_told_the_request_when_it_resumes(reactor, version):
    """What came with the handshake waits in the codec, where no poller announces it; also with its end behind it."""

    class Shy(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            connection.pause_reading()

    server = TLSServer(reactor, version, Shy)
    with server.tls_peer() as peer:
        turn_until(reactor, peer.step)
        peer.send_raw(peer.seal(b"request") + peer.close_notify())
        turn_until(reactor, lambda: server.protocols)
        turn(reactor)
        (protocol,) = server.protocols
        assert protocol.calls == ["connection_made"]
        protocol.connection.resume_reading()
        assert peer.read_to_end() == "EOF"
    ended(protocol)
    assert protocol.data == b"request"
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert protocol.lost is None


@VERSIONS
@pytest.mark.parametrize("cut", [1, 7])
def test_a_conversation_may_come_a_few_bytes_at_a_time(reactor, version, cut):
    """Handshake, data and end are read in small pieces, and nothing is missed."""
    server = TLSServer(reactor, version, Echo, Options(limits=Limits(read_bytes=cut)))
    peer, protocol = server.connected()
    with peer:
        peer.send(b"hello")
        peer.read_until(5)
        peer.end()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"hello"
    ended(protocol)
    assert protocol.lost is None


@VERSIONS
def test_a_big_reply_waits_for_a_slow_reader(reactor, version):
    """A writer who heeds pause_writing sends 4 MiB with little queued, and every byte arrives in order."""

    pieces = [BIG[number:][:65536] for number in range(64)]

    class Source(Recorder):
        most = 0

        def data_received(self, data):
            super().data_received(data)
            self.left = iter(pieces)
            self.pump()

        def pump(self):
            if self.calls[-1] == "pause_writing":
                return
            piece = next(self.left, None)
            if piece is None:
                self.connection.close()
                return
            self.connection.write(piece)
            self.most = max(self.most, self.connection.get_write_buffer_size())
            reactor.call_soon(self.pump)

        def resume_writing(self):
            super().resume_writing()
            reactor.call_soon(self.pump)

    narrow = Options(sockets=Sockets(send_buffer_bytes=16384))
    server = TLSServer(reactor, version, Source, narrow)
    peer, protocol = server.connected(receive_buffer=16384)
    with peer:
        peer.send(b"go")
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"".join(pieces)
        peer.end()
        ended(protocol)
    assert protocol.lost is None
    assert protocol.most < 4 * 65536
    assert protocol.calls.count("pause_writing") == protocol.calls.count("resume_writing") > 1
    assert protocol.report.acknowledged == protocol.report.written == 4 << 20


@VERSIONS
def test_a_big_upload_waits_for_a_protocol_that_pauses(reactor, version):
    """One that pauses after each piece and resumes later gets all of it, and the end; nothing comes in between."""

    class Sipper(Recorder):
        pieces = 0

        def data_received(self, data):
            assert self.connection.is_reading()
            super().data_received(data)
            self.pieces += 1
            self.connection.pause_reading()
            reactor.call_soon(self.connection.resume_reading)

    server = TLSServer(reactor, version, Sipper)
    peer, protocol = server.connected()
    with peer:
        peer.send(BIG)
        peer.end()
        assert peer.read_to_end() == "EOF"
    ended(protocol)
    assert protocol.data == BIG
    assert protocol.pieces > 1
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert protocol.lost is None
    assert protocol.report.received == len(BIG)


@VERSIONS
def test_nothing_is_delivered_while_reading_is_paused(reactor, version):
    """Data and the end that come meanwhile are told after resume_reading, in order."""
    server = TLSServer(reactor, version)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.pause_reading()
        peer.send(b"hello")
        peer.end()
        turn(reactor)
        assert protocol.calls == ["connection_made"]
        assert protocol.connection.state is OPEN
        protocol.connection.resume_reading()
        assert peer.read_to_end() == "EOF"
    ended(protocol)
    assert protocol.data == b"hello"
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]


@VERSIONS
def test_pausing_between_the_last_data_and_the_end_holds_the_end_back(reactor, version):
    """Data and close_notify in one read, and the protocol pauses on the data: eof_received waits."""

    class Pauser(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.connection.pause_reading()

    server = TLSServer(reactor, version, Pauser)
    peer, protocol = server.connected()
    with peer:
        peer.send_raw(peer.seal(b"hello") + peer.close_notify())
        peer.fin()
        turn_until(reactor, lambda: protocol.data)
        turn(reactor)
        assert protocol.calls == ["connection_made", "data_received"]
        protocol.connection.resume_reading()
        assert peer.read_to_end() == "EOF"
    ended(protocol)
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert protocol.lost is None


@VERSIONS
def test_the_writes_of_a_turn_leave_in_few_sends(reactor, version):
    """A hundred writes in one turn are a hundred records, and two sends: the first at once, the rest together."""
    server = TLSServer(reactor, version)
    sent = []
    reactor.observe(lambda record: sent.append(record.count) if record.what == "sent" else None)
    peer, protocol = server.connected()
    with peer:
        turn(reactor)
        sent.clear()
        for _ in range(100):
            protocol.connection.write(b"line\n")
        peer.read_until(500)
        assert peer.data == b"line\n" * 100
        assert len(sent) <= 3


@VERSIONS
def test_what_is_written_is_taken_as_it_is_now(reactor, version):
    """A bytearray may be changed after `write`, and `writelines` sends all of its chunks."""
    server = TLSServer(reactor, version)
    peer, protocol = server.connected()
    with peer:
        data = bytearray(b"before")
        protocol.connection.write(data)
        data[:] = b"after!"
        protocol.connection.writelines([b", ", memoryview(b"and "), b"", b"more"])
        peer.read_until(16)
        assert peer.data == b"before, and more"
        protocol.connection.write_eof()
        assert protocol.connection.can_write_eof()
        with pytest.raises(WriteAfterEnd):
            protocol.connection.write(b"too late")
        turn_until(reactor, lambda: protocol.connection.state is ENDED)
        peer.send(b"heard")
        turn_until(reactor, lambda: protocol.data)
        assert protocol.data == b"heard"


@VERSIONS
def test_too_much_for_one_peer_is_a_reset(reactor, version):
    """The limit on queued bytes counts what will go over the wire."""
    server = TLSServer(reactor, version, options=Options(limits=Limits(queue_bytes=100_000)))
    peer, protocol = server.connected()
    with peer:
        for _ in range(20):
            if not protocol.connection.is_closing():
                protocol.connection.write(BIG)
        assert peer.read_to_end() == "reset"
        assert BIG.startswith(bytes(peer.data[: len(BIG)]))
    ended(protocol)
    assert type(protocol.lost) is QueueOverflow


@VERSIONS
def test_an_abort_is_a_reset_and_no_close_notify(reactor, version):
    """The client can tell that this is no end in order."""
    server = TLSServer(reactor, version)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write(b"part")
        protocol.connection.abort()
        assert peer.read_to_end() == "reset"
        assert not peer.notified
    ended(protocol)
    assert type(protocol.lost) is Aborted


@VERSIONS
@pytest.mark.logs_errors
def test_a_protocol_that_raises_is_a_reset(reactor, version):
    """The exception is told in connection_lost; the client sees no end in order."""

    class Clumsy(Recorder):
        def data_received(self, data):
            raise ValueError("clumsy")

    server = TLSServer(reactor, version, Clumsy)
    peer, protocol = server.connected()
    with peer:
        peer.send(b"hello")
        assert peer.read_to_end() == "reset"
        assert not peer.notified
    ended(protocol)
    assert str(protocol.lost) == "clumsy"


@VERSIONS
@pytest.mark.parametrize("reads", ["together", "apart"])
@pytest.mark.parametrize("factory", [Recorder, Echo])
def test_what_came_before_a_spoiled_record_is_delivered(reactor, version, reads, factory):
    """Then OpenSSL's error comes, and the client gets the alert that says why; who answers the data meets no error."""
    server = TLSServer(reactor, version, factory)
    peer, protocol = server.connected()
    with peer:
        good, spoiled = peer.seal(b"good"), bytearray(peer.seal(b"spoiled"))
        spoiled[-1] ^= 1
        if reads == "apart":
            peer.send_raw(good)
            turn_until(reactor, lambda: protocol.data)
            peer.send_raw(bytes(spoiled))
        else:
            peer.send_raw(good + bytes(spoiled))
        assert alert(peer.read_to_end()) in ("BAD_RECORD_MAC", "DECRYPT_ERROR")
    ended(protocol)
    assert type(protocol.lost) is ssl.SSLError
    assert protocol.report.how == "failed"
    assert protocol.data == b"good"
    assert protocol.calls == ["connection_made", "data_received", "connection_lost"]


@VERSIONS
def test_what_came_before_a_fatal_alert_of_the_peers_is_delivered(reactor, version):
    """The client gives up because of a spoiled record of ours: its data first, then its alert as an error."""
    server = TLSServer(reactor, version, Echo)
    peer, protocol = server.connected()
    with peer:
        good = peer.seal(b"good")
        peer.spoil()
        peer.send_raw(good + peer.seal(b""))
        ended(protocol)
    assert isinstance(protocol.lost, ssl.SSLError)
    assert "ALERT" in protocol.lost.reason
    assert protocol.data == b"good"
    assert protocol.calls == ["connection_made", "data_received", "connection_lost"]


@VERSIONS
def test_plaintext_in_the_middle_is_not_tls(reactor, version):
    """A client that forgets to encrypt is told of by OpenSSL's error, and nothing of it is delivered."""
    server = TLSServer(reactor, version)
    peer, protocol = server.connected()
    with peer:
        peer.send_raw(b"hello, is this thing on?\r\n")
        ended(protocol)
    assert isinstance(protocol.lost, ssl.SSLError)
    assert protocol.calls == ["connection_made", "connection_lost"]


# What can be asked


@VERSIONS
def test_what_tls_has_agreed_on_can_be_asked(reactor, version):
    """ssl_object, sslcontext, cipher and compression, while it lives and afterwards; the socket's own as ever."""
    context = server_context(version)
    server = TLSServer(reactor, version, context=context)
    peer, protocol = server.connected()
    with peer:
        ask = protocol.connection.get_extra_info
        for _ in range(2):
            assert ask("ssl_object").version() == peer.tls.version()
            assert ask("sslcontext") is context
            assert ask("cipher") == peer.tls.cipher()
            assert ask("compression", "default") is None
            assert ask("peercert") is None
            assert ask("peername") == peer.sock.getsockname()
            assert ask("no such thing", "default") == "default"
            if not protocol.ended:
                peer.end()
                ended(protocol)


@VERSIONS
def test_a_client_certificate_can_be_demanded_and_asked_for(reactor, version):
    """`peercert` is the client's certificate, as `getpeercert` gives it."""
    context = server_context(version)
    authority().configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    server = TLSServer(reactor, version, context=context)
    client = client_context(version)
    certificate("somebody@example.org").configure_cert(client)
    peer, protocol = server.connected(context=client)
    with peer:
        certified = protocol.connection.get_extra_info("peercert")
        assert certified["subjectAltName"] == (("email", "somebody@example.org"),)
        assert protocol.connection.get_extra_info("ssl_object").getpeercert(True) is not None


@VERSIONS
@pytest.mark.parametrize(("offered", "agreed"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)])
def test_alpn_agrees_before_the_protocol_begins(reactor, version, offered, agreed):
    """connection_made can already ask which application protocol it is to be."""

    class Asker(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            self.agreed = connection.get_extra_info("ssl_object").selected_alpn_protocol()

    context, client = server_context(version), client_context(version)
    context.set_alpn_protocols(["http/1.1", "http/1.0"])
    if offered:
        client.set_alpn_protocols(offered)
    server = TLSServer(reactor, version, Asker, context=context)
    peer, protocol = server.connected(context=client)
    with peer:
        assert protocol.agreed == peer.tls.selected_alpn_protocol() == agreed


@VERSIONS
def test_the_name_the_client_asks_for_can_choose_the_certificate(reactor, version):
    """Server name indication: the context's own callback puts another context in place."""
    names = []
    contexts = {name: server_context(version, name) for name in ("one.example", "two.example")}
    context = server_context(version)

    def choose(tls, name, _):
        names.append(name)
        tls.context = contexts.get(name, context)

    context.sni_callback = choose
    server = TLSServer(reactor, version, context=context)
    for name, expected in [*contexts.items(), ("localhost", context)]:
        peer, protocol = server.connected(hostname=name)
        with peer:
            assert ("DNS", name) in peer.tls.getpeercert()["subjectAltName"]
            assert protocol.connection.get_extra_info("sslcontext") is expected
    assert names == ["one.example", "two.example", "localhost"]


@VERSIONS
def test_a_client_that_comes_back_resumes_its_session(reactor, version):
    """What TLS 1.3 sends behind the handshake for that is sent, whether or not the protocol writes."""
    server = TLSServer(reactor, version)
    context = client_context(version)
    peer, _ = server.connected(context=context)
    with peer:
        if version is ssl.TLSVersion.TLSv1_3:
            before = peer.wire
            turn_until(reactor, lambda: peer.read_some() and peer.wire > before)
        session = peer.tls.session
        peer.end()
        peer.read_to_end()
    again, _ = server.connected(context=context, session=session)
    with again:
        assert again.tls.session_reused
        again.end()
        again.read_to_end()
    ended(*server.protocols)
    assert [protocol.lost for protocol in server.protocols] == [None, None]


# Handshakes that fail. Each of the next functions makes one, and returns the alert that the client sends, or None.


def wrong_authority(server: TLSServer) -> str | None:
    context = of_version(ssl.create_default_context(), server.version)
    with server.tls_peer(context) as peer, pytest.raises(ssl.SSLCertVerificationError):
        peer.shake()
    return "UNKNOWN_CA"


def wrong_name(server: TLSServer) -> str | None:
    with server.tls_peer(hostname="elsewhere.example") as peer, pytest.raises(ssl.SSLCertVerificationError):
        peer.shake()
    return "BAD_CERTIFICATE"


def wrong_version(server: TLSServer) -> None:
    other = {ssl.TLSVersion.TLSv1_2: ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3: ssl.TLSVersion.TLSv1_2}
    context = client_context(other[server.version])
    with server.tls_peer(context) as peer, pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        peer.shake()


def plain_http(server: TLSServer) -> None:
    with server.peer() as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        turn_until(server.reactor, lambda: server.listener.handshakes_failed)


def garbage(server: TLSServer) -> None:
    with server.peer() as peer:
        peer.send(bytes(range(256)))
        assert peer.read_to_end() in ("EOF", "reset")


def spoiled_hello(server: TLSServer) -> None:
    with server.tls_peer() as peer:
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        hello = bytearray(peer.seal(b""))
        hello[5] ^= 0xFF  # the type of the handshake message
        peer.send_raw(bytes(hello))
        assert peer.read_to_end() != "EOF"


@VERSIONS
@pytest.mark.parametrize(
    "attempt",
    [wrong_authority, wrong_name, wrong_version, plain_http, garbage, spoiled_hello],
    ids=lambda f: f.__name__,
)
def test_a_failed_handshake_is_told_to_the_listener(reactor, version, attempt, caplog):
    """One warning names the client and the reason, one more is counted, no protocol is made, and others are served."""
    server = TLSServer(reactor, version, Echo)
    told = attempt(server)
    turn_until(reactor, lambda: server.listener.handshakes_failed == 1 and not server.listener.connections)
    assert server.protocols == []
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "the TLS handshake with 127.0.0.1:" in warning.getMessage()
    error = warning.args[-1]
    assert type(error) is ssl.SSLError
    assert str(error) in warning.getMessage()
    assert alert(error.reason) == (told or "")
    peer, _ = server.connected()
    with peer:
        peer.send(b"hello")
        peer.read_until(5)
        assert peer.data == b"hello"
    assert server.listener.handshakes_failed == 1


@VERSIONS
def test_a_client_without_the_certificate_that_is_demanded_never_comes_to_a_protocol(reactor, version):
    """With TLS 1.3 the client itself believes that it succeeded, until it reads the alert."""
    context = server_context(version)
    authority().configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    server = TLSServer(reactor, version, context=context)
    with server.tls_peer() as peer:
        if version is ssl.TLSVersion.TLSv1_2:
            with pytest.raises(ssl.SSLError, match="ALERT_HANDSHAKE_FAILURE"):
                peer.shake()
        else:
            assert alert(peer.shake().read_to_end()) == "CERTIFICATE_REQUIRED"
    turn_until(reactor, lambda: server.listener.handshakes_failed == 1 and not server.listener.connections)
    assert server.protocols == []


@VERSIONS
@pytest.mark.parametrize("said", ["nothing", "half a hello", "a byte each second"])
def test_a_handshake_has_a_deadline(poller, version, clock, said, caplog):
    """Whoever says nothing, or says it too slowly, is gone when the deadline has passed, and not earlier."""
    with Reactor(poller=poller, system=clock) as reactor:
        server = TLSServer(reactor, version, options=Options(deadlines=Deadlines(handshake=5)))
        with server.tls_peer() as peer:
            with pytest.raises(ssl.SSLWantReadError):
                peer.tls.do_handshake()
            hello = peer.seal(b"")
            if said == "half a hello":
                peer.send_raw(hello[:50])
            turn_until(reactor, lambda: server.listener.connections)
            for number in range(4):
                if said == "a byte each second":
                    peer.send_raw(hello[number : number + 1])
                clock.skip(reactor, 1)
            clock.skip(reactor, 0.9, step=0.1)
            assert server.listener.connections == 1
            assert server.listener.handshakes_failed == 0
            clock.skip(reactor, 0.2, step=0.1)
            assert server.listener.connections == 0
            assert server.listener.handshakes_failed == 1
            assert peer.read_to_end() in ("truncated", "reset")
        assert server.protocols == []
    (warning,) = caplog.records
    assert "no TLS handshake within 5 s" in warning.getMessage()


@VERSIONS
def test_a_slow_handshake_takes_none_of_the_time_of_the_connection(poller, version, clock):
    """The handshake's deadline does not run on once the protocol has begun."""
    with Reactor(poller=poller, system=clock) as reactor:
        server = TLSServer(reactor, version, options=Options(deadlines=Deadlines(handshake=5)))
        with server.tls_peer() as peer:
            peer.step()
            turn_until(reactor, lambda: server.listener.connections)
            clock.skip(reactor, 4)
            assert reactor.connections[0].state is STARTING
            peer.shake()
            turn_until(reactor, lambda: server.protocols)
            clock.skip(reactor, 60, step=5)
            assert server.protocols[0].connection.state is OPEN


@VERSIONS
def test_a_failed_handshake_makes_room_for_the_next_client(reactor, version):
    """With room for one, the next is served when the one that failed is gone."""
    server = TLSServer(reactor, version, Echo, Options(limits=Limits(connections=1)))
    plain_http(server)
    peer, _ = server.connected()
    with peer:
        peer.send(b"hello")
        peer.read_until(5)
    assert server.listener.handshakes_failed == 1


@VERSIONS
def test_a_drain_lets_a_handshake_finish_and_then_ends_in_order(reactor, version):
    """Who is in the middle of it becomes a protocol, which is asked to end like all others; the client sees the end."""
    server = TLSServer(reactor, version)
    with server.tls_peer() as peer:
        peer.step()
        turn_until(reactor, lambda: server.listener.connections)
        reactor.call_soon(reactor.drain, 20)
        turn(reactor)
        peer.shake()
        assert peer.read_to_end() == "EOF"
        peer.end()
        turn_until(reactor, lambda: not reactor.connections)
    (protocol,) = server.protocols
    assert protocol.calls == ["connection_made", "connection_lost"]
    assert protocol.lost is None
    reactor.run()
    assert reactor.drained.clean


@VERSIONS
def test_closing_the_reactor_in_the_middle_of_a_handshake_tells_nobody(poller, version, caplog):
    """No protocol began, and a handshake that we gave up ourselves is no failure of the client's."""
    with Reactor(poller=poller) as reactor:
        server = TLSServer(reactor, version)
        peer = server.tls_peer()
        peer.step()
        turn_until(reactor, lambda: server.listener.connections)
    with peer, pytest.raises(ConnectionResetError):
        peer.sock.recv(1)
    assert server.protocols == []
    assert caplog.records == []


@VERSIONS
@pytest.mark.logs_errors
def test_a_factory_that_raises_is_no_failed_handshake(reactor, version):
    """The handshake was complete: the client is reset, and the exception is logged as what it is."""

    def refuse():
        raise ValueError("not today")

    server = TLSServer(reactor, version, refuse)
    with server.tls_peer() as peer:
        with suppress(ConnectionResetError):
            peer.shake()
        turn_until(reactor, lambda: reactor.connections_made and not reactor.connections)
        assert peer.read_to_end() in ("reset", "truncated")  # a reset, if the client did not read it just now
    assert server.listener.connections == 0
    assert server.listener.handshakes_failed == 0


@pytest.mark.parametrize("wrong", ["a client's context", "no context"])
def test_a_context_that_cannot_serve_is_refused_at_once(reactor, wrong):
    """Misuse is told where it was made, not to each client; nothing listens then."""
    context = client_context() if wrong == "a client's context" else True
    with pytest.raises((TypeError, ValueError)):
        reactor.listen(Recorder, "127.0.0.1", 0, tls=context)
    assert reactor.listeners == ()


# Connecting


class Listening:
    """A raw listening socket in the test's own hands, whose peers speak TLS as servers."""

    def __init__(self, reactor: Reactor, context: ssl.SSLContext) -> None:
        self.reactor = reactor
        self.context = context
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.port = self.sock.getsockname()[1]

    def peer(self) -> TLSPeer:
        """The next caller, whose handshake has not begun."""
        accepted: list[socket.socket] = []

        def came() -> bool:
            try:
                accepted.append(self.sock.accept()[0])
            except BlockingIOError:
                return False
            return True

        turn_until(self.reactor, came)
        return TLSPeer(accepted[0], self.reactor, self.context, None)

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()


class Caller(Recorder):
    """One that `connect` makes."""

    @property
    def told(self) -> bool:
        """Whether it was told what became of the connect."""
        return bool(self.calls)


def call(reactor: Reactor, port: int, host: str = "localhost", **arguments: object) -> list[Caller]:
    """Connects; the list holds the protocol as soon as it is made."""
    made: list[Caller] = []

    def make() -> Caller:
        made.append(Caller())
        return made[-1]

    reactor.connect(make, host, port, **arguments)
    return made


def told(reactor: Reactor, made: list[Caller]) -> Caller:
    turn_until(reactor, lambda: made and made[0].told)
    return made[0]


@VERSIONS
def test_a_client_and_a_server_of_ours_talk_and_end(reactor, version):
    """connect with tls: the host's name is asked for and checked, and the end is in order on both sides."""
    names = []
    context = server_context(version)
    context.sni_callback = lambda tls, name, _: names.append(name)
    server = TLSServer(reactor, version, Echo, context=context)
    made = call(reactor, server.address[1], tls=client_context(version))
    protocol = told(reactor, made)
    assert protocol.calls == ["connection_made"]
    assert names == ["localhost"]
    ask = protocol.connection.get_extra_info
    assert ("DNS", "localhost") in ask("peercert")["subjectAltName"]
    assert ask("ssl_object").version() == version.name.replace("v1_", "v1.")
    protocol.connection.write(BIG)
    protocol.connection.write_eof()
    ended(protocol, *server.protocols)
    assert protocol.data == server.protocols[0].data == BIG
    for side in (protocol, *server.protocols):
        assert side.lost is None
        assert [call for call in side.calls if "writing" not in call] == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]
        assert side.report.received == len(BIG)


@VERSIONS
def test_a_greeting_right_behind_the_servers_handshake_is_delivered(reactor, version):
    """Also when the client's protocol ends its output in connection_made."""

    class Greeted(Caller):
        def connection_made(self, connection):
            super().connection_made(connection)
            connection.write_eof()

    with Listening(reactor, server_context(version)) as listening:
        made = []
        reactor.connect(
            lambda: made.append(Greeted()) or made[-1], "localhost", listening.port, tls=client_context(version)
        )
        with listening.peer() as peer:
            turn_until(reactor, peer.step)
            peer.send_raw(peer.seal(b"welcome") + peer.close_notify())
            peer.fin()
            assert peer.read_to_end() == "EOF"
        (protocol,) = made
        ended(protocol)
    assert protocol.data == b"welcome"
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert protocol.lost is None


@VERSIONS
@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_a_certificate_that_does_not_convince_is_a_failed_connect(reactor, version, wrong):
    """connection_failed alone, with OpenSSL's reason; the server is told by an alert."""
    context = client_context(version) if wrong == "name" else of_version(ssl.create_default_context(), version)
    name = "elsewhere.example" if wrong == "name" else "localhost"
    with Listening(reactor, server_context(version)) as listening:
        made = call(reactor, listening.port, tls=context, server_hostname=name)
        with listening.peer() as peer, pytest.raises(ssl.SSLError, match="ALERT"):
            peer.shake()
        protocol = told(reactor, made)
        turn_until(reactor, lambda: not reactor.connections)
    assert protocol.calls == ["connection_failed"]
    ((_, cause),) = protocol.failed.causes
    assert isinstance(cause, ssl.SSLCertVerificationError)
    assert (cause.verify_code == HOSTNAME_MISMATCH) == (wrong == "name")
    assert cause.strerror in str(protocol.failed)
    assert len(made) == 1


@VERSIONS
@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("fin", TLSTruncated),
        ("fin after half a hello", TLSTruncated),
        ("reset", ConnectionResetError),
        ("plain text", ssl.SSLError),
    ],
)
def test_a_server_that_does_not_finish_the_handshake_is_a_failed_connect(reactor, version, end, error):
    """connection_failed alone, once, with what went wrong; nothing is left."""
    with Listening(reactor, server_context(version)) as listening:
        made = call(reactor, listening.port, tls=client_context(version))
        with listening.peer() as peer:
            turn_until(reactor, lambda: reactor.connections)
            if end == "plain text":
                peer.send_raw(b"220 hello\r\n")
            elif end == "reset":
                peer.reset()
            else:
                if end == "fin after half a hello":
                    turn_until(reactor, lambda: peer.step(most=200) or peer.wire)
                peer.fin()
            protocol = told(reactor, made)
        turn_until(reactor, lambda: not reactor.connections)
    assert protocol.calls == ["connection_failed"]
    ((_, cause),) = protocol.failed.causes
    assert type(cause) is error
    assert (getattr(cause, "strerror", None) or str(cause)) in str(protocol.failed)
    assert len(made) == 1


@VERSIONS
def test_a_server_that_says_nothing_is_a_failed_connect_at_the_deadline(poller, version, clock):
    """The handshake's own deadline, which begins when the connect has succeeded: connection_failed, not earlier."""
    with Reactor(poller=poller, system=clock) as reactor, Listening(reactor, server_context(version)) as listening:
        options = Options(deadlines=Deadlines(handshake=5))
        made = call(reactor, listening.port, "127.0.0.1", tls=client_context(version), options=options)
        with listening.peer():
            turn_until(reactor, lambda: reactor.connections)
            clock.skip(reactor, 4.8, step=0.1)
            assert made == []
            clock.skip(reactor, 0.4, step=0.1)
            protocol = told(reactor, made)
            turn_until(reactor, lambda: not reactor.connections)
    assert protocol.calls == ["connection_failed"]
    assert "no TLS handshake within 5 s" in str(protocol.failed)


@VERSIONS
def test_a_connect_that_is_cancelled_in_the_handshake_tells_nobody(reactor, version):
    """The server sees the end of it; no protocol is made."""
    with Listening(reactor, server_context(version)) as listening:
        made = []
        connector = reactor.connect(
            lambda: made.append(Caller()) or made[-1], "localhost", listening.port, tls=client_context(version)
        )
        with listening.peer() as peer:
            turn_until(reactor, lambda: reactor.connections)
            connector.cancel()
            turn_until(reactor, lambda: not reactor.connections)
            assert peer.read_to_end() in ("reset", "truncated", "UNEXPECTED_EOF_WHILE_READING")
    assert made == []
    assert connector.done()


@VERSIONS
@pytest.mark.parametrize("accepts", [True, False])
def test_both_sides_may_agree_on_a_protocol_by_connect_too(reactor, version, accepts):
    """ALPN on the client's side, and a client certificate, which the server can demand."""
    context, client = server_context(version), client_context(version)
    authority().configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    certificate("somebody@example.org").configure_cert(client)
    client.set_alpn_protocols(["chat/2", "chat/1"])
    context.set_alpn_protocols(["chat/1"] if accepts else ["other"])
    server = TLSServer(reactor, version, Echo, context=context)
    protocol = told(reactor, call(reactor, server.address[1], tls=client))
    agreed = protocol.connection.get_extra_info("ssl_object").selected_alpn_protocol()
    assert agreed == ("chat/1" if accepts else None)
    turn_until(reactor, lambda: server.protocols)
    certified = server.protocols[0].connection.get_extra_info("peercert")
    assert certified["subjectAltName"] == (("email", "somebody@example.org"),)


@pytest.mark.parametrize(
    "arguments",
    [{"server_hostname": "localhost"}, {"tls": True}, {"tls": "server"}],
    ids=["a name without tls", "no context", "a server's context"],
)
def test_a_tls_connect_that_cannot_be_meant_is_refused_at_once(reactor, arguments):
    """Nothing is begun then, and the error comes where the mistake is."""
    if arguments.get("tls") == "server":
        arguments = {"tls": server_context()}
    with pytest.raises((TypeError, ValueError)):
        reactor.connect(Recorder, "127.0.0.1", 1, **arguments)
    assert reactor.connectors == ()


# Programs that everybody has


class OneReply(Recorder):
    """Answers a request's last line with a megabyte, and ends."""

    head = b""

    def data_received(self, data):
        super().data_received(data)
        if self.data.endswith(b"\n") and not self.connection.is_closing():
            self.connection.write(self.head + BIG)
            self.connection.close()


class HTTPReply(OneReply):
    head = b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n"


@pytest.fixture
def trusted(tmp_path):
    """A file with the authority's certificate."""
    path = tmp_path / "authority.pem"
    authority().cert_pem.write_to_path(str(path))
    return str(path)


def outcome(reactor: Reactor, arguments: list[str], said: bytes, output: str) -> tuple[int, bytes]:
    """Runs a program beside the loop; its exit status, and what it wrote to its standard output."""
    with (
        open(output, "wb") as out,
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.DEVNULL) as program,
    ):
        try:
            program.stdin.write(said)
            program.stdin.close()
            turn_until(reactor, lambda: program.poll() is not None)
        finally:
            program.kill()
    with open(output, "rb") as written:
        return program.returncode, written.read()


@VERSIONS
@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl program")
@pytest.mark.parametrize("ends", ["server", "client"])
def test_openssls_own_client_gets_the_reply_and_the_end(reactor, version, ends, trusted, tmp_path):
    """`openssl s_client`: a megabyte and our end; or an echo and its own end."""
    server = TLSServer(reactor, version, OneReply if ends == "server" else Echo)
    arguments = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.address[1]}", "-servername", "localhost"]
    arguments += ["-CAfile", trusted, "-verify_return_error", "-verify_hostname", "localhost", "-quiet"]
    if ends == "client":
        arguments.append("-no_ign_eof")
    status, output = outcome(reactor, arguments, b"hello\n", str(tmp_path / "output"))
    assert status == 0
    (protocol,) = server.protocols
    ended(protocol)
    assert protocol.data == b"hello\n"
    if ends == "server":
        assert output == BIG
        assert protocol.lost is None
        assert protocol.report.unsent == 0
    else:
        assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]


@VERSIONS
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("check", [["-k"], ["--cacert"]], ids=["unchecked", "checked"])
def test_curl_gets_a_reply_that_ends_with_the_connection(reactor, version, check, trusted, tmp_path):
    """A reply without a length: only an end in order tells curl that it is whole."""
    server = TLSServer(reactor, version, HTTPReply)
    port = server.address[1]
    arguments = ["curl", "-sS", "--noproxy", "*", "--max-time", "15", "--resolve", f"localhost:{port}:127.0.0.1"]
    arguments += check if check == ["-k"] else [*check, trusted]
    arguments.append(f"https://localhost:{port}/")
    status, output = outcome(reactor, arguments, b"", str(tmp_path / "output"))
    assert status == 0
    assert output == BIG
    (protocol,) = server.protocols
    ended(protocol)
    assert protocol.lost is None
    assert protocol.data.startswith(b"GET / HTTP/1.1\r\n")


@VERSIONS
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_that_does_not_trust_us_asks_for_nothing(reactor, version, tmp_path):
    """It leaves in the handshake, or right behind it: some versions look at the certificate only then."""
    server = TLSServer(reactor, version, HTTPReply)
    url = f"https://127.0.0.1:{server.address[1]}/"
    arguments = ["curl", "-sS", "--noproxy", "*", "--max-time", "15", url]
    status, output = outcome(reactor, arguments, b"", str(tmp_path / "output"))
    assert status == 60  # curl(1): the peer's certificate cannot be authenticated
    assert output == b""
    turn_until(reactor, lambda: server.listener.handshakes_failed or any(it.ended for it in server.protocols))
    assert not any(protocol.data for protocol in server.protocols)


def test_a_caller_whose_handshake_has_not_begun_can_be_ended(reactor):
    """Aborted in the turn of its accept: told to the listener, and gone; a drain is not held up."""
    server = TLSServer(reactor, None)
    with server.peer():
        reactor.call_later(0, lambda: [connection.abort() for connection in reactor.connections])
        turn_until(reactor, lambda: server.listener.handshakes_failed == 1)
        reactor.run_once(0)
        assert server.listener.connections == 0
        assert reactor.drain(1.0).finished


@pytest.mark.logs_errors
def test_a_poller_that_takes_no_more_costs_one_caller_and_no_more(reactor, monkeypatch):
    """epoll has a limit of its own (ENOSPC); the loop lives on."""
    server = TLSServer(reactor, None)
    register = reactor.poller.register

    def full(fd, interest):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(reactor.poller, "register", full)
    with server.peer():
        turn_until(reactor, lambda: server.listener.handshakes_failed == 1)
    monkeypatch.setattr(reactor.poller, "register", register)
    peer, protocol = server.connected()
    with peer:
        assert protocol.calls == ["connection_made"]


@VERSIONS
def test_last_words_are_heard_whole_though_a_read_completes_no_record(reactor, version, monkeypatch):
    """After a failed send: as long as bytes come, they are read."""
    server = TLSServer(reactor, version, options=Options(limits=Limits(read_bytes=1024)))
    peer, protocol = server.connected()
    with peer:
        peer.send(b"w" * 16000)

        class Dead:
            def __getattr__(self, name):
                return getattr(sock, name)

            def send(self, data, flags):
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

        sock = protocol.connection._socket
        monkeypatch.setattr(protocol.connection, "_socket", Dead())
        protocol.connection.write(b"hello")
        ended(protocol)
    assert protocol.data == b"w" * 16000
    assert isinstance(protocol.lost, BrokenPipeError)
