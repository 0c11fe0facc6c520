"""An end leaves nothing for the garbage collector: whatever its cause, reference counting alone frees all of it."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
import struct
from collections import Counter
from functools import partial

import pytest
import trustme

from reactor import (
    Connection,
    Connector,
    DatagramProtocol,
    Deadlines,
    Delimited,
    FramedProtocol,
    Options,
    Protocol,
    Reactor,
    Sockets,
    relay,
)
from reactor.addresses import Address
from tests.helpers import turn_until

NO_LINGER = struct.pack("ii", 1, 0)
# Of a long reply most waits here.
NARROW = Options(sockets=Sockets(send_buffer_bytes=4096))
# So many live at once: a batch is connected and ended together.
BATCH = 50


class Server(Protocol):
    """Does as the client's first byte says, or what its class says elsewhere."""

    def data_received(self, data):
        word, connection = data[:1], self.connection
        if word == b"!":
            raise ValueError("on purpose")
        if word == b"a":
            connection.abort()
        elif word == b"c":
            connection.write(b"bye")
            connection.close()
        elif word == b"q":
            connection.write(bytes(300_000))
        elif word == b"x":
            try:
                raise KeyError("on purpose")
            except KeyError as exc:
                connection.abort(exc)
        elif word == b"t":
            connection.call_soon(self.fail)

    def fail(self, *args):
        raise ValueError("on purpose")


class RaisesInMade(Server):
    def connection_made(self, connection):
        raise ValueError("on purpose")


class RaisesAtEOF(Server):
    def eof_received(self):
        raise ValueError("on purpose")


class RaisesInLost(Server):
    def connection_lost(self, exc):
        raise ValueError("on purpose")


class RaisesInPause(Server):
    pause_writing = Server.fail


class Keeps(Server):
    """Keeps what it was told, and its connection's report."""

    def connection_lost(self, exc):
        self.told, self.report = exc, self.connection.report


class Framed(FramedProtocol):
    reader = Delimited(b"\n", 100)

    def frame_received(self, frame):
        if frame == b"!":
            raise ValueError("on purpose")


def raising_factory():
    raise ValueError("on purpose")


def served(factory, word: bytes, how: str = "close"):
    """Clients that say a word, and then close, reset, or wait for the end."""

    def endings(reactor: Reactor, count: int) -> None:
        listener = reactor.listen(factory, "127.0.0.1", 0, options=NARROW)
        at_once = min(count, BATCH)
        for _ in range(0, count, BATCH):
            peers = [socket.create_connection(listener.addresses[0]) for _ in range(at_once)]
            turn_until(reactor, lambda: len(reactor.connections) == at_once or factory in ENDS_AT_ONCE)
            for peer in peers:
                peer.sendall(word)
            if how == "reset":
                for peer in peers:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
                    peer.close()
            elif how == "close":
                reactor.run_once(0)
                for peer in peers:
                    peer.close()
            turn_until(reactor, lambda: not reactor.connections)
            for peer in peers:
                peer.close()
        listener.close()

    return endings


ENDS_AT_ONCE = (RaisesInMade, raising_factory)


class Client(Protocol):
    """A client of the reactor itself, which counts its ends."""

    ended = 0

    def connection_made(self, connection):
        super().connection_made(connection)
        connection.close()

    def connection_failed(self, exc):
        self.failure = exc
        Client.ended += 1

    def connection_lost(self, exc):
        Client.ended += 1


class RaisingClient(Client):
    def connection_made(self, connection):
        raise ValueError("on purpose")


class AbortingClient(Client):
    def connection_made(self, connection):
        connection.abort()


class RaisesWhenFailed(Client):
    def connection_failed(self, exc):
        super().connection_failed(exc)
        raise ValueError("on purpose")


def connects(client, server=None, context=None, **how):
    """Connects of the reactor's own, to a server or to nobody."""

    def endings(reactor: Reactor, count: int) -> None:
        if server is None:
            with socket.create_server(("127.0.0.1", 0)) as closed:
                address = closed.getsockname()
        else:
            tls = None if context is None else SERVER
            listener = reactor.listen(server, "127.0.0.1", 0, tls=tls)
            address = listener.addresses[0]
        for _ in range(0, count, BATCH):
            Client.ended = 0
            for _ in range(min(count, BATCH)):
                reactor.connect(client, *address, tls=context, **how)
            turn_until(reactor, lambda: not reactor.connectors and not reactor.connections)
        if server is not None:
            listener.close()

    return endings


def connects_to_two_addresses(reactor: Reactor, count: int) -> None:
    """The first refuses, and the second is connected to: the first one's error is told to nobody."""
    listener = reactor.listen(Server, "127.0.0.1", 0)
    number = listener.addresses[0][1]
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()
    addresses = [Address(socket.AF_INET, nobody), Address(socket.AF_INET, ("127.0.0.1", number))]
    for _ in range(0, count, BATCH):
        for _ in range(min(count, BATCH)):
            connector = Connector(reactor, "name", Client, Options())
            connector.start(partial(connector.begin, addresses))
        turn_until(reactor, lambda: not reactor.connectors and not reactor.connections)
    listener.close()


def cancelled(turns: int):
    def endings(reactor: Reactor, count: int) -> None:
        listener = reactor.listen(Server, "127.0.0.1", 0)
        for _ in range(0, count, BATCH):
            connectors = [reactor.connect(Client, *listener.addresses[0]) for _ in range(min(count, BATCH))]
            connectors += [reactor.connect(Client, "localhost", 9) for _ in range(min(count, BATCH))]
            for _ in range(turns):
                reactor.run_once(0)
            while connectors:
                connectors.pop().cancel()
            turn_until(reactor, lambda: not reactor.connections)
        listener.close()

    return endings


def endpoints(factory, act):
    def endings(reactor: Reactor, count: int) -> None:
        for _ in range(0, count, BATCH):
            made = [reactor.datagram(factory, ("127.0.0.1", 0)) for _ in range(min(count, BATCH))]
            reactor.run_once(0)
            while made:
                act(made.pop())
            turn_until(reactor, lambda: not reactor.datagrams)

    return endings


class Endpoint(DatagramProtocol):
    def connection_lost(self, exc):
        self.told = exc


class RaisingEndpoint(Endpoint):
    def connection_made(self, endpoint):
        raise ValueError("on purpose")


def send_too_much(endpoint) -> None:
    endpoint.sendto(bytes(70_000), ("127.0.0.1", 9))
    endpoint.close()


def relays(end):
    """Two pairs, joined, and ended in some way by the far peers, or by the relay."""

    def endings(reactor: Reactor, count: int) -> None:
        for _ in range(count // 5):
            near, far = zip(socket.socketpair(), socket.socketpair(), strict=True)
            made: list[Connection] = []
            for sock in near:
                protocol = Made(made)
                reactor.connect(lambda protocol=protocol: protocol, sock=sock)
            turn_until(reactor, lambda made=made: len(made) == 2)
            joined = relay(*made)
            made.clear()
            far[0].send(b"some")
            reactor.run_once(0)
            end(joined, far)
            turn_until(reactor, lambda: not reactor.connections)
            for sock in far:
                sock.close()

    return endings


class Made(Protocol):
    def __init__(self, made: list) -> None:
        self.made = made

    def connection_made(self, connection):
        self.made.append(connection)


def end_in_order(joined, far) -> None:
    for sock in far:
        sock.shutdown(socket.SHUT_WR)


def timers(reactor: Reactor, count: int) -> None:
    """Objects that keep the handles of their own calls."""

    class Keeper:
        def __init__(self) -> None:
            self.handles = [reactor.call_later(0, self.called), reactor.call_later(99, self.called)]
            self.handles += [reactor.call_soon(self.called), reactor.call_soon(self.called)]
            for handle in self.handles[1::2]:
                handle.cancel()

        def called(self) -> None:
            pass

    keepers = [Keeper() for _ in range(count)]
    reactor.run()
    keepers.clear()
    globals()["Keeper"] = Keeper  # a class is a cycle by itself, and this one is looked at by nobody


def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client, ssl.create_default_context()


SERVER, CLIENT, STRANGER = _contexts()
HASTY = Options(deadlines=Deadlines(connect=0.001))

ENDINGS = {
    "in order": served(Server, b"."),
    "closed by us": served(Server, b"c"),
    "reset by the peer": served(Server, b".", "reset"),
    "reset while we send": served(Server, b"q", "reset"),
    "told to a protocol that keeps it": served(Keeps, b".", "reset"),
    "aborted": served(Server, b"a", "wait"),
    "aborted with an exception that was raised": served(Keeps, b"x", "wait"),
    "the factory raises": served(raising_factory, b"."),
    "connection_made raises": served(RaisesInMade, b""),
    "data_received raises": served(Server, b"!", "wait"),
    "data_received raises, told to a protocol that keeps it": served(Keeps, b"!", "wait"),
    "eof_received raises": served(RaisesAtEOF, b"."),
    "pause_writing raises": served(RaisesInPause, b"q", "wait"),
    "connection_lost raises": served(RaisesInLost, b"."),
    "a call of its own raises": served(Server, b"t", "wait"),
    "framed": served(Framed, b"frame\n"),
    "framed, cut short": served(Framed, b"part"),
    "framed, raises": served(Framed, b"!\n", "wait"),
    "framed, too long": served(Framed, bytes(200)),
    "connects": connects(Client, Server),
    "connect refused": connects(Client),
    "connect from elsewhere": connects(Client, source=("192.0.2.1", 0)),
    "connect to a name": connects_to_two_addresses,
    "connect refused, connection_failed raises": connects(RaisesWhenFailed),
    "connect too late": connects(Client, Server, options=HASTY),
    "connect, connection_made raises": connects(RaisingClient, Server),
    "connect, the factory raises": connects(raising_factory, Server),
    "connect cancelled at once": cancelled(0),
    "connect cancelled on its way": cancelled(1),
    "TLS in order": connects(Client, Server, CLIENT),
    "TLS aborted": connects(AbortingClient, Server, CLIENT),
    "TLS, connection_made raises": connects(RaisingClient, Server, CLIENT),
    "TLS, the server's connection_made raises": connects(Client, RaisesInMade, CLIENT),
    "TLS, a stranger's certificate": connects(Client, Server, STRANGER),
    "datagram closed": endpoints(Endpoint, lambda endpoint: endpoint.close()),
    "datagram aborted": endpoints(Endpoint, lambda endpoint: endpoint.abort()),
    "datagram refused": endpoints(Endpoint, send_too_much),
    "datagram, connection_made raises": endpoints(RaisingEndpoint, lambda endpoint: endpoint.close()),
    "relay in order": relays(end_in_order),
    "relay, a peer gone": relays(lambda joined, far: far[1].close()),
    "relay aborted": relays(lambda joined, far: joined.abort()),
    "timers": timers,
}


def check(endings, count: int) -> None:
    logging.disable()  # a record of the log keeps the exception
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        with Reactor() as reactor:
            endings(reactor, BATCH)
            for _ in range(3):
                reactor.run_once(0)
            gc.collect()
            gc.garbage.clear()
            endings(reactor, count)
            for _ in range(3):
                reactor.run_once(0)
            gc.collect()
            left = Counter(type(thing).__name__ for thing in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        logging.disable(logging.NOTSET)
    # The last exceptions of each round may still hold the frames of this test, which were executing then.
    assert sum(left.values()) < count, left
    assert left["Connection"] <= 4, left


@pytest.mark.parametrize("name", ENDINGS)
def test_an_end_leaves_nothing_for_the_collector(name):
    """A hundred of each; fewer objects than ends are left, so none is left by each."""
    check(ENDINGS[name], 2 * BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDINGS)
def test_a_thousand_ends_leave_nothing_for_the_collector(name):
    """The same for a thousand."""
    check(ENDINGS[name], 1000)


def test_a_reason_can_still_be_logged_when_it_was_told(reactor):
    """What the frames held is freed, not where they were: the traceback names the lines."""
    import traceback

    protocols = []

    def make():
        protocols.append(Keeps())
        return protocols[-1]

    logging.disable()
    try:
        listener = reactor.listen(make, "127.0.0.1", 0)
        with socket.create_connection(listener.addresses[0]) as peer:
            peer.sendall(b"!")
            turn_until(reactor, lambda: protocols and hasattr(protocols[0], "told"))
    finally:
        logging.disable(logging.NOTSET)
    text = "".join(traceback.format_exception(protocols[0].told))
    assert "in data_received" in text
    assert text.endswith("ValueError: on purpose\n")
    frame = protocols[0].told.__traceback__.tb_next.tb_next.tb_frame
    assert frame.f_code.co_name == "data_received"
    assert not frame.f_locals
