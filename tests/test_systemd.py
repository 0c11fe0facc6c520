"""Being a service: sockets that were passed, readiness, the watchdog; and the units in the docs are what they say."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
from collections import deque
from pathlib import Path

import pytest

from reactor import Reactor
from reactor.system import System
from tests.helpers import PATIENCE, turn_until
from tests.samples.processes import ROOT, Sample, read_to_end

HOW_TO = ROOT / "docs" / "how-to" / "systemd.md"
linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets and credentials are Linux's")


class Manager:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address}
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address.startswith("@") else address)
        if hasattr(socket, "SO_PASSCRED"):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.sock.settimeout(PATIENCE)

    def told(self) -> str:
        """The next notice; waits for it."""
        return self.sock.recv(4096).decode()

    def told_by(self) -> tuple[str, int]:
        """The same with the process that it came from."""
        data, more, _, _ = self.sock.recvmsg(4096, socket.CMSG_SPACE(12))
        ((_, _, credentials),) = more
        return data.decode(), struct.unpack("3i", credentials)[0]

    def pending(self) -> list[str]:
        """What was told and not yet taken."""
        notices = []
        self.sock.setblocking(False)
        try:
            while True:
                notices.append(self.sock.recv(4096).decode())
        except BlockingIOError:
            self.sock.settimeout(PATIENCE)
            return notices


@pytest.fixture
def manager(request, tmp_path, monkeypatch):
    """A service manager that this process has, and its children. At a path, unless a test asks for `abstract`."""
    abstract = getattr(request, "param", "path") == "abstract"
    address = f"@reactor-notify-{os.getpid()}" if abstract else str(tmp_path / "notify")
    made = Manager(address)
    with made.sock:
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield made


# Notices


@linux
@pytest.mark.parametrize("manager", ["abstract"], indirect=True)
def test_an_abstract_name_is_an_address_too(manager):
    """@name is Linux's abstract name, as in the rest of systemd."""
    with Reactor() as reactor:
        assert reactor.notify("READY=1") is True
        assert manager.told() == "READY=1"


def test_a_notice_arrives_as_it_was_given(manager):
    """One datagram, one assignment in a line."""
    with Reactor() as reactor:
        assert reactor.notify("READY=1", "STATUS=serving with ü") is True
        assert manager.told() == "READY=1\nSTATUS=serving with ü"


def test_nobody_to_notify_is_no_error(monkeypatch):
    """Without NOTIFY_SOCKET, or with an empty one, it says False."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with Reactor() as reactor:
        assert reactor.notify("READY=1") is False
        monkeypatch.setenv("NOTIFY_SOCKET", "")
        assert reactor.notify("READY=1") is False


@pytest.mark.parametrize("wrong", ["READY", "STATUS=two\nlines", ""])
def test_what_is_no_assignment_is_refused(manager, wrong):
    """ValueError with the text; nothing was sent."""
    with Reactor() as reactor, pytest.raises(ValueError, match="a notice is NAME=VALUE in one line"):
        reactor.notify("READY=1", wrong)
    assert manager.pending() == []


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("/nonexistent/notify", "No such file or directory"),
        ("vsock:2:1", "neither a path nor an abstract @name"),
        ("/" + "x" * 200, "too long"),
    ],
)
def test_a_manager_that_cannot_be_reached_is_named(monkeypatch, address, why):
    """OSError with the socket and the reason."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with Reactor() as reactor, pytest.raises(OSError, match=f"cannot notify NOTIFY_SOCKET={address}: .*{why}"):
        reactor.notify("READY=1")


def fill(manager) -> None:
    """Until its queue takes no more: without patience that is told at once."""
    notices = iter(lambda: manager.notify("STATUS=more"), "never")
    with pytest.raises(BlockingIOError, match="cannot notify"):
        deque(notices, maxlen=0)


@linux
def test_a_manager_that_takes_nothing_holds_nobody_up(manager, caplog):
    """Its queue is full: a drain goes on at once, with a warning."""
    with Reactor() as reactor:
        reactor.notify("READY=1")
        fill(System().service_manager())
        began = reactor.time()
        reactor.drain(30)
        assert reactor.time() - began < 15
    assert "STOPPING=1 was not told: cannot notify NOTIFY_SOCKET=" in caplog.text


def test_a_drain_is_told(manager):
    """STOPPING=1 when it begins, once; not by a reactor that never said READY=1."""
    with Reactor() as silent:
        silent.notify("STATUS=thinking")
        silent.drain(1)
    assert manager.pending() == ["STATUS=thinking"]
    with Reactor() as reactor:
        reactor.notify("READY=1")
        reactor.drain(1)
        reactor.drain(1)
    assert manager.pending() == ["READY=1", "STOPPING=1"]


# The watchdog


def test_the_watchdog_hears_from_us_twice_as_often_as_it_asks(manager, monkeypatch):
    """The first with READY=1, then one every half of its interval, for as long as the loop turns."""
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with Reactor() as reactor:
        reactor.notify("READY=1")
        began, notices = reactor.time(), []
        turn_until(reactor, lambda: notices.extend(manager.pending()) or len(notices) >= 6)
        assert notices == ["READY=1"] + ["WATCHDOG=1"] * 5
        assert reactor.time() - began >= 4 * 0.02
        reactor.notify("READY=1")  # again is no second timer
        assert len(reactor.timers) == 1


def test_a_loop_that_is_stuck_tells_the_watchdog_nothing(manager, monkeypatch):
    """The point of it: the notices come from the loop."""
    monkeypatch.setenv("WATCHDOG_USEC", "10000")
    with Reactor() as reactor:
        reactor.notify("READY=1")
        manager.pending()
        reactor.call_soon(os.waitpid, os.posix_spawn("/bin/sleep", ["sleep", "0.05"], {}), 0)  # blocks the turn
        reactor.run_once(0)
        assert len(manager.pending()) <= 1


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "10000", "WATCHDOG_PID": str(os.getpid() + 1)}],
    ids=["no interval", "another process"],
)
def test_nobody_is_told_who_does_not_watch_us(manager, monkeypatch, environment):
    """No interval, or somebody else's: no timer at all."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Reactor() as reactor:
        reactor.notify("READY=1")
        assert not reactor.timers
        reactor.run()
    assert manager.pending() == ["READY=1"]


@pytest.mark.parametrize("interval", ["often", "0", "-5", "1.5", "²"])
def test_an_interval_that_is_none_is_refused(manager, monkeypatch, interval):
    """ValueError with the variable, and nothing was told."""
    monkeypatch.setenv("WATCHDOG_USEC", interval)
    with Reactor() as reactor, pytest.raises(ValueError, match="WATCHDOG_USEC is a positive number of microseconds"):
        reactor.notify("READY=1")
    assert manager.pending() == []


# Passed sockets


def print_passed(body: str, cases: str = "{}") -> list[str]:
    """What a process prints that was passed a listening and a datagram socket, as descriptors 3 and 4.

    It runs `body` for each of `cases` (in Python: what to put into the environment), in a child where it has that done.
    """
    script = """
import os, socket, sys
from reactor import Reactor, Protocol
from reactor.system import System

def is_open(fd):
    try:
        return bool(os.fstat(fd))
    except OSError:
        return False

listening = socket.create_server(("127.0.0.1", 0))
datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagram.bind(("127.0.0.1", 0))
for fd, sock in ((53, listening), (54, datagram)):
    os.dup2(sock.detach(), fd)
os.closerange(3, 53)
os.dup2(53, 3), os.dup2(54, 4)
os.closerange(5, 60)
for case in [CASES]:
    if os.fork():
        os.wait()
        continue
    os.environ.update({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"} | case)
    try:
        with Reactor() as reactor:
            BODY
    except (OSError, ValueError) as exc:
        print(type(exc).__name__, exc.strerror if isinstance(exc, OSError) else exc, is_open(3))
    sys.stdout.flush()
    os._exit(0)
"""
    script = script.replace("CASES", cases).replace("BODY", textwrap.indent(textwrap.dedent(body), " " * 12).strip())
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


TAKE = """
passed = reactor.listen_fds()
print(*(f"{name}:{sock.type.name}" for name, sock in passed))
for name, sock in passed:
    sock.close()
"""


def test_passed_sockets_come_with_their_names():
    """As many as there are; `unknown` for those without a name, as sd_listen_fds_with_names(3) has it."""
    names = ("web:log", "web", ":log:more", "")
    assert print_passed(TAKE, ", ".join(f"{{'LISTEN_FDNAMES': {each!r}}}" for each in names)) == [
        "web:SOCK_STREAM log:SOCK_DGRAM",
        "web:SOCK_STREAM unknown:SOCK_DGRAM",
        "unknown:SOCK_STREAM log:SOCK_DGRAM",
        "unknown:SOCK_STREAM unknown:SOCK_DGRAM",
    ]


def test_passed_sockets_are_served():
    """Each goes where it belongs, and none is inherited by a child."""
    body = """
    (_, listening), (_, datagram) = reactor.listen_fds()
    listener = reactor.listen(Protocol, sock=listening)
    endpoint = reactor.datagram(Protocol, sock=datagram)
    print(os.get_inheritable(3), len(reactor.listeners), len(reactor.datagrams), listener.addresses[0][0])
    """
    assert print_passed(body) == ["False 1 1 127.0.0.1"]


def test_they_are_passed_once():
    """The second call finds none, and the environment has nothing for a child to misunderstand."""
    body = """
    for _, sock in reactor.listen_fds():
        sock.close()
    print(reactor.listen_fds(), [name for name in os.environ if name.startswith("LISTEN_")])
    """
    assert print_passed(body, "{'LISTEN_FDNAMES': 'a:b'}") == ["[] []"]


def test_what_was_passed_to_another_process_is_not_ours():
    """LISTEN_PID decides: none of them, and no error."""
    assert print_passed(TAKE, "{'LISTEN_PID': '1'}, {'LISTEN_PID': ''}, {'LISTEN_PID': 'x', 'LISTEN_FDS': 'x'}") == [
        "",
        "",
        "",
    ]


def test_a_number_of_descriptors_that_is_none_is_refused():
    """ValueError with what it was; what was passed is left alone. None at all is none."""
    counts = ("0", "two", "-1", "", "²")
    printed = print_passed(TAKE, ", ".join(f"{{'LISTEN_FDS': {count!r}}}" for count in counts))
    assert printed[0] == ""
    assert printed[1:] == [
        f"ValueError LISTEN_FDS is a number of descriptors, not {each!r} True" for each in counts[1:]
    ]


def test_more_descriptors_than_there_are_is_refused():
    """OSError with the first that is wrong; the sockets before it are closed again."""
    (line,) = print_passed("reactor.close()\nSystem().listen_fds()", "{'LISTEN_FDS': '3'}")
    assert line == "OSError cannot use descriptor 5 of LISTEN_FDS=3: Bad file descriptor False"


def test_a_descriptor_that_is_no_socket_is_named():
    """A file among them: OSError with its number, and the sockets before it are closed again."""
    (line,) = print_passed('os.dup2(os.open("/dev/null", os.O_RDONLY), 4)\n' + TAKE)
    assert line == "OSError cannot use descriptor 4 of LISTEN_FDS=2: Socket operation on non-socket False"


# The samples


@pytest.fixture
def start(no_descriptor_left):
    started: list[Sample] = []

    def begin(*command: str) -> Sample:
        started.append(Sample(list(command), subprocess.DEVNULL, subprocess.PIPE))
        return started[-1]

    yield begin
    for process in started:
        process.kill()


ECHO = (sys.executable, "-W", "error", "-m", "samples.echo")


@linux
@pytest.mark.parametrize("workers", [1, 3])
def test_a_sample_tells_when_it_serves_and_when_it_ends(start, manager, workers, monkeypatch):
    """READY=1 with the address, the watchdog's notices, STOPPING=1: all from the main process, as systemd wants it."""
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    server = start(*ECHO, "--port", "0", "--workers", str(workers))
    port = server.port()
    (ready, sender), (watchdog, pinger) = manager.told_by(), manager.told_by()
    assert sender == pinger == server.process.pid
    what = "listening on" if workers == 1 else "3 workers at"
    assert ready == f"READY=1\nSTATUS={what} 127.0.0.1:{port}"
    assert watchdog == "WATCHDOG=1"
    assert server.stop() == 0
    assert manager.pending() == ["STOPPING=1"]
    assert server.errors == ""


@linux
def test_a_parent_of_workers_answers_the_watchdog(start, manager, monkeypatch):
    """Again and again, twice as often as it is asked to."""
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    server = start(*ECHO, "--port", "0", "--workers", "2")
    assert manager.told().startswith("READY=1")
    assert [manager.told() for _ in range(5)] == ["WATCHDOG=1"] * 5
    assert server.stop() == 0


def test_a_manager_that_has_gone_stops_no_sample(start, monkeypatch):
    """NOTIFY_SOCKET at which nobody listens: a warning, and it serves."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    server = start(*ECHO, "--port", "0")
    with server.connect() as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b"hello"
    assert server.stop() == 0
    assert "cannot notify NOTIFY_SOCKET=/nonexistent/notify" in server.errors


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="there is no systemd-socket-activate here")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_systemds_own_tool_starts_a_sample(start, tmp_path, workers):
    """systemd-socket-activate opens the socket, and starts us for the first caller, who is served."""
    path = str(tmp_path / "echo")
    server = start("systemd-socket-activate", "-l", path, *ECHO, "--fd", "systemd", "--workers", workers)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        while True:
            try:
                client.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert server.process.poll() is None
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b"hello"
    server.read_until(b"\n")
    assert server.output == f"listening on {path}\n".encode()
    assert server.stop(signal.SIGTERM) == 0


# The how-to


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)


def unit(text: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment]
    parsed.read_string(text)
    return parsed


def test_the_program_in_the_how_to_runs():
    """As it stands there, but for the run, which would not end."""
    (program,) = blocks("python")
    assert "reactor.run()" in program
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reactor, "run", lambda reactor: None)
        patch.setattr(Reactor, "listen", lambda reactor, factory, *where, **how: factory())
        exec(compile(program, str(HOW_TO), "exec"), {})


def test_the_units_in_the_how_to_fit_each_other_and_the_samples():
    """The arguments are the sample's, systemd waits longer than the drain, and the watchdog longer than a turn."""
    sockets, service = map(unit, blocks("ini"))
    assert sockets["Socket"]["ListenStream"]
    assert service["Unit"]["Requires"] == "echo.socket"
    assert service["Service"]["Type"] == "notify"
    python, *arguments = service["Service"]["ExecStart"].split()
    assert Path(python).is_absolute()
    assert arguments[:2] == ["-m", "samples.echo"]
    drain = float(arguments[arguments.index("--drain-timeout") + 1])
    assert float(service["Service"]["TimeoutStopSec"]) > drain + 5
    refused = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert refused.returncode == 2
    assert "no socket was passed to this process" in refused.stderr  # and nothing is wrong with the arguments


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    """systemd-analyze verify, with this interpreter in the place of the installed one."""
    sockets, service = blocks("ini")
    (tmp_path / "echo.socket").write_text(sockets)
    (tmp_path / "echo.service").write_text(
        service.replace("/opt/echo/bin/python", sys.executable).replace("/opt/echo", str(ROOT))
    )
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "echo.socket"), str(tmp_path / "echo.service")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    about_ours = [line for line in ended.stderr.splitlines() if "echo." in line]
    assert about_ours == []
