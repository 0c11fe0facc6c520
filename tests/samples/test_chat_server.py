"""The chat's connections, on every poller."""

from __future__ import annotations

import socket

import pytest

from reactor import Deadlines, Options, Reactor
from samples import chat
from tests.helpers import Peer, turn_until


class Talker(Peer):
    """A raw client that sends and expects lines."""

    def says(self, *lines: str) -> None:
        self.send("".join(f"{line}\n" for line in lines).encode())

    def hears(self, line: str) -> None:
        def heard() -> bool:
            while self.ending is None and self.read_some():
                pass
            return line in self.lines

        turn_until(self.reactor, heard)

    @property
    def lines(self) -> list[str]:
        return self.data.decode().split("\n")


class Room:
    """A served chat and its clients."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.talkers: list[Talker] = []

    def serve(self, **how) -> None:
        self.listener = chat.serve(self.reactor, "127.0.0.1", 0, **how)

    def enter(self, name: str | None = None, receive_buffer: int | None = None) -> Talker:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(self.listener.addresses[0])
        talker = Talker(sock, self.reactor)
        self.talkers.append(talker)
        guest = f"guest{len(self.talkers)}"
        talker.hears(f"* {guest} joined lobby")
        if name is not None:
            talker.says(f"/nick {name}")
            talker.hears(f"* {guest} is now {name}")
        return talker


@pytest.fixture
def room(reactor):
    made = Room(reactor)
    yield made
    for talker in made.talkers:
        talker.close()


def test_members_hear_each_other(room):
    """With either line end, and a multi-byte character split over two reads."""
    room.serve()
    ann, ben = room.enter("ann"), room.enter("ben")
    ann.send(b"gr\xc3")
    room.reactor.run_once(0)
    ann.send(b"\xbc\xc3\x9fe\r\n")
    for talker in (ann, ben):
        talker.hears("<ann> grüße")


def test_listeners_can_share_their_rooms(room):
    """One lobby, two listeners: everybody meets."""
    lobby = chat.Lobby()
    room.serve(lobby=lobby)
    ann = room.enter("ann")
    room.serve(lobby=lobby)
    ben = room.enter("ben")
    ben.says("hello")
    ann.hears("<ben> hello")


def test_a_half_closed_script_is_answered_and_leaves(room):
    """nc -N: everything it said counts, a last line without newline too; it gets its answers, then EOF."""
    room.serve()
    ann, script = room.enter("ann"), room.enter()
    script.send(b"the build is done\n/list\nand green")
    script.fin()
    assert script.read_to_end() == "EOF"
    assert "* in lobby: ann, guest2" in script.lines
    for line in ("<guest2> the build is done", "<guest2> and green", "* guest2 left"):
        ann.hears(line)
    assert ann.lines.count("* guest2 left") == 1


def test_quit_ends_in_order_and_ignores_what_follows(room):
    """The others read the last word; nothing that was sent behind /quit is said."""
    room.serve()
    ann, ben = room.enter("ann"), room.enter("ben")
    ben.says("/quit good night", "too late")
    assert ben.read_to_end() == "EOF"
    ann.hears("* ben left: good night")
    ann.says("alone")
    ann.hears("<ann> alone")
    assert "<ben> too late" not in ann.lines


def test_a_reset_member_has_left(room):
    """The others are told, and go on."""
    room.serve()
    ann, ben = room.enter("ann"), room.enter("ben")
    ben.reset()
    ann.says("are you there?")
    ann.hears("* ben lost the connection")
    ann.hears("<ann> are you there?")


def test_a_member_who_fell_silent_is_told_of(room):
    """An idle timeout ends a member like any other end, with its own word."""
    lobby = chat.Lobby()
    room.serve(lobby=lobby)
    ann = room.enter("ann")
    room.serve(lobby=lobby, options=Options(deadlines=Deadlines(idle=0.05)))
    silent = room.enter()
    assert silent.read_to_end() == "EOF"
    silent.close()
    ann.hears("* guest2 was silent for too long")


def test_many_members_reset_at_once_while_somebody_speaks(room):
    """Speaking to those who just ended never raises into the speaker's callback."""
    room.serve()
    ann = room.enter("ann")
    others = [room.enter() for _ in range(10)]
    for talker in others:
        talker.reset()
    ann.says(*(f"line {number}" for number in range(10)))
    for number in range(2, 12):
        ann.hears(f"* guest{number} lost the connection")
    ann.hears("<ann> line 9")


def test_an_overlong_line_is_refused_and_the_member_stays(room):
    """The rest of it up to the newline is discarded; the next line is said."""
    room.serve(line_limit=100)
    ann, ben = room.enter("ann"), room.enter("ben")
    ben.send(b"x" * 100_000 + b"/quit\nstill here\n")
    ben.hears("* that line was longer than 100 bytes and was not sent")
    ann.hears("<ben> still here")
    assert not any("xxx" in line for line in ann.lines)


REQUEST = (
    b"POST /%s HTTP/1.1\r\nHost: 127.0.0.1:7001\r\nOrigin: http://evil.test\r\n"
    b"Content-Type: text/plain\r\n\r\n\n/nick eve\nvisit http://evil.test\n"
)


@pytest.mark.parametrize("target", [b"", b"x" * 5000, b"HTTP/1.1 " * 300], ids=["short", "too long", "twisted"])
@pytest.mark.parametrize("piece", [1, 4096])
def test_nothing_that_a_browser_sends_is_said_or_obeyed(room, target, piece):
    """A web page can make one send a POST here: it is ended at its first line, however long that is."""
    room.serve()
    ann, browser = room.enter("ann"), room.enter()
    request = REQUEST % target
    for start in range(0, len(request), piece):
        browser.send(request[start : start + piece])
        if piece > 1 or start < 30:
            room.reactor.run_once(0)
    assert browser.read_to_end() == "EOF"
    assert browser.lines[-2] == "* this is a chat for nc and telnet, not for a browser"
    ann.hears("* guest2 left")
    ann.says("alone")
    ann.hears("<ann> alone")
    assert not any("evil" in line or "eve" in line or "<guest2>" in line for line in ann.lines)


def test_a_tls_handshake_is_no_line(room):
    """A browser that was sent here by https is ended at once."""
    room.serve()
    ann, browser = room.enter("ann"), room.enter()
    browser.send(b"\x16\x03\x01\x02\x00\x01\n/nick eve\n")
    assert browser.read_to_end() == "EOF"
    ann.hears("* guest2 left")
    assert not any("eve" in line for line in ann.lines)


@pytest.mark.parametrize(
    "first", ["GET up, everybody", "POST /deploy failed", "see GET / HTTP/1.1", "HTTP/1.1", "GETS HTTP/1.1"]
)
def test_a_line_that_only_speaks_of_http_is_said(room, first):
    """Only a request line ends a connection, and only as the first line."""
    room.serve()
    ann, script = room.enter("ann"), room.enter()
    script.says(first, "GET / HTTP/1.1", "done")
    ann.hears(f"<guest2> {first}")
    ann.hears("<guest2> GET / HTTP/1.1")
    ann.hears("<guest2> done")


def test_telnet_negotiation_is_answered_and_not_shown(room):
    """Offers and requests are refused, and only the text is said."""
    room.serve()
    ann, telnet = room.enter("ann"), room.enter("tel")
    telnet.send(b"\xff\xfb\x1f\xff\xfd")
    room.reactor.run_once(0)
    telnet.send(b"\x06hi\xff\xf4 there\r\n")
    ann.hears("<tel> hi there")
    turn_until(room.reactor, lambda: telnet.read_some() and b"\xff\xfe\x1f\xff\xfc\x06" in telnet.data)


def test_control_characters_reach_nobody(room):
    """Only printable text and newlines ever leave the server."""
    room.serve()
    ann, eve = room.enter("ann"), room.enter("eve")
    eve.send(bytes(range(10)) + bytes(range(11, 32)) + "\x1b[31mred\x9b\u202e\x7f\tend\n".encode())
    ann.hears("<eve>  [31mred end")
    assert all(byte >= 32 or byte == 10 for byte in ann.data)


def test_a_slow_member_is_dropped_and_nobody_else_notices(room):
    """Others get every line and read why; the slow one finds the reason at the end of what waited, then EOF."""
    room.serve(queue_limit=16 * 1024, patience=0.1)
    ann, ben = room.enter("ann"), room.enter("ben")
    slow = room.enter("slow", receive_buffer=4096)
    said = 0
    while "* slow was dropped: too slow" not in ben.lines:
        assert said < 2000
        ann.says(f"{said} {'x' * 500}")
        ann.hears(f"<ann> {said} {'x' * 500}")
        ben.hears(f"<ann> {said} {'x' * 500}")
        said += 1
    ann.hears("* slow was dropped: too slow")
    ann.says("better now")
    for talker in (ann, ben):
        talker.hears("<ann> better now")
        heard = [line.split()[1] for line in talker.lines if line.endswith("x")]
        assert heard == [str(number) for number in range(said)]
    assert slow.read_to_end() == "EOF"
    assert slow.lines[-2].startswith("* you were dropped: too slow, ")
    assert slow.lines[-1] == ""
    heard = [line.split()[1] for line in slow.lines if line.endswith("x")]
    assert heard == [str(number) for number in range(len(heard))]
    assert "<ann> better now" not in slow.lines


def test_a_burst_drops_nobody_who_reads(room):
    """What one turn gathers may pass the limit: only what the kernel does not take counts as waiting."""
    room.serve(queue_limit=1000)
    ann, ben = room.enter("ann"), room.enter("ben")
    ann.says(*(str(number) for number in range(800)))
    for talker in (ann, ben):
        talker.hears("<ann> 799")
        assert talker.lines[-801:-1] == [f"<ann> {number}" for number in range(800)]


def test_no_more_than_the_limit_waits_for_a_slow_member(room):
    """A member who never reads costs a bounded queue, also by what they ask for themselves."""
    room.serve(queue_limit=8192)
    slow = room.enter("slow", receive_buffer=4096)
    (connection,) = room.reactor.connections
    most = 0

    def closing() -> bool:
        nonlocal most
        try:
            slow.sock.send(b"/help\n" * 50)
        except BlockingIOError:
            pass
        most = max(most, connection.get_write_buffer_size())
        return connection.is_closing()

    turn_until(room.reactor, closing)
    # What one turn's reading can ask for comes on top: it is gathered before the kernel has refused it.
    assert most < 8192 + 300 * 1024
    assert slow.read_to_end() == "EOF"
    assert slow.lines[-2].startswith("* you were dropped: too slow")


def test_slow_members_are_dropped_together(room):
    """Many at once: each is told of once, the fast one hears everything."""
    room.serve(queue_limit=4096, patience=0.1)
    ann = room.enter("ann")
    slow = [room.enter(receive_buffer=4096) for _ in range(8)]
    said = 0
    while sum(line.endswith("was dropped: too slow") for line in ann.lines) < len(slow):
        assert said < 2000
        ann.says(f"{said} {'x' * 1000}")
        ann.hears(f"<ann> {said} {'x' * 1000}")
        said += 1
    for talker in slow:
        assert talker.read_to_end() == "EOF"
        assert talker.lines[-2].startswith("* you were dropped: too slow")


def test_on_drain_everybody_is_told_and_closed_in_order(room):
    """No farewell notices among the leaving, just the server's word and EOF."""
    room.serve()
    ann, ben = room.enter("ann"), room.enter("ben")
    room.reactor.call_soon(room.reactor.drain, 5)
    for talker in (ann, ben):
        assert talker.read_to_end() == "EOF"
        assert talker.lines[-2:] == ["* the server is shutting down", ""]
        assert "* ann left" not in talker.lines
        talker.close()
    assert room.reactor.drain(5).clean
