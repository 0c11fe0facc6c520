"""Many lobbies and one stream, without a connection in sight."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samples.chat.cluster import Cluster
from samples.chat.rooms import Lobby

EXPIRY = 30.0
SAFE = "* safe with the other machines: {} of your lines"
CUT_OFF = "* not connected with the other machines; what is said here is kept for them"


class Stream:
    """What Redis keeps: entries with rising ids, the oldest of which may be trimmed. Time is the test's."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, dict[str, str]]] = []
        self.milliseconds = 1_000_000
        self.last = (0, 0)

    def add(self, fields) -> None:
        milliseconds, number = self.last
        self.last = max((self.milliseconds, 0), (milliseconds, number + 1))
        words = [str(word) for word in fields]
        self.entries.append(("{}-{}".format(*self.last), dict(zip(words[::2], words[1::2], strict=True))))

    def after(self, last: str) -> list[tuple[str, dict[str, str]]]:
        def order(id: str) -> list[int]:
            return [int(part) for part in id.split("-")]

        return [entry for entry in self.entries if order(entry[0]) > order(last)]

    @property
    def newest(self) -> str | None:
        return self.entries[-1][0] if self.entries else None


class Machine:
    """A lobby, its cluster, one member who sees what is shown, and its place in the stream."""

    def __init__(self, stream: Stream, name: str, token: str = "1", **how) -> None:
        self.stream = stream
        self.lobby = Lobby()
        self.cluster = Cluster(self.lobby, name, token, expiry=EXPIRY, **how)
        self.cluster.resume(stream.newest)
        self.cluster.connected(True)
        self.shown: list[str] = []
        self.member = self.lobby.enter(self.shown.append)
        self.says(f"/nick watcher-{name}")

    def says(self, line: str) -> None:
        self.lobby.hear(self.member, line)

    def append(self, most: int = 1000, acknowledged: bool = True) -> None:
        """The stream takes what waits; perhaps its reply is lost."""
        batch = self.cluster.batch(most)
        for fields in batch:
            self.stream.add(fields)
        if acknowledged:
            self.cluster.acknowledge(len(batch))

    def read(self, most: int = 1000) -> None:
        for id, fields in self.stream.after(self.cluster.last)[:most]:
            self.cluster.feed(id, fields)

    def seen(self) -> list[str]:
        seen, self.shown[:] = list(self.shown), []
        return seen

    def names(self, room: str = "lobby") -> list[str]:
        return [member.name for member in self.lobby.members(room)]


def settle(*machines: Machine) -> None:
    """Everybody appends and reads until nothing is left to do."""
    while any(machine.cluster.waiting for machine in machines):
        for machine in machines:
            machine.append()
        for machine in machines:
            machine.read()


@pytest.fixture
def stream():
    return Stream()


@pytest.fixture
def two(stream):
    a, b = Machine(stream, "a"), Machine(stream, "b")
    settle(a, b)
    a.seen(), b.seen()
    return a, b


def pass_time(stream: Stream, seconds: float, *beating: Machine) -> None:
    """Time passes for the stream, with a beat of those machines every ten seconds."""
    for _ in range(round(seconds / 10)):
        stream.milliseconds += 10_000
        for machine in beating:
            machine.cluster.beat()
            machine.append()
        for machine in beating:
            machine.read()


# What is shown elsewhere


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (["hello"], ["<watcher-a@a> hello"]),
        (["one", "two", "three"], ["<watcher-a@a> one", "<watcher-a@a> two", "<watcher-a@a> three"]),
        (["//slash"], ["<watcher-a@a> /slash"]),
        (["/nick ann", "hi"], ["* watcher-a@a is now ann@a", "<ann@a> hi"]),
        (["/join tea", "milk?"], ["* watcher-a@a went to tea"]),
        (["/join tea", "/join lobby"], ["* watcher-a@a went to tea", "* watcher-a@a joined lobby"]),
        (["/quit good night"], ["* watcher-a@a left: good night"]),
        (["grüße \x1b[31m\u202e"], ["<watcher-a@a> grüße [31m"]),
        (["/list", "/help", "/nothing", ""], []),
    ],
)
def test_an_act_here_is_shown_elsewhere(two, lines, shown):
    """As it is shown here, under name@node; and never twice here."""
    a, b = two
    for line in lines:
        a.says(line)
    settle(a, b)
    assert b.seen() == shown
    own = [line for line in a.seen() if line.startswith("<")]
    assert Counter(own) == Counter(set(own))


def test_who_says_much_waits_while_much_waits_for_the_stream(stream):
    """From half of what may wait on, until the stream has taken it; not while the stream is away: then it is kept."""
    machine = Machine(stream, "a", waiting_limit=100)
    settle(machine)
    called: list[int] = []
    for number in range(49):
        machine.says(f"line {number}")
    assert not machine.lobby.is_blocked(machine.member, "hello")
    machine.says("one more")
    assert machine.lobby.is_blocked(machine.member, "hello")
    assert not machine.lobby.is_blocked(machine.member, "/list")
    machine.lobby.wait("lobby", lambda: called.append(1))
    machine.append(1)
    assert not machine.lobby.is_blocked(machine.member, "hello")
    assert called == [1]
    machine.says("another")
    machine.lobby.wait("lobby", lambda: called.append(2))
    machine.cluster.connected(False)
    assert not machine.lobby.is_blocked(machine.member, "hello")
    assert called == [1, 2]


def test_rooms_are_one_over_all_machines(two):
    """Who goes to a room meets who is there from elsewhere, and /list has them all."""
    a, b = two
    for machine in two:
        machine.says("/join tea")
    settle(a, b)
    b.seen()
    b.says("/list")
    assert b.seen() == ["* rooms: tea (2)", "* in tea: watcher-b, watcher-a@a"]
    a.says("/join lobby")
    settle(a, b)
    assert (b.names("tea"), b.names("lobby")) == (["watcher-b"], ["watcher-a@a"])
    assert b.lobby.rooms == ["tea", "lobby"]


def test_the_same_name_on_two_machines_is_two_people(two):
    """A name is unique on its node, and @ tells them apart; no local name can have one."""
    a, b = two
    for machine in two:
        machine.says("/nick ann")
    settle(a, b)
    assert a.names() == ["ann", "ann@b"]
    assert b.names() == ["ann", "ann@a"]
    b.seen()
    b.says("/nick ann@a")
    assert "letters, digits" in b.seen()[0]


def test_a_newcomer_learns_who_is_everywhere(two, stream):
    """hello is answered with rosters; lines from before its time are not shown to it."""
    a, _ = two
    a.says("before your time")
    a.append()
    c = Machine(stream, "c")
    settle(*two, c)
    assert c.names() == ["watcher-c", "watcher-a@a", "watcher-b@b"]
    assert [line for line in c.seen() if line.startswith("<") or "also" in line] == [
        "* also here: watcher-a@a",
        "* also here: watcher-b@b",
    ]


def test_a_long_roster_comes_in_parts(stream):
    """1200 members are three entries, and all of them are known in the end."""
    a = Machine(stream, "a")
    for _ in range(1200):
        a.lobby.enter(lambda line: None)
    settle(a)
    b = Machine(stream, "b")
    settle(a, b)
    parts = [json.loads(fields["text"]) for _, fields in stream.entries if fields["kind"] == "roster"]
    assert [(part["part"], part["of"], len(part["members"])) for part in parts if part["of"] > 1] == [
        (1, 3, 500),
        (2, 3, 500),
        (3, 3, 201),
    ]
    assert len(b.lobby.members("lobby")) == 1202


def test_a_roster_that_lacks_a_part_is_not_taken_for_a_whole_one(stream):
    """The parts of two rosters are never mixed."""
    a, b = Machine(stream, "a"), Machine(stream, "b")
    settle(a, b)
    guests = [a.lobby.enter(lambda line: None) for _ in range(1200)]
    a.append()
    a.lobby.leave(a.lobby.enter(lambda line: None), "")  # so that a roster is due
    a.append()
    stream.entries.clear()
    a.cluster.beat()
    a.append()
    del stream.entries[1]
    b.read()
    assert len(b.names()) == 2
    for guest in (guests[0], guests[-1]):
        a.lobby.leave(guest, "")
    a.cluster.beat()
    a.append(), b.read()
    assert b.names()[1:] == [f"{name}@a" for name in a.names()[:-1]]  # but for itself


# Once, and in order


def test_a_lost_reply_shows_nothing_twice(two):
    """What was appended twice is shown once, in order, also when the second copy has more behind it."""
    a, b = two
    a.says("one"), a.says("two")
    a.append(acknowledged=False)
    a.says("three")
    settle(a, b)
    assert b.seen() == ["<watcher-a@a> one", "<watcher-a@a> two", "<watcher-a@a> three"]


def test_a_copy_that_comes_late_shows_nothing_twice(two, stream):
    """The first connection's transaction may be served after the second's."""
    a, b = two
    a.says("one"), a.says("two")
    late = a.cluster.batch(1000)
    a.says("three")
    a.append()
    for fields in late:
        stream.add(fields)
    settle(a, b)
    b.read()
    assert b.seen() == ["<watcher-a@a> one", "<watcher-a@a> two", "<watcher-a@a> three"]


def test_own_echoes_are_dropped_by_process_not_by_name(two, stream):
    """A restarted node of the same name is another: its lines are not taken for echoes, nor its counts for old ones."""
    a, b = two
    again = Machine(stream, "a", "2")
    again.says("back again")
    settle(a, b, again)
    assert "<watcher-a@a> back again" in b.seen()
    assert "<watcher-a@a> back again" in a.seen()


# Acknowledged


def test_sync_answers_when_the_stream_has_what_was_said_before_it(two):
    """Not before, and with the number of lines; at once when there is nothing to wait for."""
    a, _ = two
    a.says("/sync")
    assert a.seen() == [SAFE.format(0)]
    a.says("one"), a.says("/sync"), a.says("two"), a.says("/sync"), a.says("three"), a.says("/sync")
    assert a.seen() == ["<watcher-a> one", "<watcher-a> two", "<watcher-a> three"]
    a.append(1)
    assert a.seen() == [SAFE.format(1)]
    a.append(1, acknowledged=False)
    a.append(1)
    assert a.seen() == []
    a.append(1)
    assert a.seen() == [SAFE.format(3)]  # who asks again and again is answered for the first question and the last


def test_what_others_say_is_not_counted_as_ones_own(two):
    """Nor what was refused, or never said."""
    a, _ = two
    ben: list[str] = []
    member = a.lobby.enter(ben.append)
    a.says("one")
    for line in ("two", "/nick ben", "/list", "/sync"):
        a.lobby.hear(member, line)
    a.append()
    assert ben[-1] == SAFE.format(1)


def test_who_has_left_is_not_told(two):
    """A question dies with its asker."""
    a, _ = two
    ben: list[str] = []
    member = a.lobby.enter(ben.append)
    a.lobby.hear(member, "one")
    a.lobby.hear(member, "/sync")
    a.lobby.leave(member)
    a.append()
    assert SAFE.format(1) not in ben


def test_what_cannot_be_passed_on_is_kept_up_to_a_bound_and_then_refused(stream):
    """The speaker is told, nobody sees a refused line, and when there is room again, all goes on."""
    a, b = Machine(stream, "a", waiting_limit=10), Machine(stream, "b")
    settle(a, b)
    a.seen(), b.seen()
    a.cluster.connected(False)
    for number in range(12):
        a.says(str(number))
    kept = [f"<watcher-a> {number}" for number in range(10)]
    assert a.seen() == [CUT_OFF, *kept, *["* not said: 10 lines wait already for the other machines"] * 2]
    a.cluster.connected(True)
    a.append()
    a.says("12")
    settle(a, b)
    assert b.seen() == [f"<watcher-a@a> {number}" for number in [*range(10), 12]]
    assert a.seen() == ["* connected with the other machines again", "<watcher-a> 12"]


def test_coming_and_going_beyond_the_bound_is_told_by_a_roster(stream):
    """Nobody can be kept from leaving, and a queue must not grow by it."""
    a, b = Machine(stream, "a", waiting_limit=5), Machine(stream, "b")
    settle(a, b)
    guests = [a.lobby.enter(lambda line: None) for _ in range(4)]
    settle(a, b)
    a.cluster.connected(False)
    for number in range(5):
        a.says(str(number))
    for _ in range(100):
        a.lobby.leave(a.lobby.enter(lambda line: None))
    a.lobby.leave(guests[0])
    a.says("/nick ann")
    assert a.cluster.waiting == 5
    a.append()
    a.cluster.beat()
    settle(a, b)
    assert sorted(b.names()) == ["ann@a", "guest3@a", "guest4@a", "guest5@a", "watcher-b"]


def test_a_question_of_who_is_here_waits_for_room_as_well(stream):
    """A hello that comes when the outbox is full is answered later."""
    a = Machine(stream, "a", waiting_limit=5)
    settle(a)
    for number in range(5):
        a.says(str(number))
    b = Machine(stream, "b")
    b.append(), a.read()
    assert a.cluster.waiting == 5
    a.append()
    a.cluster.beat()
    settle(a, b)
    assert b.names() == ["watcher-b", "watcher-a@a"]


def test_who_comes_while_cut_off_is_told(stream):
    """The newcomer alone."""
    a = Machine(stream, "a")
    settle(a)
    a.cluster.connected(False)
    a.seen()
    ben: list[str] = []
    a.lobby.enter(ben.append)
    assert ben[-1] == CUT_OFF
    assert CUT_OFF not in a.seen()


# Gaps


def test_a_gap_is_told_and_healed(two, stream):
    """Lines that the stream had dropped before they were read are told of; rosters tell who came and went meanwhile."""
    a, b = two
    a.says("read"), a.append(), b.read()
    a.lobby.enter(lambda line: None)
    for number in range(50):
        a.says(str(number))
    a.append()
    stream.entries.clear()
    a.says("afterwards"), a.append(), b.read()
    assert b.seen() == [
        "<watcher-a@a> read",
        "* some lines from the machine a were missed",
        "<watcher-a@a> afterwards",
    ]
    settle(a, b)
    assert b.seen() == ["* also here: guest2@a"]
    assert b.names() == ["watcher-b", "watcher-a@a", "guest2@a"]


def test_however_much_was_missed_one_hello_asks_for_it(stream):
    """A hello is answered by everybody, so it is not said for each."""
    machines = [Machine(stream, name) for name in "abcdef"]
    settle(*machines)
    for machine in machines[1:]:
        machine.says("lost"), machine.append()
    stream.entries.clear()
    for machine in machines[1:]:
        machine.says("found"), machine.append()
    machines[0].read()
    machines[0].append()
    assert [fields["kind"] for _, fields in stream.entries].count("hello") == 1
    assert sum("missed" in line for line in machines[0].shown) == 5


def test_who_moved_in_a_gap_is_where_they_speak(two, stream):
    """A line shows its speaker's room, before any roster does."""
    a, b = two
    b.says("/join tea")
    a.says("/join tea"), a.append()
    stream.entries.clear()
    a.says("milk?"), a.append(), b.read()
    assert b.shown[-1] == "<watcher-a@a> milk?"
    assert b.names("tea") == ["watcher-b", "watcher-a@a"]
    assert b.lobby.rooms == ["tea"]


def test_who_was_given_up_in_a_gap_comes_back(two, stream):
    """It has not read that it was given up; but having missed something, it says who is there."""
    a, b = two
    pass_time(stream, 50, a)
    assert a.names() == ["watcher-a"]
    del stream.entries[:-1]
    b.read()
    b.cluster.beat()
    settle(a, b)
    assert a.names() == ["watcher-a", "watcher-b@b"]


@pytest.mark.parametrize("left", ["nothing", "an older end"])
def test_a_stream_that_lost_what_was_acknowledged_is_told_of(two, stream, left):
    """A Redis that came back without its data: reading goes on with what is new, and the leap is told."""
    a, b = two
    a.says("read"), a.append(), b.read()
    kept = len(stream.entries)
    a.says("lost"), a.append()
    del stream.entries[kept:]
    if left == "nothing":
        stream.entries.clear()
    stream.last = tuple(map(int, stream.newest.split("-"))) if stream.newest else (0, 0)
    stream.milliseconds -= 500_000  # and its clock is not what it was
    for machine in two:
        machine.cluster.resume(stream.newest)
    a.says("new"), a.append(), b.read()
    assert b.seen() == ["<watcher-a@a> read", "* some lines from the machine a were missed", "<watcher-a@a> new"]


def test_a_newcomer_among_old_machines_has_missed_nothing(two, stream):
    """High counts are no gap for who has just come ..."""
    a, _ = two
    c = Machine(stream, "c")
    c.append()
    a.says("hello"), a.append(), c.read()
    assert "<watcher-a@a> hello" in c.seen()
    assert not any("missed" in line for line in c.shown)


def test_a_machine_whose_beginning_was_missed_is_told_of(two, stream):
    """... but they are one for who was there all the time."""
    pass_time(stream, 60, *two)
    c = Machine(stream, "c")
    c.append()
    del stream.entries[-3:]
    c.says("hello"), c.append(), two[0].read()
    assert two[0].seen()[:1] == ["* some lines from the machine c were missed"]


# Presence


def test_a_silent_machine_is_given_up_with_a_line_in_each_room(two, stream):
    """After the expiry, not before, with the names; its return is told as well."""
    a, b = two
    a.lobby.hear(a.lobby.enter(lambda line: None), "/join tea")
    settle(a, b)
    b.seen()
    pass_time(stream, 20, b)
    assert b.seen() == []
    pass_time(stream, 20, b)
    assert b.seen() == ["* the machine a is silent; gone with it: watcher-a@a"]
    assert b.names() == ["watcher-b"]
    assert b.lobby.rooms == ["lobby"]
    a.read()
    a.cluster.beat()
    settle(a, b)
    assert b.seen() == ["* also here: watcher-a@a"]
    assert b.lobby.rooms == ["lobby", "tea"]


def test_who_speaks_after_having_been_given_up_is_here_again(two, stream):
    """No line comes from somebody who is not there."""
    a, b = two
    pass_time(stream, 50, b)
    b.seen()
    a.says("where was I?"), a.append(), b.read()
    assert b.seen() == ["* also here: watcher-a@a", "<watcher-a@a> where was I?"]
    settle(a, b)
    assert b.names() == ["watcher-b", "watcher-a@a"]


def test_nobody_falls_silent_while_the_stream_is_away(stream):
    """An hour without Redis, at the worst moment: who returns first does not take the others for dead."""
    machines = a, b, c = [Machine(stream, name) for name in "abc"]
    settle(*machines)
    stream.milliseconds += 9_900
    a.says("Redis goes now, and b and c were about to beat")
    settle(*machines)
    for pause, machine in ((3_600_000, a), (4_000, c), (5_000, b)):
        stream.milliseconds += pause
        machine.says(f"{machine.member.name} is back")
        settle(*machines)
    assert not any("silent" in line for machine in machines for line in machine.shown)


def test_who_reads_late_takes_nobody_for_silent(two, stream):
    """A machine that was suspended reads what was appended meanwhile, and finds the others' signs of life in it."""
    a, b = two
    pass_time(stream, 100, a)
    b.read()
    b.cluster.beat()
    settle(a, b)
    assert b.seen() == []
    assert a.seen() == ["* the machine b is silent; gone with it: watcher-b@b", "* also here: watcher-b@b"]


def test_a_shut_down_machine_says_goodbye(two):
    """At once, with the names of those who went with it; members who left with a word before are told as ever."""
    a, b = two
    ben = a.lobby.enter(lambda line: None)
    settle(a, b)
    b.seen()
    a.lobby.leave(ben, "left: bye")
    a.lobby.leave(a.member, "")
    a.cluster.goodbye()
    settle(a, b)
    assert b.seen() == ["* guest2@a left: bye", "* the machine a was shut down; gone with it: watcher-a@a"]
    assert b.names() == ["watcher-b"]


def test_who_left_without_a_word_has_left_elsewhere_too(two):
    """With the next beat."""
    a, b = two
    a.lobby.leave(a.member, "")
    a.cluster.beat()
    settle(a, b)
    assert b.names() == ["watcher-b"]
    assert b.seen() == ["* no longer here: watcher-a@a"]


def test_a_restarted_machine_replaces_the_one_before(two, stream):
    """Nobody waits for the expiry of a machine that is back under its name."""
    _, b = two
    again = Machine(stream, "a", "2")
    settle(b, again)
    assert b.seen()[0] == "* the machine a was started again; gone with it: watcher-a@a"
    assert b.names() == ["watcher-b", "watcher-a@a"]


def test_two_machines_of_one_name_are_warned_of_and_both_heard(two, stream, caplog):
    """A mistake of the operator's loses nothing."""
    a, b = two
    double = Machine(stream, "a", "2")
    settle(a, b, double)
    assert "another machine is called a as well" in caplog.text
    b.seen()
    a.says("I am the first"), double.says("I am the second")
    settle(a, b, double)
    assert b.seen() == ["<watcher-a@a> I am the first", "<watcher-a@a> I am the second"]
    assert b.names() == ["watcher-b", "watcher-a@a", "watcher-a@a"]


def test_a_beat_is_only_said_when_there_is_nothing_else(two, stream):
    """A line is a sign of life, too."""
    a, _ = two
    a.cluster.beat()
    a.says("hello")
    a.cluster.beat()
    a.append()
    assert [fields["kind"] for _, fields in stream.entries][-2:] == ["beat", "said"]


# Rubbish


@pytest.mark.parametrize(
    "change",
    [
        {"node": ""},
        {"node": "c"},
        {"node": "c d:1"},
        {"node": "\x1b[2J:1"},
        {"count": "many"},
        {"count": "9" * 5000},
        {"kind": "dance"},
        {"name": ""},
        {"name": "x" * 1000},
        {"name": "\x1b[2J"},
        {"room": ""},
        {"kind": "went", "text": ""},
        {"kind": "renamed", "text": "x" * 1000},
        {"kind": "roster", "text": "[" * 100_000},
        {"kind": "roster", "text": "7"},
        {"kind": "roster", "text": "{}"},
        {"kind": "roster", "text": '{"part": 1, "of": 1, "members": [[7, "lobby"]]}'},
        {"kind": "roster", "text": '{"part": 1, "of": 1, "members": [["\\u001b", "lobby"]]}'},
        {"kind": "roster", "text": '{"part": 2, "of": 2, "members": [["eve", "lobby"]]}'},
        None,
    ],
    ids=str,
)
def test_rubbish_in_the_stream_is_skipped(two, stream, change):
    """Nothing of it is shown, and what comes behind it is."""
    a, b = two
    fields = {"node": "c:1", "count": "1", "kind": "said", "name": "eve", "room": "lobby", "text": "hi"}
    words = {"hello": "world"} if change is None else fields | change
    stream.add([word for pair in words.items() for word in pair])
    a.says("all is well"), a.append(), b.read()
    assert b.seen() == ["<watcher-a@a> all is well"]


def test_rubbish_is_logged_once(two, stream, caplog):
    """However much of it comes."""
    for _ in range(100):
        stream.add(["hello", "world"])
    two[0].read()
    assert caplog.text.count("is not understood") == 1


def test_text_from_elsewhere_drives_no_terminal(two, stream):
    """Whoever wrote it."""
    entry = {"node": "c:1", "count": 1, "kind": "said", "name": "eve", "room": "lobby", "text": "a\x1b[2J\nb\u202e"}
    stream.add([word for pair in entry.items() for word in pair])
    two[0].read()
    assert two[0].seen() == ["* also here: eve@c", "<eve@c> a[2Jb"]


# All of it at once

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 2)),
        st.tuples(st.just("move"), st.integers(0, 2)),
        st.tuples(st.just("enter"), st.integers(0, 2)),
        st.tuples(st.just("leave"), st.integers(0, 2)),
        st.tuples(st.just("append"), st.integers(0, 2), st.integers(1, 4), st.sampled_from(["yes", "lost", "late"])),
        st.tuples(st.just("late"), st.integers(0, 2)),
        st.tuples(st.just("read"), st.integers(0, 2), st.integers(1, 5)),
        st.tuples(st.just("time"), st.integers(1, 40_000)),
        st.tuples(st.just("beat"), st.integers(0, 2)),
        st.tuples(st.just("trim"), st.integers(1, 6)),
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_whatever_happens_each_line_is_shown_once_in_order_or_told_as_missed(steps):
    """Lost replies, late copies, slow readers, silence: exactly once, in order; only trimming loses, and that is told.

    In the end everybody agrees on who is where.
    """
    stream = Stream()
    machines = [Machine(stream, name) for name in "abc"]
    settle(*machines)
    said: list[list[str]] = [[], [], []]
    guests: list[list] = [[], [], []]
    late: list[list] = [[], [], []]
    trimmed = False
    for step, *what in steps:
        machine = machines[what[0]] if step not in ("time", "trim") else machines[0]
        match step:
            case "say":
                said[what[0]].append(f"line-{len(said[what[0]])}")
                machine.says(said[what[0]][-1])
            case "move":
                # The watchers stay: they are to see every line.
                for guest in guests[what[0]][:1]:
                    machine.lobby.hear(guest, f"/join room{len(stream.entries) % 3}")
            case "enter":
                guests[what[0]].append(machine.lobby.enter(lambda line: None))
            case "leave":
                if guests[what[0]]:
                    machine.lobby.leave(guests[what[0]].pop())
            case "append":
                if what[2] == "late":
                    late[what[0]] += machine.cluster.batch(what[1])
                else:
                    machine.append(what[1], acknowledged=what[2] == "yes")
            case "late":
                # One transaction of an old connection: a whole piece of the sequence, from where it was then.
                for fields in late[what[0]]:
                    stream.add(fields)
                late[what[0]].clear()
            case "read":
                machine.read(what[1])
            case "time":
                stream.milliseconds += what[0]
            case "beat":
                machine.cluster.beat()
            case "trim":
                unread = [len(stream.after(each.cluster.last)) for each in machines]
                trimmed = trimmed or what[0] < max(unread)
                del stream.entries[: -what[0]]
    for _ in range(3):  # a roster may be due that only a beat appends, and a node may find itself given up
        settle(*machines)
        for machine in machines:
            machine.cluster.beat()
    settle(*machines)
    for reader, machine in enumerate(machines):
        told = any("were missed" in line for line in machine.shown)
        assert trimmed or not told
        for writer, lines in enumerate(said):
            name = f"<watcher-{'abc'[writer]}{'' if writer == reader else '@' + 'abc'[writer]}> "
            shown = [line.removeprefix(name) for line in machine.shown if line.startswith(name)]
            numbers = [int(line.removeprefix("line-")) for line in shown]
            assert numbers == sorted(set(numbers))
            assert told or shown == lines
        here = {room: {m.name for m in machine.lobby.members(room)} for room in machine.lobby.rooms}
        for other, theirs in zip("abc", machines, strict=True):
            for room in set(here) | set(theirs.lobby.rooms):
                expected = {m.name for m in theirs.lobby.members(room) if not m.elsewhere}
                suffix = f"@{other}"
                if theirs is not machine:
                    assert {n.removesuffix(suffix) for n in here.get(room, ()) if n.endswith(suffix)} == expected
