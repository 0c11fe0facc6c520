"""Nodes and their connections against a Redis that misbehaves to order, on the simulated kernel: hours in milliseconds.

That the real one behaves as this one does is what test_redis_nodes.py is for.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from itertools import pairwise

import pytest

pytest.importorskip("hiredis", reason="hiredis is not installed (extra: redis)")

import hiredis

from reactor import Protocol, Reactor
from reactor.testing import Link, ShortReads, SimulatedSystem
from samples.chat import redis
from samples.chat.nodes import STREAM, Backoff, Node
from samples.chat.redis import Target
from samples.chat.rooms import Lobby

PASSWORD = "correct horse"
SAFE = "* safe with the other machines: {} of your lines"
CUT_OFF = "* not connected with the other machines; what is said here is kept for them"
BACK = "* connected with the other machines again"


# Targets


@pytest.mark.parametrize(
    ("url", "where", "introduction"),
    [
        ("redis://localhost", "localhost:6379", []),
        ("redis://10.0.0.1:7000/3", "10.0.0.1:7000", [("SELECT", "3")]),
        ("redis://[::1]:7000", "[::1]:7000", []),
        ("redis://:secret@localhost", "localhost:6379", [("AUTH", "secret")]),
        ("redis://ann:p%40ss%23@localhost/1", "localhost:6379", [("AUTH", "ann", "p@ss#"), ("SELECT", "1")]),
        ("rediss://ann:secret@example.org/", "example.org:6379", [("AUTH", "ann", "secret")]),
        ("unix:///run/redis.sock", "/run/redis.sock", []),
        ("unix://ann:secret@/run/a%20b.sock?db=2", "/run/a b.sock", [("AUTH", "ann", "secret"), ("SELECT", "2")]),
    ],
)
def test_a_url_tells_where_and_as_whom(url, where, introduction):
    """TCP, TLS and Unix sockets, a user, a password, a database; the password is in no text."""
    target = Target.parse(url)
    assert str(target) == where
    assert target.introduction() == introduction
    assert target.tls == url.startswith("rediss")
    assert "secret" not in repr(target)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis:///1",
        "redis://localhost:port",
        "redis://localhost:70000",
        "redis://localhost/one",
        "redis://localhost/-1",
        "redis://localhost/1/2",
        "redis://localhost?db=1",
        "redis://ann@localhost",
        "redis://ann:p#ss@localhost",
        "redis://[::1",
        "unix://",
        "unix:///",
        "unix:///run/redis.sock%00.old",
        "redis://localhost%00.evil",
        "unix://run/redis.sock",
        "unix:///run/redis.sock?database=1",
        "unix:///run/redis.sock?db=x",
        "unix:///" + "x" * 107,
    ],
)
def test_an_unusable_url_is_refused_in_words(url):
    """ValueError, with no password in it."""
    with pytest.raises(ValueError) as refused:
        Target.parse(url)
    assert str(refused.value)
    assert "p#ss" not in str(refused.value)


# Back-off


def test_the_wait_doubles_up_to_a_bound_with_half_of_it_by_chance():
    """The same seed gives the same delays; success begins anew."""
    backoff = Backoff(random.Random(1), first=0.1, longest=5.0)
    delays = [backoff.delay() for _ in range(12)]
    assert delays == [Backoff(random.Random(1), first=0.1, longest=5.0).delay(), *delays[1:]]
    for delay, full in zip(delays, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 5, 5, 5], strict=True):
        assert full / 2 <= delay <= full
    assert len(set(delays)) == 12
    backoff.reset()
    assert 0.05 <= backoff.delay() <= 0.1


# A Redis to order


class Redis:
    """The commands that a node uses, over one stream. `fault(connection, words)` may answer first."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.entries: list[tuple[str, tuple[bytes, ...]]] = []
        self.connections: list[RedisEnd] = []
        self.attempts: list[float] = []
        self.fault: Callable[[RedisEnd, list[bytes]], object] = lambda connection, words: None
        self.start()

    def start(self) -> None:
        self.listener = self.reactor.listen(lambda: RedisEnd(self), "127.0.0.1", 6379)

    def stop(self) -> None:
        """As if killed: what it has, it keeps."""
        self.listener.close()
        for end in list(self.connections):
            end.connection.abort()

    def add(self, fields: tuple[bytes, ...]) -> bytes:
        id = f"{round(self.reactor.time() * 1000) + 1}-{len(self.entries)}"
        self.entries.append((id, fields))
        for end in self.connections:
            end.look()
        return id.encode()

    def after(self, last: bytes) -> list[object]:
        places = {id: place for place, (id, _) in enumerate(self.entries)}
        found = self.entries[places.get(last.decode(), -1) + 1 :]
        return [[id.encode(), list(fields)] for id, fields in found[:50]]

    @property
    def kinds(self) -> list[bytes]:
        return [fields[5] for _, fields in self.entries]


class RedisEnd(Protocol):
    def __init__(self, served: Redis) -> None:
        self.served = served
        self.reader = hiredis.Reader()
        self.queued: list[tuple[bytes, ...]] | None = None
        self.spoiled = False
        self.waiting_after: bytes | None = None

    def connection_made(self, connection):
        super().connection_made(connection)
        self.served.connections.append(self)
        self.served.attempts.append(self.served.reactor.time())

    def connection_lost(self, exc):
        self.served.connections.remove(self)

    def draining(self):
        """Another process's business."""

    def data_received(self, data):
        self.reader.feed(data)
        while (words := self.reader.gets()) is not False and not self.connection.is_closing():
            answer = self.served.fault(self, words)
            if answer is None:
                answer = self.answer(*words)
            elif isinstance(answer, Exception) and self.queued is not None:
                self.spoiled = True
            if answer is not NOTHING and not self.connection.is_closing():
                self.connection.write(encoded(answer))

    def answer(self, command: bytes, *words: bytes) -> object:
        if command == b"XADD":
            assert self.queued is not None
            assert words[:4] == (STREAM.encode(), b"MAXLEN", b"~", b"50000")
            self.queued.append(words[5:])
            return "QUEUED"
        if command == b"MULTI":
            self.queued, self.spoiled = [], False
        if command == b"EXEC":
            queued, self.queued = self.queued, None
            if self.spoiled:
                return ValueError("EXECABORT Transaction discarded because of previous errors.")
            return [self.served.add(fields) for fields in queued]
        if command == b"XREVRANGE":
            return [[id.encode(), list(fields)] for id, fields in self.served.entries[-1:]]
        if command == b"XREAD":
            found = self.served.after(words[-1])
            if found or b"BLOCK" not in words:
                return [[STREAM.encode(), found]] if found else None
            self.waiting_after = words[-1]
            self.timer = self.served.reactor.call_later(int(words[3]) / 1000, self.come_back, None)
            return NOTHING
        return "PONG" if command == b"PING" else "OK"

    def look(self) -> None:
        if self.waiting_after is not None and (found := self.served.after(self.waiting_after)):
            self.come_back([[STREAM.encode(), found]])

    def come_back(self, found: object) -> None:
        self.waiting_after = None
        self.timer.cancel()
        if not self.connection.is_closing():
            self.connection.write(encoded(found))


NOTHING = object()


def encoded(value: object) -> bytes:
    match value:
        case None:
            return b"*-1\r\n"
        case str():
            return f"+{value}\r\n".encode()
        case Exception():
            return f"-{value}\r\n".encode()
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case list():
            return b"*%d\r\n%b" % (len(value), b"".join(map(encoded, value)))
    raise AssertionError(value)


class Machine:
    """A node, and a member of its lobby."""

    def __init__(self, world: World, name: str, url: str = "redis://127.0.0.1") -> None:
        self.world = world
        self.lobby = Lobby()
        self.node = Node(world.reactor, self.lobby, Target.parse(url), name, chance=random.Random(name))
        self.shown: list[str] = []
        self.member = self.lobby.enter(self.shown.append)

    def says(self, *lines: str) -> None:
        for line in lines:
            self.lobby.hear(self.member, line)

    def seen(self) -> list[str]:
        seen, self.shown[:] = list(self.shown), []
        return seen


class World:
    """Simulated time, one reactor, a Redis, and nodes."""

    def __init__(self, *faults) -> None:
        self.system = SimulatedSystem(seed=1, faults=faults)
        self.reactor = Reactor(system=self.system)
        self.redis = Redis(self.reactor)
        self.machines: list[Machine] = []

    def machine(self, name: str, **how) -> Machine:
        self.machines.append(Machine(self, name, **how))
        return self.machines[-1]

    def run(self, seconds: float = 60.0, until: Callable[[], object] | None = None) -> None:
        self.system.run(self.reactor, seconds, until)

    def settle(self) -> None:
        self.run(until=lambda: all(m.node.up and not m.node.cluster.waiting for m in self.machines))
        places = {id: place for place, (id, _) in enumerate(self.redis.entries)}
        self.run(
            until=lambda: all(places.get(m.node.cluster.last, len(places)) >= len(places) - 1 for m in self.machines)
        )

    def two(self) -> tuple[Machine, Machine]:
        a, b = self.machine("a"), self.machine("b")
        self.settle()
        self.run(1)
        self.settle()
        a.seen(), b.seen()
        return a, b


@pytest.fixture
def world():
    made = World()
    yield made
    for machine in made.machines:
        machine.node.close()
    made.reactor.close()


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_connect_has_as_long_as_a_look_up_may_take(world, caplog):
    """A name server that is dead costs five seconds or more, and no attempt."""
    world.system.link = Link(latency=14.0)
    world.machine("a")
    world.run(28.5)
    assert len(world.reactor.connections) == 1
    assert warnings(caplog) == []


def test_lines_go_from_node_to_node_in_order(world, caplog):
    """A thousand lines in one turn: each once, in order, and nothing to warn of."""
    a, b = world.two()
    a.says(*map(str, range(1000)), "/sync")
    world.run(until=lambda: SAFE.format(1000) in a.shown)
    world.settle()
    assert b.seen() == [f"<guest1@a> {number}" for number in range(1000)]
    assert warnings(caplog) == []


def test_an_idle_node_only_beats(world):
    """An hour of silence: a beat every ten seconds from each, and nobody is given up."""
    a, b = world.two()
    before = len(world.redis.entries)
    world.run(3600)
    assert set(world.redis.kinds[before:]) == {b"beat"}
    assert 700 <= len(world.redis.entries) - before <= 722
    assert a.seen() == b.seen() == []


def test_the_lines_of_a_lost_reply_are_shown_once(world, caplog):
    """EXEC was done, and its answer never came: they are appended again, and the copies dropped."""
    a, b = world.two()

    def done_and_gone(end: RedisEnd, words: list[bytes]) -> object:
        if words[0] != b"EXEC":
            return None
        world.redis.fault = lambda end, words: None
        end.answer(*words)
        end.connection.abort()
        return NOTHING

    world.redis.fault = done_and_gone
    before = len(world.redis.entries)
    a.says("one", "two", "/sync")
    world.run(until=lambda: SAFE.format(2) in a.shown)
    world.settle()
    assert world.redis.kinds[before:].count(b"said") == 4
    assert b.seen() == ["<guest1@a> one", "<guest1@a> two"]
    assert a.seen() == ["<guest1> one", "<guest1> two", CUT_OFF, BACK, SAFE.format(2)]
    assert warnings(caplog) == [
        "Redis at 127.0.0.1:6379: Connection reset by peer; trying again until it works",
        "Redis at 127.0.0.1:6379: it works",
    ]


ERRORS = {
    "LOADING Redis is loading the dataset in memory": b"PING",
    "READONLY You can't write against a read only replica.": b"XADD",
    "OOM command not allowed when used memory > 'maxmemory'.": b"XADD",
    "MISCONF Errors writing to the AOF file: No space left on device": b"XADD",
    "NOAUTH Authentication required.": b"XREVRANGE",
    "BUSY Redis is busy running a script.": b"XREAD",
    "WRONGTYPE Operation against a key holding the wrong kind of value": b"EXEC",
}


@pytest.mark.parametrize(("error", "command"), ERRORS.items())
def test_an_error_reply_is_waited_out(world, caplog, error, command):
    """Logged once and told once, tried again with back-off; then every line comes, once, in order."""
    a, b = world.two()

    def refuse(end: RedisEnd, words: list[bytes]) -> object:
        return ValueError(error) if words[0] == command else None

    world.redis.fault = refuse
    for end in list(world.redis.connections):
        end.connection.abort()
    for number in range(10):
        a.says(str(number))
        world.run(30)
    world.redis.fault = lambda end, words: None
    world.settle()
    world.run(30)
    said = [f"<guest1@a> {number}" for number in range(10)]
    assert [line for line in b.seen() if line[0] == "<"] == said
    assert [line for line in a.seen() if line in (CUT_OFF, BACK)] == [CUT_OFF, BACK]
    assert [line for line in warnings(caplog) if error in line] == [
        f"Redis at 127.0.0.1:6379: {error}; trying again until it works"
    ] * 2  # one of each node
    assert len(caplog.records) <= 6


def test_a_transaction_of_which_one_line_is_refused_is_not_appended_at_all(world):
    """Otherwise a later line would come before an earlier one, and that would be taken for a repetition."""
    a, b = world.two()
    refused = []

    def refuse(end: RedisEnd, words: list[bytes]) -> object:
        if words[0] == b"XADD" and words[-1] == b"two" and not refused:
            refused.append(words)
            return ValueError("OOM command not allowed when used memory > 'maxmemory'.")
        return None

    world.redis.fault = refuse
    a.says("one", "two", "three")
    world.run(until=lambda: refused)
    world.settle()
    assert [line for line in b.seen() if line[0] == "<"] == ["<guest1@a> one", "<guest1@a> two", "<guest1@a> three"]


def test_a_wrong_password_is_told_once_and_tried_again_with_back_off(world, caplog):
    """Ten minutes; then somebody corrects it on the other side, and what was said is passed on."""
    letting_in = False

    def guard(end: RedisEnd, words: list[bytes]) -> object:
        if words[0] == b"AUTH" and not letting_in:
            return ValueError("WRONGPASS invalid username-password pair or user is disabled.")
        return None

    world.redis.fault = guard
    a = world.machine("a", url="redis://ann:secret@127.0.0.1")
    a.says("hello?")
    world.run(600)
    assert a.shown[-2:] == [CUT_OFF, "<guest1> hello?"]
    assert len(warnings(caplog)) == 1
    assert "WRONGPASS" in caplog.text
    assert "secret" not in caplog.text
    gaps = [later - earlier for earlier, later in pairwise(world.redis.attempts)]
    assert all(full / 2 <= gap <= full + 0.1 for gap, full in zip(gaps, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2], strict=False))
    assert all(2.5 <= gap <= 5.1 for gap in gaps[6:])
    letting_in = True
    b = world.machine("b")
    world.settle()
    assert b.node.up
    assert b"hello?" in [fields[-1] for _, fields in world.redis.entries]
    assert a.shown[-2:] == [BACK, "* also here: guest1@b"]


def test_redis_is_away_for_an_hour(world, caplog):
    """Nobody is given up, no line is lost, all is told once."""
    a, b = world.two()
    world.redis.stop()
    world.run(1)
    for number in range(30):
        a.says(f"a{number}"), b.says(f"b{number}")
        world.run(120)
    assert a.seen() == [CUT_OFF, *(f"<guest1> a{number}" for number in range(30))]
    world.redis.start()
    world.run(60)
    world.settle()
    shown = a.seen()
    assert shown.count(BACK) == 1
    assert [line for line in shown if line != BACK] == [f"<guest1@b> b{number}" for number in range(30)]
    assert [line for line in b.seen() if "@" in line] == [f"<guest1@a> a{number}" for number in range(30)]
    assert sum("Connection refused" in line for line in warnings(caplog)) == 2


@pytest.mark.parametrize(
    ("silent", "within"), [(b"PING", 11), (b"EXEC", 11), (b"XREAD", 16)], ids=["at once", "appending", "reading"]
)
def test_a_redis_that_answers_no_more_is_noticed(world, caplog, silent, within):
    """However it fell silent; everything comes when it answers again."""
    a, b = world.two()
    world.redis.fault = lambda end, words: NOTHING if words[0] == silent else None
    if silent == b"PING":
        for end in list(world.redis.connections):
            end.connection.abort()
    world.run(5)  # so that the XREAD under way has come back
    a.says("anybody there?")
    world.run(within, until=lambda: "no reply within" in caplog.text)
    world.redis.fault = lambda end, words: None
    world.settle()
    world.run(20)
    world.settle()
    assert "<guest1@a> anybody there?" in b.seen()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not Redis's protocol"),
        (b"+PONG\r\n+MORE\r\n", "nobody asked for"),
        (b":1\r\n", "nobody asked for"),
        (b"$100000\r\n" + b"x" * 60_000, "more than 50000 bytes"),
        (None, "it closed the connection"),
    ],
)
def test_what_is_no_redis_is_left_alone(world, caplog, monkeypatch, data, reason):
    """Rubbish, replies without a question, endless ones, an end: said once, tried again."""
    monkeypatch.setattr(redis, "_REPLY_BYTES", 50_000)

    def talk(end: RedisEnd, words: list[bytes]) -> object:
        if data is None:
            end.connection.close()
        else:
            end.connection.write(data)
        return NOTHING

    world.redis.fault = talk
    a = world.machine("a")
    world.run(60)
    assert reason in caplog.text
    assert len(warnings(caplog)) == 1
    assert len(world.redis.attempts) > 10
    world.redis.fault = lambda end, words: None
    world.settle()
    assert a.node.up


@pytest.mark.parametrize("cut", ["a's writer", "b's reader", "everything"])
def test_resets_in_a_flood_lose_and_double_nothing(world, cut):
    """Twenty resets at whatever moment, while both talk."""
    a, b = world.two()
    chance = random.Random(cut)
    for number in range(200):
        a.says(f"a{number}"), b.says(f"b{number}")
        world.run(chance.random() / 100)
        if number % 10 == 0:
            ends = list(world.redis.connections)
            for end in ends if cut == "everything" else ends[-1:] if cut == "a's writer" else ends[:1]:
                end.connection.abort()
            world.run(chance.random())
    world.settle()
    assert [line for line in b.seen() if "@" in line] == [f"<guest1@a> a{number}" for number in range(200)]
    assert [line for line in a.seen() if "@" in line] == [f"<guest1@b> b{number}" for number in range(200)]


def test_replies_in_pieces_are_understood():
    """A few bytes at a time."""
    world = World(ShortReads(0.9))
    try:
        a, b = world.two()
        a.says("grüße", "/sync")
        world.run(until=lambda: SAFE.format(1) in a.shown)
        world.settle()
        assert b.seen() == ["<guest1@a> grüße"]
    finally:
        for machine in world.machines:
            machine.node.close()
        world.reactor.close()


def test_a_drained_node_says_goodbye_and_ends_in_order(world):
    """After the last line of the last member; the connections to Redis end as in order as any."""
    a, b = world.two()
    a.says("last words")
    a.node.drain()
    world.run(5)
    assert b.seen() == ["<guest1@a> last words"]  # while somebody is here, it goes on
    a.lobby.leave(a.member, "")
    world.run(5)
    assert b.seen() == ["* the machine a was shut down; gone with it: guest1@a"]
    assert len(world.redis.connections) == 2
    assert a.node.unsaid == 0


def test_what_could_not_be_passed_on_is_counted(world):
    """A node that ends without Redis knows how many lines nobody else will see."""
    a, _ = world.two()
    world.redis.stop()
    a.says("one", "two", "/nick ann", "three")
    world.run(5)
    assert a.node.unsaid == 3
    a.node.close()
    world.machines.remove(a)


def test_a_gap_is_told(world):
    """Entries that were trimmed while a node was away: the rooms are told, and it goes on."""
    a, b = world.machine("a"), world.machine("b", url="redis://:b@127.0.0.1")
    world.settle()
    world.redis.fault = lambda end, words: ValueError("WRONGPASS") if words == [b"AUTH", b"b"] else None
    for end in list(world.redis.connections):
        end.connection.abort()
    b.seen()
    a.says(*map(str, range(50)))
    world.run(20)
    del world.redis.entries[:-10]
    world.redis.fault = lambda end, words: None
    world.settle()
    world.run(10)
    shown = [line for line in b.seen() if line not in (CUT_OFF, BACK)]
    assert shown[0] == "* some lines from the machine a were missed"
    assert "<guest1@a> 49" in shown
    assert "<guest1@a> 0" not in shown
    assert sorted(member.name for member in b.lobby.members("lobby")) == ["guest1", "guest1@a"]


@pytest.mark.parametrize("seconds", [0, 0.05, 10])
def test_a_reactor_that_closes_takes_its_node_with_it(seconds):
    """Before it is connected, while it is, and in the middle of talk: nothing raises, nothing comes back."""
    world = World()
    a = world.machine("a")
    world.run(seconds)
    if seconds == 10:
        a.says("hello")
    world.reactor.close()
    a.says("anybody?")
    a.lobby.leave(a.member)
    assert a.node.unsaid == 1 + (seconds == 10)


def test_a_drain_waits_for_the_last_line_and_no_longer():
    """What was said before SIGTERM is appended; Redis's connections end in order, within the drain."""
    world = World()
    a, _ = world.machine("a"), world.machine("b")
    world.settle()
    said = len(world.redis.entries)
    world.reactor.call_soon(a.says, "last words")
    world.reactor.call_soon(world.reactor.drain, 30)
    for machine in world.machines:
        world.reactor.call_soon(machine.lobby.leave, machine.member, "")
    world.run(until=lambda: world.reactor.drained is not None and world.reactor.drained.finished)
    assert world.redis.kinds[said:].count(b"said") == 1
    assert world.redis.kinds[said:].count(b"bye") == 2
    assert world.reactor.drained.clean
    assert world.reactor.drained.seconds < 3
    world.reactor.close()
