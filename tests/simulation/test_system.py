"""The simulated system as a user meets it: time, links, faults, scripted peers, and a message instead of a hang."""

from __future__ import annotations

import errno
import logging
import math
import signal
import time

import pytest

from reactor import Deadlines, Limits, Options, Reactor, Sockets
from reactor.system import System
from reactor.testing import (
    AbortedAccepts,
    BlackHole,
    DescriptorLimit,
    Famine,
    Fault,
    Link,
    OneAtATime,
    ShortReads,
    ShortWrites,
    SimulatedSystem,
    SpuriousReadiness,
    Stalled,
    TryAgain,
)
from tests.helpers import Recorder


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.connection.write(data)


class World:
    """A reactor on a simulated system, with a listener whose protocols are kept."""

    def __init__(self, factory=Echo, *, options=None, link=None, faults=(), seed=0):
        self.system = SimulatedSystem(seed, link=link, faults=faults)
        self.reactor = Reactor(system=self.system)
        self.protocols = []

        def make():
            self.protocols.append(factory())
            return self.protocols[-1]

        self.listener = self.reactor.listen(make, "127.0.0.1", 0, options=options or Options())
        self.address = self.listener.addresses[0]

    def peer(self, **arguments):
        return self.system.peer(self.address, **arguments)

    def run(self, seconds=1.0):
        self.system.run(self.reactor, seconds)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.reactor.close()
        assert self.system.bad_calls == []
        assert not self.system.descriptors


def test_nothing_is_left_to_the_machine():
    """The simulation answers every question of the seam, but for those that ask only the socket or a real file."""
    asks_nobody = {
        "clear_error_queue",
        "error",
        "file_range",
        "finish",
        "finish_connect",
        "is_tcp",
        "numeric_address",
        "pending_error",
        "read_file",
        "resolve_numeric",
        "shared",
        "tcp_lives",
        "unix_address",
    }
    questions = {name for name, value in vars(System).items() if callable(value) and not name.startswith("_")}
    assert questions - set(vars(SimulatedSystem)) == asks_nobody


# Signals


class Eager(SimulatedSystem):
    """A signal arrives at once when it is caught, and once more just before it is given back."""

    def catch_signal(self, number, handler):
        before = super().catch_signal(number, handler)
        self.send_signal(number)
        return before

    def restore_signal(self, number, before):
        self.send_signal(number)
        super().restore_signal(number, before)


def test_a_signal_that_comes_while_it_is_taken_or_given_back_has_an_owner():
    """The first is served; the second goes to the reactor that had it before, or is taken back with the handler."""
    system = Eager()
    told = []
    with Reactor(system=system) as reactor:
        reactor.add_signal_handler(signal.SIGTERM, told.append, "term")
        reactor.run_once(0)
        assert told == ["term"]
        assert reactor.remove_signal_handler(signal.SIGTERM)
        reactor.run_once(0)
        assert told == ["term"]


def test_a_full_waker_loses_no_signal():
    """The number need not be written anywhere."""
    system = SimulatedSystem()
    told = []
    with Reactor(system=system) as reactor:
        reactor.add_signal_handler(signal.SIGTERM, told.append, "term")
        reactor.waker._theirs.send(b"\1")
        reactor.waker._theirs.capacity = 1
        system.send_signal(signal.SIGTERM)
        reactor.run_once(0)
        assert told == ["term"]


# Several events for one number


def test_an_event_of_a_batch_is_not_given_to_who_has_the_number_next():
    """Two ends are ready; the call for the first closes the second, and a new, quiet one gets its number."""
    for first_ready in (0, 1):
        system = SimulatedSystem()
        with Reactor(system=system) as reactor:
            pairs = [system.stream_pair() for _ in range(2)]
            called, replaced = [], []

            def replace(me, other, pairs=pairs, reactor=reactor, system=system, called=called, replaced=replaced):
                pairs[me][0].recv(1)
                if replaced:
                    return
                reactor.remove_reader(pairs[other][0])
                number = pairs[other][0].fileno()
                pairs[other][0].close()
                new, peer = system.stream_pair()
                assert number in (new.fileno(), peer.fileno())
                quiet = new if new.fileno() == number else peer
                replaced.append(quiet)
                reactor.add_reader(quiet, called.append, quiet)

            for me in (0, 1):
                reactor.add_reader(pairs[me][0], replace, me, 1 - me)
            for place in (first_ready, 1 - first_ready):
                pairs[place][1].send(b"x")
            reactor.run_once(0)
            assert len(replaced) == 1
            assert called == []
            replaced[0].peer.send(b"y")
            reactor.run_once(0)
            assert called == replaced
            system.descriptors.clear()


# Time


def test_time_passes_in_poll_and_nowhere_else():
    """A timer of a day fires after a day, at once."""
    system = SimulatedSystem()
    began = time.monotonic()
    with Reactor(system=system) as reactor:
        fired = []
        reactor.call_later(86_400.0, lambda: fired.append(reactor.time()))
        assert reactor.time() == 0.0
        reactor.run()
    assert fired == [86_400.0]
    assert time.monotonic() - began < 5.0


def test_with_nothing_to_wait_for_it_says_so():
    """A hung test becomes a message with the state of every socket."""
    with World() as world:
        peer = world.peer()
        with pytest.raises(Stalled, match=r"nothing is left that could wake the loop(.|\n)*ESTABLISHED unread=0"):
            world.reactor.run()
        assert peer.connected


def test_run_names_the_connections_of_a_failure():
    """What `run` waits for in vain is told with the connections' states."""
    with World() as world:
        world.peer()
        with pytest.raises(AssertionError, match="waited 5 virtual seconds in vain") as caught:
            world.system.run(world.reactor, 5, until=lambda: False)
        assert "OPEN" in caught.value.__notes__[0]


def test_a_loop_that_turns_for_ever_is_a_spin():
    """No time passes, and nothing else would ever stop it."""
    with World() as world:

        def again():
            world.reactor.call_soon(again)

        again()
        with pytest.raises(Stalled, match="the loop spins: "):
            world.reactor.run()


def test_the_world_acts_by_itself():
    """`after` makes something happen whatever the reactor does."""
    with World() as world:
        peer = world.peer()
        world.system.after(5.0, peer.send, b"late")
        world.run(4.9)
        assert peer.data == b""
        world.run(0.2)
        assert peer.data == b"late"


def test_a_script_that_ends_twice_is_no_fault_of_the_reactors():
    """`bad_calls` are the program's; a peer that has closed can be told to reset, and to close again."""
    with World() as world:
        peer = world.peer()
        world.run()
        peer.close()
        peer.reset()
        peer.close()
        world.run()
        assert world.system.bad_calls == []
        assert world.protocols[0].lost is None


# Links


def test_latency_is_the_time_from_end_to_end():
    """A connect is one way there and one back, an echo another way there and back."""
    with World(link=Link(latency=0.1)) as world:
        peer = world.peer()
        world.run(0.19)
        assert not peer.connected
        world.run(0.02)
        assert peer.connected
        peer.send(b"ping")
        world.run(0.19)
        assert peer.data == b""
        world.run(0.02)
        assert peer.data == b"ping"


def test_segments_arrive_one_by_one_and_in_order():
    """A link's packets carry so much at most; jitter does not reorder them."""
    with World(Recorder, link=Link(latency=0.1, jitter=0.5, segment_bytes=3)) as world:
        peer = world.peer()
        peer.send(b"0123456789")
        world.run(10.0)
        (protocol,) = world.protocols
        assert protocol.data == b"0123456789"


def test_a_peer_that_stops_reading_closes_the_window():
    """The rest waits in the reactor, and leaves when it reads again."""
    options = Options(sockets=Sockets(send_buffer_bytes=1000))
    with World(Recorder, options=options, link=Link(receive_buffer_bytes=1000)) as world:
        peer = world.peer()
        world.run()
        (protocol,) = world.protocols
        peer.stop_reading()
        protocol.connection.write(b"x" * 5000)
        world.run()
        assert protocol.connection.get_write_buffer_size() == 3000
        assert protocol.connection.report.acknowledged == 1000
        assert peer.read(10) == b"x" * 10
        peer.resume_reading()
        world.run()
        assert peer.data == b"x" * 5000


def test_a_descriptor_closed_behind_the_reactors_back_is_found():
    """When its number comes back, the one that had it before is told EBADF, and only that one."""
    with World() as world:
        first = world.peer()
        world.run()
        (lost,) = world.protocols
        lost.connection.get_extra_info("socket").close()
        second = world.peer()
        second.send(b"mine")
        world.run()
        assert lost.lost.errno == errno.EBADF
        assert (first.ending, second.data) == ("EOF", b"mine")


# Faults


@pytest.mark.parametrize(
    "faults",
    [
        [ShortWrites()],
        [ShortReads()],
        [TryAgain(0.5)],
        [SpuriousReadiness(1.0)],
        [OneAtATime()],
        [ShortWrites(), ShortReads(), TryAgain(0.3), SpuriousReadiness(0.5), OneAtATime(0.5)],
    ],
    ids=lambda faults: "+".join(type(fault).__name__ for fault in faults),
)
def test_an_echo_survives(faults):
    """Every byte comes back, in order, and the end is clean."""
    with World(faults=faults, link=Link(latency=0.01, segment_bytes=700)) as world:
        peers = [world.peer() for _ in range(3)]
        sent = bytes(range(256)) * 8
        for peer in peers:
            peer.send(sent)
            peer.fin()
        world.run(300.0)
        assert [(peer.data, peer.ending) for peer in peers] == [(sent, "EOF")] * 3
        assert [protocol.lost for protocol in world.protocols] == [None] * 3


def test_what_a_black_hole_held_arrives_afterwards():
    """TCP sends it again."""
    hole = BlackHole(start=10.0, end=20.0)
    with World(faults=[hole]) as world:
        peer = world.peer()
        world.run(12.0)
        peer.send(b"lost?")
        world.run(7.9)
        assert peer.data == b""
        world.run(0.2)
        assert peer.data == b"lost?"


def test_a_peer_that_vanishes_is_found_by_the_idle_deadline_and_then_the_flush():
    """Nothing arrives any more; our end is not answered either."""
    options = Options(deadlines=Deadlines(idle=60.0))
    with World(Recorder, options=options, faults=[BlackHole(start=1.0)]) as world:
        world.peer()
        world.run(100.0)
        (protocol,) = world.protocols
        assert type(protocol.lost).__name__ == "IdleTimeout"
        assert protocol.report.fin_acknowledged is False


def test_unacknowledged_data_times_out_as_the_option_says():
    """TCP_USER_TIMEOUT: the kernel gives up, and the connection is told ETIMEDOUT."""
    options = Options(sockets=Sockets(user_timeout=20.0))
    with World(Recorder, options=options, faults=[BlackHole(start=1.0)]) as world:
        world.peer()
        world.run(2.0)
        (protocol,) = world.protocols
        protocol.connection.write(b"anybody?")
        world.run(19.0)
        assert not protocol.ended
        world.run(2.0)
        assert isinstance(protocol.lost, TimeoutError)
        assert protocol.report.unacknowledged == 8


def test_a_user_timeout_starts_anew_with_each_acknowledgement():
    """A peer that reads a little now and then is not given up; one that stops is, after as long as the option says."""
    options = Options(sockets=Sockets(user_timeout=20.0, send_buffer_bytes=1000))
    with World(Recorder, options=options, link=Link(receive_buffer_bytes=1000)) as world:
        peer = world.peer()
        world.run()
        (protocol,) = world.protocols
        peer.stop_reading()
        protocol.connection.write(b"x" * 5000)
        for _ in range(5):
            world.run(15.0)
            peer.read(100)
        world.run(19.0)
        assert not protocol.ended
        world.run(2.0)
        assert isinstance(protocol.lost, TimeoutError)
        assert protocol.report.unacknowledged == 900


def test_a_write_long_after_the_line_broke_is_given_up_as_late_as_any():
    """The kernel's quarter of an hour begins with what nobody acknowledges, not with the first packet that was lost."""

    class OursAreLost(Fault):
        def on_packet(self, system, sender):
            return 0.0 if sender.fd < 0 else math.inf

    with World(Recorder) as world:
        peer = world.peer()
        world.run()
        world.system.faults = [OursAreLost()]
        peer.send(b"heard, and not acknowledged")
        world.run(5000.0)
        (protocol,) = world.protocols
        protocol.connection.write(b"too late")
        world.run(900.0)
        assert not protocol.ended
        world.run(30.0)
        assert isinstance(protocol.lost, TimeoutError)
        assert protocol.report.unacknowledged == 8


def test_in_a_famine_of_descriptors_nobody_is_refused(caplog):
    """Callers wait in the queue until somebody leaves."""
    caplog.set_level(logging.INFO, "reactor")
    with World() as world:
        world.system.faults = [DescriptorLimit(len(world.system.descriptors) + 2)]
        peers = [world.peer() for _ in range(4)]
        for peer in peers:
            peer.send(b"hello")
        world.run(5.0)
        assert [bytes(peer.data) for peer in peers] == [b"hello", b"hello", b"", b""]
        peers[0].close()
        peers[1].close()
        world.run(5.0)
        assert [bytes(peer.data) for peer in peers] == [b"hello"] * 4
        assert [peer.ending for peer in peers[2:]] == [None, None]


def test_an_aborted_accept_costs_only_that_caller():
    """ECONNABORTED goes on with the next."""

    class First(AbortedAccepts):
        def on_accept(self, system, sock):
            self.enabled = False
            return super().on_accept(system, sock)

    with World(faults=[First(1.0)]) as world:
        peers = [world.peer(), world.peer()]
        peers[1].send(b"me")
        world.run()
        assert [peer.ending for peer in peers] == ["reset", None]
        assert peers[1].data == b"me"


def test_the_caller_of_an_aborted_accept_is_told_though_nobody_else_comes():
    """Nothing else needs to happen for that."""
    with World(faults=[AbortedAccepts(1.0)]) as world:
        peer = world.peer()
        world.run()
        assert (peer.ending, world.protocols) == ("reset", [])


def test_in_a_famine_nothing_is_opened():
    """No connection is made either; afterwards it is."""
    system = SimulatedSystem()
    system.acceptor(("10.0.0.7", 80))
    with Reactor(system=system) as reactor:
        system.faults = [Famine(0.0, 10.0)]
        early, late = Recorder(), Recorder()
        reactor.connect(lambda: early, "10.0.0.7", 80)
        reactor.call_later(10.0, reactor.connect, lambda: late, "10.0.0.7", 80)
        system.run(reactor, until=lambda: late.calls)
        assert "Too many open files" in str(early.failed)
        assert late.calls == ["connection_made"]


def test_a_rule_of_ones_own():
    """A subclass overrides the moment it cares about."""

    class NothingOdd(Fault):
        def on_send(self, system, sock, count):
            return count - count % 2

    with World(faults=[NothingOdd()]) as world:
        peer = world.peer()
        peer.send(b"12345678")
        world.run()
        assert peer.data == b"12345678"


# Connecting, names, threads, signals


def test_a_client_meets_a_scripted_server_by_name():
    """The name is among the system's hosts; resolving runs while the loop waits."""
    system = SimulatedSystem(link=Link(latency=0.05))
    system.hosts["example.test"] = ["10.0.0.7"]
    acceptor = system.acceptor(("10.0.0.7", 80))
    with Reactor(system=system) as reactor:
        client = Recorder()
        reactor.connect(lambda: client, "example.test", 80)
        system.run(reactor, until=lambda: acceptor.peers)
        (server,) = acceptor.peers
        server.send(b"welcome")
        server.fin()
        reactor.run()
        system.run(reactor, 1.0)  # our FIN is still on its way
        assert client.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert client.data == b"welcome"
        assert server.ending == "EOF"
    acceptor.close()


@pytest.mark.parametrize(
    ("host", "reason"),
    [("10.0.0.8", "Connection refused"), ("nowhere.test", "cannot resolve 'nowhere.test'")],
)
def test_a_connect_to_nobody_fails(host, reason):
    """Refused, or not to be found."""
    with Reactor(system=SimulatedSystem()) as reactor:
        client = Recorder()
        reactor.connect(lambda: client, host, 80)
        reactor.run()
        assert client.calls == ["connection_failed"]
        assert reason in str(client.failed)


def test_a_connect_into_a_black_hole_meets_its_deadline():
    """After Deadlines.connect, not after the kernel's 127 seconds."""
    system = SimulatedSystem(faults=[BlackHole()])
    with Reactor(system=system) as reactor:
        client = Recorder()
        reactor.connect(lambda: client, "10.0.0.8", 80, options=Options(deadlines=Deadlines(connect=7.0)))
        reactor.run()
        assert client.calls == ["connection_failed"]
        assert reactor.time() == 7.0


def test_a_full_queue_is_tried_again():
    """The caller's SYN is dropped and sent anew; nobody is refused."""
    with World(options=Options(limits=Limits(backlog=1, connections=1))) as world:
        peers = [world.peer() for _ in range(4)]
        world.run(0.5)
        assert [peer.connected for peer in peers] == [True, True, False, False]
        for peer in peers[:2]:
            peer.fin()
        world.run(10.0)
        assert peers[2].connected


def test_callers_who_come_at_once_find_no_more_places_than_one_by_one():
    """Over a line with latency, too: whose ACK finds a full queue is let in when there is room."""
    options = Options(limits=Limits(backlog=1, connections=1))
    with World(Recorder, options=options, link=Link(latency=0.1)) as world:
        peers = [world.peer() for _ in range(5)]
        world.run(2.0)
        assert len(world.protocols) == 1
        assert "waiting=2" in world.system.dump()
        for peer in peers:
            peer.send(b"served")
            peer.fin()
        world.run(60.0)
        assert [bytes(protocol.data) for protocol in world.protocols] == [b"served"] * 5


def test_a_scripted_server_lets_its_callers_wait():
    """They are connected, and served when it accepts again."""
    system = SimulatedSystem()
    acceptor = system.acceptor(("10.0.0.7", 80))
    acceptor.accepting = False
    peer = system.peer(("10.0.0.7", 80))
    assert (peer.connected, acceptor.peers) == (True, [])
    acceptor.accepting = True
    assert [server.sock.remote for server in acceptor.peers] == [peer.sock.local]


def test_a_caller_whose_syn_was_dropped_meets_who_listens_when_it_comes_again():
    """The listener that was full is gone by then, and another has its address."""
    system = SimulatedSystem()
    before = system.acceptor(("10.0.0.7", 80), backlog=0)
    before.accepting = False
    first, second = (system.peer(("10.0.0.7", 80)) for _ in range(2))
    before.close()
    after = system.acceptor(("10.0.0.7", 80))
    with Reactor(system=system) as reactor:
        system.run(reactor, seconds=2)
    assert (first.ending, first.connected) == ("reset", True)
    assert (second.ending, second.connected, len(after.peers)) == (None, True, 1)


def test_ports_come_again_when_the_last_was_given_and_never_one_that_is_taken():
    """More connections than there are ports: every port is one."""
    system = SimulatedSystem()
    acceptor = system.acceptor(("10.0.0.7", 50_000))
    ports = set()
    for _ in range(20_000):
        peer = system.peer(("10.0.0.7", 50_000))
        ports.add(peer.sock.local[1])
        peer.reset()
        acceptor.peers.clear()
    assert (min(ports), max(ports)) == (49_152, 65_535)
    assert 50_000 not in ports


def test_threads_are_calls_that_take_no_time():
    """run_in_thread's function runs while the loop waits, and its result comes back in the loop."""
    with Reactor(system=SimulatedSystem()) as reactor:
        results = []
        reactor.run_in_thread(sum, [1, 2, 3], done=lambda future: results.append(future.result()))
        reactor.run()
        assert results == [6]


def test_a_signal_drains():
    """SIGTERM in the simulated world ends the server in order, with its callers served."""
    with World() as world:
        world.reactor.drain_on_signals(deadline=30)
        peer = world.peer()
        world.system.after(5.0, peer.send, b"last")
        world.system.after(5.0, world.system.send_signal, 15)
        world.system.after(6.0, peer.fin)
        world.reactor.run()
        assert (peer.data, peer.ending) == (b"last", "EOF")
        assert world.protocols[0].lost is None


def test_a_unix_listener_serves_simulated_peers():
    """A path is only a name."""
    system = SimulatedSystem()
    with Reactor(system=system) as reactor:
        reactor.listen(Echo, path="/run/echo")
        peer = system.peer("/run/echo")
        peer.send(b"hello")
        peer.fin()
        system.run(reactor, 1.0)
        assert (peer.data, peer.ending) == (b"hello", "EOF")


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_day_of_quiet_connections(count):
    """24 virtual hours, a keep-alive each minute by each of them: every one arrives, and nobody is lost."""
    minutes = 24 * 60
    arrived = 0

    class Listening(Recorder):
        def data_received(self, data):
            nonlocal arrived
            arrived += 1

    with World(Listening, options=Options(deadlines=Deadlines(idle=90.0))) as world:
        peers = [world.peer() for _ in range(count)]
        world.run(1.0)
        for _ in range(minutes):
            for peer in peers:
                peer.send(b".")
            world.run(60.0)
        assert arrived == minutes * count
        assert world.reactor.time() == 1.0 + minutes * 60.0
        assert len(world.reactor.connections) == count
        world.run(200.0)
        assert [type(protocol.lost).__name__ for protocol in world.protocols] == ["IdleTimeout"] * count
