"""Relaying: each direction by itself, backpressure, and ends that are passed on as what they were."""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import random
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from reactor import (
    Aborted,
    Deadlines,
    Delimited,
    FlushTimeout,
    FramedProtocol,
    IdleTimeout,
    Misuse,
    Options,
    Reactor,
    TLSTruncated,
    Unacknowledged,
    Watermarks,
)
from reactor.connection import Connection
from reactor.lifecycle import CLOSED
from reactor.relaying import Relay, _Side, relay
from reactor.testing import Link, OneAtATime, ShortReads, ShortWrites, SimulatedSystem, Stalls, TryAgain
from reactor.testing.explore import explore
from reactor.testing.faults import Fault
from reactor.testing.fingerprint import connection_fingerprint, socket_fingerprint
from reactor.testing.machine import BUFFER_BYTES, DRAIN_SECONDS, ErrorLog, Machine, Scenario, need
from reactor.testing.peer import Peer as ScriptedPeer
from reactor.trace import Observer
from tests.helpers import Peer, Recorder, Server, all_closed, turn_until
from tests.test_tls import TLSPeer, client_context, server_context

KiB = 1024
MiB = 1024 * KiB


@attrs.define
class Joined:
    """A relay between two raw peers, `near` and `far`."""

    relay: Relay
    near: Peer
    far: Peer
    done: list[Relay]

    def over(self) -> bool:
        return bool(self.done)


def two(server: Server, **near: object) -> tuple[Peer, Recorder, Peer, Recorder]:
    """Two connections, each with its raw peer."""
    return (*server.connected(**near), *server.connected())


@contextmanager
def joined(reactor: Reactor, transport: str = "tcp4", path: str | None = None, **near: object) -> Iterator[Joined]:
    server = Server(reactor, transport=transport, path=path)
    near_peer, one, far_peer, other = two(server, **near)
    done: list[Relay] = []
    with all_closed(near_peer, far_peer):
        yield Joined(relay(one.connection, other.connection, done=done.append), near_peer, far_peer, done)
    turn_until(reactor, lambda: not reactor.connections)


def pattern(size: int) -> bytes:
    """Bytes in which every place looks different, the same each time."""
    return random.Random(size).randbytes(size)


# What is passed on


def test_a_request_and_its_end_and_then_the_reply_and_its_end(reactor, transport, tmp_path):
    """The HOWTO's exchange goes through: the request's FIN arrives, and the reply after it."""
    with joined(reactor, transport, str(tmp_path / "socket")) as pair:
        pair.near.send(b"request")
        pair.near.fin()
        assert pair.far.read_to_end() == "EOF"
        assert bytes(pair.far.data) == b"request"
        assert not pair.over()
        pair.far.send(b"reply")
        pair.far.fin()
        assert pair.near.read_to_end() == "EOF"
        assert bytes(pair.near.data) == b"reply"
        turn_until(reactor, pair.over)
        assert (pair.relay.one_to_other, pair.relay.other_to_one) == (7, 5)
        assert pair.relay.failure is None
        assert pair.relay.failed is None
        assert pair.relay.over
        assert pair.relay.one.report.how == pair.relay.other.report.how == "in order"


def test_the_far_side_may_end_first(reactor, transport, tmp_path):
    """A server that says all it has and ends still hears what the client says afterwards."""
    with joined(reactor, transport, str(tmp_path / "socket")) as pair:
        pair.far.send(b"greeting")
        pair.far.fin()
        assert pair.near.read_to_end() == "EOF"
        assert bytes(pair.near.data) == b"greeting"
        pair.near.send(b"late")
        pair.far.read_until(4)
        assert bytes(pair.far.data) == b"late"
        pair.near.fin()
        assert pair.far.read_to_end() == "EOF"
        turn_until(reactor, pair.over)
        assert pair.relay.failure is None


def test_both_may_end_at_once(reactor):
    """Two FINs that cross are two ends in order, and `done` is called once."""
    with joined(reactor) as pair:
        pair.near.send(b"from near")
        pair.far.send(b"from far")
        pair.near.fin()
        pair.far.fin()
        assert (pair.near.read_to_end(), pair.far.read_to_end()) == ("EOF", "EOF")
        assert (bytes(pair.near.data), bytes(pair.far.data)) == (b"from far", b"from near")
        turn_until(reactor, pair.over)
        assert pair.done == [pair.relay]
        assert pair.relay.failure is None


@pytest.mark.parametrize("from_near", [True, False])
def test_a_reset_is_passed_on_as_a_reset(reactor, from_near):
    """In both directions; the failure is the kernel's own, and names the connection that it came from."""
    with joined(reactor) as pair:
        pair.near.send(b"half of someth")
        pair.far.read_until(14)
        (pair.near if from_near else pair.far).reset()
        assert (pair.far if from_near else pair.near).read_to_end() == "reset"
        turn_until(reactor, pair.over)
        assert isinstance(pair.relay.failure, ConnectionResetError)
        assert pair.relay.failed is (pair.relay.one if from_near else pair.relay.other)


@pytest.mark.parametrize("from_near", [True, False])
def test_a_reset_of_a_half_open_relay_is_a_reset_of_the_other(reactor, from_near):
    """After one FIN was passed on, what is left of the conversation still ends as what it was."""
    with joined(reactor) as pair:
        pair.near.fin()
        assert pair.far.read_to_end() == "EOF"
        pair.far.send(b"half a rep")
        pair.near.read_until(10)
        (pair.near if from_near else pair.far).reset()

        def noticed() -> bool:
            try:
                pair.far.sock.send(b"more")  # select(2) tells of a reset only those who write or read
            except OSError:
                return True
            return False

        if from_near:
            turn_until(reactor, noticed)
        else:
            assert pair.near.read_to_end() == "reset"
        turn_until(reactor, pair.over)
        assert isinstance(pair.relay.failure, OSError)


def test_both_may_reset_at_once(reactor):
    """One failure is kept, the first, and `done` is called once."""
    with joined(reactor) as pair:
        pair.near.reset()
        pair.far.reset()
        turn_until(reactor, pair.over)
        for _ in range(3):
            reactor.run_once(0)
        assert pair.done == [pair.relay]
        assert isinstance(pair.relay.failure, ConnectionResetError)


# Backpressure


def test_a_slow_reader_gets_everything_and_nothing_piles_up():
    """16 MiB through a relay: whole, in order, and never more queued than the watermark and one read."""
    data = pattern(16 * MiB)
    with Reactor() as reactor, joined(reactor, receive_buffer=256 * KiB) as pair:
        view, most = memoryview(data), 0
        slow = pair.relay.one
        _, high = slow.get_write_buffer_limits()

        def exchange() -> bool:
            nonlocal view, most
            if view:
                try:
                    view = view[pair.far.sock.send(view[:MiB]) :]
                except BlockingIOError:
                    pass
                if not view:
                    pair.far.fin()
            most = max(most, slow.get_write_buffer_size())
            pair.near.read_some(128 * KiB)
            return pair.near.ending is not None

        turn_until(reactor, exchange)
        assert pair.near.ending == "EOF"
        assert hashlib.sha256(pair.near.data).digest() == hashlib.sha256(data).digest()
        assert 0 < most <= high + 256 * KiB


def stuffed(reactor: Reactor, pair: Joined) -> int:
    """Lets the far peer send, while the near one reads nothing, until it is not read any more; how much that was."""
    sent = 0

    def full() -> bool:
        nonlocal sent
        try:
            sent += pair.far.sock.send(bytes(256 * KiB))
        except BlockingIOError:
            return not pair.relay.other.is_reading()
        return False

    turn_until(reactor, full)
    return sent


def test_an_end_behind_a_large_queue_waits_for_it(reactor):
    """A FIN that comes while much is queued for the other is passed on behind all of it."""
    with joined(reactor) as pair:
        sent = stuffed(reactor, pair)
        pair.far.fin()
        assert pair.near.read_to_end() == "EOF"
        assert len(pair.near.data) == sent
        pair.near.fin()
        turn_until(reactor, pair.over)
        assert pair.relay.failure is None


def test_a_reset_by_a_peer_that_is_not_read_is_noticed(reactor):
    """Backpressure does not hide that the sender died: the reader sees a reset, never the end of a whole stream."""
    with joined(reactor) as pair:
        stuffed(reactor, pair)
        pair.far.reset()
        assert pair.near.read_to_end() == "reset"
        turn_until(reactor, pair.over)
        assert isinstance(pair.relay.failure, OSError)


def test_the_other_direction_goes_on_while_one_is_held_back(reactor):
    """A peer that does not read may still say something."""
    with joined(reactor) as pair:
        stuffed(reactor, pair)
        pair.near.send(b"are you there?")
        pair.far.read_until(14)
        assert bytes(pair.far.data) == b"are you there?"
        pair.near.reset()
        turn_until(reactor, pair.over)


# Joined in the middle of their lives


def test_what_was_written_before_goes_first(reactor):
    """Output that waits when they are joined is sent before what comes from the other."""
    server = Server(reactor)
    near, one, far, other = two(server)
    with all_closed(near, far):
        for word in (b"HTTP/1.1 ", b"200 ", b"OK\r\n\r\n"):
            one.connection.write(word)
        joined = relay(one.connection, other.connection)
        far.send(b"tunnel")
        near.read_until(25)
        assert bytes(near.data) == b"HTTP/1.1 200 OK\r\n\r\ntunnel"
        assert joined.other_to_one == 6
        near.fin()
        far.fin()
        turn_until(reactor, lambda: joined.over)


def test_one_that_was_paused_is_read_again(reactor):
    """Pausing a client until its server is connected is what proxies do."""
    server = Server(reactor)
    near, one, far, other = two(server)
    with all_closed(near, far):
        one.connection.pause_reading()
        near.send(b"early")
        near.fin()
        reactor.run_once(0.01)
        joined = relay(one.connection, other.connection)
        assert far.read_to_end() == "EOF"
        assert bytes(far.data) == b"early"
        far.fin()
        turn_until(reactor, lambda: joined.over)
        assert joined.failure is None


def test_an_end_that_was_read_before_is_passed_on(reactor):
    """One whose peer's FIN its former protocol was told is joined half-open."""
    server = Server(reactor, factory=lambda: Recorder(keep_open=True))
    near, one, far, other = two(server)
    with all_closed(near, far):
        near.fin()
        turn_until(reactor, lambda: "eof_received" in one.calls)
        joined = relay(one.connection, other.connection)
        assert far.read_to_end() == "EOF"
        far.send(b"reply")
        far.fin()
        assert near.read_to_end() == "EOF"
        assert bytes(near.data) == b"reply"
        turn_until(reactor, lambda: joined.over)
        assert joined.failure is None


def test_two_whose_peers_have_ended_before_end_with_what_waits_for_them(reactor):
    """Nothing is left to pass on: both are over, in order."""
    server = Server(reactor, factory=lambda: Recorder(keep_open=True))
    near, one, far, other = two(server)
    with all_closed(near, far):
        near.fin()
        far.fin()
        turn_until(reactor, lambda: "eof_received" in one.calls and "eof_received" in other.calls)
        one.connection.write(b"last words")
        joined = relay(one.connection, other.connection)
        assert (near.read_to_end(), far.read_to_end()) == ("EOF", "EOF")
        assert bytes(near.data) == b"last words"
        turn_until(reactor, lambda: joined.over)
        assert joined.failure is None


def test_one_that_has_died_untold_ends_the_other_with_a_reset(reactor):
    """Between an abort and its connection_lost a connection can be joined; the relay is told the end."""
    server = Server(reactor)
    near, one, far, other = two(server)
    done = []
    with all_closed(near, far):
        one.connection.abort()
        assert one.connection.state is CLOSED
        joined = relay(one.connection, other.connection, done=done.append)
        assert far.read_to_end() == "reset"
        assert near.read_to_end() == "reset"
        turn_until(reactor, lambda: done)
        assert isinstance(joined.failure, Aborted)
        assert joined.failed is one.connection


MISUSES = {
    "closed": lambda one: one.close(),
    "ended": lambda one: one.write_eof(),
}


@pytest.mark.parametrize("how", list(MISUSES))
@pytest.mark.parametrize("swapped", [False, True])
def test_one_to_which_nothing_can_be_written_is_refused(reactor, how, swapped):
    """What the other's peer sends would be lost in silence; nothing has happened to either."""
    server = Server(reactor)
    near, one, far, other = two(server)
    with all_closed(near, far):
        MISUSES[how](one.connection)
        pair = (other.connection, one.connection) if swapped else (one.connection, other.connection)
        with pytest.raises(Misuse, match=r"relay\(\) refused <Connection #\d .*: (nothing can be|it was closed)"):
            relay(*pair)
        assert (one.connection.get_protocol(), other.connection.get_protocol()) == (one, other)
        near.fin()
        far.fin()
        turn_until(reactor, lambda: one.ended and other.ended)
        assert one.lost is other.lost is None


def test_one_that_is_gone_and_one_and_the_same_are_refused(reactor):
    """The message says which and why."""
    server = Server(reactor)
    near, one, far, other = two(server)
    with all_closed(near, far):
        near.fin()
        turn_until(reactor, lambda: one.ended)
        with pytest.raises(Misuse, match=r"refused .* CLOSED>: it has ended"):
            relay(other.connection, one.connection)
        with pytest.raises(Misuse, match="with itself"):
            relay(other.connection, other.connection)
        assert other.connection.get_protocol() is other
        far.fin()
        turn_until(reactor, lambda: other.ended)


# The relay's own ends


def test_abort_resets_both_and_keeps_the_cause(reactor):
    """An operator's reason to end it is told as the failure, and nobody is blamed."""
    with joined(reactor) as pair:
        cause = IdleTimeout("nothing moved")
        pair.relay.abort(cause)
        assert pair.near.read_to_end() == pair.far.read_to_end() == "reset"
        turn_until(reactor, pair.over)
        assert pair.relay.failure is cause
        assert pair.relay.failed is None
        pair.relay.abort()
        assert pair.relay.failure is cause


def test_abort_comes_too_late_for_a_relay_that_is_over(reactor):
    """Its end in order stays one."""
    with joined(reactor) as pair:
        pair.near.fin()
        pair.far.fin()
        turn_until(reactor, pair.over)
        pair.relay.abort()
        assert pair.relay.failure is None
        assert pair.done == [pair.relay]


def test_a_connection_that_somebody_else_closes_resets_the_other(reactor):
    """What its peer still sent was thrown away: that must not look like an end to the other's."""
    with joined(reactor) as pair:
        pair.relay.one.close()
        pair.near.fin()
        assert pair.far.read_to_end() == "reset"
        turn_until(reactor, pair.over)
        assert str(pair.relay.failure).endswith("was closed by somebody else than its relay")
        assert pair.relay.failed is pair.relay.one


@pytest.mark.logs_errors
def test_what_done_raises_is_logged_and_harms_nobody(reactor, caplog):
    """As with any callback."""
    server = Server(reactor)
    near, one, far, other = two(server)

    def done(over: Relay) -> None:
        raise LookupError(over)

    with all_closed(near, far):
        joined = relay(one.connection, other.connection, done=done)
        near.fin()
        far.fin()
        assert (near.read_to_end(), far.read_to_end()) == ("EOF", "EOF")
        turn_until(reactor, lambda: joined.over)
        assert "LookupError" in caplog.text
        assert joined.failure is None


def test_a_relay_in_which_nothing_moves_can_be_told():
    """`moved` grows with each byte that is received, sent or acknowledged, and rests otherwise."""
    with Simulated(Options(), Link(latency=1.0)) as world:
        joined = world.join()
        assert joined.moved == 0
        world.near.send(b"abc")
        world.run(1.5)
        assert joined.moved == 6  # received, and sent
        world.run(2.0)
        assert joined.moved == 9  # and acknowledged
        world.run(10.0)
        assert joined.moved == 9
        assert "<Relay <Connection #1" in repr(joined)


def test_a_relay_that_is_over_leaves_no_circle():
    """Its memory is free at once; nothing waits for the garbage collector."""
    relays: list[weakref.ref[Relay]] = []
    with Reactor() as reactor:
        server = Server(reactor)
        near, one, far, other = two(server)
        with all_closed(near, far):
            relays.append(weakref.ref(relay(one.connection, other.connection)))
            gc.disable()
            try:
                near.fin()
                far.fin()
                assert relays[0]() is not None
                turn_until(reactor, lambda: relays[0]() is None)
            finally:
                gc.enable()


def test_a_drain_lets_a_conversation_come_to_its_end(reactor):
    """Nobody in between knows where it may stop: the peers end it, and nothing is lost."""
    with joined(reactor) as pair:
        reactor.call_soon(reactor.drain, 20.0)
        pair.near.send(b"the last request")
        pair.near.fin()
        assert pair.far.read_to_end() == "EOF"
        pair.far.send(b"the last reply")
        pair.far.fin()
        assert pair.near.read_to_end() == "EOF"
        assert bytes(pair.near.data) == b"the last reply"
        turn_until(reactor, lambda: reactor.drained.finished)
        assert reactor.drained.clean


def test_a_drains_deadline_resets_what_is_left(reactor):
    """Both peers are told that it is not whole."""
    with joined(reactor) as pair:
        assert not reactor.drain(0.05).clean
        assert pair.near.read_to_end() == pair.far.read_to_end() == "reset"
        assert isinstance(pair.relay.failure, Aborted)
        assert pair.over()


# TLS on either side


@contextmanager
def joined_with_tls(reactor: Reactor) -> Iterator[Joined]:
    """The near side speaks TLS."""
    plain = Server(reactor)
    protocols: list[Recorder] = []

    def make() -> Recorder:
        protocols.append(Recorder())
        return protocols[-1]

    listener = reactor.listen(make, "127.0.0.1", 0, tls=server_context())
    sock = socket.create_connection(listener.addresses[0])
    near = TLSPeer(sock, reactor, client_context(), "localhost").shake()
    far, other = plain.connected()
    with all_closed(near, far):
        turn_until(reactor, lambda: protocols)
        done: list[Relay] = []
        yield Joined(relay(protocols[0].connection, other.connection, done=done.append), near, far, done)
    turn_until(reactor, lambda: not reactor.connections)


def test_half_close_passes_through_tls_both_ways(reactor):
    """close_notify becomes a FIN and a FIN close_notify, each behind all that came before."""
    data = pattern(1 * MiB)
    with joined_with_tls(reactor) as pair:
        pair.near.send(data)
        pair.near.end()
        assert pair.far.read_to_end() == "EOF"
        assert bytes(pair.far.data) == data
        pair.far.send(data)
        pair.far.fin()
        assert pair.near.read_to_end() == "EOF"  # behind close_notify, or it would be "truncated"
        assert bytes(pair.near.data) == data
        turn_until(reactor, pair.over)
        assert pair.relay.failure is None
        assert pair.relay.one_to_other == pair.relay.other_to_one == len(data)


def test_a_truncated_tls_stream_is_a_reset_for_the_other(reactor):
    """A FIN without close_notify may be an attacker's: nobody behind the relay takes it for an end."""
    with joined_with_tls(reactor) as pair:
        pair.near.send(b"half of it")
        pair.far.read_until(10)
        pair.near.fin()
        assert pair.far.read_to_end() == "reset"
        turn_until(reactor, pair.over)
        assert isinstance(pair.relay.failure, TLSTruncated)
        assert pair.relay.failed is pair.relay.one


def test_a_reset_behind_the_relay_leaves_tls_without_close_notify(reactor):
    """The other way round."""
    with joined_with_tls(reactor) as pair:
        pair.far.reset()
        assert pair.near.read_to_end() == "reset"
        turn_until(reactor, pair.over)
        assert isinstance(pair.relay.failure, ConnectionResetError)


# A process of its own

FORWARDER = """
import sys
from reactor import Protocol, Reactor
from reactor.relaying import relay

class Far(Protocol):
    def __init__(self, near):
        self.near = near

    def connection_made(self, connection):
        relay(self.near, connection, done=lambda relay: listener.close())

class Near(Protocol):
    def connection_made(self, connection):
        connection.pause_reading()
        reactor.connect(lambda: Far(connection), "127.0.0.1", int(sys.argv[1]))

with Reactor() as reactor:
    listener = reactor.listen(Near, "127.0.0.1", 0)
    print(listener.addresses[0][1], flush=True)
    reactor.run()
"""


def peak_of(process: int) -> int:
    """The most memory that was ever resident, in bytes."""
    words = Path(f"/proc/{process}/status").read_text().split()
    return int(words[words.index("VmHWM:") + 1]) * KiB


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the resident memory is read from /proc")
def test_a_gigabyte_to_a_slow_reader_is_whole_and_costs_no_memory():
    """1 GiB through a forwarder whose client naps after each read; it never holds more than a few reads."""
    size, piece = 1024 * MiB, pattern(4 * MiB)
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        command = [sys.executable, "-c", FORWARDER, str(upstream.getsockname()[1])]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as forwarder:
            assert forwarder.stdout is not None
            port = int(forwarder.stdout.readline())
            sent, read = hashlib.sha256(), hashlib.sha256()

            def send() -> None:
                sock, _ = upstream.accept()
                with sock:
                    for _ in range(size // len(piece)):
                        sock.sendall(piece)
                        sent.update(piece)

            sender = threading.Thread(target=send)
            sender.start()
            with socket.create_connection(("127.0.0.1", port)) as client:
                before, total = peak_of(forwarder.pid), 0
                while data := client.recv(512 * KiB):
                    read.update(data)
                    total += len(data)
                    time.sleep(0.001)  # this is what makes it slow
                grown = peak_of(forwarder.pid) - before
            sender.join()
            assert forwarder.wait(20) == 0
    assert total == size
    assert read.digest() == sent.digest()
    assert grown < 4 * MiB


# In the simulated kernel

SMALL = Link(send_buffer_bytes=1000, receive_buffer_bytes=1000)


class Simulated:
    """Two connections of a simulated world, not joined yet, and their scripted peers."""

    def __init__(self, near: Options, link: Link = SMALL, seed: int = 0, far: Options | None = None) -> None:
        self.system = SimulatedSystem(seed, link=link)
        self.reactor = Reactor(system=self.system)
        self.near, self.one = self._connection(near)
        self.far, self.other = self._connection(far or near)
        self.system.run(self.reactor, until=lambda: hasattr(self.other, "connection"))
        self.done: list[Relay] = []

    def _connection(self, options: Options) -> tuple[ScriptedPeer, Recorder]:
        sock, peer = self.system.connected()
        recorder = Recorder()
        self.reactor.connect(lambda: recorder, sock=sock, options=options)
        return peer, recorder

    def join(self) -> Relay:
        return relay(self.one.connection, self.other.connection, done=self.done.append)

    def run(self, seconds: float = 1.0, until: Callable[[], object] | None = None) -> None:
        self.system.run(self.reactor, seconds, until)

    def __enter__(self) -> Simulated:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.reactor.close()
        assert not self.system.bad_calls


# Written before the join in how many pieces, and then read by the peer: (bytes, turns between, read), with watermarks
# of 4,000 and 1,000 and kernels that hold 2,000.
QUEUES = {
    "above high, told": ([3000, 3000, 3000], True, 0),
    "between low and high, told": ([3000, 3000, 3000], True, 4500),
    "between low and high, never told": ([2000, 2000], True, 0),
    "above high, in this very turn": ([3000, 3000, 3000], False, 0),
    "below low": ([2500], True, 0),
}


@pytest.mark.parametrize("how", list(QUEUES))
def test_what_waits_when_they_are_joined_is_backpressure_from_the_first_moment(how):
    """Nobody is told pause_writing twice; still, where it was told, the other is not read until resume_writing.

    Where less waits, the other is read up to the high watermark, as in the middle of a relay.
    """
    pieces, turns, read = QUEUES[how]
    with Simulated(Options(watermarks=Watermarks(high=4000, low=1000))) as world:
        world.near.stop_reading()
        connection = world.one.connection
        for size in pieces:
            connection.write(bytes(size))
            if turns:
                world.run(0.1)
        while read:
            read -= len(world.near.read(min(read, 500)))
            world.run(0.1)
        assert ("pause_writing" in world.one.calls) == how.endswith(", told")
        assert "resume_writing" not in world.one.calls
        waiting = connection.get_write_buffer_size()
        assert waiting > 0
        joined = world.join()
        assert connection.get_write_buffer_limits() == (1000, 4000)
        world.far.send(b"x" * 20_000)
        world.far.fin()
        world.run()
        if how.endswith(", told"):
            assert joined.other_to_one == 0
            assert 0 < connection.get_write_buffer_size() <= waiting
        else:
            assert joined.other_to_one < 20_000
            assert connection.get_write_buffer_size() > 4000
        world.near.resume_reading()
        world.near.fin()
        world.run(until=lambda: world.done)
        assert (bytes(world.near.data), world.near.ending) == (bytes(sum(pieces)) + b"x" * 20_000, "EOF")
        assert joined.failure is None


def test_a_peer_that_takes_nothing_after_the_others_end_is_reset_and_so_is_the_other():
    """The flush deadline runs in a relay, too; without an end nothing runs, for that is backpressure."""
    with Simulated(Options(deadlines=Deadlines(flush=10.0))) as world:
        world.near.stop_reading()
        joined = world.join()
        world.far.send(bytes(5000))
        world.run(1000.0)
        assert not world.done
        world.far.fin()
        world.run(11.0)
        assert world.done
        assert isinstance(joined.failure, FlushTimeout)
        assert joined.failed is joined.one
        assert world.far.ending == "reset"
        world.near.resume_reading()
        assert world.near.ending == "reset"


def test_an_idle_deadline_of_one_connection_resets_the_other():
    """It closes its own side in order, as everywhere; to the other's peer the stream was cut short."""
    with Simulated(Options(deadlines=Deadlines(idle=10.0)), far=Options()) as world:
        joined = world.join()
        world.far.send(b"half of")
        world.run(60.0, until=lambda: world.done)
        assert isinstance(joined.failure, IdleTimeout)
        assert (world.near.ending, world.far.ending) == ("EOF", "reset")


@pytest.mark.parametrize("seed", range(6))
def test_a_conversation_in_bad_weather_is_the_same_conversation(seed):
    """Short reads and writes, stalls, one event at a time: both streams are whole, and end in order."""
    link = Link(latency=0.02, jitter=0.05, segment_bytes=400, send_buffer_bytes=2000, receive_buffer_bytes=1500)
    with Simulated(Options(watermarks=Watermarks(high=3000)), link, seed) as world:
        world.system.faults = [ShortReads(0.4), ShortWrites(0.4), TryAgain(0.2), OneAtATime(0.5), Stalls(0.02, 3.0)]
        joined = world.join()
        up, down = pattern(30_000), pattern(50_000)[::-1]
        world.near.send(up)
        world.near.fin()
        world.far.send(down)
        world.system.after(7.0, world.far.fin)
        world.run(3000.0, until=lambda: world.done and world.near.ending and world.far.ending)
        assert (world.far.data, world.far.ending) == (up, "EOF")
        assert (world.near.data, world.near.ending) == (down, "EOF")
        assert joined.failure is None


# Every schedule, to a depth


class Order(Fault):
    """How the next batch is served."""

    batch = "turn"

    def on_ready(self, system: SimulatedSystem, ready: list[tuple[int, int]]) -> list[tuple[int, int]]:
        orders = {"turn-reversed": ready[::-1], "turn-first": ready[:1], "turn-last": ready[-1:]}
        return orders.get(self.batch, ready)


class End:
    """One side: what its peer did, and what it was sent."""

    def __init__(self, world: RelayWorld, alphabet: bytes, unix: bool = False) -> None:
        self.sock, self.peer = world.system.connected(unix=unix)
        self.unix = unix
        self.peer.stop_reading()
        self.recorder = Recorder()
        world.reactor.connect(lambda: self.recorder, sock=self.sock, options=world.scenario.options)
        self.alphabet = itertools.cycle(alphabet)
        self.sent = bytearray()
        self.ended = self.was_reset = False

    def steps(self) -> list[str]:
        if self.peer.sock.released:
            return []
        cut = "close" if self.unix else "reset"
        steps = [cut] if self.ended else ["send", "fin", cut]
        readable = self.peer.ending is None and (self.peer.sock.inbox or self.peer.sock.fin_received)
        return [*steps, "read"] if readable else steps

    def do(self, step: str) -> None:
        if step == "send":
            data = bytes(itertools.islice(self.alphabet, 6))
            self.sent += data
            self.peer.send(data)
        elif step == "fin":
            self.ended = True
            self.peer.fin()
        elif step == "reset":
            self.ended = self.was_reset = True
            self.peer.unsent.clear()
            self.peer.reset()
        elif step == "close":
            # Of a Unix socket: what its kernel had not taken was not sent.
            self.ended = True
            del self.sent[len(self.sent) - len(self.peer.unsent) :]
            self.peer.unsent.clear()
            self.peer.close()
        else:
            self.peer.read()


class RelayWorld(Machine):
    """A relay between two scripted peers that read only when they are told; buffers of four bytes."""

    def __init__(self, scenario: Scenario, log: ErrorLog, observer: Observer | None = None) -> None:
        super().__init__(scenario, log, observer)
        self.order = Order()
        self.system.faults = [self.order]
        self.ends = {"near": End(self, b"abcdefghijk"), "far": End(self, b"0123456", scenario.unix)}
        for _ in range(3):
            self.reactor.run_once(0)
        one, other = (end.recorder.connection for end in self.ends.values())
        self.done: list[Relay] = []
        self.relay = relay(one, other, done=self._over)
        self.aborted = self.drained = False
        if scenario.name == "held back":
            for _ in range(5):
                self.ends["near"].do("send")
            self.settle()

    def _over(self, over: Relay) -> None:
        self.done.append(over)
        for connection in (over.one, over.other):
            need(connection.get_protocol() is None, "done was called before both were gone")

    def steps(self) -> list[str]:
        if self.relay.over:
            return []
        steps = [f"{name}-{step}" for name, end in self.ends.items() for step in end.steps()]
        if not self.aborted:
            steps.append("abort")
        if not self.drained:
            steps.append("drain")
        if self.busy():
            steps.append("turn")
            if len(self.system.ready()) > 1:
                steps += ["turn-reversed", "turn-first", "turn-last"]
        elif not self.over():
            steps.append("wait")
        return steps

    def do(self, step: str) -> None:
        if step.startswith("turn"):
            self.order.batch = step
            self.reactor.run_once(0)
            self.order.batch = "turn"
        elif step == "wait":
            self.wait()
        elif step == "abort":
            self.aborted = True
            self.relay.abort()
        elif step == "drain":
            self.drained = True
            self.reactor.call_soon(self.reactor.drain, DRAIN_SECONDS)
        else:
            name, _, doing = step.partition("-")
            self.ends[name].do(doing)

    def check(self) -> None:
        super().check()
        for end, other, connection in self._both_ways():
            seen = bytes(end.peer.data)
            need(other.sent.startswith(seen), f"{seen!r} was read, {bytes(other.sent)!r} was sent")
            if end.peer.ending == "EOF" and not (end.unix and self.relay.failure):  # a Unix socket cannot be reset
                need(other.ended and not other.peer.unsent, "an end was seen that nobody made")
                need(seen == other.sent, f"a clean end was seen behind {seen!r} of {bytes(other.sent)!r}")
            # The watermark and one read, which is at most what a kernel holds.
            queued = connection.get_write_buffer_size()
            need(queued <= self.scenario.options.watermarks.high + BUFFER_BYTES, f"{queued} bytes are queued")

    def finish(self, kind: bool) -> None:
        for end in self.ends.values():
            if kind:
                end.peer.on_change = self._answer(end)
                end.peer.resume_reading()
                if not end.ended:
                    end.do("fin")
        self.settle()
        if not kind and not self.relay.over:
            self.reactor.drain(DRAIN_SECONDS)
        self.settle()
        need(self.done == [self.relay] and self.relay.over, f"{self.relay!r} is never over")
        for end in self.ends.values():
            need(end.sock.releases == 1, "the descriptor was not closed, or twice")
            end.peer.resume_reading()
        self.settle()
        for end, _, connection in self._both_ways():
            gone = end.was_reset or end.peer.sock.released
            need(gone or end.peer.ending is not None, f"the peer of {connection!r} waits for ever")
        self.check()
        cut = self.aborted or (self.drained and isinstance(self.relay.failure, Aborted | Unacknowledged))
        near, far = self.ends.values()
        missed = far.peer.sock.released and far.peer.data != near.sent  # it closed, and there was more for it
        orderly = not cut and not missed and not any(end.was_reset for end in self.ends.values())
        if kind and orderly:
            need(self.relay.failure is None, f"nobody reset anything, and it failed: {self.relay.failure!r}")
            for end, other, _ in self._both_ways():
                whole = end.peer.ending == "EOF" or end.peer.sock.released
                need(end.peer.data == other.sent and whole, "not everything arrived")
        elif self.relay.failure is None:
            need(not self.aborted or not self.relay.moved, "an abort was not told")
            for connection in (self.relay.one, self.relay.other):
                need(connection.report.how == "in order", f"{connection.report} was not told as a failure")

    def _answer(self, end: End) -> Callable[[ScriptedPeer], None]:
        def answer(peer: ScriptedPeer) -> None:
            if peer.ending not in (None, "EOF") and not peer.sock.released:
                peer.close()

        return answer

    def _both_ways(self) -> list[tuple[End, End, Connection]]:
        near, far = self.ends.values()
        return [(near, far, self.relay.one), (far, near, self.relay.other)]

    def fingerprint(self) -> tuple[object, ...]:
        words: list[object] = [self.under_way(), self.busy(), self.aborted, self.drained, tuple(self.system.ready())]
        for side, end in zip(self.relay._sides, self.ends.values(), strict=True):
            words += [connection_fingerprint(side.connection, self.reactor)]
            words += [side.ended, side.gone, end.ended, end.was_reset]
            words += [socket_fingerprint(end.sock), socket_fingerprint(end.peer.sock)]
            words += [len(end.peer.unsent), end.peer.ending]
        return tuple(words)

    def __str__(self) -> str:
        return f"{self.relay!r}"


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="at once"),
        Scenario(name="slow line", latency=0.5),
        # The near peer has sent more than the far one, who reads nothing, lets through.
        Scenario(name="held back"),
        # The far peer has a Unix socket, and closes it when it has said everything.
        Scenario(name="far unix", unix=True),
    )
}


@pytest.fixture
def explored(monkeypatch):
    """`explore`, of relays."""
    monkeypatch.setattr("reactor.testing.explore.make_machine", RelayWorld)
    return explore


@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_no_schedule_of_three_steps_turns_one_end_into_another(explored, scenario):
    """Every interleaving of both peers, the batches, a drain and the passing of time, to that depth."""
    result = explored(SCENARIOS[scenario], 3)
    assert result.violation is None, f"{result.what}\n{result.text}"
    assert result.states > 100


@pytest.mark.slow
@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_no_schedule_of_six_steps_turns_one_end_into_another(explored, scenario):
    """Deeper."""
    result = explored(SCENARIOS[scenario], 6)
    assert result.violation is None, f"{result.what}\n{result.text}"
    assert result.states > 2000


# The checker, checked: what a relay could plausibly get wrong, and what is then said of it.


def fail_quietly(relay: Relay, cause: Exception, failed: Connection | None) -> None:
    relay._failure = cause


def fail_politely(relay: Relay, cause: Exception, failed: Connection | None) -> None:
    relay._failure = cause
    for side in relay._sides:
        side.connection.close()


BROKEN = {
    "a failure changes nothing for the other": (Relay, "_fail", fail_quietly, "is never over"),
    "a failure closes the other in order": (Relay, "_fail", fail_politely, "an end was seen that nobody made"),
    "an end is not passed on": (_Side, "eof_received", lambda side: True, "is never over"),
    "an end closes both directions": (
        _Side,
        "eof_received",
        lambda side: side._target.close(),
        "nobody reset anything, and it failed",
    ),
    "an end in order takes the other with it": (
        _Side,
        "connection_lost",
        lambda side, exc: (setattr(side, "ended", False), lost(side, exc)),
        "nobody reset anything, and it failed",
    ),
    "nobody is held back": (_Side, "pause_writing", lambda side: None, "bytes are queued"),
    "nobody is let go on": (_Side, "resume_writing", lambda side: None, "never over"),
    "a drain ends a conversation in the middle": (
        _Side,
        "draining",
        lambda side: side.connection.close(),
        "an end was seen that nobody made",
    ),
    "done is told for each": (Relay, "over", property(lambda relay: any(side.gone for side in relay._sides)), "both"),
}
lost = _Side.connection_lost


@pytest.mark.parametrize("how", list(BROKEN))
def test_the_exploration_finds(explored, monkeypatch, how):
    """A relay with this bug violates something within a few steps."""
    owner, name, instead, says = BROKEN[how]
    monkeypatch.setattr(owner, name, instead)
    for scenario in ("at once", "held back"):
        result = explored(SCENARIOS[scenario], 2)
        if result.violation is not None:
            assert says in result.what
            return
    pytest.fail(f"nothing found in {result.schedules} schedules")


def test_what_a_framed_protocol_has_not_read_is_not_lost_in_silence():
    """A CONNECT and the first bytes of what follows, in one read: Misuse, until they are taken."""

    class Connect(FramedProtocol):
        reader = Delimited(b"\n", 100)

    with Simulated(Options()) as world:
        framed = Connect()
        framed.connection = world.one.connection
        world.one.connection.set_protocol(framed)
        framed.data_received(b"half a li")
        with pytest.raises(Misuse, match="9 unread bytes"):
            world.join()
        assert framed.take_unread() == b"half a li"
        world.join()
