"""The browser chat: the handshake, the frames, what a browser is told, and how each WebSocket ends.

Most of it on the simulated kernel, in virtual time, with wsproto's client for a browser; then as a process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage
from wsproto.frame_protocol import CloseReason, FrameProtocol

from reactor import Reactor
from reactor.testing import Grammar, Link, OneAtATime, ShortReads, ShortWrites, SimulatedSystem, TryAgain
from samples import chat, web
from samples.chat.rooms import Member
from samples.webchat import websocket
from samples.webchat.server import Settings, may_connect, serve
from samples.webchat.view import MOST_NAMES, WatchedLobby, line_told
from samples.webchat.websocket import CLOSE_SECONDS, PING_SECONDS, WebSocket, text_frame, upgrade
from tests.samples.processes import ROOT

PAGE = (ROOT / "samples" / "webchat" / "page.html").read_bytes()


class Browser:
    """A WebSocket client in the simulated world. It answers pings and Close frames by itself, as browsers do."""

    def __init__(self, chat, fields=(), subprotocols=(), **wishes):
        self.messages, self.events, self.pings = [], [], 0
        self.accepted = False
        self.subprotocol = None
        self.closed = None
        self.alive = True
        self.polite = True
        self._seen, self._text = 0, ""
        self.machine = WSConnection(ConnectionType.CLIENT)
        target = "/socket" + ("?" + urlencode(wishes) if wishes else "")
        self.peer = chat.system.peer(chat.listener.addresses[0])
        self.peer.on_change = lambda _: self._look()
        headers = [(name.encode(), value.encode()) for name, value in fields]
        self.send(Request(host="test", target=target, extra_headers=headers, subprotocols=list(subprotocols)))

    def send(self, event):
        self.peer.send(bytes(self.machine.send(event)))

    def say(self, *lines):
        for line in lines:
            self.send(TextMessage(data=line))

    def _look(self):
        new, self._seen = bytes(self.peer.data[self._seen :]), len(self.peer.data)
        if not self.alive:
            return
        if new:
            self.machine.receive_data(new)
        for event in self.machine.events():
            self._take(event)
        if self.peer.ending == "EOF":
            self.peer.fin()

    def _take(self, event):
        if isinstance(event, AcceptConnection):
            self.accepted = True
            self.subprotocol = event.subprotocol
        elif isinstance(event, TextMessage):
            self._text += event.data
            if event.message_finished:
                self.messages.append(json.loads(self._text))
                self._text = ""
        elif isinstance(event, Ping):
            self.pings += 1
            self.send(event.response())
        elif isinstance(event, CloseConnection):
            assert self.closed is None
            self.closed = (int(event.code), event.reason)
            if self.polite and self.machine.state.name == "REMOTE_CLOSING":
                self.send(event.response())
        else:
            self.events.append(event)

    def told(self, kind):
        """The messages of one kind, without it."""
        found = [message for message in self.messages if message["kind"] == kind]
        return [{name: value for name, value in message.items() if name != "kind"} for message in found]

    @property
    def said(self):
        return [f"<{one['from']}> {one['text']}" for one in self.told("said")]

    @property
    def notes(self):
        return [one["text"] for one in self.told("note")]


class Chat:
    """A served chat in the simulated world: browsers, and members with nc."""

    def __init__(self, *, faults=(), link=None, seed=1, **how):
        self.system = SimulatedSystem(seed=seed, link=link or Link(latency=0.01), faults=faults)
        self.reactor = Reactor(system=self.system)
        self.grammar = Grammar()
        self.reactor.observe(self.grammar)
        self.lobby = WatchedLobby()
        self.listener = serve(self.reactor, "127.0.0.1", 0, lobby=self.lobby, settings=Settings(**how))
        self.nc = chat.serve(self.reactor, "127.0.0.1", 0, lobby=self.lobby)

    def browser(self, name="", subprotocols=(), **wishes):
        made = Browser(self, subprotocols=subprotocols, **({"nick": name} if name else {}), **wishes)
        self.run(1.0)
        assert made.accepted
        return made

    def member(self, name):
        peer = self.system.peer(self.nc.addresses[0])
        peer.send(f"/nick {name}\n".encode())
        self.run(1.0)
        return peer

    def run(self, seconds):
        self.system.run(self.reactor, seconds)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.reactor.close()
        assert not self.system.bad_calls
        assert not self.system.descriptors
        self.grammar.check(ended=True)


# Together


def test_browsers_and_nc_users_talk_to_each_other():
    """One lobby: each reads every line once, also their own."""
    with Chat() as room:
        ann, ben, carl = room.browser("ann"), room.browser("ben"), room.member("carl")
        ann.say("hello")
        room.run(1.0)
        carl.send("grüße\n".encode())
        room.run(1.0)
        ben.say("//slash")
        room.run(1.0)
        for browser in (ann, ben):
            assert browser.said == ["<ann> hello", "<carl> grüße", "<ben> /slash"]
        lines = carl.data.decode().splitlines()
        assert [line for line in lines if line.startswith("<")] == ["<ann> hello", "<carl> grüße", "<ben> /slash"]


def test_a_browser_is_told_who_and_where_it_is():
    """First the limits, then itself, after each change; and that its messages were taken."""
    with Chat(line_limit=100) as room:
        ann = room.browser()
        assert ann.messages[0] == {"kind": "hello", "line_bytes": 100}
        assert ann.told("you") == [{"name": "guest1", "room": "lobby"}]
        ann.say("/nick ann", "/join tea", "hi")
        room.run(1.0)
        assert ann.told("you")[1:] == [{"name": "ann", "room": "lobby"}, {"name": "ann", "room": "tea"}]
        assert ann.told("heard") == [{"count": 1}, {"count": 2}, {"count": 3}]
        assert ann.told("said") == [{"room": "tea", "from": "ann", "text": "hi"}]
        assert ann.notes[-1] == "ann joined tea"
        # What a message brought about comes before the word that it was taken.
        assert ann.messages.index({"kind": "heard", "count": 3}) > ann.messages.index(
            {"kind": "said", "room": "tea", "from": "ann", "text": "hi"}
        )


def test_who_comes_again_is_who_and_where_they_were():
    """The name and the room are in the request; a name that is taken by now is told of, and they stay a guest."""
    with Chat() as room:
        ben = room.browser("ben", room="tea")
        ann = room.browser("ann", room="tea")
        assert ann.told("you") == [{"name": "ann", "room": "tea"}]
        assert {one["room"] for one in ann.told("note")} == {"tea"}
        assert ann.messages.index({"kind": "you", "name": "ann", "room": "tea"}) == 1
        assert ben.notes[-1] == "ann joined tea"
        again = room.browser("ann", room="no such name!")
        assert again.told("you")[-1] == {"name": "guest1", "room": "lobby"}
        assert "the nickname ann is taken" in again.notes
        assert "a room name is 1 to 32 letters, digits, - or _" in again.notes


# The same member again


def token(browser):
    return browser.told("claim")[-1]["token"]


def test_a_page_that_comes_back_is_the_member_that_it_was():
    """With its token it has the name and the room of its ghost at once; the ghost is ended, with a reason."""
    with Chat() as room:
        ben, ghost = room.browser("ben"), room.browser("ann", subprotocols=["chat"])
        assert ghost.subprotocol == "chat"
        ghost.say("/join tea")
        room.run(1.0)
        ann = room.browser("ann", subprotocols=["chat", f"again.{token(ghost)}"], room="lobby")
        assert ann.subprotocol == "chat"
        assert ann.told("you") == [{"name": "ann", "room": "tea"}]
        assert ann.notes[-1] == "ann joined tea"
        assert [member.name for member in room.lobby.members("tea")] == ["ann"]
        assert ghost.closed == (1000, "your page is connected again")
        room.run(CLOSE_SECONDS)
        assert len(room.reactor.connections) == 2
        assert ben.closed is None


def test_a_guest_that_comes_back_has_its_number_again():
    """The token has the name, whatever it is."""
    with Chat() as room:
        ghost = room.browser()
        ghost.alive = False
        room.browser()
        assert room.browser(subprotocols=["chat", f"again.{token(ghost)}"]).told("you")[-1]["name"] == "guest1"


def test_a_token_is_good_once_and_only_as_long_as_its_member_is_there():
    """Afterwards it is a word like any other: whoever offers it comes as they wish."""
    with Chat() as room:
        ghost = room.browser("ann")
        first, again = token(ghost), room.browser("ann", subprotocols=["chat", f"again.{token(ghost)}"])
        assert token(again) != first
        late = room.browser("ann", subprotocols=["chat", f"again.{first}"])
        assert late.told("you")[-1]["name"] == "guest1"
        assert again.closed is None
        again.peer.reset()
        room.run(1.0)
        room.browser("zoe", subprotocols=["chat", f"again.{token(again)}"])
        assert sorted(member.name for member in room.lobby.members("lobby")) == ["guest1", "zoe"]
        assert len(room.lobby.claims) == len(room.reactor.connections)


@pytest.mark.parametrize("word", ["again.", "again", "again.x", "again." + "x" * 5000])
def test_a_word_that_is_no_token_takes_nobodys_name(word):
    """It is only offered and not agreed on, and the newcomer is a newcomer."""
    with Chat() as room:
        ann = room.browser("ann")
        other = room.browser("ann", subprotocols=["chat", word])
        assert other.told("you")[-1]["name"] == "guest1"
        assert ann.closed is None


def test_a_token_is_told_to_nobody_else():
    """It is in no message of another browser, and in no line for nc; and no two are alike."""
    with Chat() as room:
        ann, ben, carl = room.browser("ann"), room.browser("ben"), room.member("carl")
        ann.say("/list", "/nick anna", "/join tea", "hello", "/quit")
        room.run(1.0)
        assert len(token(ann)) >= 22
        assert token(ann) not in json.dumps(ben.messages) + carl.data.decode()
        assert token(ann) != token(ben)


# Backpressure


def test_a_browser_that_pastes_waits_for_a_slow_member_and_is_told_so():
    """Every line is said in order, none is answered before its turn, and the held connection outlives its pings."""
    lines = [f"line {number} {'.' * 80}" for number in range(1500)]
    with Chat(queue_limit=8000, link=Link(latency=0.01, receive_buffer_bytes=4096)) as room:
        paster, slow = room.browser("paster"), room.browser("slow")
        slow.peer.stop_reading()
        paster.say(*lines)
        most = 0
        for _ in range(900):
            slow.peer.read(60)
            room.run(0.1)
            most = max(most, *(connection.get_write_buffer_size() for connection in room.reactor.connections))
        assert room.system.now > 2 * PING_SECONDS
        assert most < 8000
        assert 0 < len(paster.said) < len(lines)
        assert len(paster.told("held")) >= 10
        assert len(paster.said) == paster.told("heard")[-1]["count"]
        slow.peer.resume_reading()
        room.run(30.0)
        assert paster.said == slow.said == [f"<paster> {line}" for line in lines]
        assert paster.closed is None
        held = len(paster.told("held"))
        room.run(30.0)
        assert len(paster.told("held")) == held


def test_a_browser_that_is_held_can_still_be_ended():
    """A drain ends it with 1001, and its answer to that is waited for and read."""
    with Chat(queue_limit=8000, link=Link(latency=0.01, receive_buffer_bytes=4096)) as room:
        paster, slow = room.browser("paster"), room.browser("slow")
        slow.peer.stop_reading()
        paster.say(*(f"line {number} {'.' * 80}" for number in range(1500)))
        room.run(3.0)
        assert paster.told("held")
        room.reactor.call_soon(room.reactor.drain, 30)
        room.run(1.0)
        assert paster.closed == (1001, "the server is shutting down")
        assert paster.peer.ending == "EOF"
        slow.peer.resume_reading()
        room.run(10.0)
        assert room.reactor.drained.clean


def test_a_page_that_comes_back_for_a_ghost_that_was_held_leaves_nothing_waiting():
    """The ghost's messages wait no more, and are not said."""
    with Chat(queue_limit=8000, link=Link(latency=0.01, receive_buffer_bytes=4096)) as room:
        ghost, slow = room.browser("ann"), room.browser("slow")
        slow.peer.stop_reading()
        ghost.say(*(f"line {number} {'.' * 80}" for number in range(1500)))
        room.run(3.0)
        assert room.lobby.is_waited_for("lobby")
        room.browser("ann", subprotocols=["chat", f"again.{token(ghost)}"])
        assert not room.lobby.is_waited_for("lobby")
        slow.peer.resume_reading()
        room.run(10.0)
        assert len(room.reactor.connections) == 2


def test_a_browser_sees_who_is_in_its_room_and_which_rooms_there_are():
    """Soon after each change, and only when something has changed; lines said are counted for each room."""
    with Chat() as room:
        ann, carl = room.browser("ann"), room.member("carl")
        room.run(1.0)
        assert ann.told("people")[-1] == {"room": "lobby", "names": ["ann", "carl"], "more": 0}
        carl.send(b"/join tea\nfor one\nfor nobody\n")
        room.run(1.0)
        assert ann.told("people")[-1]["names"] == ["ann"]
        assert ann.told("rooms")[-1]["rooms"] == [["lobby", 1, 0], ["tea", 1, 2]]
        shown = len(ann.told("people"))
        carl.send(b"for two\n")
        room.run(1.0)
        assert ann.told("rooms")[-1]["rooms"] == [["lobby", 1, 0], ["tea", 1, 3]]
        assert len(ann.told("people")) == shown
        before = len(ann.messages)
        room.run(30.0)
        assert len(ann.messages) == before
        carl.send(b"/join lobby\n")
        room.run(1.0)
        carl.send(b"/nick charles\n/join tea\n")
        room.run(1.0)
        assert ann.told("rooms")[-1]["rooms"] == [["lobby", 1, 0], ["tea", 1, 0]]  # that room is a new one
        carl.reset()
        room.run(1.0)
        assert ann.told("rooms")[-1]["rooms"] == [["lobby", 1, 0]]


def test_who_is_on_another_machine_is_seen_and_heard():
    """They are members of the same rooms, with their machine's name behind their own."""
    with Chat() as room:
        ann = room.browser("ann")
        far = Member(lambda line: None, "ben@b", "lobby", elsewhere=True)
        room.lobby.joined(far)
        room.lobby.said(far, "hello")
        room.run(1.0)
        assert ann.told("people")[-1]["names"] == ["ann", "ben@b"]
        assert ann.told("rooms")[-1]["rooms"] == [["lobby", 2, 1]]
        assert ann.said == ["<ben@b> hello"]
        room.lobby.left(far, "left")
        room.run(1.0)
        assert ann.told("people")[-1]["names"] == ["ann"]


def test_when_no_browser_is_left_nothing_is_shown_to_nobody():
    """However the last one went, no timer runs for the browsers that were."""
    with Chat() as room:
        ann, ben, carl = room.browser("ann"), room.browser("ben"), room.member("carl")
        ann.say("/quit")
        ben.peer.reset()
        room.run(60.0)
        for _ in range(2):  # what comes right behind another is shown later
            carl.send(b"is nobody there?\n")
            room.run(0.1)
        assert room.reactor.statistics().timers == 0


def test_a_crowd_that_comes_at_once_is_shown_at_once():
    """However many come and go, a browser is shown the rooms four times a second at most."""
    with Chat() as room:
        ann = room.browser("ann")
        before = len(ann.told("people"))
        began = room.reactor.time()
        crowd = [Browser(room) for _ in range(40)]
        for _ in range(10):
            for number, one in enumerate(crowd):
                if one.accepted:
                    one.say(f"/nick name{number}-{len(one.messages)}")
            room.run(0.1)
        room.run(1.0)
        assert len(ann.told("people")) - before <= 4 * (room.reactor.time() - began) + 1
        assert len(ann.told("people")[-1]["names"]) == 41


def test_a_line_of_a_member_is_never_more_than_text():
    """Markup, a false notice and a false name arrive as what they are: what somebody said."""
    lines = ["<script>alert(1)</script>", "* you were dropped", "<ben> I said this", "> ", '"}{\\u0000']
    with Chat() as room:
        ann = room.browser("ann")
        ann.say(*lines)
        room.run(1.0)
        assert [(one["from"], one["text"]) for one in ann.told("said")] == [("ann", line.rstrip()) for line in lines]


@pytest.mark.parametrize(
    ("line", "kind", "facts"),
    [
        ("<ann> hi", "said", {"from": "ann", "text": "hi"}),
        ("<ann@b> <i>", "said", {"from": "ann@b", "text": "<i>"}),
        ("<ann> <ben> no", "said", {"from": "ann", "text": "<ben> no"}),
        ("* ann left", "note", {"text": "ann left"}),
        ("* <ann> left", "note", {"text": "<ann> left"}),
    ],
)
def test_a_line_of_the_lobby_is_taken_apart(line, kind, facts):
    """Who said what, or the server's own word."""
    assert json.loads(line_told("tea", line)) == {"kind": kind, "room": "tea", **facts}


def test_a_full_room_is_told_in_part():
    """The message that goes to everybody has a bound."""
    lobby = WatchedLobby()
    for _ in range(MOST_NAMES + 7):
        lobby.enter(lambda line: None)
    told = json.loads(lobby.people_told("lobby"))
    assert (len(told["names"]), told["more"]) == (MOST_NAMES, 7)


@pytest.mark.parametrize("text", ["one\ntwo", "one\r/nick eve", "/join tea\nhello", "one\n", "\n"])
def test_a_message_is_one_line_and_never_more(text):
    """Nothing of a message with a line break is said or obeyed; the browser is told, and goes on."""
    with Chat() as room:
        ann, ben = room.browser("ann"), room.browser("ben")
        ann.say(text, "hello")
        room.run(1.0)
        assert ann.said == ben.said == ["<ann> hello"]
        assert "a message is one line; that one was more and was not sent" in ann.notes
        assert ann.told("heard") == [{"count": 1}, {"count": 2}]
        assert ann.told("you")[-1] == {"name": "ann", "room": "lobby"}


def test_a_line_that_is_too_long_is_told_of():
    """It is not said, and the next one is."""
    with Chat(line_limit=20) as room:
        ann = room.browser("ann")
        ann.say("x" * 21, "three")
        room.run(1.0)
        assert ann.said == ["<ann> three"]
        assert "that line was longer than 20 bytes and was not sent" in ann.notes
        assert ann.told("heard") == [{"count": 1}, {"count": 2}]


def test_what_one_browser_makes_wait_in_one_turn_is_bounded():
    """Each `/list` is answered with more than it is; a small read bounds how many of them one turn answers."""
    with Chat() as room:
        eve = room.browser("eve")
        eve.peer.stop_reading()
        eve.peer.send(frame(1, b"/list") * 10_000)
        (connection,) = room.reactor.connections
        most = 0
        while room.reactor.connections and room.system.now < 60:
            room.reactor.run_once(1.0)
            most = max(most, connection.get_write_buffer_size())
        assert most < 256 * 1024
        assert room.reactor.connections == ()  # who does not read what they ask for is dropped


# Ends


def frame(opcode, payload=b"", *, fin=True, masked=True, bits=0, length=None):
    """One frame, right or wrong."""
    length = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | bits | opcode, (0x80 if masked else 0) | (length if length < 126 else 126)])
    head += length.to_bytes(2, "big") if length >= 126 else b""
    return head + (b"\0\0\0\0" if masked else b"") + payload


BROKEN = {
    "binary": (frame(2, b"hello"), 1003),
    "binary in parts": (frame(2, b"hel", fin=False) + frame(0, b"lo"), 1003),
    "not UTF-8": (frame(1, b"\xff"), 1007),
    "half a character": (frame(1, b"\xc3"), 1007),
    "a character cut by the message's end": (frame(1, b"a\xe2\x82", fin=False) + frame(0, b""), 1007),
    "a surrogate": (frame(1, b"\xed\xa0\x80"), 1007),
    "too big": (frame(1, b"x" * 401), 1009),
    "too big in parts": (frame(1, b"x" * 300, fin=False) + frame(0, b"x" * 101), 1009),
    "too big, and not whole": (frame(1, b"x" * 401, length=60_000), 1009),
    "unmasked": (frame(1, b"hello", masked=False), 1002),
    "a reserved bit": (frame(1, b"hello", bits=0x40), 1002),
    "a reserved opcode": (frame(3, b"hello"), 1002),
    "a reserved control opcode": (frame(11), 1002),
    "a continuation of nothing": (frame(0, b"hello"), 1002),
    "a message inside another": (frame(1, b"a", fin=False) + frame(1, b"b"), 1002),
    "a ping in parts": (frame(9, b"a", fin=False), 1002),
    "a big ping": (frame(9, b"x" * 126), 1002),
    "a Close of one byte": (frame(8, b"\x03"), 1002),
    "a Close with a code for nobody": (frame(8, b"\x03\xed"), 1002),
    "a Close with no code's number": (frame(8, b"\x00\x05"), 1002),
    "a Close with a reason in no UTF-8": (frame(8, b"\x03\xe8\xff"), 1007),
}


def test_a_message_in_endless_empty_parts_is_not_kept():
    """Parts without a byte never reach the limit of a message; nothing is held for them, and the message is whole."""
    with Chat() as room:
        eve = room.browser("eve")
        eve.peer.send(frame(1, b"o", fin=False))
        tracemalloc.start()
        try:
            eve.peer.send(frame(0, fin=False) * 5_000)
            room.run(1.0)
            snapshot = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
        ours = snapshot.filter_traces([tracemalloc.Filter(True, websocket.__file__)])
        assert sum(trace.size for trace in ours.traces) < 10_000
        eve.peer.send(frame(0, b"k"))
        room.run(1.0)
        assert eve.said == ["<eve> ok"]


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_taken_ends_the_websocket_with_the_code_that_says_why(what):
    """A Close frame, then our FIN, in order; the others read that they were dropped, and go on."""
    data, code = BROKEN[what]
    with Chat(line_limit=100) as room:
        ann, eve = room.browser("ann"), room.browser("eve")
        eve.peer.send(data)
        room.run(1.0)
        assert eve.closed[0] == code
        eve.peer.fin()  # in answer to 1009 and 1003 it would first send its own Close; it may not
        room.run(1.0)
        assert eve.peer.ending == "EOF"
        assert len(room.reactor.connections) == 1
        ann.say("still here")
        room.run(1.0)
        (gone,) = [note for note in ann.notes if note.startswith("eve was ")]
        assert gone.startswith("eve was dropped: ")
        assert ann.said == ["<ann> still here"]
        assert "<ann> still here" not in eve.said


@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [
        (1000, "bye", "ben left"),
        (1001, "", "ben left"),
        (CloseReason.NO_STATUS_RCVD, "", "ben left"),
        (3000, "x" * 123, "ben was dropped: " + "x" * 123),
        (4999, "", "ben was dropped"),
    ],
)
def test_a_close_is_answered_with_its_own_code_and_then_tcp_ends(code, reason, told):
    """The server ends TCP first (RFC 6455, 7.1.1), and the others read that they left."""
    with Chat() as room:
        ann, ben = room.browser("ann"), room.browser("ben")
        ben.send(CloseConnection(code=code, reason=reason))
        room.run(1.0)
        assert ben.closed == (code, reason)
        assert ben.peer.ending == "EOF"
        assert ann.notes[-1] == told


def test_quit_is_a_normal_end():
    """The last words are read, and nothing that was sent behind /quit is said."""
    with Chat() as room:
        ann, ben = room.browser("ann"), room.browser("ben")
        ben.say("/quit good night", "too late")
        room.run(1.0)
        assert ben.closed == (1000, "you left")
        assert ben.peer.ending == "EOF"
        assert ann.notes[-1] == "ben left: good night"
        assert ann.said == []


def test_on_drain_everybody_is_told_1001_and_the_end_is_clean():
    """Close frames first, both ways, then TCP; no farewell among the leaving."""
    with Chat() as room:
        ann, ben, carl = room.browser("ann"), room.browser("ben"), room.member("carl")
        room.reactor.call_soon(room.reactor.drain, 30)
        room.run(1.0)
        for browser in (ann, ben):
            assert browser.closed == (1001, "the server is shutting down")
            assert browser.peer.ending == "EOF"
            assert not any("left" in note or "dropped" in note for note in browser.notes)
        carl.fin()
        room.run(1.0)
        assert room.reactor.drained.finished
        assert room.reactor.drained.clean


def test_who_does_not_answer_our_close_is_waited_for_but_not_for_ever():
    """No FIN before theirs came, or before the time for it is over; what they say meanwhile is said to nobody."""
    with Chat() as room:
        ann, rude = room.browser("ann"), room.browser("rude")
        rude.polite = False
        rude.say("/quit")
        room.run(CLOSE_SECONDS - 0.5)
        assert rude.closed == (1000, "you left")
        assert rude.peer.ending is None
        frames = FrameProtocol(client=True, extensions=[])  # wsproto's own client says nothing more
        rude.peer.send(bytes(frames.send_data("hello?")) + bytes(frames.ping(b"?")) + frame(2, b"x" * 100))
        room.run(1.0)
        assert rude.peer.ending == "EOF"
        assert ann.said == []


def test_a_reset_and_a_mere_fin_are_lost_connections():
    """Whoever ends without a Close frame has not left, the connection was lost."""
    with Chat() as room:
        ann, ben, carl = room.browser("ann"), room.browser("ben"), room.browser("carl")
        ben.peer.reset()
        carl.peer.fin()
        room.run(5.0)
        assert carl.peer.ending == "EOF"
        assert sorted(ann.notes[-2:]) == ["ben lost the connection", "carl lost the connection"]
        assert len(room.reactor.connections) == 1


def test_a_browser_that_vanished_is_found_and_one_that_is_only_silent_stays():
    """A ping is answered by every living browser; who answers nothing is dropped, within two pings."""
    with Chat() as room:
        ann, gone = room.browser("ann"), room.browser("gone")
        gone.alive = False
        room.run(2 * PING_SECONDS + 1.0)
        assert ann.notes[-1] == f"gone was dropped: nothing was heard of you for {PING_SECONDS:.0f} s"
        room.run(600.0)
        assert ann.pings >= 600 / PING_SECONDS
        assert ann.closed is None
        assert len(room.reactor.connections) == 1


def test_who_says_nothing_is_ended_only_if_that_was_asked_for():
    """Pongs keep a connection; with an idle time, words must keep the member, and the end is a normal one."""
    with Chat(idle_seconds=60.0) as room:
        ann, silent = room.browser("ann"), room.browser("silent")
        for _ in range(3):
            room.run(40.0)
            ann.say("hm")
        room.run(1.0)
        assert silent.closed == (1000, "you were silent for 60 s")
        assert silent.peer.ending == "EOF"
        assert "silent was silent for too long" in ann.notes
        assert ann.closed is None


def test_a_ping_is_answered_also_inside_a_message():
    """With its payload; the message around it is whole."""
    with Chat() as room:
        ann = room.browser("ann")
        ann.peer.send(frame(1, b"in ", fin=False) + frame(9, b"ping") + frame(0, b"two parts"))
        room.run(1.0)
        assert ann.said == ["<ann> in two parts"]
        assert [bytes(event.payload) for event in ann.events if isinstance(event, Pong)] == [b"ping"]


# Slow ones


def test_a_browser_that_does_not_read_is_dropped_and_nobody_else_notices():
    """1008 stands behind what waited, and they find it when they read on; the others hear everything."""
    with Chat(queue_limit=16 * 1024, link=Link(latency=0.01, receive_buffer_bytes=4096)) as room:
        ann, ben, slow = room.browser("ann"), room.browser("ben"), room.browser("slow")
        slow.peer.stop_reading()
        lines = []
        while not any(note.startswith("slow was dropped: too slow") for note in ann.notes):
            assert len(lines) < 3000
            lines.append(f"{len(lines)} {'x' * 500}")
            ann.say(lines[-1])
            room.run(0.05)
            most = max(connection.get_write_buffer_size() for connection in room.reactor.connections)
            assert most < 16 * 1024 + 2000
        ann.say("better now")
        slow.peer.resume_reading()
        room.run(5.0)
        assert ann.said == ben.said == [f"<ann> {line}" for line in (*lines, "better now")]
        assert slow.closed[0] == 1008
        assert slow.closed[1].startswith("too slow: ")
        assert slow.peer.ending == "EOF"
        assert slow.said == [f"<ann> {line}" for line in lines[: len(slow.said)]]
        assert len(room.reactor.connections) == 2


def test_a_browser_that_never_reads_again_is_reset():
    """After the time for its Close, and the flush deadline."""
    with Chat(queue_limit=4096, link=Link(latency=0.01, receive_buffer_bytes=4096)) as room:
        ann, slow = room.browser("ann"), room.browser("slow")
        slow.peer.stop_reading()
        for number in range(1000):
            ann.say(f"{number} {'x' * 500}")
            room.run(0.01)
        room.run(60.0)
        assert len(room.reactor.connections) == 1
        slow.peer.resume_reading()
        assert slow.peer.ending == "reset"


def test_who_only_asks_and_never_reads_costs_a_bounded_queue():
    """Pongs wait like anything else."""
    with Chat(queue_limit=4096, link=Link(latency=0.01, receive_buffer_bytes=4096)) as room:
        slow = room.browser("slow")
        slow.peer.stop_reading()
        (connection,) = room.reactor.connections
        most = 0
        for _ in range(3000):
            slow.peer.send(frame(9, b"x" * 125))
            room.run(0.01)
            most = max(most, connection.get_write_buffer_size())
        room.run(60.0)
        assert most < 4096 + 70_000  # what one read asks for comes on top
        assert room.reactor.connections == ()


# The handshake


def shake(room, *fields, method="GET", path="/socket", version="1.1"):
    """The answer to one handshake: `(status, fields)`."""
    peer = room.system.peer(room.listener.addresses[0])
    lines = [f"{method} {path} HTTP/{version}", *fields, "", ""]
    peer.send("\r\n".join(lines).encode("latin-1"))
    room.run(1.0)
    head = bytes(peer.data).partition(b"\r\n\r\n")[0].decode()
    status, *rest = head.split("\r\n")
    peer.reset()
    return int(status.split()[1]), dict(field.lower().split(": ", 1) for field in rest)


HANDSHAKE = {
    "host": "Host: test",
    "connection": "Connection: keep-alive, Upgrade",
    "upgrade": "Upgrade: websocket",
    "version": "Sec-WebSocket-Version: 13",
    "key": "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(
    ("changes", "how", "status", "field"),
    [
        ({}, {}, 101, ("sec-websocket-accept", "s3pplmbitxaq9kygzzhzrbk+xoo=")),
        ({"origin": "Origin: http://test"}, {}, 101, None),
        ({"more": "Sec-WebSocket-Protocol: chat"}, {}, 101, None),
        ({"origin": "Origin: http://elsewhere"}, {}, 403, None),
        ({"upgrade": None, "connection": None}, {}, 426, ("upgrade", "websocket")),
        ({"upgrade": "Upgrade: h2c"}, {}, 426, ("upgrade", "websocket")),
        ({}, {"method": "HEAD"}, 426, ("upgrade", "websocket")),
        ({}, {"version": "1.0"}, 426, None),
        ({"version": "Sec-WebSocket-Version: 8"}, {}, 426, ("sec-websocket-version", "13")),
        ({"version": None}, {}, 400, None),
        ({"connection": None}, {}, 400, None),
        ({"key": None}, {}, 400, None),
        ({"key": "Sec-WebSocket-Key: c2hvcnQ="}, {}, 400, None),
        ({"key": "Sec-WebSocket-Key: not base64!"}, {}, 400, None),
        ({"key": "Sec-WebSocket-Key: gr\xfc\xdfe"}, {}, 400, None),
        ({"host": "Host: \xff"}, {}, 400, None),
        ({"more": "Sec-WebSocket-Protocol: \xff"}, {}, 400, None),
        ({}, {"method": "POST"}, 405, ("allow", "get, head")),
        ({}, {"path": "/nowhere"}, 404, None),
    ],
)
def test_a_handshake_is_answered_with_what_is_wrong_with_it(changes, how, status, field):
    """101 only for one that is right in everything."""
    with Chat() as room:
        lines = [line for line in {**HANDSHAKE, **changes}.values() if line is not None]
        found, fields = shake(room, *lines, **how)
        assert found == status
        if field is not None:
            assert fields[field[0]] == field[1]


@pytest.mark.parametrize(
    ("origin", "host", "origins", "good"),
    [
        (None, "test", (), True),
        ("http://test", "test", (), True),
        ("http://test:80", "test", (), True),
        ("https://test", "test:443", (), True),
        ("http://TEST:8080", "test:8080", (), True),
        ("http://[::1]:8080", "[::1]:8080", (), True),
        ("http://test:8080", "test", (), False),
        ("http://test", "test:8080", (), False),
        ("http://test.evil", "test", (), False),
        ("http://eviltest", "test", (), False),
        ("http://test@evil", "test", (), False),
        ("null", "test", (), False),
        ("", "", (), False),
        ("http://", "", (), False),
        ("http://[::1", "test", (), False),
        ("http://test:port", "test", (), False),
        ("file://test", "test", (), False),
        ("https://chat.example.org", "test", ("https://chat.example.org",), True),
        ("https://Chat.Example.org", "test", ("https://chat.example.org",), True),
        ("http://chat.example.org", "test", ("https://chat.example.org",), False),
    ],
)
def test_only_our_own_pages_may_connect(origin, host, origins, good):
    """And those that were allowed; who sends no Origin is no browser."""
    fields = {"host": host} | ({} if origin is None else {"origin": origin})
    assert may_connect(fields, origins) is good


def test_no_extension_is_agreed_on():
    """A browser that offers compression is answered without it."""
    with Chat() as room:
        status, fields = shake(room, *HANDSHAKE.values(), "Sec-WebSocket-Extensions: permessage-deflate")
        assert status == 101
        assert "sec-websocket-extensions" not in fields


# The page


def test_the_page_loads_and_runs_nothing_but_itself():
    """Its policy has the hashes of what is in it; no other address is in it, and nothing makes markup of text."""
    response = web.page_response(PAGE)
    fields = dict(response.fields)
    policy = dict(part.split(" ", 1) for part in fields["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy["script-src"])
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy["style-src"])
    assert policy["connect-src"] == "'self'"
    page = PAGE.decode()
    assert set(re.findall(r"https?://[^\s'\"]+", page)) <= {"http://www.w3.org/2000/svg"}
    for dangerous in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", "onclick="):
        assert dangerous not in page
    changed = web.page_response(PAGE.replace(b"connect();\n</script>", b"alert();\n</script>"))
    assert dict(changed.fields)["Content-Security-Policy"] != fields["Content-Security-Policy"]


def test_the_page_is_served_with_its_fields():
    """Also to HEAD; and not taken for anything else."""
    with Chat() as room:
        for method in ("GET", "HEAD"):
            status, fields = shake(room, "Host: test", method=method, path="/")
            assert (status, fields["content-type"]) == (200, "text/html; charset=utf-8")
            assert fields["cross-origin-opener-policy"] == "same-origin"
            assert fields["x-content-type-options"] == "nosniff"
            assert int(fields["content-length"]) == len(PAGE)


def test_the_script_of_the_page_is_a_script(tmp_path):
    """Node reads it without complaint."""
    if shutil.which("node") is None:
        pytest.skip("there is no node on this machine")
    script = tmp_path / "page.js"
    script.write_bytes(re.search(rb"<script>(.*?)</script>", PAGE, re.DOTALL)[1])
    assert subprocess.run(["node", "--check", str(script)], capture_output=True, check=False).returncode == 0


# Storms


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_any_weather_every_browser_hears_every_line_and_ends_well(seed):
    """Short reads, short writes, pieces; some reset in between; at the end a drain, clean for all who are left."""
    faults = (ShortReads(0.3), ShortWrites(0.3), TryAgain(0.1), OneAtATime(0.3))
    link = Link(latency=0.02, jitter=0.03, segment_bytes=300)
    with Chat(seed=seed, faults=faults, link=link) as room:
        browsers = [room.browser(f"b{number}") for number in range(8)]
        lines = [f"{number} {'.' * (number % 90)}" for number in range(60)]
        for number, line in enumerate(lines):
            browsers[number % 4].say(line)
            if number in (20, 30):
                browsers[number // 5].peer.reset()  # the fourth and the sixth: neither speaks or listens here
            room.run(0.3)
        room.run(5.0)
        heard = browsers[0].said
        assert Counter(line.split("> ", 1)[1] for line in heard) == Counter(line.rstrip() for line in lines)
        for browser in (browsers[1], browsers[2], browsers[3], browsers[5], browsers[7]):
            assert browser.said == heard
        room.reactor.call_soon(room.reactor.drain, 30)
        room.run(10.0)
        assert room.reactor.drained.clean
        assert {browsers[number].closed[0] for number in (0, 1, 2, 3, 5, 7)} == {1001}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([data for data, _ in BROKEN.values()])), max_size=6))
def test_whatever_frames_come_the_others_go_on(pieces):
    """No exception, no reset from our side: an end in order, if it is one."""
    with Chat(line_limit=100) as room:
        ann, eve = room.browser("ann"), room.browser("eve")
        eve.alive = False
        for piece in pieces:
            eve.peer.send(piece)
            room.run(0.1)
        eve.peer.fin()
        room.run(CLOSE_SECONDS + 1.0)
        assert eve.peer.ending == "EOF"
        ann.say("still here")
        room.run(1.0)
        assert ann.said[-1] == "<ann> still here"


# As a process


@pytest.fixture
def webchat(run):
    """Starts it on free ports; the sample, the page's port and nc's."""

    def start(*arguments):
        sample = run("webchat", "--port", "0", "--chat-port", "0", *arguments)
        first, second = sample.read_until(b"\n", 2).decode().splitlines()
        assert first.startswith("listening on 127.0.0.1:")
        assert second.startswith("chat for nc on 127.0.0.1:")
        return sample, int(first.rpartition(":")[2]), int(second.rpartition(":")[2])

    return start


def test_a_process_serves_both_ports_and_drains_on_sigterm(webchat):
    """A WebSocket and an nc user talk; SIGTERM ends each in order, and the status is 0."""
    sample, port, nc_port = webchat()
    machine = WSConnection(ConnectionType.CLIENT)
    found = []
    with (
        socket.create_connection(("127.0.0.1", port), 10) as sock,
        socket.create_connection(("127.0.0.1", nc_port), 10) as nc,
    ):
        sock.sendall(machine.send(Request(host="127.0.0.1", target="/socket?nick=ann")))

        def seen(wanted):
            while wanted not in str(found):
                machine.receive_data(sock.recv(65536))
                found.extend(machine.events())

        seen("ann joined lobby")
        nc.sendall(b"hello from a terminal\n")
        seen("hello from a terminal")
        sample.process.send_signal(signal.SIGTERM)
        seen("CloseConnection(code=<CloseReason.GOING_AWAY: 1001>")
        sock.sendall(machine.send(found[-1].response()))
        assert sock.recv(1) == b""
        nc.shutdown(socket.SHUT_WR)
        while nc.recv(65536):
            pass
    assert sample.ended() == 0
    assert sample.errors == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ("--origin", "chat.example.org"),
            "an origin is http(s)://HOST or http(s)://HOST:PORT, not 'chat.example.org'",
        ),
        (("--origin", "https://a/b"), "an origin is http(s)://HOST or http(s)://HOST:PORT, not 'https://a/b'"),
        (("--chat-port", "x"), "a port is a whole number from 0 to 65535, not 'x'"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(run, arguments, complaint):
    """In one line, with status 2."""
    sample = run("webchat", "--port", "0", *arguments)
    assert sample.ended() == 2
    assert complaint in sample.errors
    assert sample.errors.count("\n") == 1


def test_a_chat_port_that_is_taken_is_named(run):
    """One line, status 2, before anything is said to be served."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sample = run("webchat", "--port", "0", "--chat-port", str(port))
        assert sample.ended() == 2
    assert sample.output == b""
    assert str(port) in sample.errors
    assert sample.errors.count("\n") == 1


@pytest.mark.parametrize(("sample", "module"), [("webchat", "h11"), ("webchat", "wsproto"), ("files", "h11")])
def test_without_its_libraries_it_says_what_it_needs(run, sample, module):
    """One line with the name of the extra, status 2."""
    code = (
        f"import sys, runpy; sys.modules[{module!r}] = None; runpy.run_module('samples.{sample}', run_name='__main__')"
    )
    sample = run(sample, command=[sys.executable, "-c", code])
    assert sample.ended() == 2
    assert sample.errors.count("\n") == 1
    assert f"needs the module {module}: pip install '.[web]'" in sample.errors


# The Autobahn test suite


class Echo(WebSocket):
    """What the suite expects of a server: every message comes back."""

    def text_received(self, text):
        self.send(text_frame(text))

    def binary_received(self, data):
        self.send(bytes(self.machine.send(BytesMessage(data=data))))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_autobahn_suite_finds_no_fault(tmp_path, no_descriptor_left):
    """All its cases but compression, which is not offered: `pip install autobahntestsuite` (Python 2.7) brings wstest.

    Its path is looked for in the environment's WSTEST, then on the PATH.
    """
    wstest = os.environ.get("WSTEST") or shutil.which("wstest")
    if wstest is None:
        pytest.skip("no wstest here: the Autobahn suite needs Python 2.7; WSTEST can name it")
    with Reactor() as reactor:
        site = lambda request: upgrade(request, lambda: Echo(reactor, 1 << 27, 1 << 28))  # noqa: E731
        listener = web.serve(reactor, site, "127.0.0.1", 0)
        spec = {
            "outdir": str(tmp_path / "reports"),
            "servers": [{"agent": "reactor", "url": f"ws://127.0.0.1:{listener.addresses[0][1]}/"}],
            "cases": ["*"],
            "exclude-cases": ["12.*", "13.*"],
            "exclude-agent-cases": {},
        }
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        command = [wstest, "-m", "fuzzingclient", "-s", str(tmp_path / "spec.json")]
        suite = reactor.run_in_thread(
            lambda: subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=280, check=False)
        )
        while not suite.done():
            reactor.run_once(0.1)
    index = json.loads(Path(spec["outdir"], "index.json").read_text())["reactor"]
    good = {"OK", "INFORMATIONAL"}
    assert len(index) > 290
    assert {case for case, found in index.items() if not {found["behavior"], found["behaviorClose"]} <= good} == set()
