"""Peers that vanish: no FIN, no reset, only silence. Scenario 22, and each way to find out ("When Sockets Die", R13).

Server and client each run in a network namespace of their own, joined by a virtual cable; then its packets are dropped.
Finding out is mostly waiting, so those of VANISHINGS vanish at the same time; each test looks at what came of one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

import pytest

from tests.closing.programs import Program

SERVER, CLIENT = "10.77.0.1", "10.77.0.2"
REPLY_SIZE = 3_000_000

_numbers = count()


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


class Cable:
    """Two namespaces, joined."""

    def __init__(self) -> None:
        name = f"rx{os.getpid()}n{next(_numbers)}"
        self.server, self.client = f"{name}s", f"{name}c"

    def lay(self) -> None:
        for namespace in (self.server, self.client):
            run("ip", "netns", "add", namespace)
        run(
            *("ip", "link", "add", "cable", "netns", self.server),
            *("type", "veth", "peer", "name", "cable", "netns", self.client),
        )
        for namespace, address in ((self.server, SERVER), (self.client, CLIENT)):
            run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "cable")
            run("ip", "-n", namespace, "link", "set", "cable", "up")

    def drop(self) -> None:
        """From now on nothing reaches the client."""
        rules = "add table inet t; add chain inet t i { type filter hook input priority 0; policy drop; }"
        run("ip", "netns", "exec", self.client, "nft", rules)

    def cut(self) -> None:
        """From now on there is no cable."""
        run("ip", "-n", self.client, "link", "set", "cable", "down")

    def remove(self) -> None:
        for namespace in (self.server, self.client):
            subprocess.run(("ip", "netns", "delete", namespace), capture_output=True, timeout=20)


@contextmanager
def laid() -> Iterator[Cable]:
    """A cable. Skips where namespaces cannot be had; removes them whatever happens."""
    if sys.platform != "linux" or not (shutil.which("ip") and shutil.which("nft")):
        pytest.skip("needs Linux with ip and nft")
    made = Cable()
    try:
        try:
            made.lay()
        except (subprocess.CalledProcessError, OSError) as exc:
            pytest.skip(f"network namespaces are not allowed here: {getattr(exc, 'stderr', exc)!r}")
        yield made
    finally:
        made.remove()


SERVING = """
class Served(Told):
    def data_received(self, data):
        Served.one = self
        say(received=len(data))

def told():
    global BEGAN
    BEGAN = time.monotonic()
    connection = Served.one.connection
    for order in os.read(0, 100).split():
        if order == b"reply":
            connection.write(REPLY)
            connection.close()
        elif order == b"end":
            connection.write(b"bye")
            connection.close()
        elif order == b"write":
            connection.write(b"are you there?")
        else:
            reactor.stop()

with Reactor() as reactor:
    listener = reactor.listen(Served, "10.77.0.1", 0, options=OPTIONS)
    reactor.add_reader(0, told)
    say(port=listener.addresses[0][1])
    reactor.run()
    finish(reactor, used=time.process_time(), left=[connection.state.name for connection in reactor.connections])
"""

CALLING = """
import socket
with socket.create_connection(("10.77.0.1", int(sys.argv[1])), timeout=20) as sock:
    sock.sendall(b"request")
    say(connected=True)
    sys.stdin.readline()
"""


def vanish(options: str, poller: str = "epoll", how: str = "drop", then: str = "") -> tuple[dict, dict]:
    """A served client vanishes and the server is told something to do; what it says of the end, and at its own."""
    with laid() as cable, Program(f"OPTIONS = {options}\n{SERVING}", poller, cable.server) as server:
        port = server.hear("port")["port"]
        with Program(CALLING, "epoll", cable.client, str(port)) as client:
            client.hear("connected")
            server.hear("received")
            getattr(cable, how)()
            if then:
                server.tell(then)
            lost = server.hear("lost")
            server.tell("stop")
            over = server.hear("ended")
            assert server.exit_code() == 0
    assert over["ended"]["connections"] == 1
    assert over["left"] == []
    assert lost["received"] == 7
    assert lost["written"] == lost["acknowledged"] + lost["unacknowledged"] + lost["unsent"]
    return lost, over


FLUSH = "Options(sockets=NARROW, deadlines=Deadlines(flush=0.4))"
FLUSHING = [("epoll", "drop"), ("epoll", "cut"), ("poll", "drop"), ("select", "drop")]

# The arguments of `vanish`, the longest first. The idle deadline is long enough for the cable to be dropped meanwhile.
VANISHINGS: dict[object, tuple[str, ...]] = {
    "keepalive": ("Options(sockets=Sockets(keepalive=Keepalive(idle=1, interval=1, count=2)))",),
    "idle": ("Options(deadlines=Deadlines(idle=1, linger_grace=0.05, linger_silence=0.2))",),
    "user timeout": ("Options(sockets=Sockets(user_timeout=0.5))", "epoll", "drop", "write"),
    "linger": ("Options(deadlines=Deadlines(linger_grace=0.05, linger_silence=0.4))", "epoll", "drop", "end"),
    **{(poller, how): (FLUSH, poller, how, "reply") for poller, how in FLUSHING},
}


@pytest.fixture(scope="module")
def vanished() -> dict[object, Future]:
    """What `vanish` has for each of VANISHINGS: its result, or its exception."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return {name: pool.submit(vanish, *arguments) for name, arguments in VANISHINGS.items()}


@pytest.mark.parametrize(("poller", "how"), FLUSHING)
def test_the_flush_deadline_finds_who_vanished_during_the_reply(vanished, poller, how):
    """Scenario 22: no byte is acknowledged, none is claimed to be, and the loop sleeps until the deadline."""
    lost, over = vanished[poller, how].result()
    assert (lost["lost"], lost["how"], lost["fin_sent"]) == ("FlushTimeout", "reset", False)
    assert 0.35 <= lost["after"] < 3
    assert (lost["written"], lost["acknowledged"]) == (REPLY_SIZE, 0)
    assert lost["unsent"] > 1_000_000
    assert over["turns"] < 200


def test_the_linger_ends_by_itself_when_the_peer_has_vanished(vanished):
    """Scenario 22: our last words and our FIN stay unacknowledged: told as such, after the silence."""
    lost, over = vanished["linger"].result()
    assert (lost["lost"], lost["how"], lost["fin_sent"]) == ("Unacknowledged", "cut", True)
    assert 0.35 <= lost["after"] < 3
    assert (lost["written"], lost["acknowledged"], lost["unacknowledged"], lost["unsent"]) == (3, 0, 3, 0)
    assert over["turns"] < 200


def test_the_idle_deadline_finds_who_vanished_in_silence(vanished):
    """Scenario 22: with nothing under way only this, or keepalive, can find it."""
    lost, over = vanished["idle"].result()
    # Nothing was written, so no byte is missing; but nobody took our FIN either.
    assert (lost["lost"], lost["how"], lost["written"]) == ("IdleTimeout", "cut", 0)
    assert (lost["fin_sent"], lost["fin_acknowledged"]) == (True, False)
    assert over["turns"] < 200


def test_keepalive_finds_who_vanished_in_silence(vanished):
    """Scenario 22: a probe after one second, two without an answer: the kernel tells ETIMEDOUT."""
    lost, over = vanished["keepalive"].result()
    assert (lost["lost"], lost["how"], lost["written"]) == ("TimeoutError", "failed", 0)
    assert over["turns"] < 50


def test_a_user_timeout_finds_who_vanished_with_our_data_under_way(vanished):
    """Scenario 22: TCP gives up on what nobody acknowledges, long before its usual quarter of an hour."""
    lost, over = vanished["user timeout"].result()
    assert (lost["lost"], lost["how"]) == ("TimeoutError", "failed")
    assert 0.4 <= lost["after"] < 6
    assert (lost["written"], lost["accepted"], lost["acknowledged"]) == (14, 14, 0)
    assert over["turns"] < 50


def test_without_any_of_them_who_vanished_stays_for_ever():
    """Scenario 22: silence alone is no fault, so each of the above is a choice; the server is stopped, and resets."""
    with laid() as cable, Program(f"OPTIONS = Options()\n{SERVING}", "epoll", cable.server) as server:
        port = server.hear("port")["port"]
        with Program(CALLING, "epoll", cable.client, str(port)) as client:
            client.hear("connected")
            server.hear("received")
            cable.drop()
            server.tell("write")
            server.tell("stop")
            over = server.hear("ended")
            lost = server.hear("lost")
            assert server.exit_code() == 0
    assert over["left"] == ["OPEN"]
    assert (lost["lost"], lost["how"], lost["unacknowledged"]) == ("Aborted", "reset", 14)
