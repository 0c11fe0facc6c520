"""Several listeners on one port, and several processes that serve one: nobody is lost between them."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from reactor import Options, Sockets
from tests.helpers import Peer, Recorder, all_closed, turn_until
from tests.samples.processes import PATIENCE, ROOT, Sample, read_to_end, wait_for

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# One port, several listeners


class Greeting(Recorder):
    """Says which listener it came by, and ends."""

    def __init__(self, name: bytes) -> None:
        super().__init__()
        self.name = name

    def connection_made(self, connection):
        super().connection_made(connection)
        connection.write(self.name)
        connection.close()


def listen(reactor, name: bytes, port: int = 0):
    return reactor.listen(lambda: Greeting(name), "127.0.0.1", port, reuse_port=True)


def call(reactor, port: int) -> Peer:
    return Peer(socket.create_connection(("127.0.0.1", port), PATIENCE), reactor)


def test_callers_are_dealt_out_to_listeners_that_share_a_port(reactor):
    """Both serve; nobody else gets in between without asking for it."""
    first = listen(reactor, b"1")
    port = first.addresses[0][1]
    second = listen(reactor, b"2", port)
    assert second.addresses == first.addresses
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
        reactor.listen(Recorder, "127.0.0.1", port)
    heard = set()
    while heard != {b"1", b"2"}:  # a hash of the caller's address decides: 1 in 2**n that one is missing
        with call(reactor, port) as peer:
            assert peer.read_to_end() == "EOF"
            heard.add(bytes(peer.data))


def test_a_listener_that_did_not_ask_shares_nothing(reactor):
    """reuse_port of the second alone is not enough."""
    first = reactor.listen(Recorder, "127.0.0.1", 0)
    with pytest.raises(OSError, match="Address already in use"):
        listen(reactor, b"2", first.addresses[0][1])


def test_the_option_says_the_same_as_the_argument(reactor):
    """Options that are shared by several listens may carry it."""
    options = Options(sockets=Sockets(reuse_port=True))
    first = reactor.listen(Recorder, "localhost", 0, options=options)
    second = reactor.listen(Recorder, "localhost", first.addresses[0][1], options=options)
    assert second.addresses == first.addresses


@pytest.mark.parametrize("where", ["path", "sock"])
def test_only_a_port_can_be_shared_so(reactor, tmp_path, where):
    """ValueError, and nothing was opened."""
    with socket.socket() as sock:
        what = {"path": str(tmp_path / "socket"), "sock": sock}[where]
        with pytest.raises(ValueError, match="reuse_port only together with a port"):
            reactor.listen(Recorder, **{where: what}, reuse_port=True)
    assert not list(tmp_path.iterdir())


def test_a_platform_that_cannot_says_so(reactor, monkeypatch):
    """OSError with the address, not an AttributeError."""
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:0: this platform cannot share") as refused:
        listen(reactor, b"1")
    assert refused.value.errno == errno.ENOPROTOOPT


def test_closing_one_of_two_listeners_loses_no_caller_of_a_flood(reactor):
    """Who waits in its queue when it closes is served by it (K15); the next go to the other."""
    first = listen(reactor, b"1")
    port = first.addresses[0][1]
    listen(reactor, b"2", port)
    before = [call(reactor, port) for _ in range(100)]
    first.close()
    meanwhile = [call(reactor, port) for _ in range(100)]  # the first's queue is still open
    turn_until(reactor, lambda: len(reactor.listeners) == 1)
    after = [call(reactor, port) for _ in range(50)]
    with all_closed(*before, *meanwhile, *after):
        heard = []
        for peer in (*before, *meanwhile, *after):
            assert peer.read_to_end() == "EOF"
            heard.append(bytes(peer.data))
        assert set(heard[:200]) == {b"1", b"2"}
        assert set(heard[200:]) == {b"2"}


# One port, several processes


@pytest.fixture
def start(no_descriptor_left):
    """Starts echo samples; kills what is left of them."""
    started: list[Sample] = []

    def begin(*arguments: str, command: list[str] | None = None) -> Sample:
        python = [sys.executable, "-W", "error", "-m", "samples.echo", *arguments]
        started.append(Sample(command or python, subprocess.DEVNULL, subprocess.PIPE))
        return started[-1]

    yield begin
    for sample in started:
        workers = children(sample.process.pid)
        sample.kill()
        for worker in workers:
            try:
                os.kill(worker, signal.SIGKILL)
            except ProcessLookupError:
                pass


# What /proc says of a process that has ended: before its file is opened, and between that and reading it.
GONE = (FileNotFoundError, ProcessLookupError)


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except GONE:
        return []


def sockets_of(pid: int) -> int:
    """How many sockets a process has open."""
    folder = Path(f"/proc/{pid}/fd")
    try:
        return sum(os.readlink(link).startswith("socket:") for link in folder.iterdir())
    except GONE:
        return 0


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except GONE:
        return False


def echoed(port: int, data: bytes = b"hello") -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return read_to_end(client)


@linux
def test_workers_share_a_port_and_each_serves(start):
    """Port 0 is picked once and told once; all of them are called; SIGTERM ends all of them in order."""
    server = start("--workers", "3", "--port", "0")
    port = server.port()
    workers = children(server.process.pid)
    assert len(workers) == 3
    idle = {pid: sockets_of(pid) for pid in workers}
    with ExitStack() as clients:

        def all_are_called() -> bool:
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            return all(sockets_of(pid) > idle[pid] for pid in workers)

        wait_for(all_are_called, "a worker is never called")
        server.process.send_signal(signal.SIGTERM)
    assert server.ended() == 0
    assert server.output.count(b"listening on") == 1
    assert server.errors == ""
    assert not any(map(is_running, workers))


@linux
@pytest.mark.parametrize(("number", "parent_first"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_to_the_whole_group_drains_once(start, number, parent_first):
    """A terminal's Ctrl-C and a service manager's SIGTERM reach every process; none takes it for a second one.

    While one worker still serves a slow reader to the end, nobody listens any more, also not where the others did.
    """
    server = start("--workers", "3", "--port", "0", "--log-level", "info")
    port = server.port()  # they are all there by now
    group = [server.process.pid, *children(server.process.pid)]
    assert len(group) == 4
    with server.connect() as client:
        clog(client)
        for pid in group if parent_first else reversed(group):
            with suppress(ProcessLookupError):  # it was idle, and has ended already
                os.kill(pid, number)
            if pid == group[0]:
                wait_for(lambda: all(refuses(port) for _ in range(30)), "the order does not arrive")
        wait_for(lambda: len(children(server.process.pid)) == 1, "the idle workers did not end")
        (busy,) = children(server.process.pid)
        wait_for(lambda: f"worker {busy}: a signal asks to end" in errors_so_far(server), "the signal does not arrive")
        assert set(read_to_end(client)) == {ord("x")}
    assert server.ended() == 0, server.errors


def errors_so_far(sample: Sample) -> str:
    """Its stderr while it runs: reading must not move the place where it writes next."""
    return os.pread(sample._stderr.fileno(), 1 << 20, 0).decode()


def clog(client: socket.socket) -> None:
    """Sends without reading, until nobody takes any more: the echo's end now waits for us."""
    client.sendall(b"x")
    assert client.recv(1) == b"x"  # it is served by now
    client.settimeout(0.3)
    try:
        while True:
            client.send(b"x" * 65536)
    except TimeoutError:
        client.settimeout(PATIENCE)


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass
    return False


@linux
def test_a_killed_worker_is_replaced_and_its_queue_is_served(start):
    """Callers of its socket wait for the next worker there: nobody is refused or reset. The status tells of it."""
    server = start("--workers", "2", "--port", "0")
    port, victims = server.port(), children(server.process.pid)
    for victim in victims:
        os.kill(victim, signal.SIGSTOP)  # both, so that all callers wait in the queues
    clients = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(20)]
    with all_closed(*clients):
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        for client in clients:
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == b"hello"
    assert set(children(server.process.pid)).isdisjoint(victims)
    assert server.stop() == 1
    assert server.errors.count("was killed by SIGKILL") == 2


@linux
@pytest.mark.slow
def test_sigterm_to_one_worker_renews_it_while_it_drains(start):
    """Its replacement serves before it has ended; its connections end in order; the status stays 0."""
    server = start("--workers", "2", "--port", "0")
    port, workers = server.port(), children(server.process.pid)
    idle = {pid: sockets_of(pid) for pid in workers}
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        clog(client)
        (busy,) = (pid for pid in workers if sockets_of(pid) > idle[pid])
        os.kill(busy, signal.SIGTERM)
        wait_for(lambda: len(children(server.process.pid)) == 3, "nobody came instead")
        assert is_running(busy)
        for _ in range(10):
            assert echoed(port) == b"hello"
        assert set(read_to_end(client)) == {ord("x")}
    wait_for(lambda: not is_running(busy), "the old one did not end")
    assert server.stop() == 0, server.errors


@linux
@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_says_what_was_lost(start):
    """A client that takes nothing holds up the drain; a second SIGTERM to the parent does not wait for it."""
    server = start("--workers", "2", "--port", "0")
    with server.connect() as client:
        clog(client)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: len(children(server.process.pid)) == 1, "the idle worker did not end")
        assert server.stop() == 1
    assert "0 connections ended in order, 1 not; " in server.errors


@linux
def test_when_the_parent_is_killed_the_workers_drain(start):
    """No orphan serves on: each connection ends in order."""
    server = start("--workers", "2", "--port", "0")
    workers = children(server.process.pid)
    with server.connect() as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        server.process.kill()
        assert read_to_end(client) == b""
    wait_for(lambda: not any(map(is_running, workers)), "an orphan serves on")


@linux
@pytest.mark.slow
def test_a_unix_socket_is_shared_and_removed_by_the_parent(start, tmp_path):
    """--unix with --workers: one socket, inherited by all."""
    path = str(tmp_path / "echo.sock")
    server = start("--workers", "2", "--unix", path)
    assert server.listening() == [path]
    victim = children(server.process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    for _ in range(4):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(path)
            client.sendall(b"over unix")
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == b"over unix"
    wait_for(lambda: len(children(server.process.pid)) == 2, "nobody came instead")
    assert server.stop() == 1
    assert not os.path.exists(path)


def test_the_work_in_the_how_to_serves(start):
    """As it stands there, with the sockets that its parent opened."""
    how_to = (ROOT / "docs" / "how-to" / "workers.md").read_text(encoding="utf-8")
    (work,) = re.findall(r"```python\n(def work.*?)```", how_to, re.DOTALL)
    program = f"""
import sys
from reactor import Reactor
from reactor.options import Options, Sockets
from reactor.system import System
from samples.echo import Echo
from samples.workers import supervise

system = System()
options = Options(sockets=Sockets(reuse_port=True))
sockets = system.listen_tcp("127.0.0.1", 0, options)
sockets += system.listen_tcp("127.0.0.1", sockets[0].getsockname()[1], options)

{work}
sys.exit(supervise(
    work, 2, drain_timeout=30, status="", serving=lambda: print(sockets[0].getsockname()[1], flush=True),
    ending=lambda: [sock.close() for sock in sockets],
))
"""
    server = start(command=[sys.executable, "-W", "error", "-c", program])
    port = int(server.read_until(b"\n"))
    for _ in range(5):
        assert echoed(port) == b"hello"
    server.process.send_signal(signal.SIGTERM)
    assert server.ended() == 0, server.errors


# The supervisor, with work of our own


def script(work: str, how: str = "") -> list[str]:
    """A program that supervises two workers which do `work`."""
    return [
        sys.executable,
        "-W",
        "error",
        "-c",
        textwrap.dedent(
            """
            import os, sys, time
            from reactor import Reactor
            from samples import workers

            def work(link):
            {work}

            {how}
            sys.exit(workers.supervise(
                work, 2, drain_timeout=0.1, status="", serving=lambda: print("serving", flush=True),
                ending=lambda: print("ending", flush=True),
            ))
            """
        ).format(work=textwrap.indent(textwrap.dedent(work), "    "), how=how),
    ]


@linux
@pytest.mark.slow
def test_a_worker_that_is_stuck_is_killed_after_the_grace(start):
    """A callback that never returns cannot hold up the end."""
    work = """
        with Reactor() as reactor:
            reactor.call_later(0, time.sleep, 1000)
            link.serving(reactor, 0.1)
            reactor.run()
    """
    server = start(command=script(work, "workers._GRACE = 0.1"))
    server.read_until(b"serving")
    assert server.stop() == 1
    assert server.errors.count("does not end: it is killed") == 2
    assert server.output == b"serving\nending\n"


@linux
@pytest.mark.slow
def test_workers_that_die_young_are_replaced_ever_more_slowly(start):
    """The back-off doubles: a crash loop costs next to nothing, and the program lives on."""
    work = """
        with Reactor() as reactor:
            link.serving(reactor, 0.1)
            reactor.run_once(0)
            if link.slot == 0:
                reactor.run()
            time.sleep(0.02)
            os.write(1, b"%f died\\n" % time.monotonic())
            os._exit(3)
    """
    server = start(command=script(work, "workers._BACK_OFF = 0.02"))
    lines = server.read_until(b"died", 5).decode().splitlines()
    died = [float(line.split()[0]) for line in lines if line.endswith("died")]
    gaps = [after - before for before, after in pairwise(died)]
    assert all(gap >= least for gap, least in zip(gaps, (0.02, 0.04, 0.08, 0.16), strict=True)), gaps
    assert server.stop() == 3
    assert "ended with status 3" in server.errors


def test_work_that_cannot_begin_is_not_tried_again(start):
    """The first worker's failure is the program's: its traceback once, and no second try."""
    server = start(command=script("raise RuntimeError('no such luck')"))
    assert server.ended() == 1
    assert server.output == b"ending\n"
    assert server.errors.count("RuntimeError: no such luck") == 1


@linux
def test_a_signal_before_all_of_them_serve_ends_it_in_order(start, tmp_path):
    """While a worker only begins, the order waits for it, and is then obeyed; nothing is told to serve."""
    work = """
        print("beginning", flush=True)
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.005)
        with Reactor() as reactor:
            link.serving(reactor, 0.1)
            reactor.run()
            return 0
    """
    go = tmp_path / "go"
    server = start(command=[*script(work), str(go)])
    server.read_until(b"beginning\n")
    server.process.send_signal(signal.SIGTERM)
    server.read_until(b"ending\n")
    go.touch()
    assert server.ended() == 0, server.errors
    assert server.output == b"beginning\nending\n"
