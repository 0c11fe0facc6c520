"""A forked child has copies of its parent's descriptors and memory; the parent does not notice what it does there."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from reactor import Connector, Datagram, Listener, Options, Protocol, Reactor
from reactor.connection import Connection
from reactor.options import Deadlines
from reactor.pollers import POLLERS
from tests.helpers import PATIENCE, Recorder, Server, turn_until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

# What the programs below share. A child says what it has found by its exit status and on its standard output.
PRELUDE = """
    import os, signal, socket, sys, tempfile, threading, time
    from reactor import DatagramProtocol, Misuse, Protocol, Reactor

    def check(holds, what):
        if not holds:
            print(what, flush=True)
            os._exit(3)

    def wait_for(child):
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        check(status == 0, f"the child ended with {status}")

    class Echo(Protocol):
        def data_received(self, data):
            self.connection.write(data)
"""


def run(program: str, poller: str = "", seconds: float = PATIENCE) -> str:
    """Runs a program in a process of its own, for pytest has threads; returns what it prints."""
    environment = os.environ | ({"REACTOR_POLLER": poller} if poller else {})
    done = subprocess.run(
        # A program with threads forks; whoever does so is warned, since Python 3.12.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}\n{done.stderr}"
    return done.stdout


# The child's end


@pytest.mark.parametrize("ending", ["sys.exit()", "os._exit(0)", "raise SystemExit", "reactor.close(); os._exit(0)"])
def test_a_childs_end_changes_nothing_for_the_parent(poller, ending):
    """It unwinds `with Reactor()`, and its parent goes on serving old and new connections; the socket file is there."""
    run(
        f"""
        class Forking(Echo):
            def data_received(self, data):
                if data == b"fork":
                    child = os.fork()
                    if not child:
                        {ending}
                    wait_for(child)
                super().data_received(data)

        path = tempfile.mktemp(suffix=".sock")
        with Reactor() as reactor:
            reactor.drain_on_signals(1)
            address = reactor.listen(Forking, "127.0.0.1", 0).addresses[0]
            reactor.listen(Forking, path=path)
            received = []

            def client():
                old = socket.create_connection(address)
                try:
                    for word in (b"fork", b"hello"):
                        old.sendall(word)
                        received.append(old.recv(100))
                    new = socket.create_connection(address)
                    new.sendall(b"new")
                    received.append(new.recv(100))
                    named = socket.socket(socket.AF_UNIX)
                    named.connect(path)
                    named.sendall(b"named")
                    received.append(named.recv(100))
                    for sock in (old, new, named):
                        sock.close()
                finally:
                    reactor.call_soon_threadsafe(reactor.stop)

            thread = threading.Thread(target=client)
            thread.start()
            reactor.run()
            thread.join()
            check(received == [b"fork", b"hello", b"new", b"named"], received)
            check(os.path.exists(path), "the socket file is gone")
        check(not os.path.exists(path), "the socket file is still there")
        """,
        poller,
    )


def test_a_child_that_returns_into_the_loop_serves_nothing(poller):
    """The rest of the batch, timers, posted calls and datagrams are the parent's; run() is Misuse in the child."""
    run(
        """
        served = tempfile.TemporaryFile()

        class Receiver(DatagramProtocol):
            def datagram_received(self, data, addr):
                if not children:
                    fork()
                os.write(served.fileno(), data)

        children = []

        def fork():
            children.append(os.fork())
            if not children[0]:
                os.close(served.fileno())
                os.open(os.devnull, os.O_WRONLY)

        def call(what):
            os.write(served.fileno(), what)

        with Reactor() as reactor:
            endpoint = reactor.datagram(Receiver, ("127.0.0.1", 0))
            reactor.run_once(0)
            sender = socket.socket(type=socket.SOCK_DGRAM)
            for data in (b"a", b"b", b"c"):
                sender.sendto(data, endpoint.get_extra_info("sockname"))
            ours, theirs = socket.socketpair()
            reactor.add_reader(ours, lambda: call(ours.recv(1)))
            theirs.send(b"d")
            reactor.call_later(0, call, b"e")
            reactor.call_soon(call, b"f")
            try:
                reactor.run_once(1)
            except Misuse as exc:
                check(not children[0], "Misuse in the parent")
                os._exit(0)
            check(children[0], "the child's turn ended well")
            wait_for(children[0])
            reactor.remove_reader(ours)
            served.seek(0)
            check(sorted(served.read()) == sorted(b"abcdef"), "not all was served by the parent, once")
        """,
        poller,
    )


def test_a_child_that_closed_everything_closes_no_file_of_its_own(poller):
    """As a daemon does: its new files have the numbers that the parent's sockets have in the parent."""
    run(
        """
        reactor = Reactor()
        listener = reactor.listen(Echo, "127.0.0.1", 0)
        client = socket.create_connection(listener.addresses[0])
        reactor.run_once(0)
        child = os.fork()
        if not child:
            os.closerange(3, 100)
            files = [tempfile.TemporaryFile() for _ in range(30)]
            reactor.close()
            for file in files:
                file.write(b"mine")
                file.flush()
            os._exit(0)
        wait_for(child)
        client.close()
        reactor.close()
        """,
        poller,
    )


def test_a_child_leaves_the_loop_that_its_parents_reactor_is_a_guest_of():
    """SystemExit goes up through the guest, and asyncio, as in the parent."""
    run(
        """
        import asyncio
        from reactor.embedding import Guest

        async def main():
            loop = asyncio.get_running_loop()

            def watch(fd, callback):
                loop.add_reader(fd, callback)
                return lambda: loop.remove_reader(fd)

            def call_later(seconds, callback):
                return loop.call_later(seconds, callback).cancel

            guest = Guest(reactor, watch, call_later)
            done = loop.create_future()

            def fork():
                child = os.fork()
                if not child:
                    sys.stderr = open(os.devnull, "w")  # Python 3.14 tells there of the parent's task
                    sys.exit(0)
                done.set_result(child)

            reactor.call_soon(fork)
            wait_for(await done)
            guest.leave()

        with Reactor(poller="epoll") as reactor:
            asyncio.run(main())
        """
    )


# Every public call in the child


# What is not refused, because it only looks, or changes nothing but the child's own memory.
HARMLESS = {
    Reactor: {"close", "is_inherited"},
    Connection: {
        "can_write_eof", "get_extra_info", "get_protocol", "get_write_buffer_limits", "get_write_buffer_size",
        "is_broken", "is_closing", "is_reading", "is_writing_paused", "pause_reading", "set_protocol",
        "set_write_buffer_limits",
    },
    Datagram: {
        "get_extra_info", "get_protocol", "get_write_buffer_limits", "get_write_buffer_size", "is_closing",
        "set_protocol", "set_write_buffer_limits",
    },
    Listener: {"is_closing"},
    Connector: {"done"},
}  # fmt: skip
# What the reactor's own rooms call, and no user.
INTERNAL = {
    Reactor: {
        "admit", "call", "call_from_thread", "callback_failed", "came_to_nothing", "check_not_turning", "check_open",
        "dismiss", "doom",
        "forked", "gather", "is_still_ours", "look_at_clock", "nudge", "pass_by", "post", "post_handle", "rest",
        "set_timer", "watch",
    },
    Connection: {
        "abandon", "begin", "bury", "callback_failed", "cut", "deliver", "displaced", "drain", "end_linger", "fail",
        "flush", "forked", "handshake_failed", "handshake_late", "hidden_error", "on_events", "peer_ended", "post",
        "receive", "secured", "send_or_gather", "choose_reader", "count_discarded", "drop", "go_on", "input_ended",
        "is_lingering", "rest",
    },
    Datagram: {
        "abandon", "bury", "callback_failed", "cut", "displaced", "drain", "flush", "forked", "on_events",
        "on_readable", "go_on", "rest",
    },
    Listener: {
        "abandon", "accept", "callback_failed", "descriptor_freed", "lose", "release",
    },
    Connector: {
        "adopt", "attempt_connected", "attempt_failed", "begin", "callback_failed", "fail", "resolve", "start",
    },
}  # fmt: skip


def test_every_use_of_a_parents_reactor_in_the_child_is_misuse():
    """It names both processes, says what to do, and nothing of it reaches the parent or its peers."""
    told = run(
        """
        import ssl

        class Server(Echo):
            def connection_made(self, connection):
                super().connection_made(connection)
                connections.append(connection)

        connections = []
        reactor = Reactor()
        listener = reactor.listen(Server, "127.0.0.1", 0)
        client = socket.create_connection(listener.addresses[0])
        endpoint = reactor.datagram(DatagramProtocol, ("127.0.0.1", 0))
        for _ in range(3):
            reactor.run_once(0.1)
        (connection,) = connections
        full = socket.socket(); full.bind(("127.0.0.1", 0)); full.listen(0)
        first = socket.create_connection(full.getsockname())
        connector = reactor.connect(Protocol, *full.getsockname())
        reactor.run_once(0)
        file = tempfile.TemporaryFile()
        file.write(b"part"); file.flush()
        receiver = socket.socket(type=socket.SOCK_DGRAM)
        receiver.bind(("127.0.0.1", 0))
        context = ssl.create_default_context()
        context.check_hostname = False
        connection.write(b"first ")
        connection.write(b"and second")  # gathered: the next write would only be queued

        def nothing(*args):
            pass

        calls = {
            "Reactor.add_reader": (0, nothing), "Reactor.remove_reader": (0,), "Reactor.add_writer": (1, nothing),
            "Reactor.remove_writer": (1,), "Reactor.add_signal_handler": (10, nothing),
            "Reactor.remove_signal_handler": (10,), "Reactor.call_at": (0, nothing), "Reactor.call_later": (0, nothing),
            "Reactor.call_soon": (nothing,), "Reactor.call_soon_threadsafe": (nothing,),
            "Reactor.connect": (Protocol, "127.0.0.1", 1), "Reactor.datagram": (DatagramProtocol, ("127.0.0.1", 0)),
            "Reactor.drain": (1,), "Reactor.drain_on_signals": (1,), "Reactor.fileno": (), "Reactor.listen_fds": (),
            "Reactor.listen": (Protocol, "127.0.0.1", 0), "Reactor.notify": ("A=B",), "Reactor.run": (),
            "Reactor.observe": (nothing,), "Reactor.observe_turns": (nothing,), "Reactor.run_in_thread": (nothing,),
            "Reactor.run_once": (0,), "Reactor.statistics": (), "Reactor.stop": (), "Reactor.time": (),
            "Reactor.timeout": (),
            "Connection.call_soon": (nothing,),
            "Connection.resume_reading": (), "Connection.send_file": (file,),
            "Connection.start_tls": (context,), "Connection.write": (b"hello",),
            "Connection.writelines": ([b"hello"],), "Connection.write_eof": (), "Connection.close": (),
            "Connection.abort": (),
            "Datagram.sendto": (b"hello", receiver.getsockname()), "Datagram.abort": (), "Datagram.close": (),
            "Listener.close": (), "Connector.cancel": (),
        }
        objects = {"Reactor": reactor, "Connection": connection, "Datagram": endpoint, "Listener": listener,
                   "Connector": connector}
        parent = os.getpid()
        for call, args in calls.items():
            child = os.fork()
            if child:
                wait_for(child)
                continue
            name, _, method = call.partition(".")
            try:
                getattr(objects[name], method)(*args)
            except Misuse as exc:
                words = str(exc)
                check(str(parent) in words and str(os.getpid()) in words and "make a Reactor" in words, words)
            else:
                check(False, f"{call} was not refused")
            os._exit(0)
        child = os.fork()
        if not child:
            check("another process" in repr(reactor), repr(reactor))
            reactor.close()
            reactor.close()
            with Reactor() as mine:
                mine.call_soon(mine.stop)
                mine.run()
            os._exit(0)
        wait_for(child)
        reactor.run_once(0)
        check(client.recv(100) == b"first and second", "the gathered writes were not sent once")
        receiver.setblocking(False)
        try:
            check(False, receiver.recv(100))
        except BlockingIOError:
            pass
        client.sendall(b"still there")
        reactor.run_once(1)
        reactor.run_once(0)  # what the callback wrote may have been gathered
        check(client.recv(100) == b"still there", "the connection is not served")
        check(listener in reactor.listeners and endpoint in reactor.datagrams, "an end is gone")
        connector.cancel()
        client.close()
        reactor.close()
        print(*calls)
        """
    )
    tried = set(told.split())
    for cls, harmless in HARMLESS.items():
        ours = [base for base in cls.__mro__ if base.__module__.startswith("reactor.")]
        names = {name for base in ours for name, value in vars(base).items() if inspect.isfunction(value)}
        public = {f"{cls.__name__}.{name}" for name in names - harmless - INTERNAL[cls] if not name.startswith("_")}
        assert public <= tried


# Copies: what our end tells the peer, while somebody else has the descriptor, too


@pytest.fixture
def copies(no_descriptor_left):
    """Makes duplicates, as a fork does; they stay open until the test has ended."""
    made: list[int] = []

    def copy(fd: int) -> None:
        made.append(os.dup(fd))

    yield copy
    for fd in made:
        os.close(fd)


def copied(copies, protocol) -> None:
    copies(protocol.connection.get_extra_info("socket").fileno())


@pytest.mark.parametrize("end", ["the peer's", "close", "write_eof and the peer's", "drain"])
def test_our_fin_leaves_although_there_is_a_copy(reactor, transport, tmp_path, copies, end):
    """Whoever ends first: the peer reads what was written, then the end; and the report says so."""
    server = Server(reactor, Recorder, transport, str(tmp_path / "socket"))
    peer, protocol = server.connected()
    with peer:
        copied(copies, protocol)
        protocol.connection.write(b"reply")
        if end == "the peer's":
            peer.fin()
        elif end == "close":
            protocol.connection.close()
        elif end == "drain":
            reactor.call_soon(reactor.drain, 5)
        else:
            protocol.connection.write_eof()
            peer.fin()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"reply"
        if end in ("close", "drain"):
            peer.fin()
        turn_until(reactor, lambda: protocol.ended)
    assert protocol.lost is None
    assert protocol.report.fin_sent


@pytest.mark.parametrize("before", ["nothing", "unread", "unsent", "the peer's end"])
@pytest.mark.parametrize("end", ["abort", "raise", "flush", "reactor.close"])
@pytest.mark.logs_errors
def test_our_reset_leaves_although_there_is_a_copy(poller, transport, tmp_path, copies, end, before):
    """The peer learns of it at once. On a Unix socket, which has no reset, it reads the end."""
    reactor = Reactor(poller=poller)
    options = Options(deadlines=Deadlines(flush=0.05))
    server = Server(reactor, lambda: Recorder(keep_open=True), transport, str(tmp_path / "socket"), options)
    peer, protocol = server.connected()
    with reactor, peer:
        connection = protocol.connection
        copied(copies, protocol)
        if before == "unread":
            connection.pause_reading()
            peer.send(b"unread")
        elif before == "the peer's end":
            peer.fin()
            turn_until(reactor, lambda: "eof_received" in protocol.calls)
        if before == "unsent" or end == "flush":
            connection.write(bytes(10_000_000))
        if end == "raise":
            connection.call_soon(lambda: 1 / 0)
        elif end == "flush":
            connection.close()
        elif end == "abort":
            connection.abort()
        if end == "reactor.close":
            reactor.close()
        else:
            turn_until(reactor, lambda: protocol.ended)
        assert protocol.lost is not None
        assert not protocol.report.fin_sent

        def over() -> bool:
            while peer.ending is None and peer.read_some():
                pass
            return peer.ending is not None

        with Reactor() as waiting:
            turn_until(waiting, over)
        if transport != "unix":
            assert peer.ending == "reset"


def test_a_reset_is_one_where_the_c_library_cannot_be_asked(monkeypatch, reactor):
    """In a famine of descriptors, say: then the close sends it, as far as there is no copy."""
    monkeypatch.setattr("reactor.syscalls._c_connect", lambda: __import__("no_such_module"))
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.abort()
        turn_until(reactor, lambda: protocol.ended)
        assert peer.read_to_end() == "reset"


def test_the_loser_of_a_race_ends_although_there_is_a_copy(reactor, copies):
    """A connect that is cancelled when the peer has accepted already: the peer reads the end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        connector = reactor.connect(Protocol, *listening.getsockname())
        turn_until(reactor, lambda: connector._attempts)
        (attempt,) = connector._attempts.values()
        copies(attempt._fd)
        peer, _ = listening.accept()
        with peer:
            connector.cancel()
            reactor.run_once(0)
            peer.settimeout(PATIENCE)
            assert peer.recv(1) == b""


def test_a_closed_listener_lets_nobody_wait_although_there_is_a_copy(reactor, transport, tmp_path, copies):
    """Callers are refused, instead of waiting in a queue that nobody asks."""
    server = Server(reactor, Recorder, transport, str(tmp_path / "socket"))
    copies(server.listener._doors[0].fd)
    os.link(tmp_path / "socket", tmp_path / "kept") if transport == "unix" else None
    server.listener.close()
    turn_until(reactor, lambda: not reactor.listeners)
    address = str(tmp_path / "kept") if transport == "unix" else server.address
    with socket.socket(server.family) as caller, pytest.raises(ConnectionRefusedError):
        caller.connect(address)


def test_who_waits_in_a_listeners_queue_learns_of_its_end_although_there_is_a_copy(poller, transport, tmp_path, copies):
    """Closing the reactor accepts nobody more: whoever waits there reads a reset, or the end, and not nothing."""
    reactor = Reactor(poller=poller)
    server = Server(reactor, Recorder, transport, str(tmp_path / "socket"))
    copies(server.listener._doors[0].fd)
    with socket.socket(server.family) as caller:
        caller.settimeout(PATIENCE)
        caller.connect(server.address)
        reactor.close()
        try:
            assert caller.recv(1) == b""
        except ConnectionResetError:
            pass


def test_a_given_listening_socket_goes_on_for_those_who_share_it(reactor):
    """Workers that were forked share one: what closes it for one of them closes nothing for the others."""
    with socket.create_server(("127.0.0.1", 0)) as shared:
        listener = reactor.listen(Protocol, sock=shared.dup())
        listener.close()
        turn_until(reactor, lambda: not reactor.listeners)
        with socket.create_connection(shared.getsockname()):
            shared.settimeout(PATIENCE)
            shared.accept()[0].close()


# Signals


def test_a_signal_for_a_child_is_not_its_parents(poller):
    """SIGTERM ends the child, as it would without a reactor, and the parent is not drained."""
    run(
        """
        with Reactor() as reactor:
            reactor.listen(Protocol, "127.0.0.1", 0)
            reactor.drain_on_signals(5)
            children = []

            def fork():
                child = os.fork()
                if not child:
                    signal.pause()
                    os._exit(0)
                children.append(child)
                os.kill(child, signal.SIGTERM)
                check(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM, "not by the signal")
                reactor.call_later(0.1, reactor.stop)

            reactor.call_soon(fork)
            reactor.run()
            check(reactor.drained is None, "the parent drains")
        """,
        poller,
    )


def test_a_signal_for_the_group_is_one_for_each(poller):
    """Ctrl-C: the child has its KeyboardInterrupt, the parent drains, and does not end at once."""
    run(
        """
        os.setpgid(0, 0)
        read, write = os.pipe()
        with Reactor() as reactor:
            reactor.listen(Protocol, "127.0.0.1", 0)
            reactor.drain_on_signals(5)
            seen = []
            stop_signal = reactor._stop_signal
            reactor.add_signal_handler(signal.SIGINT, lambda: (seen.append(1), stop_signal(5)))

            def fork():
                child = os.fork()
                if not child:
                    try:
                        os.write(write, b"x")
                        time.sleep(30)
                    except KeyboardInterrupt:
                        os._exit(0)
                    os._exit(1)
                os.read(read, 1)
                os.killpg(0, signal.SIGINT)
                wait_for(child)

            reactor.call_soon(fork)
            reactor.run()
            check(seen == [1], seen)
            check(reactor.drained.finished, "not drained")
        """,
        poller,
    )


def test_a_child_handles_signals_as_before_the_reactor():
    """The handlers, and the interpreter's wake-up descriptor, which a reactor of its own may then have."""
    run(
        """
        def mine(number, frame):
            handled.append(number)

        handled = []
        signal.signal(signal.SIGUSR1, mine)
        first, second = Reactor(), Reactor()
        first.add_signal_handler(signal.SIGUSR1, print)
        second.add_signal_handler(signal.SIGUSR1, print)
        second.add_signal_handler(signal.SIGTERM, print)
        first.close()
        child = os.fork()
        if not child:
            check(signal.getsignal(signal.SIGUSR1) is mine, "another handler")
            check(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "another handler")
            check(signal.set_wakeup_fd(-1) == -1, "a wake-up descriptor")
            signal.raise_signal(signal.SIGUSR1)
            check(handled == [signal.SIGUSR1], handled)
            with Reactor() as reactor:
                reactor.add_signal_handler(signal.SIGTERM, reactor.stop)
                reactor.call_soon(signal.raise_signal, signal.SIGTERM)
                reactor.call_later(20, check, False, "not stopped")
                reactor.run()
            os._exit(0)
        wait_for(child)
        second.close()
        check(signal.getsignal(signal.SIGUSR1) is mine, "another handler in the parent")
        """
    )


def test_a_signal_that_comes_before_the_child_has_given_them_back_is_not_lost(monkeypatch):
    """The handler notices that it is another process, gives all back, and sends the signal again."""
    handled = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: handled.append(number))
    try:
        with Reactor() as reactor:
            reactor.add_signal_handler(signal.SIGUSR1, print)
            monkeypatch.setattr(reactor._signals._table, "_process", -1)
            signal.raise_signal(signal.SIGUSR1)
            assert handled == [signal.SIGUSR1]
            reactor._signals._calls.clear()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("name", list(POLLERS))
def test_a_process_of_multiprocessing_ends_by_terminate(name):
    """The child that `Process.terminate` is for."""
    run(
        """
        import multiprocessing

        with Reactor() as reactor:
            reactor.listen(Protocol, "127.0.0.1", 0)
            reactor.drain_on_signals(5)
            process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))

            def start():
                process.start()
                process.terminate()
                process.join(15)
                reactor.stop()

            reactor.call_soon(start)
            reactor.run()
            check(process.exitcode == -signal.SIGTERM, process.exitcode)
            check(reactor.drained is None, "the parent drains")
        """,
        name,
    )
