"""The samples on the simulated kernel: the real servers, with members and a machine that misbehave."""

from __future__ import annotations

import logging
import ssl

import pytest
import trustme

from reactor import Deadlines, Options, Reactor
from reactor.testing import (
    DescriptorLimit,
    Grammar,
    Link,
    OneAtATime,
    ShortReads,
    ShortWrites,
    SimulatedSystem,
    SpuriousReadiness,
    Stalls,
    TryAgain,
)
from samples import chat, echo
from samples.chat.pace import PATIENCE

WEATHER = (ShortReads(0.3), ShortWrites(0.3), TryAgain(0.1), SpuriousReadiness(0.1), OneAtATime(0.3), Stalls(0.05, 2.0))
LINK = Link(latency=0.02, jitter=0.03, segment_bytes=500, receive_buffer_bytes=4096)


class Room:
    """A chat server in a simulated world, and its members."""

    def __init__(self, **options):
        self.system = SimulatedSystem(seed=3, link=LINK, faults=WEATHER)
        self.reactor = Reactor(system=self.system)
        self.grammar = Grammar()
        self.reactor.observe(self.grammar)
        self.lobby = chat.Lobby()
        self.listener = chat.serve(self.reactor, "127.0.0.1", 0, lobby=self.lobby, **options)

    def member(self, name):
        peer = self.system.peer(self.listener.addresses[0])
        peer.send(f"/nick {name}\n".encode())
        self.run(5.0)
        return peer

    def run(self, seconds):
        self.system.run(self.reactor, seconds)

    def lobby_names(self):
        return [member.name for member in self.lobby.members("lobby")]

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.reactor.close()
        assert not self.system.bad_calls
        assert not self.system.descriptors
        self.grammar.check(ended=True)


def said(peer, name):
    """What that member has said, as this one saw it."""
    marker = f"<{name}> "
    return [line.removeprefix(marker) for line in peer.data.decode().splitlines() if line.startswith(marker)]


def test_a_slow_member_of_the_chat_is_dropped_and_the_others_hear_everything():
    """One stops reading: the room goes on, they are told why, and everybody else is told that they went."""
    with Room(queue_limit=4000) as room:
        room.system.faults = WEATHER[:-1]  # a line that stalls would make the others slow members, too
        anna, ben, slow = (room.member(name) for name in ("anna", "ben", "slow"))
        slow.stop_reading()
        lines = [f"line {number} {'.' * 80}" for number in range(1200)]
        for line in lines:
            anna.send(line.encode() + b"\n")
            room.run(0.05)
        room.run(60.0)
        assert said(anna, "anna") == said(ben, "anna") == lines
        assert "* slow was dropped: too slow" in ben.data.decode()
        assert len(room.reactor.connections) == 2
        slow.resume_reading()
        assert slow.ending == "reset"  # the flush deadline had passed: they cannot take a part for the whole
        *heard, _ = said(slow, "anna")
        assert heard == lines[: len(heard)]


def test_a_member_of_the_chat_who_resets_is_missed_by_nobody_but_the_room():
    """The others are told that they lost the connection, and go on."""
    with Room() as room:
        anna, ben, gone = (room.member(name) for name in ("anna", "ben", "gone"))
        gone.send(b"half a li")
        gone.reset()
        room.run(10.0)
        anna.send(b"still here\n")
        room.run(10.0)
        assert said(ben, "anna") == ["still here"]
        assert "* gone lost the connection" in ben.data.decode()
        assert "half a li" not in ben.data.decode()


def test_in_a_famine_of_descriptors_the_chat_goes_on_and_lets_in_who_waited(caplog):
    """Nobody is refused: who comes when there is no descriptor waits until one is free."""
    caplog.set_level(logging.INFO, "reactor")
    with Room() as room:
        anna, ben = room.member("anna"), room.member("ben")
        room.system.faults = (*WEATHER, DescriptorLimit(len(room.system.descriptors)))
        late = room.member("late")
        anna.send(b"nobody else gets in\n")
        room.run(10.0)
        assert said(ben, "anna") == ["nobody else gets in"]
        assert late.data == b""
        assert late.ending is None
        ben.fin()
        room.run(10.0)
        late.send(b"made it\n")
        room.run(10.0)
        assert said(anna, "late") == ["made it"]
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1  # one line for the whole famine


def test_the_chat_drains_in_any_weather():
    """Every member gets the last word and a clean end."""
    with Room() as room:
        members = [room.member(f"m{number}") for number in range(5)]
        summary = room.reactor.drain(60.0)
        assert summary.clean
        room.run(10.0)
        for peer in members:
            assert peer.data.endswith(b"* the server is shutting down\n")
            assert peer.ending == "EOF"


# Backpressure (samples/chat/pace.py)


PASTE = [f"line {number:04d} of the log, which is not that long, really" for number in range(1500)]


def pasted(lines):
    return "".join(f"{line}\n" for line in lines).encode()


def read_slowly(peer, room, bytes_a_second, until):
    """The peer's program takes so many bytes a second, until the condition holds; in at most an hour of its time."""
    peer.stop_reading()
    for _ in range(36_000):
        if until():
            break
        peer.read(max(1, bytes_a_second // 10))
        room.run(0.1)
    assert until()
    peer.resume_reading()


@pytest.mark.parametrize("speed", [2_000, 20_000])
def test_a_paste_is_taken_no_faster_than_a_slow_member_reads(speed):
    """A member who reads slowly and steadily is not dropped, and gets all of it in order, as the paster does."""
    with Room(queue_limit=8000) as room:
        room.system.faults = WEATHER[:-1]
        paster, slow = room.member("paster"), room.member("slow")
        paster.send(pasted(PASTE))
        read_slowly(slow, room, speed, lambda: said(slow, "paster")[-1:] == PASTE[-1:])
        room.run(10.0)
        assert said(slow, "paster") == said(paster, "paster") == PASTE
        assert len(room.reactor.connections) == 2


def test_a_member_who_talks_is_not_held_up_by_one_who_pastes_or_by_one_who_reads_slowly():
    """Their line is shown within the second, while the paste waits."""
    with Room(queue_limit=16_000) as room:
        room.system.faults = ()
        paster, slow, talker = (room.member(name) for name in ("paster", "slow", "talker"))
        slow.stop_reading()
        paster.send(pasted(PASTE))
        for _ in range(30):
            slow.read(500)
            room.run(0.1)
        assert room.lobby.is_waited_for("lobby")
        assert 0 < len(said(talker, "paster")) < len(PASTE)
        for number in range(5):
            talker.send(f"is anybody there? {number}\n".encode())
            slow.read(500)
            room.run(0.3)
            assert said(paster, "talker")[-1:] == [f"is anybody there? {number}"]
        assert len(said(talker, "paster")) < len(PASTE)
        assert len(room.reactor.connections) == 3


def test_two_who_paste_go_on_in_turn():
    """While both wait for the same slow member, neither gets far ahead of the other, and both get to their end."""
    with Room(queue_limit=8000) as room:
        room.system.faults = ()
        first, second, slow = (room.member(name) for name in ("first", "second", "slow"))
        for paster in (first, second):
            paster.send(pasted(PASTE))

        def ends():
            lead = abs(len(said(slow, "first")) - len(said(slow, "second")))
            assert lead < 300  # of 1500: a read, and what waits for the slow one
            return said(slow, "first")[-1:] == said(slow, "second")[-1:] == PASTE[-1:]

        read_slowly(slow, room, 20_000, ends)
        assert said(slow, "first") == said(slow, "second") == PASTE


def test_many_who_paste_at_once_do_not_drop_a_slow_member():
    """While they wait, none of them earns the right to go on before the slow one has read."""
    with Room(queue_limit=16_000) as room:
        room.system.faults = ()
        pasters = [room.member(f"p{number}") for number in range(15)]
        slow = room.member("slow")
        for paster in pasters:
            paster.send(pasted(PASTE[:200]))
        read_slowly(slow, room, 1000, lambda: all(said(slow, f"p{n}")[-1:] == PASTE[199:200] for n in range(15)))
        for number in range(15):
            assert said(slow, f"p{number}") == PASTE[:200]


def test_who_takes_nothing_while_others_wait_is_dropped_and_the_paste_goes_on():
    """Within two times the patience, with a reason; nothing of the paste is lost for anybody else."""
    with Room(queue_limit=8000) as room:
        room.system.faults = ()
        paster, ben, stuck = (room.member(name) for name in ("paster", "ben", "stuck"))
        stuck.stop_reading()
        paster.send(pasted(PASTE))
        room.run(3.0)
        before = len(said(ben, "paster"))
        room.run(1.0)
        assert len(said(ben, "paster")) == before < len(PASTE)
        began = room.system.now
        while "* stuck was dropped: too slow" not in ben.data.decode():
            assert room.system.now - began < 2 * PATIENCE
            room.run(0.5)
        room.run(5.0)
        assert said(ben, "paster") == said(paster, "paster") == PASTE
        stuck.resume_reading()
        room.run(5.0)
        assert "* you were dropped: too slow, " in stuck.data.decode()
        assert stuck.ending == "EOF"


def test_two_who_flood_each_other_and_do_not_read_are_dropped():
    """Each waits for the other; the room does not wait for them."""
    with Room(queue_limit=8000) as room:
        room.system.faults = ()
        ann, ben, cat = (room.member(name) for name in ("ann", "ben", "cat"))
        for flooder in (ann, ben):
            flooder.stop_reading()
            flooder.send(pasted(PASTE * 4))
        room.run(3 * PATIENCE)
        assert room.lobby_names() == ["cat"]
        cat.send(b"quiet at last\n")
        room.run(1.0)
        assert said(cat, "cat") == ["quiet at last"]


def test_a_paste_that_waits_is_said_to_its_end_after_the_pasters_fin():
    """nc -N: the end of the input is behind the last line, which had no newline; then the paster has left."""
    with Room(queue_limit=8000) as room:
        room.system.faults = ()
        paster, slow = room.member("paster"), room.member("slow")
        paster.send(pasted(PASTE)[:-1])
        paster.fin()
        read_slowly(slow, room, 20_000, lambda: "* paster left" in slow.data.decode())
        assert said(slow, "paster") == PASTE
        assert paster.ending == "EOF"
        assert said(paster, "paster") == PASTE


def test_a_line_that_waits_when_the_chat_drains_is_told_of():
    """The paster reads how many lines were not said, and that the server shuts down."""
    with Room(queue_limit=8000) as room:
        room.system.faults = ()
        paster, slow = room.member("paster"), room.member("slow")
        slow.stop_reading()
        paster.send(pasted(PASTE))
        room.run(3.0)
        room.reactor.call_soon(room.reactor.drain, 60.0)
        room.run(1.0)
        slow.resume_reading()
        room.run(10.0)
        *_, unsaid, last, _ = paster.data.decode().split("\n")
        words = unsaid.split()
        assert unsaid.startswith("* not said: ")
        assert int(words[3]) > 0
        assert last == "* the server is shutting down"
        assert room.reactor.drained.clean


def test_a_member_who_is_alone_with_a_slow_line_of_their_own_is_held_up_by_it():
    """Who pastes, and reads their own lines slowly, is sent all of them."""
    with Room(queue_limit=8000) as room:
        room.system.faults = ()
        paster = room.member("paster")
        paster.send(pasted(PASTE))
        read_slowly(paster, room, 20_000, lambda: said(paster, "paster")[-1:] == PASTE[-1:])
        assert said(paster, "paster") == PASTE


def test_a_sender_who_went_while_they_waited_is_waited_for_by_nobody():
    """A reset leaves nothing behind, and what was to be said by them is not."""
    with Room(queue_limit=8000) as room:
        room.system.faults = ()
        paster, slow = room.member("paster"), room.member("slow")
        slow.stop_reading()
        paster.send(pasted(PASTE))
        room.run(3.0)
        assert room.lobby.is_waited_for("lobby")
        paster.reset()
        room.run(4 * PATIENCE)
        assert room.lobby_names() == ["slow"]  # for whom nobody waits any more
        slow.resume_reading()
        room.run(5.0)
        assert slow.data.decode().endswith("* paster lost the connection\n")


# Echo


@pytest.mark.parametrize("seed", range(5))
def test_the_echo_sample_sends_back_everything_in_any_weather(seed):
    """More than all buffers hold, there and back, and both ends in order."""
    system = SimulatedSystem(seed, link=LINK, faults=WEATHER)
    with Reactor(system=system) as reactor:
        listener = echo.serve(reactor, "127.0.0.1", 0, options=Options(deadlines=Deadlines(idle=600.0)))
        sent = bytes(index % 251 for index in range(50_000))
        peers = [system.peer(listener.addresses[0]) for _ in range(3)]
        for peer in peers:
            peer.send(sent)
            peer.fin()
        system.run(reactor, 3000.0, until=lambda: all(peer.ending for peer in peers))
        assert [(peer.data, peer.ending) for peer in peers] == [(sent, "EOF")] * 3


class TlsPeer:
    """A scripted client that speaks TLS over the peer's bytes."""

    def __init__(self, peer, context):
        self.peer = peer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="echo.test")
        self.taken = 0
        self.data = b""
        self.shaken = False
        peer.on_change = lambda _: self.step()
        self.step()

    def step(self):
        new = bytes(self.peer.data[self.taken :])
        self.taken += len(new)
        self.incoming.write(new)
        try:
            if not self.shaken:
                self.tls.do_handshake()
                self.shaken = True
            while read := self.tls.read(65536):
                self.data += read
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        self.peer.send(self.outgoing.read())

    def send(self, data):
        self.tls.write(data)
        self.step()


@pytest.mark.parametrize("seed", range(3))
def test_the_echo_sample_speaks_tls_in_any_weather(seed):
    """To the simulated network a handshake is bytes like all others."""
    authority = trustme.CA()
    serving, calling = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("echo.test").configure_cert(serving)
    authority.configure_trust(calling)
    system = SimulatedSystem(seed, link=LINK, faults=WEATHER)
    with Reactor(system=system) as reactor:
        listener = echo.serve(reactor, "127.0.0.1", 0, tls=serving)
        client = TlsPeer(system.peer(listener.addresses[0]), calling)
        system.run(reactor, 300.0, until=lambda: client.shaken)
        sent = bytes(index % 251 for index in range(20_000))
        client.send(sent)
        system.run(reactor, 3000.0, until=lambda: len(client.data) == len(sent))
        assert client.data == sent
