"""A server as a whole: drained by a signal, out of descriptors, with a bad batch, full of sleepers: 63 to 70."""

from __future__ import annotations

import errno
import select
import signal
import socket
from contextlib import ExitStack

import pytest

from reactor import Deadlines, Options, Reactor
from reactor.errors import PEER_GONE
from reactor.lifecycle import LINGER, PEER_END
from reactor.system import System
from tests.closing.programs import Program, client, read_to_end
from tests.closing.support import REPLY, check_end, ended, processor_time, scripted, server_on, turn
from tests.helpers import all_closed, turn_until

DRAINED = """
with Reactor() as reactor:
    listener = reactor.listen(Served, "127.0.0.1", 0, options=OPTIONS)
    reactor.drain_on_signals(deadline=DEADLINE)
    say(port=listener.addresses[0][1])
    reactor.run()
    finish(reactor, made=Told.made)
"""


def test_a_signal_serves_who_waits_in_the_accept_queue(poller):
    """Scenario 63: SIGTERM comes before they were accepted; each still gets its answer, and nobody a reset."""
    source = """
OPTIONS, DEADLINE = Options(), 20
class Served(Told):
    def data_received(self, data):
        self.connection.write(b"reply to " + data)
        self.connection.close()
    def draining(self):
        pass  # the request is under way
"""
    with Program(source + DRAINED, poller) as program, ExitStack() as stack:
        port = program.hear("port")["port"]
        # Stopped, so that they are surely in the queue when the signal is served.
        program.process.send_signal(signal.SIGSTOP)
        clients = [stack.enter_context(client(port)) for _ in range(20)]
        for number, sock in enumerate(clients):
            sock.sendall(b"%d" % number)
        program.process.send_signal(signal.SIGTERM)
        program.process.send_signal(signal.SIGCONT)
        for number, sock in enumerate(clients):
            assert read_to_end(sock) == (b"reply to %d" % number, "EOF")
        for sock in clients:
            sock.close()
        told = program.hear("ended")
        assert program.exit_code() == 0
    assert told["made"] == 20
    assert (told["ended"]["connections"], told["ended"]["ended_in_order"], told["ended"]["lost"]) == (20, 20, 0)
    assert [level for level, _ in told["lines"] if level in ("WARNING", "ERROR")] == []


REPLYING = """
OPTIONS, DEADLINE = Options(sockets=NARROW), float(sys.argv[1])
class Served(Told):
    def connection_made(self, connection):
        super().connection_made(connection)
        connection.write(REPLY)
    def draining(self):
        say(draining=True)
        super().draining()
"""


def test_a_signal_lets_a_slow_reader_have_all_its_3_mb(poller):
    """Scenario 64: the drain waits for it, sends our FIN behind the last byte, and tells of a clean end."""
    with Program(REPLYING + DRAINED, poller, None, "20") as program:
        with client(program.hear("port")["port"]) as sock:
            data = sock.recv(100_000)
            program.process.send_signal(signal.SIGTERM)
            program.hear("draining")
            while len(data) < len(REPLY) // 2:
                data += sock.recv(50_000)
            rest, ending = read_to_end(sock, 50_000)
        assert (data + rest, ending) == (REPLY, "EOF")
        lost = program.hear("lost")
        told = program.hear("ended")
        assert program.exit_code() == 0
    assert (lost["lost"], lost["how"], lost["unsent"], lost["acknowledged"]) == ("NoneType", "in order", 0, len(REPLY))
    assert (told["ended"]["ended_in_order"], told["ended"]["lost"]) == (1, 0)


def test_the_drains_deadline_resets_who_is_left_and_counts_the_loss(poller):
    """Scenario 65: a stalled reader holds the server no longer than that; the others have ended in order by then."""
    with Program(REPLYING + DRAINED, poller, None, "0.3") as program:
        port = program.hear("port")["port"]
        with client(port) as stalled, client(port) as good:
            stalled.recv(1000)
            good.recv(1000)
            program.process.send_signal(signal.SIGTERM)
            assert read_to_end(good)[1] == "EOF"
            good.close()
            ends = [program.hear("lost"), program.hear("lost")]
            told = program.hear("ended")
            assert program.exit_code() == 0
            data, ending = read_to_end(stalled)
    assert ending == "reset"
    assert [end["lost"] for end in ends] == ["NoneType", "Aborted"]
    late = ends[1]
    assert late["how"] == "reset"
    assert late["written"] == len(REPLY) == late["acknowledged"] + late["unacknowledged"] + late["unsent"]
    assert late["acknowledged"] <= 1000 + len(data) <= late["accepted"]
    assert late["unsent"] > 1_000_000
    assert (told["ended"]["ended_in_order"], told["ended"]["lost"]) == (1, 1)
    assert told["ended"]["unsent"] == late["unsent"]


def test_at_the_drains_deadline_who_lingers_is_left_and_not_reset(reactor, tmp_path):
    """Scenario 65: all was confirmed already, so the kernel keeps the rest, and nothing counts as lost."""
    options = Options(deadlines=Deadlines(linger_grace=30, linger_silence=30))
    server = server_on(reactor, "tcp4", tmp_path, scripted(), options)
    peer, protocol = server.connected()
    protocol.script["draining"] = lambda connection: (connection.write(b"bye"), connection.close())
    with peer:
        summary = reactor.drain(0.3)  # an acknowledgement may take 40 ms
        assert summary.clean
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"bye"
    check_end(protocol, "connection_made draining connection_lost", acknowledged=3, fin_acknowledged=True)


def test_a_second_signal_ends_it_at_once(poller):
    """Scenario 66: whoever sends two wants no patience; the rest is reset, counted, and the exit is clean."""
    with Program(REPLYING + DRAINED, poller, None, "3000") as program, client(program.hear("port")["port"]) as stalled:
        stalled.recv(1000)
        program.process.send_signal(signal.SIGTERM)
        program.hear("draining")
        assert program.process.poll() is None
        program.process.send_signal(signal.SIGINT)
        lost = program.hear("lost")
        told = program.hear("ended")
        assert program.exit_code() == 0
        assert read_to_end(stalled)[1] == "reset"
    assert (lost["lost"], lost["how"]) == ("Aborted", "reset")
    assert (told["ended"]["ended_in_order"], told["ended"]["lost"]) == (0, 1)
    assert sum("second signal" in text for _, text in told["lines"]) == 1


FAMINE = """
class Served(Told):
    def data_received(self, data):
        self.connection.write(b"reply to " + data)
        if CLOSES:
            self.connection.close()

with Reactor() as reactor:
    listener = reactor.listen(Served, "127.0.0.1", 0, options=OPTIONS)
    reactor.drain_on_signals(deadline=0)
    there = len(os.listdir("/proc/self/fd")) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (there + 10, there + 10))
    say(port=listener.addresses[0][1])
    reactor.run()
    finish(reactor, made=Told.made, used=time.process_time())
"""


@pytest.mark.parametrize("famine", [0.3, pytest.param(1.5, marks=pytest.mark.slow)])
def test_a_famine_of_descriptors_refuses_nobody(poller, famine):
    """Scenario 67: ten descriptors for forty clients, and none comes free for a while: all are served, in few turns."""
    source = "CLOSES, OPTIONS = False, Options()\n" + FAMINE
    with Program(source, poller) as program, ExitStack() as stack:
        port = program.hear("port")["port"]
        clients = {stack.enter_context(client(port)): b"%d" % number for number in range(40)}
        for sock, name in clients.items():
            sock.sendall(name)
        served: list[socket.socket] = []
        while len(served) < 10:
            served += select.select(set(clients) - set(served), (), (), 5)[0]
        # The famine lasts: nobody else is served, and nobody is refused.
        assert select.select(set(clients) - set(served), (), (), famine)[0] == []
        assert len(served) == 10
        waiting = dict(clients)
        while waiting:
            ready, _, _ = select.select(waiting, (), (), 10)
            assert ready, f"{len(waiting)} were never served"
            for sock in ready:
                assert sock.recv(100) == b"reply to " + waiting.pop(sock)
                sock.shutdown(socket.SHUT_WR)
                assert read_to_end(sock) == (b"", "EOF")
        program.process.send_signal(signal.SIGTERM)
        told = program.hear("ended")
        assert program.exit_code() == 0
    assert told["made"] == 40
    assert (told["ended"]["connections"], told["ended"]["lost"]) == (40, 0)
    assert told["turns"] < 500
    assert told["used"] < 1.5
    warnings = [text for level, text in told["lines"] if level == "WARNING"]
    assert 1 <= len(warnings) <= 3
    assert "Too many open files" in warnings[0]
    assert len(told["lines"]) <= 8


def test_lingering_connections_give_way_when_descriptors_run_out(poller):
    """Scenario 68: clients that never end hold every descriptor; the oldest, which have everything, are let go."""
    options = "Options(deadlines=Deadlines(linger_grace=60, linger_silence=60, linger_total=60))"
    with Program(f"CLOSES, OPTIONS = True, {options}\n{FAMINE}", poller) as program, ExitStack() as stack:
        port = program.hear("port")["port"]
        clients = [stack.enter_context(client(port)) for _ in range(40)]
        for number, sock in enumerate(clients):
            sock.sendall(b"%d" % number)
        for number, sock in enumerate(clients):
            assert read_to_end(sock) == (b"reply to %d" % number, "EOF")
        program.process.send_signal(signal.SIGTERM)
        told = program.hear("ended")
        assert program.exit_code() == 0
    assert told["made"] == 40
    ended_ = told["ended"]
    assert (ended_["connections"], ended_["unsent"]) == (40, 0)
    assert ended_["written"] == ended_["connections"] * 10 + 30
    assert told["turns"] < 500
    assert len(told["lines"]) <= 8


class Unlucky(System):
    """A kernel that finds every second connection gone when it is accepted."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.accepts = 0

    def accept(self, listening):
        sock, address = super().accept(listening)
        self.accepts += 1
        if self.accepts % 2 == 0:
            sock.close()
            raise OSError(self.number, "as the platform says")
        return sock, address


@pytest.mark.parametrize("number", sorted(PEER_GONE), ids=lambda number: errno.errorcode[number])
def test_an_aborted_connection_costs_the_batch_nothing(poller, tmp_path, number, caplog):
    """Scenario 69: ECONNABORTED and its like tell of one connection; the others of the batch are served."""
    with Reactor(poller=poller, system=Unlucky(number)) as reactor:
        server = server_on(reactor, "tcp4", tmp_path)
        peers = [server.peer() for _ in range(9)]
        with all_closed(*peers):
            turn_until(reactor, lambda: server.protocols)
            assert len(server.protocols) == 5
            assert server.listener.connections == 5
            for peer in peers[::2]:
                peer.fin()
                assert peer.read_to_end() == "EOF"
        ended(*server.protocols)
        for protocol in server.protocols[:5]:
            check_end(protocol, "connection_made eof_received connection_lost")
    assert caplog.records == []


@pytest.mark.parametrize("seconds", [0.5, pytest.param(1.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("poller", ["epoll", "poll"])
def test_a_thousand_sleepers_use_no_processor(poller, tmp_path, seconds):
    """Scenario 70: half open and lingering by the hundred, for a while: less than one per cent of one processor."""
    options = Options(deadlines=Deadlines(linger_grace=5, linger_silence=60, linger_total=60))
    with Reactor(poller=poller) as reactor, ExitStack() as stack:
        server = server_on(reactor, "tcp4", tmp_path, scripted(keep_open=True), options)
        peers = [stack.enter_context(server.peer()) for _ in range(1000)]
        turn_until(reactor, lambda: len(server.protocols) == 1000)
        turn(reactor)
        for index, (peer, protocol) in enumerate(zip(peers, server.protocols, strict=True)):
            if index % 2:
                peer.fin()
            else:
                protocol.connection.write(b"reply")
                protocol.connection.close()
        turn_until(reactor, lambda: sum(connection.state is PEER_END for connection in reactor.connections) == 500)
        assert sum(connection.state is LINGER for connection in reactor.connections) == 500
        # What was started is over: acknowledgements, first looks.
        processor_time(reactor, 0.1)
        assert processor_time(reactor, seconds) < 0.01
        assert len(reactor.connections) == 1000
        for protocol in server.protocols:
            protocol.connection.close()
        for peer in peers:
            peer.close()
        ended(*server.protocols)
        # Those who lingered had not been read to the end when their clients left.
        assert sum(protocol.lost is None for protocol in server.protocols) == 500
        assert reactor.statistics().ended.connections == 1000
