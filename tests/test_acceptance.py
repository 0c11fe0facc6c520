"""The promise itself, at once for many: every client gets its whole reply, whatever it sends meanwhile."""

from __future__ import annotations

from reactor import Reactor
from tests.helpers import PATIENCE, Peer, Recorder, Server

CLIENTS = 300
REPLY = bytes(range(250)) * 800  # 200,000 bytes
MORE = bytes(1 << 20)


class Replier(Recorder):
    """Replies to the first bytes, and closes, whatever else may come."""

    def data_received(self, data):
        super().data_received(data)
        self.connection.write(REPLY)
        self.connection.close()


def talk(reactor, step) -> tuple[list[Peer], Server]:
    """Connects the clients; then lets each take its steps, turn by turn, until all have ended."""
    server = Server(reactor, Replier)
    peers = [server.peer() for _ in range(CLIENTS)]
    steps = [step(peer) for peer in peers]
    deadline = reactor.time() + PATIENCE * 2
    while steps:
        assert reactor.time() < deadline
        reactor.run_once(0.001)
        steps = [one for one in steps if next(one, "over") != "over"]
    for peer in peers:
        peer.close()
    while not all(protocol.ended for protocol in server.protocols):
        assert reactor.time() < deadline
        reactor.run_once(0.01)
    return peers, server


def sending(peer: Peer, data: bytes):
    """Sends it all, or what the server still takes, a step at a time."""
    view = memoryview(data)
    while view and peer.ending is None:
        try:
            view = view[peer.sock.send(view[:65536]) :]
        except BlockingIOError:
            pass
        except ConnectionError:
            return
        yield


def reading(peer: Peer, size: int | None = None):
    """Reads that much, or to the end."""
    while peer.ending is None and (size is None or len(peer.data) < size):
        peer.read_some()
        yield


def test_a_reply_arrives_whole_although_the_client_sends_on(poller):
    """300 clients send a request and then 1 MiB more, the server replies with 200,000 bytes and closes: 300 whole."""

    def step(peer):
        yield from sending(peer, b"request")
        yield from sending(peer, MORE)
        yield from reading(peer)

    check(poller, step)


def test_a_reply_arrives_whole_although_four_bytes_come_late(poller):
    """300 clients send four bytes after they have read half of the reply: 300 whole replies."""

    def step(peer):
        yield from sending(peer, b"request")
        yield from reading(peer, len(REPLY) // 2)
        yield from sending(peer, b"late")
        yield from reading(peer)

    check(poller, step)


def check(poller, step):
    with Reactor(poller=poller) as reactor:
        peers, server = talk(reactor, step)
    assert [peer.ending for peer in peers] == ["EOF"] * CLIENTS
    assert [bytes(peer.data) == REPLY for peer in peers] == [True] * CLIENTS
    for protocol in server.protocols:
        assert protocol.lost is None
        assert protocol.report.acknowledged == protocol.report.written == len(REPLY)
