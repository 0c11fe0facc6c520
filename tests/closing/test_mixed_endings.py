"""All of it at once: hundreds of connections that end in every way, and an account of every byte: scenario 71."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import pytest

from tests.closing.support import REPLY, check_account, turn
from tests.helpers import Peer, Protocol, turn_until

KINDS = ("client first", "server first", "reset", "both at once")
BATCH = 100


class Answer(Protocol):
    """Replies with as many bytes as it is asked for, and closes if that is asked for too."""

    def __init__(self) -> None:
        self.made = self.lost = 0
        self.request = b""
        self.written = self.read = 0
        self.reason: Exception | None = None

    def connection_made(self, connection):
        super().connection_made(connection)
        self.made += 1

    def data_received(self, data):
        self.request += data
        self.read += len(data)
        if self.request.endswith(b"\n"):
            kind, size = self.request.decode().rsplit(maxsplit=1)
            self.connection.write(REPLY[: int(size)])
            self.written += int(size)
            if kind in ("server first", "both at once"):
                self.connection.close()

    def connection_lost(self, exc):
        self.lost += 1
        self.reason = exc

    @property
    def report(self):
        return self.connection.report


def play(peer: Peer, kind: str, size: int, patience: int) -> Iterator[None]:
    """One client's life; it yields whenever it has to wait."""
    peer.sock.send(f"{kind} {size}\n".encode())
    if kind in ("client first", "both at once"):
        peer.fin()
    while peer.ending is None and not (kind == "reset" and len(peer.data) >= patience):
        if not peer.read_some(16384):
            yield
    if kind == "reset":
        peer.reset()
    else:
        peer.close()


def check(protocols: list[Answer], clients: list[tuple[Peer, str, int]]) -> None:
    """Each connection of the batch began once, ended once, and no byte of it is unaccounted for."""
    by_request = {protocol.request: protocol for protocol in protocols}
    assert len(by_request) == len(protocols) == len(clients)
    for peer, kind, size in clients:
        protocol = by_request[f"{kind} {size}\n".encode()]
        report = protocol.report
        assert (protocol.made, protocol.lost) == (1, 1)
        assert report.reason is protocol.reason
        assert (report.written, report.received) == (protocol.written, protocol.read)
        check_account(protocol)
        assert REPLY.startswith(peer.data)
        if kind == "reset":
            assert len(peer.data) <= report.accepted
            assert (protocol.reason is None) is (report.how == "in order")
        else:
            assert (protocol.reason, report.how, report.unsent) == (None, "in order", 0)
            assert (peer.ending, len(peer.data)) == ("EOF", size)
            assert report.received == len(protocol.request)


def mix(server, connections: int, seed: int) -> None:
    """So many connections, a quarter of each kind, in batches."""
    reactor, random = server.reactor, Random(seed)
    # Each size once, so that a reply is known by its length.
    sizes = random.sample(range(1, 3 * connections + 100_000), connections)
    totals = dict.fromkeys(("received", "written", "unsent", "discarded"), 0)
    in_order = 0
    open_before = len(os.listdir("/proc/self/fd"))
    for first in range(0, connections, BATCH):
        clients = [(server.peer(), KINDS[n % 4], sizes[n]) for n in range(first, min(first + BATCH, connections))]
        lives = [play(peer, kind, size, random.randrange(size)) for peer, kind, size in clients]

        def all_over(lives: list[Iterator[None]] = lives) -> bool:
            lives[:] = [life for life in lives if next(life, "over") is None]
            return not lives and not reactor.connections

        turn_until(reactor, all_over)
        turn(reactor)
        check(server.protocols, clients)
        for protocol in server.protocols:
            for name in totals:
                totals[name] += getattr(protocol.report, name)
            in_order += protocol.reason is None
        server.protocols.clear()
    ended = reactor.statistics().ended
    assert (ended.connections, ended.ended_in_order, ended.lost) == (connections, in_order, connections - in_order)
    assert {name: getattr(ended, name) for name in totals} == totals
    assert in_order >= connections * 3 // 4
    assert server.listener.connections == 0
    assert reactor.statistics().timers == 0
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_four_hundred_mixed_endings_leak_nothing(serve):
    """Scenario 71: client first, server first, reset, both at once: no descriptor, no timer, no byte is left over."""
    mix(serve(Answer), 400, seed=71)


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["tcp4"])
def test_ten_thousand_mixed_endings_leak_nothing(serve):
    """Scenario 71: the same, long enough for a slow leak to show."""
    mix(serve(Answer), 10_000, seed=17)
