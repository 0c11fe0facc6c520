"""The proxy sample: its header, its connections in the simulated kernel, and the process as people run it."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor import Deadlines, Limits, Options, Reactor
from reactor.testing import DescriptorLimit, Fault, Link, SimulatedSystem
from samples.common import Room
from samples.proxy import Health, Route, main, serve
from samples.proxy.header import MOST_BYTES, Header, Malformed, build, parse
from tests.helpers import Peer, Recorder, Server, turn_until
from tests.samples.processes import read_to_end, wait_for
from tests.test_tls import TLSPeer, authority, certificate, client_context, server_context

V2 = b"\r\n\r\n\0\r\nQUIT\n"

# The header

GOOD = [
    (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        (("192.168.0.1", 56324), ("192.168.0.11", 443)),
    ),
    (b"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", (("255.255.255.255", 65535), ("0.0.0.0", 0))),
    (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", (("2001:db8::1", 1), ("::1", 2))),
    (b"PROXY UNKNOWN\r\n", (None, None)),
    (b"PROXY UNKNOWN anything at all 1 2\r\n", (None, None)),
    (
        V2 + b"\x21\x11\x00\x0c" + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + b"\x00\x50\x1f\x90",
        (("10.0.0.1", 80), ("10.0.0.2", 8080)),
    ),
    (
        V2 + b"\x21\x21\x00\x24" + bytes(15) + b"\1" + bytes(15) + b"\2" + b"\x00\x50\x1f\x90",
        (("::1", 80), ("::2", 8080)),
    ),
    (V2 + b"\x21\x31\x00\xd8" + b"/run/a".ljust(108, b"\0") + bytes(108), ("/run/a", "")),
    (V2 + b"\x21\x31\x00\xd8" + b"\0abstract".ljust(108, b"\0") + b"x" * 108, ("\0abstract", "x" * 108)),
    # An extension behind the addresses; health checks, with and without a block; kinds that are not ours.
    (
        V2 + b"\x21\x11\x00\x11" + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + b"\x00\x50\x1f\x90" + b"\x04\x00\x02ab",
        (("10.0.0.1", 80), ("10.0.0.2", 8080)),
    ),
    (V2 + b"\x20\x00\x00\x00", (None, None)),
    (V2 + b"\x20\xff\x00\x03abc", (None, None)),
    (V2 + b"\x21\x00\x00\x00", (None, None)),
    (V2 + b"\x21\x12\x00\x0c" + bytes(12), (None, None)),
]


@pytest.mark.parametrize(("header", "ends"), GOOD)
def test_a_header_is_understood_when_its_last_byte_is_there(header, ends):
    """Not before, and what stands behind it is somebody else's."""
    for length in range(len(header)):
        assert parse(header[:length]) is None
    for behind in (b"", b"GET / HTTP/1.1\r\n", b"\r\n", b"PROXY "):
        assert parse(header + behind) == Header(len(header), *ends)


BAD = {
    b"GET / HTTP/1.1\r\n": "it is not a PROXY header",
    b"PRX": "it is not",
    b"PROXY\r\n": "it is not",
    b"proxy TCP4": "it is not",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n": "CRLF",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r2": "CRLF",
    b"PROXY TCP4 1.2.3.4\n 1.2.3.4 1 2\r\n": "not CRLF",
    b"PROXY UNKNOWN " + b"x" * 93: "within 107 bytes",
    b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n": "'UDP4' is no kind",
    b"PROXY UNKNOWNS\r\n": "no kind",
    b"PROXY \r\n": "'' is no kind",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n": "3 words",
    b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n": "5 words",
    b"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n": "'1.2.3.04' is no IPv4",
    b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n": "no IPv4",
    b"PROXY TCP4 ::1 ::1 1 2\r\n": "'::1' is no IPv4",
    b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n": "no IPv6",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n": "no IPv6",
    b"PROXY TCP4 \xff.2.3.4 1.2.3.4 1 2\r\n": "no IPv4",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n": "'01' is no port",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n": "no port",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n": "no port",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \xb2\r\n": "no port",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n": "5 words",
    b"\r\n\r\n\0\r\nQUIX": "it is not",
    V2 + b"\x31": "version and command 0x31",
    V2 + b"\x22": "version and command 0x22",
    V2 + b"\x21\x41\x00\x00": "family and transport 0x41",
    V2 + b"\x21\x13\x00\x00": "family and transport 0x13",
    V2 + b"\x21\x11\x00\x0b" + bytes(11): "11 bytes of addresses instead of 12",
    V2 + b"\x21\x31\x00\x24" + bytes(36): "36 bytes of addresses instead of 216",
    V2 + b"\x20\x00\xff\xff": "a header of 65551 bytes",
}


@pytest.mark.parametrize(("data", "says"), BAD.items())
def test_what_is_no_header_is_said_so(data, says):
    """Nothing is guessed, nothing is let pass."""
    with pytest.raises(Malformed) as raised:
        parse(data)
    assert says in str(raised.value)


ADDRESSES = st.one_of(
    st.tuples(st.ip_addresses(v=4).map(str), st.integers(0, 65535)),
    st.tuples(st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None).map(str), st.integers(0, 65535)),
)


@settings(deadline=None, max_examples=50)
@given(ADDRESSES, ADDRESSES, st.sampled_from([1, 2]))
def test_what_is_built_is_understood(source, destination, version):
    """Both versions, both families; in a mixed pair the IPv4 one is mapped into IPv6."""
    header = build(version, source, destination)
    found = parse(header)
    assert found is not None
    assert found.length == len(header)
    mixed = (":" in source[0]) != (":" in destination[0])
    for there, given_address in ((found.source, source), (found.destination, destination)):
        assert there is not None
        assert there[1] == given_address[1]
        if not mixed or ":" in given_address[0]:
            assert there == given_address
        else:
            assert there[0].startswith("::ffff:")


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.binary(max_size=64), st.binary(max_size=200).map(lambda tail: V2 + b"\x21" + tail)))
def test_any_bytes_are_a_header_or_none_or_not_yet(data):
    """Never another error; and what is as long as a header can be is decided."""
    for decided, more in ((False, b""), (True, b"\xff" * MOST_BYTES)):
        try:
            found = parse(data + more)
        except Malformed:
            continue
        if found is None:
            assert not decided
        else:
            assert 0 < found.length <= len(data + more)


def test_what_a_version_cannot_say_is_unknown():
    """Version 1 has no Unix sockets; neither has words for a pair of different kinds."""
    assert build(1, "", "/run/x") == build(1, ("1.2.3.4", 1), "/run/x") == build(1, None, None) == b"PROXY UNKNOWN\r\n"
    assert build(2, None, None) == build(2, ("1.2.3.4", 1), "/run/x") == V2 + b"\x21\0\0\0"
    assert build(2, "", "/run/x") == V2 + b"\x21\x31\0\xd8" + bytes(108) + b"/run/x".ljust(108, b"\0")


def test_a_caller_of_a_socket_for_both_families_is_named_as_what_it_is():
    """::ffff:a.b.c.d is an IPv4 address; and a scope is nobody else's business."""
    assert build(1, ("::ffff:1.2.3.4", 5), ("::ffff:6.7.8.9", 80)) == b"PROXY TCP4 1.2.3.4 6.7.8.9 5 80\r\n"
    assert build(1, ("fe80::1%eth0", 5), ("fe80::2", 80)) == b"PROXY TCP6 fe80::1 fe80::2 5 80\r\n"


# In the simulated kernel

UPSTREAM = ("10.0.0.2", 9000)
SMALL = Link(send_buffer_bytes=2000, receive_buffer_bytes=2000)


class World:
    """A proxy and its upstream in a simulated world."""

    def __init__(self, *, link: Link = SMALL, upstream: bool = True, options: Options | None = None, **route: object):
        self.system = SimulatedSystem(link=link)
        self.reactor = Reactor(system=self.system)
        self.health = Health()
        whole = Route(**{"to": {"host": UPSTREAM[0], "port": UPSTREAM[1]}, **route})
        self.listener = serve(self.reactor, "127.0.0.1", 0, route=whole, health=self.health, options=options)
        self.acceptor = self.system.acceptor(UPSTREAM) if upstream else None

    def caller(self):
        return self.system.peer(self.listener.addresses[0])

    def served(self):
        """A caller, and the peer behind the proxy."""
        caller = self.caller()
        before = len(self.acceptor.peers)
        self.run(until=lambda: len(self.acceptor.peers) > before and self.health.relays)
        return caller, self.acceptor.peers[-1]

    def run(self, seconds=1.0, until=None):
        self.system.run(self.reactor, seconds, until)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.reactor.close()
        assert not self.system.bad_calls
        assert not self.system.descriptors
        if exc_info[0] is None:
            assert not self.health.relays
            assert self.health.waiting == 0


def test_a_conversation_passes_with_both_of_its_ends():
    """The request, its FIN, the reply, its FIN; and the counts are right."""
    with World() as world:
        caller, behind = world.served()
        caller.send(b"request" * 1000)
        caller.fin()
        world.run()
        assert (behind.data, behind.ending) == (b"request" * 1000, "EOF")
        assert caller.ending is None
        behind.send(b"reply" * 2000)
        behind.fin()
        world.run()
        assert (caller.data, caller.ending) == (b"reply" * 2000, "EOF")
        assert "relays 0 open, 0 waiting, 1 in all, 0 failed; bytes 7000 up, 10000 down;" in str(world.health)


@pytest.mark.parametrize("who", ["caller", "upstream"])
def test_a_reset_passes_as_a_reset(who, caplog):
    """Whoever resets, the other one is told just that, and the log who it was."""
    caplog.set_level(logging.INFO, "samples.proxy")
    with World() as world:
        caller, behind = world.served()
        caller.send(b"half a requ")
        world.run()
        (caller if who == "caller" else behind).reset()
        world.run()
        assert (behind if who == "caller" else caller).ending == "reset"
        assert world.health.failed == 1
    assert caplog.messages[-1].endswith(f": 11 bytes up, 0 down, reset: the {who}: Connection reset by peer")


def test_a_caller_without_an_upstream_is_reset_at_once(caplog):
    """A FIN would look like an empty answer. The log says who was sent away, and why."""
    with World(upstream=False) as world:
        caller = world.caller()
        caller.send(b"hello?")
        world.run(0.1, until=lambda: caller.ending)
        assert caller.ending == "reset"
        assert world.health.failed == 1
        world.run(0.1)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "samples.proxy"]
    assert line.startswith("#1 127.0.0.1:")
    assert line.endswith(": reset: cannot connect to 10.0.0.2:9000: Connection refused")


def test_nothing_is_read_from_a_caller_until_its_upstream_is_connected():
    """What it sends stays in its own kernel; then it passes, all of it."""
    with World(link=Link(latency=2.0, send_buffer_bytes=2000, receive_buffer_bytes=2000)) as world:
        caller = world.caller()
        caller.send(b"x" * 50_000)
        world.run(7.0)
        (connection,) = world.reactor.connections
        assert connection.report.received == 0
        assert not connection.is_reading()
        assert len(caller.unsent) >= 46_000
        caller.fin()
        world.run(300.0, until=lambda: world.acceptor.peers and world.acceptor.peers[0].ending)
        assert world.acceptor.peers[0].data == b"x" * 50_000
        world.acceptor.peers[0].fin()
        world.run(20.0, until=lambda: not world.health.relays)


def test_an_upstream_that_does_not_answer_has_until_the_connect_deadline(caplog):
    """Then its caller is reset."""
    with World(link=Link(latency=30.0), connect_timeout=4.0) as world:
        world.system.link = Link(latency=30.0)
        caller = world.system.peer(world.listener.addresses[0], link=Link())
        world.run(3.9)
        assert caller.ending is None
        world.run(0.2)
        assert caller.ending == "reset"
    assert "no answer within the connect deadline of 4.0 s" in caplog.text


def test_a_caller_that_leaves_while_its_upstream_is_called_takes_that_call_along():
    """Nobody is left behind, and the upstream is told nothing but a call that ended."""
    with World(link=Link(latency=2.0)) as world:
        caller = world.system.peer(world.listener.addresses[0], link=Link())
        world.run(0.5)
        assert len(world.reactor.connectors) == 1
        caller.reset()
        world.run(0.5)
        assert world.reactor.connectors == ()
        assert world.health.failed == 1
        assert world.health.waiting == 0
        world.run(10.0)
        assert all(peer.data == b"" for peer in world.acceptor.peers)


@pytest.mark.parametrize("order", range(12))
def test_a_caller_that_leaves_in_any_moment_leaves_nothing_behind(order):
    """Its reset may come before, in, or after the very turn in which the upstream is there."""
    with World() as world:
        caller = world.caller()
        for _ in range(order):
            world.reactor.run_once(0)
        caller.reset()
        world.run(5.0)
        assert world.reactor.connections == ()
        assert world.health.failed == 1
        # A call that was given up, or one that came through and was reset: nothing was said in it.
        assert all(peer.ending in ("EOF", "reset") and not peer.data for peer in world.acceptor.peers)


@pytest.mark.parametrize("order", range(12))
def test_a_caller_that_leaves_in_a_famine_is_not_called_for_any_more(order):
    """Nobody looks for a descriptor on behalf of who is gone."""
    with World() as world:
        world.system.faults = [DescriptorLimit(len(world.system.descriptors) + 1)]
        caller = world.caller()
        for _ in range(order):
            world.reactor.run_once(0)
        caller.reset()
        world.run(0.3)
        assert world.reactor.statistics().timers == 0
        assert world.reactor.connectors == ()
        assert world.health.failed == 1


def test_a_drains_deadline_that_comes_when_a_descriptor_is_looked_for_ends_the_caller():
    """Both fall due in one turn of a busy loop: the reactor takes no new ends any more, and none is asked for."""
    with World() as world:
        world.system.faults = [DescriptorLimit(len(world.system.descriptors) + 1)]
        caller = world.caller()
        world.run(1.0)
        world.reactor.call_soon(world.reactor.drain, 0.05)
        world.reactor.run_once(0)
        world.system.now += 5.0  # a callback that takes its time
        world.run(1.0)
        assert caller.ending == "reset"
        assert world.reactor.drained.finished
        assert world.reactor.statistics().timers == 0


# The PROXY header, received and sent

TEXT = b"PROXY TCP4 192.0.2.1 198.51.100.1 1111 80\r\n"
BINARY = build(2, ("2001:db8::1", 1111), ("2001:db8::2", 80))


@pytest.mark.parametrize("header", [TEXT, BINARY], ids=["v1", "v2"])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_a_callers_header_is_taken_off_and_passed_on(header, piece):
    """In whatever pieces it comes; what came with it is not lost. The upstream hears of the first caller."""
    with World(accept_header=True, send_header=2) as world:
        caller = world.caller()
        sent = header + b"first words"
        for start in range(0, len(sent), piece):
            world.system.after(0.01 * start, caller.send, sent[start : start + piece])
        world.run(4.0)
        caller.send(b", more")
        caller.fin()
        world.run()
        (behind,) = world.acceptor.peers
        found = parse(header)
        expected = build(2, found.source, found.destination) + b"first words, more"
        assert (behind.data, behind.ending) == (expected, "EOF")
        assert "bytes 17 up" in str(world.health)
        behind.fin()
        world.run()


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", V2 + b"\x20\0\0\0"])
def test_a_header_that_does_not_know_leaves_the_connections_own_addresses(header):
    """As the specification has it; and nothing else is said to the upstream."""
    with World(accept_header=True, send_header=1) as world:
        caller = world.caller()
        caller.send(header)
        world.run()
        (behind,) = world.acceptor.peers
        host, port = caller.sock.local
        there, listening = world.listener.addresses[0]
        assert behind.data == f"PROXY TCP4 {host} {there} {port} {listening}\r\n".encode()
        caller.reset()
        world.run()


REFUSALS = {
    "silent": (lambda caller: None, "no PROXY header within 5 s"),
    "half": (lambda caller: caller.send(TEXT[:-1]), "no PROXY header within 5 s"),
    "no header": (lambda caller: caller.send(b"GET / HTTP/1.0\r\n\r\n"), "no PROXY header: it is not a PROXY header"),
    "spoiled": (lambda caller: caller.send(b"PROXY TCP4 1 2 3 4\r\n"), "no PROXY header: '1' is no IPv4 address"),
    "ended": (lambda caller: (caller.send(TEXT[:-1]), caller.fin()), "ended before its PROXY header did"),
}


@pytest.mark.parametrize("how", list(REFUSALS))
def test_a_caller_without_a_header_is_reset_and_logged(how, caplog):
    """Within the deadline; the upstream never hears of it."""
    act, says = REFUSALS[how]
    with World(accept_header=True) as world:
        caller = world.caller()
        act(caller)
        world.run(5.1)
        assert caller.ending == "reset" or how == "ended"
        assert world.acceptor.peers == []
        assert world.health.failed == 1
        assert world.reactor.statistics().timers == 0
    (line,) = [record.getMessage() for record in caplog.records if record.name == "samples.proxy"]
    assert line.endswith(f": reset: {says}")


def test_a_name_in_a_header_cannot_write_into_the_log(caplog):
    """A Unix socket's path may be anything; in a line of the log it is printable."""
    caplog.set_level(logging.INFO, "samples.proxy")
    with World(accept_header=True) as world:
        caller = world.caller()
        caller.send(build(2, "/tmp/\n2026 ERROR \x1b[2J", ""))
        caller.fin()
        world.run()
        world.acceptor.peers[0].fin()
        world.run()
    (record,) = [record for record in caplog.records if record.name == "samples.proxy"]
    assert record.getMessage().isprintable()
    assert r"for /tmp/\n2026 ERROR \x1b[2J:" in record.getMessage()


# Limits


def test_a_relay_in_which_nothing_moves_is_reset_on_both_sides(caplog):
    """After the idle deadline; to neither peer it looks like a whole conversation."""
    caplog.set_level(logging.INFO, "samples.proxy")
    with World(options=Options(deadlines=Deadlines(idle=20.0))) as world:
        caller, behind = world.served()
        for second in range(0, 100, 15):
            world.system.after(second, (caller, behind)[second % 2].send, b"x")
        world.run(105.0)
        assert (caller.ending, behind.ending) == (None, None)
        world.run(15.0)
        assert (caller.ending, behind.ending) == ("reset", "reset")
        assert world.reactor.statistics().timers == 0
    assert "reset: nothing moved for 20 s" in caplog.text


def test_a_slow_transfer_is_not_idle():
    """Bytes that a kernel takes are a movement, too, while nothing is received for long."""
    with World(options=Options(deadlines=Deadlines(idle=20.0))) as world:
        caller, behind = world.served()
        caller.stop_reading()
        behind.send(b"x" * 8000)
        for second in range(10, 200, 10):
            world.system.after(second, caller.read, 400)
        world.run(150.0)
        assert caller.ending is None
        assert len(world.health.relays) == 1
        caller.reset()
        world.run()
        assert world.reactor.statistics().timers == 0


@pytest.mark.parametrize("buffer", [4096, 1_000_000], ids=["most waits here", "all waits in the kernel"])
def test_a_reader_that_rests_has_the_idle_timeout_behind_the_others_end_too(buffer):
    """Its upstream has ended: the rest waits for as long as any other byte may, and then both ends are in order."""
    link = Link(receive_buffer_bytes=4096, send_buffer_bytes=buffer)
    with World(options=Options(deadlines=Deadlines(idle=600.0)), link=link) as world:
        caller, behind = world.served()
        caller.stop_reading()
        behind.send(b"x" * 40_000)
        behind.fin()
        world.run(550.0)
        caller.read(4096)
        world.run(550.0)
        caller.resume_reading()
        caller.fin()
        world.run(10.0)
        assert (bytes(caller.data), caller.ending) == (b"x" * 40_000, "EOF")
        assert behind.ending == "EOF"
        assert world.health.failed == 0


def test_a_caller_waits_when_there_is_no_descriptor_for_its_upstream():
    """Within the connect deadline it is not sent away: somebody else may end."""
    with World() as world:
        first, behind = world.served()
        world.system.faults = [DescriptorLimit(len(world.system.descriptors) + 1)]
        second = world.caller()
        second.send(b"patience")
        world.run(3.0)
        assert second.ending is None
        assert world.health.waiting == 1
        first.fin()
        behind.fin()
        world.run(1.1)
        assert world.acceptor.peers[-1].data == b"patience"
        second.reset()
        world.run()


def test_a_caller_is_reset_when_there_is_never_a_descriptor(caplog):
    """After the connect deadline, with the reason in the log."""
    with World(connect_timeout=3.0) as world:
        caller, behind = world.served()
        world.system.faults = [DescriptorLimit(len(world.system.descriptors) + 1)]
        second = world.caller()
        world.run(3.5)
        assert second.ending == "reset"
        assert caller.ending is None
        caller.fin()
        behind.fin()
        world.run()
    assert os.strerror(errno.EMFILE) in caplog.text


def test_no_more_callers_are_let_in_than_can_have_an_upstream(monkeypatch):
    """Each needs two descriptors: the others wait in the kernel's queue, whatever was asked for."""
    monkeypatch.setattr("resource.getrlimit", lambda which: (36, 36))
    with World(options=Options(limits=Limits(connections=5))) as world:
        callers = [world.caller() for _ in range(3)]
        world.run()
        assert len(world.health.relays) == 2
        callers[0].fin()
        world.acceptor.peers[0].fin()
        world.run()
        assert len(world.health.relays) == 2
        assert world.health.callers == 3
        for caller in callers:
            caller.reset()
        world.run()


def test_the_descriptor_limit_is_shared_out(monkeypatch):
    """What the process needs for itself is left; at least one caller of each listener is always let in."""
    for soft, each, listeners, most in (
        (1024, 2, 1, 496),
        (1024, 1, 1, 992),
        (1024, 2, 3, 165),
        (20, 2, 1, 1),
        (34, 2, 4, 1),
        (resource.RLIM_INFINITY, 2, 1, None),
    ):
        monkeypatch.setattr("resource.getrlimit", lambda which, soft=soft: (soft, soft))
        room = Room(each=each, reserve=32)
        assert room.limit(None, listeners) == most
        assert room.limit(400, listeners) == min(400, most or 400)
        assert room.beside(64).limit(None, listeners) == Room(each=each, reserve=96).limit(None, listeners)


def test_a_caller_let_in_while_draining_is_served():
    """It waited in the queue, and has until the drain's deadline like everybody."""
    with World(link=Link(latency=0.5)) as world:
        caller = world.system.peer(world.listener.addresses[0], link=Link())
        world.reactor.call_soon(world.reactor.drain, 30.0)
        caller.send(b"just in time")
        caller.fin()
        world.run(5.0)
        (behind,) = world.acceptor.peers
        assert (behind.data, behind.ending) == (b"just in time", "EOF")
        behind.send(b"welcome")
        behind.fin()
        world.run(5.0)
        assert (caller.data, caller.ending) == (b"welcome", "EOF")
        assert world.reactor.drained.clean


# TLS, on real sockets


@contextmanager
def front(reactor: Reactor, upstream: Server, **how: object) -> Iterator[socket.socket]:
    """A proxy before an upstream, and a socket that has called it."""
    host, port = upstream.address[:2]
    route = Route(to={"host": host, "port": port}, **how.pop("route", {}))
    listener = serve(reactor, "127.0.0.1", 0, route=route, **how)
    with socket.create_connection(listener.addresses[0]) as sock:
        yield sock
    turn_until(reactor, lambda: not reactor.connections)


def test_tls_ends_at_the_proxy():
    """Behind it the words are plain; both ends are passed on."""
    with Reactor() as reactor:
        upstream = Server(reactor)
        with front(reactor, upstream, tls=server_context()) as sock:
            caller = TLSPeer(sock, reactor, client_context(), "localhost").shake()
            caller.send(b"secret")
            turn_until(reactor, lambda: upstream.protocols and upstream.protocols[0].data)
            assert bytes(upstream.protocols[0].data) == b"secret"
            upstream.protocols[0].connection.write(b"answer")
            caller.end()
            assert caller.read_to_end() == "EOF"
            assert bytes(caller.data) == b"answer"
            turn_until(reactor, lambda: upstream.protocols[0].ended)
            assert upstream.protocols[0].lost is None


@contextmanager
def tls_upstream(reactor: Reactor, name: str = "localhost") -> Iterator[Server]:
    """A server that speaks TLS."""
    server = Server.__new__(Server)
    server.protocols = []

    def make() -> Recorder:
        server.protocols.append(Recorder())
        return server.protocols[-1]

    server.listener = reactor.listen(make, "127.0.0.1", 0, tls=server_context(name=name))
    server.address = server.listener.addresses[0]
    yield server


def test_tls_begins_at_the_proxy():
    """The certificate is good, so what the caller says in plain words arrives."""
    with Reactor() as reactor, tls_upstream(reactor) as upstream:
        route = {"tls": client_context(), "server_hostname": "localhost"}
        with front(reactor, upstream, route=route) as sock, Peer(sock, reactor) as caller:
            caller.send(b"in plain words")
            caller.fin()
            assert caller.read_to_end() == "EOF"
            assert bytes(upstream.protocols[0].data) == b"in plain words"
            assert upstream.protocols[0].connection.get_extra_info("cipher") is not None


def test_an_upstream_whose_certificate_is_not_good_is_told_nothing(caplog):
    """Its caller is reset, and the log has OpenSSL's reason."""
    with Reactor() as reactor, tls_upstream(reactor, "somebody.else") as upstream:
        route = {"tls": client_context(), "server_hostname": "localhost"}
        with front(reactor, upstream, route=route) as sock, Peer(sock, reactor) as caller:
            caller.sock.send(b"for nobody else")
            assert caller.read_to_end() == "reset"
            turn_until(reactor, lambda: not reactor.connections)
        assert not upstream.protocols
    (line,) = [record.getMessage() for record in caplog.records if record.name == "samples.proxy"]
    assert "CERTIFICATE_VERIFY_FAILED" in line


def test_a_caller_whose_tls_is_cut_short_is_a_reset_for_the_upstream():
    """A FIN without close_notify is not the end of what it had to say."""
    with Reactor() as reactor:
        upstream = Server(reactor)
        with front(reactor, upstream, tls=server_context()) as sock:
            caller = TLSPeer(sock, reactor, client_context(), "localhost").shake()
            caller.send(b"half of it")
            turn_until(reactor, lambda: upstream.protocols and upstream.protocols[0].data)
            caller.fin()
            turn_until(reactor, lambda: upstream.protocols[0].ended)
            assert isinstance(upstream.protocols[0].lost, ConnectionResetError)


# The header in the clear, and then TLS


class Behind(Recorder):
    """An upstream that takes a header's line in the clear, and then begins TLS."""

    context_name = "localhost"

    def data_received(self, data):
        super().data_received(data)
        line, end, rest = bytes(self.data).partition(b"\r\n")
        if end and "header" not in self.calls:
            self.calls.append("header")
            self.header = line + end
            self.data.clear()
            self.shake(rest)

    def shake(self, received):
        context = server_context(name=self.context_name)
        self.connection.start_tls(context, server_side=True, received=received)

    def draining(self):
        """It is in the same reactor as the proxy that is drained."""


class Somebody(Behind):
    context_name = "somebody.else"


class Late(Behind):
    """Begins only when it is told: `Behind.shake`, with what has come."""

    def shake(self, received):
        self.data += received


TLS_ROUTE = {"tls": client_context(), "server_hostname": "localhost", "send_header": 1}


def test_the_upstream_is_told_who_called_in_the_clear_and_the_rest_under_tls():
    """The header names the caller; behind the handshake come its words, and both ends pass."""
    with Reactor() as reactor:
        upstream = Server(reactor, Behind)
        with front(reactor, upstream, route=TLS_ROUTE) as sock, Peer(sock, reactor) as caller:
            (host, port), (there, listening) = caller.sock.getsockname(), caller.sock.getpeername()
            caller.send(b"in plain words")
            caller.fin()
            assert caller.read_to_end() == "EOF"
            (protocol,) = upstream.protocols
            assert protocol.header == f"PROXY TCP4 {host} {there} {port} {listening}\r\n".encode()
            assert bytes(protocol.data) == b"in plain words"
            assert protocol.connection.get_extra_info("cipher") is not None
            assert protocol.lost is None


def test_a_certificate_that_is_not_good_behind_the_header_resets_the_caller(caplog):
    """Nothing that it said has left; the log has OpenSSL's reason."""
    with Reactor() as reactor:
        upstream = Server(reactor, Somebody)
        with front(reactor, upstream, route=TLS_ROUTE) as sock, Peer(sock, reactor) as caller:
            caller.sock.send(b"for nobody else")
            assert caller.read_to_end() == "reset"
            turn_until(reactor, lambda: not reactor.connections)
        assert upstream.protocols[0].data == b""
    (line,) = [record.getMessage() for record in caplog.records if record.name == "samples.proxy"]
    assert "reset: the upstream: " in line
    assert "CERTIFICATE_VERIFY_FAILED" in line


class BrokenPipe(Fault):
    """Who is sent to is gone: it reset between our connect and our first word."""

    def on_send(self, system, sock, count):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def test_an_upstream_that_is_gone_before_the_header_begins_no_handshake(caplog):
    """Its caller is reset, the log says why, and nothing of ours is raised."""
    with World(send_header=1, tls=client_context(), server_hostname="localhost") as world:
        world.system.faults = [BrokenPipe()]
        caller = world.caller()
        world.run(5.0)
        assert caller.ending == "reset"
        assert world.reactor.connections == ()
    (line,) = caplog.messages
    assert line.endswith("reset: the upstream: Broken pipe")


class Silent(Recorder):
    """An upstream that never begins the handshake."""


@pytest.mark.parametrize("who", ["caller", "upstream", "nobody"])
def test_who_leaves_during_the_upstreams_handshake_takes_the_other_along(who, caplog):
    """A reset either way, and no timer is left; or the connect deadline is the end of it."""
    health = Health()
    with Reactor() as reactor:
        upstream = Server(reactor, Silent)
        route = {**TLS_ROUTE, "connect_timeout": 0.1 if who == "nobody" else 10.0}
        with front(reactor, upstream, route=route, health=health) as sock, Peer(sock, reactor) as caller:
            turn_until(reactor, lambda: upstream.protocols and b"\r\n\x16\x03" in upstream.protocols[0].data)
            if who == "caller":
                caller.reset()
            elif who == "upstream":
                upstream.protocols[0].connection.abort()
            if who != "caller":
                assert caller.read_to_end() == "reset"
            turn_until(reactor, lambda: not reactor.connections)
            assert who == "upstream" or isinstance(upstream.protocols[0].lost, ConnectionResetError)
        assert (health.waiting, health.failed) == (0, 1)
        assert reactor.statistics().timers == 0
    lines = [record.getMessage() for record in caplog.records if record.name == "samples.proxy"]
    assert len(lines) == (who != "caller")
    assert who != "nobody" or "no TLS handshake within 0.1 s" in lines[0]


def test_a_caller_is_served_though_the_drain_began_in_its_upstreams_handshake():
    """It was let in: the upstream's connection is not closed under its feet."""
    health = Health()
    with Reactor() as reactor:
        upstream = Server(reactor, Late)
        with front(reactor, upstream, route=TLS_ROUTE, health=health) as sock, Peer(sock, reactor) as caller:
            turn_until(reactor, lambda: upstream.protocols and upstream.protocols[0].data)
            reactor.call_soon(reactor.drain, 20.0)
            for _ in range(5):
                reactor.run_once(0)
            assert health.waiting == 1
            (protocol,) = upstream.protocols
            hello = bytes(protocol.data)
            protocol.data.clear()
            Behind.shake(protocol, hello)
            caller.send(b"just in time")
            caller.fin()
            assert caller.read_to_end() == "EOF"
            assert bytes(protocol.data) == b"just in time"


@contextmanager
def announced(reactor: Reactor, upstream: Server, **how: object) -> Iterator[TLSPeer]:
    """A caller of a proxy that takes a header and then TLS; it has said nothing yet."""
    route = {"accept_header": True, **how.pop("route", {})}
    with front(reactor, upstream, route=route, tls=server_context(), **how) as sock:
        yield TLSPeer(sock, reactor, client_context(), "localhost")


@pytest.mark.parametrize("header", [TEXT, BINARY], ids=["v1", "v2"])
@pytest.mark.parametrize("glued", ["all", "half", "nothing"])
def test_a_callers_header_is_read_in_the_clear_and_tls_begins_at_the_next_byte(header, glued):
    """Whatever of the ClientHello came in one segment with it. The upstream hears of the first caller."""
    with Reactor() as reactor:
        upstream = Server(reactor)
        with announced(reactor, upstream, route={"send_header": 1}) as caller:
            hello = client_hello(caller)
            cut = {"all": len(hello), "half": len(hello) // 2, "nothing": 0}[glued]
            caller.send_raw(header + hello[:cut])
            for _ in range(5):
                reactor.run_once(0)
            caller.send_raw(hello[cut:])
            caller.shake()
            caller.send(b"secret")
            found = parse(header)
            expected = build(1, found.source, found.destination) + b"secret"
            turn_until(reactor, lambda: upstream.protocols and upstream.protocols[0].data == expected)
            upstream.protocols[0].connection.write(b"answer")
            caller.end()
            assert caller.read_to_end() == "EOF"
            assert caller.data == b"answer"
            turn_until(reactor, lambda: upstream.protocols[0].ended)
            assert upstream.protocols[0].lost is None


def client_hello(caller: TLSPeer) -> bytes:
    """What a client says first; it is not sent."""
    with pytest.raises(ssl.SSLWantReadError):
        caller.tls.do_handshake()
    return caller.seal(b"")


def test_a_caller_that_says_its_words_in_the_clear_behind_its_header_is_not_served(caplog):
    """They are no handshake; nobody is called, and a line of the log says who it was."""
    with Reactor() as reactor:
        upstream = Server(reactor)
        health = Health()
        with announced(reactor, upstream, health=health) as caller:
            caller.send_raw(TEXT + b"GET / HTTP/1.0\r\n\r\n")
            caller.fin()
            turn_until(reactor, lambda: health.failed)
        assert upstream.protocols == []
        assert (health.waiting, health.failed) == (0, 1)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "samples.proxy"]
    assert " for 192.0.2.1:1111: the TLS handshake failed: [SSL" in line


def test_the_headers_deadline_does_not_run_for_the_handshake():
    """That has one of its own."""
    with Reactor() as reactor:
        upstream = Server(reactor)
        with announced(reactor, upstream, route={"header_timeout": 0.05}) as caller:
            caller.send_raw(TEXT)
            turn_until(reactor, lambda: reactor.connections and reactor.connections[0].report.received == len(TEXT))
            late = reactor.time() + 0.1
            turn_until(reactor, lambda: reactor.time() >= late)
            caller.shake()
            caller.send(b"secret")
            turn_until(reactor, lambda: upstream.protocols and upstream.protocols[0].data == b"secret")
            caller.reset()


@pytest.mark.parametrize(
    "how",
    [
        {"tls": client_context(), "accept_header": True},
        {"tls": client_context()},
        {"to_tls": server_context()},
        {"to_tls": server_context(), "send_header": 2},
    ],
    ids=["callers, later", "callers", "upstream", "upstream, later"],
)
def test_a_context_for_the_other_side_is_refused_before_anybody_calls(how):
    """Where it was made, and not to each caller."""
    tls = how.get("tls")
    route = {"tls": how.get("to_tls"), **{name: value for name, value in how.items() if name.endswith("header")}}
    with Reactor() as reactor, pytest.raises(ValueError, match="for the other side"):
        serve(reactor, "127.0.0.1", 0, route=Route(to={"host": "localhost", "port": 1}, **route), tls=tls)


def test_a_peer_that_vanishes_is_looked_for_on_both_sides():
    """Half of a conversation may rest for hours; the kernel asks whether its peer is still there."""
    with Reactor() as reactor:
        upstream = Server(reactor)
        with front(reactor, upstream) as sock:
            turn_until(reactor, lambda: upstream.protocols and len(reactor.connections) == 3)
            served = upstream.protocols[0].connection
            asked = [
                connection.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                for connection in reactor.connections
                if connection is not served
            ]
            assert asked == [1, 1]
            sock.close()


# The process


@contextmanager
def behind() -> Iterator[tuple[socket.socket, str]]:
    """An upstream that is driven by the test, and how to say where it is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server, f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def conversation(run, *arguments: str):
    """A running proxy, a caller, and the socket behind."""
    with behind() as (server, to):
        proxy = run("proxy", "--port", "0", "--to", to, *arguments)
        with proxy.connect() as caller:
            upstream, _ = server.accept()
            upstream.settimeout(10)
            with upstream:
                yield proxy, caller, upstream


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


CLIENTS = {
    "nc": ["nc", "-N", "127.0.0.1", "PORT"],
    "socat": ["socat", "-t", "10", "-", "TCP:127.0.0.1:PORT"],
    "curl": ["curl", "-sS", "--data-binary", "@-", "--http0.9", "http://127.0.0.1:PORT/"],
}


@pytest.mark.parametrize("client", [pytest.param(name, marks=needs(name)) for name in CLIENTS])
def test_a_client_of_the_machines_talks_through_it(run, client):
    """nc and socat end their side first and still get the answer; to curl it is a server like any other."""
    with behind() as (server, to):
        proxy = run("proxy", "--port", "0", "--to", to)
        words = [word.replace("PORT", str(proxy.port())) for word in CLIENTS[client]]
        question = b"what is the answer?" * 10_000
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
            assert program.stdin is not None
            program.stdin.write(question)
            program.stdin.close()
            upstream, _ = server.accept()
            with upstream:
                received = b""
                while not received.endswith(question):
                    received += upstream.recv(65536)
                if client != "curl":
                    assert received + upstream.recv(1) == question
                    upstream.sendall(b"forty-two\n")
                else:
                    upstream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nforty-two\n")
            assert program.stdout is not None
            assert program.stdout.read() == b"forty-two\n"
            assert program.wait(10) == 0
    assert proxy.stop() == 0
    assert proxy.errors == ""


@pytest.fixture
def pem(tmp_path) -> tuple[str, str]:
    """A server's certificate with its key, and who vouches for it."""
    both, trusted = tmp_path / "both.pem", tmp_path / "trusted.pem"
    both.write_bytes(certificate("localhost").private_key_and_cert_chain_pem.bytes())
    trusted.write_bytes(authority().cert_pem.bytes())
    return str(both), str(trusted)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_announces_itself_and_then_speaks_tls_through_two_proxies(run, pem):
    """Its header in the clear, then HTTPS; the second proxy is told of it by the first, in the same manner."""
    both, trusted = pem
    proxy = ["proxy", "--port", "0", "--log-level", "info", "--accept-proxy", "--tls-cert", both]
    with behind() as (server, to):
        far = run(*proxy, "--to", to, "--send-proxy", "v1")
        there = ["--to", f"localhost:{far.port()}", "--to-tls", "--to-ca", trusted, "--send-proxy", "v2"]
        near = run(*proxy, *there)
        url = f"https://localhost:{near.port()}/"
        command = ["curl", "-4", "-sS", "--haproxy-protocol", "--cacert", trusted, "-w", "%{local_port}", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as curl:
            upstream, _ = server.accept()
            with upstream:
                upstream.settimeout(10)
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    request += upstream.recv(65536)
                upstream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nyes")
                upstream.shutdown(socket.SHUT_WR)
                with suppress(ConnectionResetError):  # curl does not read our close_notify
                    read_to_end(upstream)
            said, complaint = curl.communicate(timeout=10)
    assert (curl.returncode, complaint, said[:3]) == (0, b"", b"yes")
    header, _, rest = request.partition(b"\r\n")
    assert header == f"PROXY TCP4 127.0.0.1 127.0.0.1 {said[3:].decode()} {near.port()}".encode()
    assert rest.startswith(b"GET / HTTP/1.1\r\n")
    for one in (near, far):
        wait_for(lambda one=one: "bytes up" in one.errors, "it did not end")
        assert one.stop() == 0


def test_an_upstream_that_is_down_is_a_reset_and_a_line(run):
    """Status 0 all the same: the proxy itself lost nothing."""
    with behind() as (_, to):
        pass
    proxy = run("proxy", "--port", "0", "--to", to)

    def ask() -> None:
        with proxy.connect() as caller:  # which may meet the reset already
            caller.recv(1)

    with pytest.raises(ConnectionResetError):
        ask()
    wait_for(lambda: "\n" in proxy.errors, "nothing was logged")
    assert f"reset: cannot connect to {to}: Connection refused" in proxy.errors
    assert proxy.stop() == 0


def send_on(sock: socket.socket, patience: float) -> None:
    """Sends until that fails."""
    sock.settimeout(patience)
    while True:
        sock.sendall(bytes(65536))


@pytest.mark.parametrize("killed", ["caller", "upstream"])
def test_a_peer_that_is_killed_is_a_reset_for_the_other(run, killed):
    """With something unread its kernel says so, and so does the proxy."""
    talker = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); s.recv(1); input()"
    server_program = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True);"
        "c, _ = s.accept(); c.recv(1); input()"
    )
    with ExitStack() as stack:
        if killed == "upstream":
            victim = run("", stdin=subprocess.PIPE, command=[sys.executable, "-c", server_program])
            proxy = run("proxy", "--port", "0", "--to", "127.0.0.1:" + victim.read_until(b"\n").decode().strip())
            other = stack.enter_context(proxy.connect())
        else:
            server, to = stack.enter_context(behind())
            proxy = run("proxy", "--port", "0", "--to", to)
            command = [sys.executable, "-c", talker, str(proxy.port())]
            victim = run("", stdin=subprocess.PIPE, command=command)
            other, _ = server.accept()
            stack.enter_context(other)
        with pytest.raises(TimeoutError):
            send_on(other, 0.1)  # until nobody reads any more
        victim.kill()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            send_on(other, 10.0)
        assert proxy.stop() == 0


def test_sigusr1_asks_for_a_line(run):
    """One line on stderr: relays, bytes, failures, descriptors."""
    with conversation(run) as (proxy, caller, upstream):
        caller.sendall(b"12345")
        assert upstream.recv(10) == b"12345"
        proxy.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "\n" in proxy.errors, "no line came")
        start = f"proxy[{proxy.process.pid}]: relays 1 open, 0 waiting, 1 in all, 0 failed; bytes 5 up, 0 down; "
        assert proxy.errors.startswith(start + "descriptors ")
        assert proxy.errors.count("\n") == 1
        caller.close()
        upstream.close()
        assert proxy.stop() == 0


def test_sigusr1_ends_nobody_who_has_nothing_to_say(run):
    """The parent of several workers, for one: it lives, and they serve."""
    with conversation(run, "--workers", "2") as (proxy, caller, upstream):
        proxy.process.send_signal(signal.SIGUSR1)
        caller.sendall(b"still there?")
        assert upstream.recv(20) == b"still there?"
        assert proxy.process.poll() is None
        caller.close()
        upstream.close()
        assert proxy.stop() == 0


def test_a_drain_waits_for_what_is_being_said(run):
    """Nobody new is let in; the conversation goes on, and ends as its peers end it."""
    with conversation(run, "--log-level", "info") as (proxy, caller, upstream):
        address = caller.getpeername()
        proxy.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "draining" in proxy.errors, "the signal was not seen")
        with pytest.raises(ConnectionRefusedError):
            wait_for(lambda: socket.create_connection(address).close(), "it still listens")
        caller.sendall(b"one more thing")
        caller.shutdown(socket.SHUT_WR)
        assert read_to_end(upstream) == b"one more thing"
        upstream.sendall(b"yes?")
        upstream.shutdown(socket.SHUT_WR)
        assert read_to_end(caller) == b"yes?"
        assert proxy.ended() == 0


def test_a_drains_deadline_resets_both_sides(run):
    """Status 1, and a summary."""
    with conversation(run, "--drain-timeout", "0.1") as (proxy, caller, upstream):
        assert proxy.stop() == 1
        for sock in (caller, upstream):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert proxy.errors.startswith("drained in 0.1 s: 0 connections ended in order, 2 not")


def echo_all(server: socket.socket, count: int) -> None:
    """Serves so many connections, one after another, each to its end: the others wait in line."""
    for _ in range(count):
        sock, _ = server.accept()
        with sock:
            sock.sendall(read_to_end(sock)[::-1])


def all_at_once(run, count: int, descriptors: int):
    """So many callers before the first is answered; everyone gets an answer of their own. The proxy, afterwards."""
    with behind() as (server, to):
        server.listen(count)
        proxy = f"exec {sys.executable} -W error -m samples.proxy --port 0 --to {to}"
        proxy = run("", command=["sh", "-c", f"ulimit -n {descriptors}; {proxy}"])
        serving = threading.Thread(target=echo_all, args=(server, count))
        with ExitStack() as stack:
            callers = [stack.enter_context(proxy.connect()) for _ in range(count)]
            for number, caller in enumerate(callers):
                caller.sendall(b"%d" % number * 1000)
                caller.shutdown(socket.SHUT_WR)
            serving.start()
            for number, caller in enumerate(callers):
                assert read_to_end(caller) == (b"%d" % number * 1000)[::-1]
        serving.join()
    return proxy


def test_two_hundred_callers_at_once_are_all_served(run):
    """Each gets its own answer, and none is mistaken for another."""
    proxy = all_at_once(run, 200, descriptors=1024)
    assert proxy.stop() == 0
    assert proxy.errors == ""


def test_more_callers_than_there_are_descriptors_for_wait_in_line(run):
    """Two for each: with 64 descriptors sixteen are served at a time, and nobody is turned away."""
    proxy = all_at_once(run, 60, descriptors=64)
    proxy.process.send_signal(signal.SIGUSR1)
    wait_for(lambda: "\n" in proxy.errors, "no line came")
    assert "60 in all, 0 failed; " in proxy.errors
    assert "of 64\n" in proxy.errors
    assert proxy.stop() == 0


def test_unix_sockets_on_both_sides(run, tmp_path):
    """A path is as good as a port, and version 2 can name one."""
    near, far = str(tmp_path / "near"), str(tmp_path / "far")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as caller:
        server.bind(far)
        server.listen()
        proxy = run("proxy", "--unix", near, "--to", f"unix:{far}", "--send-proxy", "v2")
        assert proxy.listening() == [near]
        caller.connect(near)
        caller.sendall(b"hello")
        caller.shutdown(socket.SHUT_WR)
        upstream, _ = server.accept()
        with upstream:
            assert read_to_end(upstream) == build(2, "", near) + b"hello"
        assert read_to_end(caller) == b""
        assert proxy.stop() == 0


REFUSED = {
    (): "--to",
    ("--to", "here"): "HOST:PORT or unix:PATH is needed, not 'here'",
    ("--to", "localhost:0"): "nobody can be called at port 0",
    ("--to", "localhost%lo:80"): "the host has a zone (%) only behind a link-local IPv6 address, unlike 'localhost%lo'",
    ("--to", "localhost:1", "--to-ca", "x"): "--to-ca and --to-name need --to-tls",
    ("--to", "localhost:1", "--to-tls", "--to-ca", "/nowhere"): "--to-ca /nowhere: No such file or directory",
    ("--to", "localhost:1", "--to-tls", "--to-ca", __file__): "not certificates in PEM",
    ("--to", "unix:/x", "--to-tls"): "needs --to-name",
    ("--to", "localhost:1", "--send-proxy", "v3"): "invalid choice: 'v3'",
    ("--to", "localhost:1", "--connect-timeout", "0"): "zero seconds",
}


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_arguments_that_cannot_be_used_are_refused_in_one_line(arguments, capsys):
    """Status 2, and the line says what was asked."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("python -m samples.proxy: ")
    assert REFUSED[arguments] in errors
    assert errors.count("\n") == 1
