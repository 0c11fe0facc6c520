"""The pictures of the endings are what crosses a real wire: the same endings on the machine's own kernel, and tshark.

Compared are the packets that decide: who sends a FIN or a RST, and in which order. Two endings cannot be had on
loopback in this way: FINs that cross, and a peer that vanishes (`tests/closing` has them).
"""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import groupby

import attrs
import pytest

from docs.drawn.endings import ENDINGS, Echo, Failing, HugeReply, LongReply, Reply
from docs.drawn.endings import Server as Exchange
from docs.drawn.recording import unlogged
from reactor import Deadlines, Options, Reactor, Sockets
from tests.helpers import Peer, Server, turn_until

pytestmark = pytest.mark.slow
# Little enough that a part of the long replies has to wait in our kernel.
WINDOW = 2048
PATIENCE = 15.0
STALLED = Options(deadlines=Deadlines(flush=0.3), sockets=Sockets(send_buffer_bytes=4096))

Watched = Callable[[], object]


def ask_and_end(peer: Peer, ended: Watched) -> str:
    peer.send(b"hello")
    peer.fin()
    return peer.read_to_end()


def ask_and_end_last(peer: Peer, ended: Watched) -> str:
    peer.send(b"GET /")
    ending = peer.read_to_end()
    peer.fin()
    return ending


def send_late(peer: Peer, ended: Watched) -> str:
    peer.send(b"GET /")
    turn_until(peer.reactor, lambda: not peer.reactor.connections or peer.reactor.connections[0].is_closing())
    peer.send(b"late")
    return ask_and_end_last(peer, ended) if peer.reactor.connections else peer.read_to_end()


def reset(peer: Peer, ended: Watched) -> str:
    peer.send(b"GET /")
    turn_until(peer.reactor, lambda: peer.reactor.connections[0].is_closing())
    peer.reset()
    return "gone"


def only_ask(peer: Peer, ended: Watched) -> str:
    peer.send(b"GET /")
    turn_until(peer.reactor, ended)
    return peer.read_to_end()


REAL = {
    "peer-first": (Echo, ask_and_end, "EOF", Options()),
    "we-first": (Reply, ask_and_end_last, "EOF", Options()),
    "half-close": (Exchange, ask_and_end, "EOF", Options()),
    "late-bytes": (LongReply, send_late, "EOF", Options()),
    "late-bytes-without-linger": (LongReply, send_late, "reset", Options(linger=False)),
    "callback-raises": (Failing, only_ask, "reset", Options()),
    "peer-resets": (LongReply, reset, "gone", Options()),
    "stalled": (HugeReply, only_ask, "reset", STALLED),
}


@attrs.define
class Capture:
    """tshark on the loopback interface: (from port, to port, what) for each FIN and each RST."""

    process: subprocess.Popen[str]
    seen: list[tuple[int, int, str]] = attrs.field(factory=list)

    def read_until(self, condition: Watched) -> None:
        deadline = time.monotonic() + PATIENCE
        assert self.process.stdout is not None
        while not condition():
            assert time.monotonic() < deadline, "tshark is silent"
            if not select.select([self.process.stdout], [], [], 0.2)[0]:
                self.probe()
                continue
            words = self.process.stdout.readline().split()
            assert words, "tshark has ended"
            source, target, fin, rst = words
            for flag, what in ((rst, "RST"), (fin, "FIN")):
                if flag in ("1", "True"):
                    self.seen.append((int(source), int(target), what))

    def probe(self) -> None:
        """Something to see."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            socket.create_connection(listening.getsockname()).close()


@pytest.fixture(scope="module")
def wire() -> Iterator[Capture]:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    fields = [word for name in ("srcport", "dstport", "flags.fin", "flags.reset") for word in ("-e", f"tcp.{name}")]
    only_ends = "tcp and (tcp[tcpflags] & (tcp-fin|tcp-rst) != 0)"
    process = subprocess.Popen(
        ["tshark", "-i", "lo", "-l", "-Q", "-f", only_ends, "-T", "fields", *fields],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
    )
    try:
        capture = Capture(process)
        try:
            capture.read_until(lambda: capture.seen)
        except AssertionError as exc:
            pytest.skip(f"nothing can be captured here: {exc}")
        yield capture
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", REAL)
def test_the_same_packets_end_it_on_a_real_kernel(wire, name):
    """FINs and RSTs come from the same side, in the same order, as in the picture."""
    factory, script, ending, options = REAL[name]
    with unlogged(), Reactor() as reactor:
        server = Server(reactor, factory, options=options)
        peer, _ = server.connected(receive_buffer=WINDOW)
        with peer:
            port = peer.sock.getsockname()[1]
            assert script(peer, lambda: not reactor.connections) == ending
            turn_until(reactor, lambda: not reactor.connections)
    ours = server.address[1]
    wanted = [(packet.ours, packet.what) for packet in ENDINGS[name].play().packets if packet.what in ("FIN", "RST")]

    def crossed() -> list[tuple[bool, str]]:
        mine = [(source == ours, what) for source, target, what in wire.seen if {source, target} == {ours, port}]
        return [one for one, _ in groupby(mine)]  # a kernel may say it again

    wire.probe()
    before = len(wire.seen)
    wire.read_until(lambda: len(wire.seen) >= before + 2 and len(crossed()) >= len(wanted))
    assert crossed() == wanted
