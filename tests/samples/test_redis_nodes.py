"""Chat nodes on a real Redis: in this process over TCP, Unix sockets and TLS; and as processes, through crashes."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

hiredis = pytest.importorskip("hiredis", reason="hiredis is not installed (extra: redis)")

from reactor import Reactor  # noqa: E402
from samples.chat.nodes import STREAM, Node  # noqa: E402
from samples.chat.redis import Target  # noqa: E402
from samples.chat.rooms import Lobby  # noqa: E402
from tests.helpers import turn_until  # noqa: E402
from tests.samples.processes import PATIENCE, read_to_end, wait_for  # noqa: E402

SAFE = "* safe with the other machines: {} of your lines"
CUT_OFF = "* not connected with the other machines; what is said here is kept for them"
BACK = "* connected with the other machines again"


def program() -> str:
    """The machine's redis-server; skips without one."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("there is no redis-server on this machine")
    return found


class RedisServer:
    """A redis-server of our own, in a directory of its own. It can be killed and started again with what it has."""

    def __init__(self, directory: Path, *options: str, port: int = 0) -> None:
        self.directory = directory
        self.path = directory / "redis.sock"
        self.url = f"unix://{self.path}"
        self._command = [
            *(program(), "--port", str(port), "--unixsocket", str(self.path), "--dir", str(directory), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "always", *options),
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_for(self.began, "redis-server did not begin")

    def began(self) -> bool:
        if self.process.poll() is not None:
            said = (self.directory / "log").read_text()
            if "tls-port" in said:
                pytest.skip("this redis-server was built without TLS")
            pytest.fail(f"redis-server ended: {said}")
        try:
            return self.command("PING") is not None
        except OSError:
            return False

    def command(self, *words: str) -> object:
        """A command of the test's own; its reply."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(self.path))
            sock.sendall(hiredis.pack_command(words))
            reader = hiredis.Reader()
            while (reply := reader.gets()) is False:
                reader.feed(sock.recv(65536) or b"-ERR closed\r\n")
            return reply

    def entries(self) -> list[dict[bytes, bytes]]:
        """The whole stream."""
        return [dict(zip(f[::2], f[1::2], strict=True)) for _, f in self.command("XRANGE", STREAM, "-", "+")]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start_redis(tmp_path) -> Iterator:
    started: list[RedisServer] = []

    def start(*options: str, **how) -> RedisServer:
        directory = tmp_path / f"redis{len(started)}"
        directory.mkdir()
        started.append(RedisServer(directory, *options, **how))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def redis(start_redis) -> RedisServer:
    return start_redis()


class Machine:
    """A node of its own in this process, and a member of its lobby."""

    def __init__(self, reactor: Reactor, url: str, name: str, **how) -> None:
        self.reactor = reactor
        self.lobby = Lobby()
        self.node = Node(reactor, self.lobby, Target.parse(url), name, chance=random.Random(name), **how)
        self.shown: list[str] = []
        self.member = self.lobby.enter(self.shown.append)

    def says(self, *lines: str) -> None:
        for line in lines:
            self.lobby.hear(self.member, line)

    def sees(self, line: str) -> None:
        turn_until(self.reactor, lambda: line in self.shown)

    def lines(self) -> list[str]:
        return [line for line in self.shown if line.startswith("<")]


@pytest.fixture
def one_reactor() -> Iterator[Reactor]:
    with Reactor() as made:
        yield made


@pytest.fixture
def join(one_reactor) -> Iterator:
    machines: list[Machine] = []

    def join(url: str, name: str, **how) -> Machine:
        machines.append(Machine(one_reactor, url, name, **how))
        turn_until(one_reactor, lambda: machines[-1].node.up)
        return machines[-1]

    yield join
    for machine in machines:
        machine.node.close()


def talk(a: Machine, b: Machine) -> None:
    """Each hears the other, and each is told that all is safe."""
    a.says("grüße", "/sync")
    b.says("\u20ac\u20ac", "/sync")
    b.sees(f"<{a.member.name}@a> grüße")
    a.sees(f"<{b.member.name}@b> \u20ac\u20ac")
    a.sees(SAFE.format(1)), b.sees(SAFE.format(1))


# No faster than the members read


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_lines_of_another_machine_wait_while_somebody_here_reads_slowly(redis, join, one_reactor, interrupted):
    """All but a burst wait, also through a new connection to Redis; then each is shown once, in order."""
    a, b = join(redis.url, "a"), join(redis.url, "b")
    talk(a, b)
    lines = [f"line {number} {'.' * 80}" for number in range(1000)]
    b.member.full = True
    a.says(*lines, "/sync")
    a.sees(SAFE.format(1 + len(lines)))
    turn_until(one_reactor, lambda: b.lobby.is_waited_for("lobby"))
    if interrupted:
        redis.command("CLIENT", "KILL", "TYPE", "normal")
        turn_until(one_reactor, lambda: not b.node.up)
        turn_until(one_reactor, lambda: b.lobby.is_waited_for("lobby"))
    for _ in range(10):
        one_reactor.run_once(0.01)
    assert len(b.lines()) < 100
    b.member.full = False
    b.lobby.eased("lobby")
    b.sees(f"<{a.member.name}@a> {lines[-1]}")
    assert [line.partition("> ")[2] for line in b.lines() if "@a>" in line] == ["grüße", *lines]


# Ways to Redis


def test_over_a_unix_socket(redis, join):
    """And with a database of one's own, nobody in another is heard."""
    a, b = join(redis.url, "a"), join(redis.url, "b")
    talk(a, b)
    other = join(redis.url + "?db=3", "c")
    other.says("anybody?", "/sync")
    other.sees(SAFE.format(1))
    assert not any("@" in line for line in other.shown)


def test_over_tcp_with_a_user_and_a_password(start_redis, join):
    """AUTH by user, and by the default user's password alone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start_redis("--requirepass", "s3cret/@", "--user", "ann", "on", ">p:w", "~*", "+@all", port=port)
    talk(join(f"redis://:s3cret%2F%40@127.0.0.1:{port}", "a"), join(f"redis://ann:p%3Aw@localhost:{port}/0", "b"))


def test_over_tls(start_redis, join, one_reactor, tmp_path, caplog):
    """The certificate is checked: with the right authority it works, with another it is refused, in a line."""
    authority, other = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("localhost")
    chain, key, ca = (str(tmp_path / name) for name in ("chain.pem", "key.pem", "ca.pem"))
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tls = ("--tls-port", str(port), "--tls-cert-file", chain, "--tls-key-file", key, "--tls-ca-cert-file", ca)
    start_redis(*tls, "--tls-auth-clients", "no")
    context = ssl.create_default_context(cafile=ca)
    url = f"rediss://localhost:{port}"
    talk(join(url, "a", context=context), join(url, "b", context=context))
    wrong = ssl.create_default_context()
    other.configure_trust(wrong)
    doubter = Machine(one_reactor, url, "c", context=wrong)
    turn_until(one_reactor, lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text)
    assert not doubter.node.up
    doubter.node.close()


# What a real Redis says


def test_a_wrong_password_is_told_once_and_tried_again(start_redis, one_reactor, caplog):
    """Until it is right."""
    redis = start_redis()
    redis.command("CONFIG", "SET", "requirepass", "right")
    a = Machine(one_reactor, f"unix://:wrong@{redis.path}", "a")
    a.says("hello?")
    turn_until(one_reactor, lambda: "WRONGPASS" in caplog.text)
    deadline = time.monotonic() + 0.2
    turn_until(one_reactor, lambda: time.monotonic() > deadline)
    assert caplog.text.count("WRONGPASS") == 1
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(redis.path))
        sock.sendall(hiredis.pack_command(("AUTH", "right")))
        sock.sendall(hiredis.pack_command(("CONFIG", "SET", "requirepass", "wrong")))
        assert sock.recv(100).startswith(b"+OK")
        a.sees(BACK)
    a.node.close()


@pytest.mark.parametrize(
    ("breaking", "mending", "error"),
    [
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"], "OOM"),
        (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"], "READONLY"),
        (["SET", STREAM, "not a stream"], ["DEL", STREAM], "WRONGTYPE"),
    ],
)
def test_what_redis_refuses_is_kept_and_passed_on_later(redis, join, caplog, breaking, mending, error):
    """Its own errors, as it says them: told once, and in the end every line is there, once, in order."""
    a, b = join(redis.url, "a"), join(redis.url, "b")
    talk(a, b)
    if error == "WRONGTYPE":
        redis.command("DEL", STREAM)
    redis.command(*breaking)
    a.says(*map(str, range(300)))
    turn_until(a.reactor, lambda: error in caplog.text and CUT_OFF in a.shown)
    assert f"<{a.member.name}@a> 0" not in b.shown
    redis.command(*mending)
    a.says("afterwards", "/sync")
    b.sees(f"<{a.member.name}@a> afterwards")
    assert b.lines()[-301:] == [f"<{a.member.name}@a> {line}" for line in [*range(300), "afterwards"]]
    assert caplog.text.count(error) <= 2


# Going and coming


def test_a_gap_beyond_the_streams_length_is_told(redis, join, one_reactor):
    """A node that could not read while more came than the stream keeps."""
    a, b = join(redis.url, "a", stream_length=100), join(redis.url, "b", stream_length=100)
    talk(a, b)
    reading = b.node._reading.connection.connection
    reading.pause_reading()
    a.says(*map(str, range(2000)), "/sync")
    a.sees(SAFE.format(2001))
    reading.resume_reading()
    b.sees(f"<{a.member.name}@a> 1999")
    assert "* some lines from the machine a were missed" in b.shown
    numbers = [int(line.split()[1]) for line in b.lines()[2:]]
    assert numbers == sorted(set(numbers))
    assert len(redis.entries()) < 400


def test_a_dead_node_is_given_up_after_the_expiry(redis, join):
    """Its members vanish, with a line; and no node that lives is given up meanwhile."""
    a, b, c = (join(redis.url, name, expiry=0.3) for name in "abc")
    talk(a, b)
    a.node.close()
    b.sees(f"* the machine a is silent; gone with it: {a.member.name}@a")
    assert [member.name for member in b.lobby.members("lobby")] == [b.member.name, f"{c.member.name}@c"]
    assert not any("silent" in line and "machine a" not in line for line in b.shown + c.shown)


# As people run it


class Talker:
    """A user of a node that runs in another process, who writes and reads in the test's own time."""

    def __init__(self, port: int, name: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.name = name
        self.data = b""
        self.says(f"/nick {name}")
        self.read_until(f"is now {name}\n")

    def says(self, *lines: str) -> None:
        self.sock.sendall("".join(f"{line}\n" for line in lines).encode())

    def read_until(self, text: str, times: int = 1) -> None:
        while self.data.count(text.encode()) < times:
            data = self.sock.recv(1 << 16)
            assert data, f"{self.name}: EOF before {text!r}, after {self.data[-300:]!r}"
            self.data += data

    def read_what_is_there(self) -> None:
        self.sock.setblocking(False)
        try:
            while data := self.sock.recv(1 << 16):
                self.data += data
        except BlockingIOError:
            pass
        finally:
            self.sock.settimeout(PATIENCE)

    @property
    def lines(self) -> list[str]:
        return self.data.decode().split("\n")

    def leave(self) -> None:
        """In order: what the node still says is read."""
        self.sock.shutdown(socket.SHUT_WR)
        self.data += read_to_end(self.sock)
        self.sock.close()

    def numbers_of(self, speaker: str) -> list[int]:
        """The numbers that somebody elsewhere said, as they were shown here."""
        start = f"<{speaker}> "
        return [int(line.removeprefix(start)) for line in self.lines if line.startswith(start)]


@pytest.fixture
def talkers() -> Iterator:
    with ExitStack() as stack:

        def enter(port: int, *names: str) -> list[Talker]:
            made = []
            for name in names:
                made.append(Talker(port, name))
                stack.callback(made[-1].sock.close)
            return made

        yield enter


def start_node(run, redis: RedisServer, name: str, *more: str):
    limit = ("--queue-limit", str(16 << 20))  # nobody is to be dropped because the test reads late
    return run("chat", "--port", "0", "--redis", redis.url, "--node", name, *limit, *more)


def connect_nodes(*users: Talker) -> None:
    """Returns when each node knows the other's members."""
    for user in users:
        user.says("/sync")
        user.read_until(SAFE.format(0))
    for user in users:
        others = [f"{other.name}@" for other in users if other is not user]

        def knows(user: Talker = user, others: list[str] = others) -> bool:
            seen = user.data.count(b"* in lobby: ")
            user.says("/list")
            user.read_until("* in lobby: ", seen + 1)
            user.read_what_is_there()
            return all(other in user.data.decode() for other in others)

        wait_for(knows, f"{user.name} did not hear of {others}")


def test_two_nodes_talk_and_end_in_order(run, redis, talkers):
    """--redis joins them; SIGTERM says goodbye to the other node, and both end with 0 and an empty stderr."""
    (redis.directory / "url").write_text(f"{redis.url}\n")
    a = run("chat", "--port", "0", "--redis", f"@{redis.directory}/url", "--node", "a")
    b = start_node(run, redis, "b")
    (ann,), (ben,) = talkers(a.port(), "ann"), talkers(b.port(), "ben")
    connect_nodes(ann, ben)
    ann.says("hello over there")
    ben.read_until("<ann@a> hello over there\n")
    ben.says("/join tea")
    ann.read_until("* ben@b went to tea\n")
    ben.says("/join lobby")
    ann.read_until("* ben@b joined lobby\n")
    ann.says("last words")
    ann.read_until("<ann> last words\n")
    a.process.terminate()
    assert read_to_end(ann.sock).endswith(b"* the server is shutting down\n")
    ann.sock.close()
    assert a.ended() == 0
    ben.read_until("<ann@a> last words\n* the machine a was shut down; gone with it: ann@a\n")
    ben.leave()
    assert b.stop() == 0
    assert a.errors == b.errors == ""
    assert [entry[b"kind"] for entry in redis.entries()][-1] == b"bye"


def test_lines_that_did_not_get_out_are_told_at_the_end(run, redis, talkers):
    """A node that ends while Redis is away says how many, with status 1."""
    a = start_node(run, redis, "a")
    (ann,) = talkers(a.port(), "ann")
    connect_nodes(ann)
    redis.kill()
    ann.read_until(CUT_OFF)
    ann.says("one", "two")
    ann.read_until("<ann> two\n")
    ann.leave()
    assert a.stop() == 1
    assert a.errors.splitlines()[-1] == "python -m samples.chat: lines that did not reach the other machines: 2"


def test_without_a_redis_it_starts_and_says_so(run, tmp_path, talkers):
    """The chat is there for those on this machine; who comes is told; stderr has one line."""
    a = run("chat", "--port", "0", "--redis", f"unix://{tmp_path}/none.sock")
    (ann,) = talkers(a.port(), "ann")
    ann.says("hello")
    ann.read_until("<ann> hello\n")
    assert CUT_OFF in ann.lines
    ann.leave()
    wait_for(lambda: a.errors, "nothing was logged")
    assert a.stop() == 1
    log, end = a.errors.splitlines()
    assert "No such file or directory" in log
    assert end.endswith("did not reach the other machines: 1")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--redis", "http://localhost"],
        ["--redis", "@/nonexistent"],
        ["--redis", "@" + __file__],
        ["--redis", "@" + sys.executable],
        ["--redis", "redis://localhost", "--redis-ca", "/nonexistent"],
        ["--redis", "rediss://localhost", "--redis-ca", "/nonexistent"],
        ["--redis", "rediss://localhost", "--redis-ca", __file__],
        ["--redis", "redis://localhost", "--node", "a b"],
        ["--redis", "redis://localhost", "--node-expiry", "0.1"],
        ["--redis", "redis://localhost", "--line-limit", "1000000"],
        ["--redis", "redis://localhost", "--connect", "127.0.0.1:1"],
        ["--node", "a"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_used_is_refused_in_one_line(capsys, arguments):
    """Exit status 2, one line on stderr."""
    from samples import chat

    with pytest.raises(SystemExit) as leaving:
        chat.main(arguments)
    assert leaving.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("python -m samples.chat: ")
    assert printed.count("\n") == 1
    assert "Errno" not in printed


def test_without_redis_no_redis_client_is_needed():
    """The default is one machine: hiredis is not imported; and --redis without it is refused in a line."""
    script = "import sys; sys.modules['hiredis'] = None; from samples.chat import main; sys.exit(main(sys.argv[1:]))"

    def run_it(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, *arguments]
        root = Path(__file__).parent.parent.parent
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=PATIENCE)

    assert run_it("--help").returncode == 0
    refused = run_it("--redis", "redis://localhost")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "hiredis" in refused.stderr


# The storm


def test_redis_killed_mid_flood_loses_doubles_and_swaps_nothing(run, redis, talkers):
    """Two nodes with 20 users each, Redis killed and started again while all talk.

    A line is acknowledged when its speaker's /sync is answered: EXEC has replied, and Redis has it on disk. Every such
    line, and here that is every line, is on the other node exactly once, in its speaker's order.
    """
    flood(run, redis, talkers, users=20, rounds=15, kills=1)


@pytest.mark.slow
def test_redis_killed_five_times_in_a_longer_flood(run, redis, talkers):
    """The same, again and again."""
    flood(run, redis, talkers, users=20, rounds=60, kills=5)


def flood(run, redis: RedisServer, talkers, users: int, rounds: int, kills: int) -> None:
    a, b = start_node(run, redis, "a"), start_node(run, redis, "b")
    here = talkers(a.port(), *(f"a{number}" for number in range(users)))
    there = talkers(b.port(), *(f"b{number}" for number in range(users)))
    connect_nodes(here[0], there[0])
    for number in range(rounds):
        deadly = number % (rounds // kills) == rounds // kills // 2
        if deadly and number // (rounds // kills) % 2 == 0:
            # This one takes the lines and does nothing with them. The others are killed in the middle of something.
            redis.process.send_signal(signal.SIGSTOP)
        for talker in here + there:
            talker.says(*(str(line) for line in range(number * 4, number * 4 + 4)))
        if deadly:
            here[0].read_until(f"<a0> {number * 4 + 3}\n")
            redis.kill()
        elif redis.process.returncode is not None:
            here[0].read_until(CUT_OFF)
            redis.start()
        for talker in here + there:
            talker.read_what_is_there()
    for talker in here + there:
        talker.says("/sync")
    for talker in here + there:
        talker.read_until(SAFE.format(rounds * 4))
    last = rounds * 4 - 1
    for talker, others, node in ((here[0], there, "b"), (there[0], here, "a")):
        for other in others:
            talker.read_until(f"<{other.name}@{node}> {last}\n")
            assert talker.numbers_of(f"{other.name}@{node}") == list(range(rounds * 4))
        assert CUT_OFF in talker.lines
        assert not any("missed" in line or "silent" in line or "dropped" in line for line in talker.lines)
    for talker in here + there:
        talker.leave()
    for node in (a, b):
        assert node.stop() == 0, node.errors
        assert "it works" in node.errors


@pytest.mark.slow
def test_what_was_acknowledged_survives_its_node(run, redis, talkers):
    """A node killed while Redis has its last lines and has not answered: what was acknowledged is on the other node.

    So may be what was under way; nothing is there twice, and the other node gives the dead one up and says so.
    """
    a, b = (start_node(run, redis, name, "--node-expiry", "1") for name in "ab")
    here, (watcher,) = talkers(a.port(), *(f"a{number}" for number in range(5))), talkers(b.port(), "watcher")
    connect_nodes(here[0], watcher)
    for talker in here:
        talker.says(*map(str, range(50)), "/sync")
    for talker in here:
        talker.read_until(SAFE.format(50))
    redis.process.send_signal(signal.SIGSTOP)
    for talker in here:
        talker.says(*map(str, range(50, 100)), "/sync")
    for talker in here:
        talker.read_until(f"<{talker.name}> 99\n")
    a.kill()
    redis.process.send_signal(signal.SIGCONT)
    watcher.read_until("* the machine a is silent; gone with it: ")
    if not watcher.data.endswith(b"\n"):
        watcher.read_until("\n", watcher.data.count(b"\n") + 1)
    # In the order in which this node heard of them.
    gone = next(line for line in watcher.lines if "is silent" in line).partition("gone with it: ")[2]
    assert sorted(gone.split(", ")) == ["a0@a", "a1@a", "a2@a", "a3@a", "a4@a"]
    for talker in here:
        assert SAFE.format(100) not in talker.lines
        shown = watcher.numbers_of(f"{talker.name}@a")
        assert len(shown) >= 50
        assert shown == list(range(len(shown)))
    watcher.leave()
    assert b.stop() == 0
