"""Draining: everybody is let in, asked to end, waited for, and at the deadline accounted for."""

from __future__ import annotations

import socket

import pytest

from reactor import Aborted, DatagramProtocol, DrainSummary, Misuse, Reactor, Unsent
from tests.helpers import Recorder, Server, turn_until
from tests.test_connection import BIG, SMALL_BUFFERS


def begin(reactor: Reactor, deadline: float) -> DrainSummary:
    """Drains from inside a turn, as a signal handler does."""
    summaries = []
    reactor.call_soon(lambda: summaries.append(reactor.drain(deadline)))
    turn_until(reactor, lambda: summaries)
    return summaries[0]


def test_a_drain_closes_every_connection_in_order_and_run_returns(reactor):
    """Queued replies arrive whole, then the clean end; the summary says so."""
    server = Server(reactor, options=SMALL_BUFFERS)
    peers = [server.connected() for _ in range(3)]
    for _, protocol in peers:
        protocol.connection.write(BIG)
    summary = begin(reactor, 20)
    assert not summary.finished
    for peer, _ in peers:
        assert peer.read_to_end() == "EOF"
        assert peer.data == BIG
        peer.close()
    reactor.run()
    assert summary.clean
    assert (summary.ended.connections, summary.ended.ended_in_order, summary.ended.unsent) == (3, 3, 0)
    assert all(protocol.lost is None for _, protocol in peers)
    assert "3 connections ended in order" in str(summary)


def test_called_outside_a_turn_it_drains_to_the_end(reactor):
    """drain() runs the loop itself, and returns the finished summary."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        peer.fin()
        summary = reactor.drain(5)
    assert summary.finished
    assert protocol.ended
    assert reactor.listeners == ()
    reactor.run()
    assert reactor.drain(1) is summary


def test_who_waits_in_the_queue_is_let_in_and_asked_to_end(reactor):
    """Nobody in the accept queue is reset (K15)."""
    said = []

    class Polite(Recorder):
        def draining(self):
            said.append(self)
            self.connection.write(b"bye")
            self.connection.close()

    server = Server(reactor, Polite)
    peers = [server.peer() for _ in range(5)]
    begin(reactor, 20)
    for peer in peers:
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"bye"
        peer.close()
    reactor.run()
    assert len(said) == 5


def test_others_may_write_to_a_draining_connection_until_it_is_lost(reactor):
    """The default `draining` is not the protocol's own close, so a speaker who does not know of it is not punished."""

    class Default(Recorder):
        pass

    server = Server(reactor, Default, options=SMALL_BUFFERS)
    peer, protocol = server.connected(receive_buffer=4096)
    with peer:
        protocol.connection.write(BIG)
        summary = begin(reactor, 20)
        turn_until(reactor, lambda: protocol.connection.is_closing())
        protocol.connection.write(b"late")
        assert peer.read_to_end() == "EOF"
        assert peer.data == BIG
    reactor.run()
    assert isinstance(protocol.lost, Unsent)
    assert summary.ended.unsent == 4


def test_at_the_deadline_what_is_left_is_reset_and_counted(reactor):
    """A protocol that will not end, and a peer that will not read."""

    class Stubborn(Recorder):
        def draining(self):
            self.calls.append("draining")

    server = Server(reactor, Stubborn, options=SMALL_BUFFERS)
    idle, first = server.connected()
    stalled, second = server.connected(receive_buffer=4096)
    second.connection.write(BIG)
    second.connection.close()
    with idle, stalled:
        summary = begin(reactor, 0.1)
        reactor.run()
        assert idle.read_to_end() == "reset"
    assert summary.finished
    assert not summary.clean
    assert (summary.ended.connections, summary.ended.lost) == (2, 2)
    assert summary.ended.unsent + summary.ended.unacknowledged == second.report.lost > 0
    assert isinstance(first.lost, Aborted)
    assert "deadline" in str(first.lost)
    assert first.calls == ["connection_made", "draining", "connection_lost"]


def test_what_only_lingers_at_the_deadline_is_let_go_not_reset(reactor):
    """Its reply has arrived; a reset could only destroy it."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write(b"reply")
        protocol.connection.close()
        summary = begin(reactor, 0.3)  # an acknowledgement may take 40 ms
        reactor.run()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"reply"
    assert summary.clean


def test_a_connect_under_way_is_told_at_the_deadline(reactor):
    """Everything has an end in a drain."""
    from tests.test_connector import Client, Deaf

    Client.made = []
    system = Deaf()
    with Reactor(system=system) as deaf:
        deaf.connect(Client, "127.0.0.1", 1)
        deaf.drain(0.05)
        system.other.close()
    assert [client.calls for client in Client.made] == [["connection_failed"]]


@pytest.mark.parametrize("deadline", [-1, float("nan"), float("inf"), "30", None, True])
def test_a_deadline_that_is_none_is_refused(reactor, deadline):
    """Zero or more seconds; told at once, not when the signal comes, and nothing has begun."""
    with pytest.raises(ValueError, match="a drain's deadline is"):
        reactor.drain_on_signals(deadline)
    assert not reactor.draining
    with pytest.raises(ValueError, match="a drain's deadline is"):
        reactor.drain(deadline)


def test_an_earlier_deadline_holds(reactor):
    """Draining again can shorten it, not lengthen it."""
    server = Server(reactor, lambda: Recorder(keep_open=True))
    peer, protocol = server.connected()
    protocol.draining = lambda: None
    with peer:
        begin(reactor, 30)
        summary = begin(reactor, 0.05)
        reactor.run()
    assert summary.finished
    assert isinstance(protocol.lost, Aborted)


def test_a_program_that_never_rests_is_drained_all_the_same(reactor):
    """A call that posts itself again and again does not keep run() from returning."""

    def again():
        reactor.call_soon(again)

    server = Server(reactor)
    peer, protocol = server.connected()
    reactor.call_soon(again)
    with peer:
        peer.fin()
        summary = reactor.drain(5)
    assert summary.clean
    assert protocol.ended


def test_an_embedded_drain_finishes_too(poller):
    """A host that turns with run_once sees the summary complete."""
    with Reactor(poller=poller) as reactor:
        server = Server(reactor)
        peer, protocol = server.connected()
        with peer:
            summary = begin(reactor, 20)
            peer.fin()
            turn_until(reactor, lambda: summary.finished)
        assert summary.ended.connections == 1
        assert protocol.ended
        assert reactor.drained is summary


def test_a_client_that_always_comes_back_is_drained_all_the_same(reactor):
    """Once its deadline has passed, a drained reactor takes no new ends."""
    server = Server(reactor)
    refused = []

    class Returning(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            try:
                reactor.connect(Returning, *server.address)
            except Misuse as exc:
                refused.append(str(exc))

        connection_failed = connection_lost

    reactor.connect(Returning, *server.address)
    turn_until(reactor, lambda: server.protocols)
    reactor.drain(0.1)
    assert refused
    assert "was drained" in refused[0]
    with pytest.raises(Misuse, match="was drained"):
        reactor.listen(Recorder, "127.0.0.1", 0)


def test_a_connection_aborted_just_before_is_waited_for(reactor):
    """A drain is finished when everybody was told."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.abort()
        summary = reactor.drain(5)
        assert protocol.ended
    assert summary.ended.lost == 1


def test_a_stop_under_run_once_does_not_stop_a_later_drain(reactor):
    """There was no run() for it to stop."""
    server = Server(reactor)
    peer, protocol = server.connected()
    reactor.call_soon(reactor.stop)
    reactor.run_once(0)
    with peer:
        peer.fin()
        assert reactor.drain(5).finished
    assert protocol.ended


def test_datagrams_that_a_drain_could_not_send_are_not_called_clean(reactor, tmp_path):
    """A full receiver at the deadline: the endpoint is cut, and the summary counts what it held."""
    full = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with full:
        full.bind(str(tmp_path / "full"))
        endpoint = reactor.datagram(DatagramProtocol, remote_path=tmp_path / "full")
        turn_until(reactor, lambda: endpoint.get_protocol() is not None)
        while endpoint.get_write_buffer_size() == 0:
            endpoint.sendto(b"x")
        summary = reactor.drain(0.1)
    assert summary.finished
    assert not summary.clean
    assert summary.ended.datagrams_unsent == endpoint.report.unsent > 0
    assert "datagrams unsent" in str(summary)
