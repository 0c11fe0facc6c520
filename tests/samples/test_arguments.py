"""What the samples' command lines take, and how they refuse."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import select
import socket
import subprocess
import sys

import pytest

from samples import echo
from samples.common import EXIT_STATUS
from tests.samples.processes import PATIENCE, ROOT, read_to_end, wait_for

SAMPLES = ["echo", "chat", "exchange"]
OPTIONS = [
    "host",
    "port",
    "unix",
    "fd",
    "idle-timeout",
    "drain-timeout",
    "max-connections",
    "log-level",
    "trace",
    "poller",
    "monitor",
    "teach",
]
UNUSABLE = {
    "a port that is no number": ["--port", "http"],
    "a port that is too high": ["--port", "65536"],
    "a negative port": ["--port=-1"],
    "an unknown poller": ["--port", "0", "--poller", "magic"],
    "a negative idle timeout": ["--port", "0", "--idle-timeout=-1"],
    "an idle timeout of zero": ["--port", "0", "--idle-timeout", "0"],
    "a negative drain timeout": ["--port", "0", "--drain-timeout=-0.1"],
    "an endless drain timeout": ["--port", "0", "--drain-timeout", "inf"],
    "a timeout that is no number": ["--port", "0", "--idle-timeout", "soon"],
    "no connections at all": ["--port", "0", "--max-connections", "0"],
    "a log level nobody knows": ["--port", "0", "--log-level", "loud"],
    "a host that does not resolve": ["--port", "0", "--host", "nowhere.invalid"],
    "a host with a zone that would be dropped": ["--port", "0", "--host", "localhost%lo"],
    "a zone without an interface": ["--port", "0", "--host", "fe80::1%no-such"],
    "an address of another machine": ["--port", "0", "--host", "192.0.2.1"],
    "a directory that is not there": ["--unix", "/nonexistent/socket"],
    "an empty path": ["--unix", ""],
    "a path that is too long": ["--unix", "/tmp/" + "x" * 200],
    "a file that is no socket": ["--unix", __file__],
    "a descriptor that is no number": ["--fd", "stdin"],
    "a negative descriptor": ["--fd=-1"],
    "a descriptor that is not open": ["--fd", "77"],
    "a descriptor beyond all numbers": ["--fd", "9" * 30],
    "a descriptor that is no socket": ["--fd", "0"],
    "no passed sockets": ["--fd", "systemd"],
    "two places": ["--unix", "x", "--port", "0"],
    "a descriptor and a place": ["--fd", "0", "--port", "0"],
    "an unknown option": ["--prot", "0"],
    "a monitor at no port": ["--port", "0", "--monitor", "http"],
    "a lesson without a monitor": ["--port", "0", "--teach"],
    "no workers": ["--port", "0", "--workers", "0"],
    "more workers than any machine has use for": ["--port", "0", "--workers", "1000"],
    "a monitor of several workers": ["--port", "0", "--workers", "2", "--monitor", "0"],
    "several workers where there is no directory": ["--workers", "2", "--unix", "/nonexistent/socket"],
    "several workers at an address of another machine": ["--workers", "2", "--port", "0", "--host", "192.0.2.1"],
    "several workers on a descriptor that is no socket": ["--workers", "2", "--fd", "0"],
    "TLS for a client that is none": ["--port", "0", "--tls-key", "key.pem"],
}


def refusal(run, name, *arguments) -> str:
    sample = run(name, *arguments)
    assert sample.ended() == 2, sample.errors
    assert sample.output == b""
    assert sample.errors.startswith(f"python -m samples.{name}: ")
    assert sample.errors.endswith("\n")
    assert sample.errors.count("\n") == 1
    assert "Errno" not in sample.errors
    return sample.errors


@pytest.mark.parametrize("arguments", UNUSABLE.values(), ids=UNUSABLE)
def test_what_cannot_be_used_is_refused_in_one_line(capsys, arguments):
    """Exit status 2, one line on stderr, no traceback, nothing on stdout, nothing left open."""
    with pytest.raises(SystemExit) as leaving:
        echo.main(arguments)
    assert leaving.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"python -m samples\.echo: .+\n", printed.err)
    assert "Errno" not in printed.err


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("echo", ["--port", "http"]),
        ("echo", ["--port", "0", "--poller", "magic"]),
        ("echo", ["--port", "0", "--host", "nowhere.invalid"]),
        ("echo", ["--unix", "/nonexistent/socket"]),
        ("echo", ["--fd", "77"]),
        ("embedding.guest", ["--port", "70000"]),
        ("chat", ["--line-limit", "none"]),
        ("chat", ["--queue-limit", "-5"]),
        ("chat", ["--connect", "7001"]),
        ("chat", ["--connect", "127.0.0.1:high"]),
        ("chat", ["--connect", "127.0.0.1:0"]),
        ("chat", ["--connect", "[]:7001"]),
        ("chat", ["--connect", "127.0.0.1:7001", "--port", "0"]),
        ("exchange", ["--connect", "unix:"]),
        ("exchange", ["a request for nobody"]),
        ("exchange", ["--request-limit", "0"]),
        ("exchange", ["--connect", "127.0.0.1:7001", "--port", "1"]),
        ("exchange", ["--connect", "127.0.0.1:7001", "--workers", "1"]),
        ("exchange", ["--connect", "127.0.0.1:7001", "--monitor", "0"]),
        ("exchange", ["--port", "0", "--workers", "3", "--poller", "magic"]),
    ],
)
def test_each_sample_refuses_in_one_line(run, name, arguments):
    """The same from a process, and for the options that one sample has alone."""
    refusal(run, name, *arguments)


@pytest.mark.parametrize("name", ["echo", "embedding.asyncio_host", "embedding.guest"])
def test_an_address_in_use_is_named(run, name):
    """One line says which address, with exit status 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sample = run(name, "--port", str(port))
        assert sample.ended() == 2
        assert sample.errors.endswith(f"cannot listen on 127.0.0.1:{port}: Address already in use\n")
        assert sample.errors.count("\n") == 1


def test_a_poller_named_by_the_environment_is_checked_as_well():
    """REACTOR_POLLER gets the same line."""
    ended = subprocess.run(
        [sys.executable, "-m", "samples.echo", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "REACTOR_POLLER": "magic"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"python -m samples\.echo: there is no poller 'magic' here; there are .*\n", ended.stderr)


def test_a_service_manager_that_speaks_nonsense_is_told_in_one_line(run, monkeypatch):
    """LISTEN_FDS and WATCHDOG_USEC that are no numbers: refused by name."""
    script = (
        "import os, sys\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='some')\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'samples.echo', '--fd', 'systemd'])\n"
    )
    sample = run("echo", command=[sys.executable, "-c", script])
    assert sample.ended() == 2
    assert sample.errors == (
        "python -m samples.echo: --fd systemd: LISTEN_FDS is a number of descriptors, not 'some'\n"
    )
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "often")
    for workers in ("1", "2"):
        line = refusal(run, "echo", "--port", "0", "--workers", workers)
        assert "WATCHDOG_USEC is a positive number of microseconds, not 'often'" in line


def test_a_monitor_without_its_library_names_the_extra(run, monkeypatch, tmp_path):
    """--monitor where h11 is not installed: one line, with what to install."""
    (tmp_path / "h11.py").write_text("raise ModuleNotFoundError(\"No module named 'h11'\", name='h11')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    line = refusal(run, "echo", "--port", "0", "--monitor", "0")
    assert "--monitor needs the module h11: pip install '.[web]'" in line


def test_the_monitor_is_told_after_the_addresses(run):
    """--monitor 0 picks a port, tells it in the second line, and a drain ends the page, too."""
    pytest.importorskip("h11")
    server = run("echo", "--port", "0", "--monitor", "0")
    first, second = server.read_until(b"\n", 2).decode().splitlines()
    assert first.startswith("listening on 127.0.0.1:")
    page = re.fullmatch(r"monitor on http://127\.0\.0\.1:(\d+)/", second)
    assert page
    with socket.create_connection(("127.0.0.1", int(page[1])), PATIENCE) as browser:
        browser.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % int(page[1]))
        assert b"200" in read_to_end(browser).split(b"\r\n")[0]
    assert server.stop() == 0


@pytest.mark.parametrize("arguments", [["--connect", "unix:/nonexistent/socket"], ["--connect", "unix:" + "x" * 200]])
def test_a_unix_socket_that_cannot_be_called_is_told(run, arguments):
    """The client's status is 1, with one line."""
    client = run("exchange", *arguments, "hello")
    assert client.ended() == 1
    assert client.errors.startswith("python -m samples.exchange: cannot connect to ")
    assert client.errors.count("\n") == 1


def test_no_host_listens_on_every_address(run):
    """--host "" takes calls to any address of the machine."""
    server = run("echo", "--host", "", "--port", "0")
    with server.connect() as client:
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert server.stop() == 0


def test_without_standard_output_it_serves_all_the_same(run):
    """A closed stdout (>&-) is no reason not to serve; one that fails is told in a line."""
    start = f'exec "{sys.executable}" -m samples.echo --port 0 '
    server = run("", command=["/bin/sh", "-c", start + "--trace --log-level info >&-"])
    wait_for(lambda: server.process.poll() is not None or ready_to_drain(server), "it did not begin")
    assert server.stop() == 0
    assert "Traceback" not in server.errors
    if os.path.exists("/dev/full"):
        full = run("", command=["/bin/sh", "-c", start + ">/dev/full"])
        assert full.ended() != 0
        assert full.errors.splitlines()[0] == "python -m samples.echo: standard output: No space left on device"
        assert "Traceback" not in full.errors


def ready_to_drain(sample) -> bool:
    """Whether it handles SIGTERM by now (Linux tells in SigCgt)."""
    with open(f"/proc/{sample.process.pid}/status") as status:
        caught = next(line for line in status if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) & (1 << 14))


@pytest.mark.parametrize("path", sorted((ROOT / "samples").rglob("*.py")), ids=lambda path: path.stem)
def test_every_file_opens_with_a_short_tour(path):
    """At most 25 lines, for people who read the sources."""
    tour = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert tour
    assert len(tour.splitlines()) <= 25


@pytest.mark.parametrize("name", SAMPLES)
def test_help_has_every_option_and_examples(run, name):
    """--help reads like a manual page."""
    sample = run(name, "--help")
    assert sample.ended() == 0
    text = sample.output.decode()
    for option in OPTIONS:
        assert f"--{option} " in text
    assert "examples:\n  python -m samples." in text
    assert "exit status:" in text


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("echo", None),
        ("exchange", None),
        ("chat", None),
        ("proxy", None),
        ("smtpsink", None),
        ("files", "h11"),
        ("webchat", "wsproto"),
        ("embedding.asyncio_host", None),
        ("embedding.guest", None),
        ("embedding.tk_host", "tkinter"),
        ("embedding.pygame_host", "pygame"),
    ],
)
def test_help_tells_what_status_0_covers(run, name, needed):
    """The same sentence for every sample that drains; a client and several workers have one of their own."""
    if needed is not None:
        pytest.importorskip(needed)
    sample = run("", command=[sys.executable, "-m", f"samples.{name}", "--help"])
    assert sample.ended() == 0
    told = sample.output.decode()
    assert EXIT_STATUS in told
    assert ("\n  with --connect, 0 means " in told) == ("--connect HOST:PORT" in told)
    assert ("\n  with --workers N, it is " in told) == ("--workers N " in told)


@pytest.mark.parametrize(
    ("name", "covers"),
    [
        *[(f"ladder.{step}", "only `with_reactor` drains") for step in ("blocking", "with_select", "with_reactor")],
        ("monitor", "the table was shown"),
    ],
)
def test_help_of_what_is_no_such_server_tells_its_own_status_0(run, name, covers):
    """Also what it does not cover."""
    sample = run(name, "--help")
    assert sample.ended() == 0
    assert f"exit status:\n  0  {'SIGTERM' if 'ladder' in name else covers}" in sample.output.decode()
    assert covers in sample.output.decode()


def test_a_server_that_ends_unasked_does_not_say_that_all_is_well(run):
    """Its listening socket was shut by whoever shares it: one line, and status 1."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        server = run("echo", "--fd", str(bound.fileno()), pass_fds=[bound.fileno()])
        server.listening()
        bound.shutdown(socket.SHUT_RDWR)
        assert server.ended() == 1
    assert server.errors.endswith("\nit ended unasked: there is no socket left to listen on\n")


@pytest.mark.parametrize(("name", "seconds"), [("echo", "never"), ("files", "60"), ("smtpsink", "300")])
def test_help_tells_how_long_silence_is_borne(run, name, seconds):
    """Each sample's own default, and not another's."""
    if name == "files":
        pytest.importorskip("h11")
    sample = run(name, "--help")
    assert sample.ended() == 0
    assert f"end who is silent for so long ({seconds})" in " ".join(sample.output.decode().split())


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_ends_in_order_on_each_poller(run, name, poller):
    """--port 0 prints the real port at once, and SIGTERM with an idle client ends with 0."""
    server = run(name, "--port", "0", "--poller", poller)
    with server.connect() as client:
        client.shutdown(socket.SHUT_WR)
        read_to_end(client)
    assert server.stop() == 0
    assert server.errors == ""


@pytest.mark.parametrize("path", ["echo.sock", "@"])
def test_a_unix_socket_is_served_and_removed(run, tmp_path, path):
    """--unix PATH, and @NAME for an abstract one; the file is gone afterwards."""
    where = str(tmp_path / path) if path != "@" else f"@reactor-echo-{os.getpid()}"
    server = run("echo", "--unix", where)
    assert server.listening() == [where]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect("\0" + where[1:] if where.startswith("@") else where)
        client.sendall(b"over unix")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b"over unix"
    assert server.stop() == 0
    assert not os.path.exists(where)


def test_an_inherited_descriptor_is_served(run):
    """--fd N listens on the socket that our parent bound."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        server = run("echo", "--fd", str(bound.fileno()), pass_fds=[bound.fileno()])
        assert server.port() == bound.getsockname()[1]
        with server.connect() as client:
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == b"hello"
        assert server.stop() == 0


def test_a_datagram_socket_is_refused(run):
    """--fd with a socket that cannot be listened on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        sample = run("echo", "--fd", str(udp.fileno()), pass_fds=[udp.fileno()])
        assert sample.ended() == 2
    assert sample.errors.count("\n") == 1


def test_sockets_passed_by_a_service_manager_are_served(run):
    """--fd systemd takes each of LISTEN_FDS, and prints one line for each."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        fds = first.fileno(), second.fileno()
        # A service manager's part: the sockets as descriptors 3 and 4, and the process's own number.
        script = (
            "import os, sys\n"
            "high = [os.dup2(int(fd), 50 + n) for n, fd in enumerate(sys.argv[1:])]\n"
            "[os.dup2(fd, 3 + n) for n, fd in enumerate(high)]\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES='one:two')\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'samples.echo', '--fd', 'systemd'])\n"
        )
        server = run("echo", command=[sys.executable, "-c", script, *map(str, fds)], pass_fds=fds)
        ports = [int(address.rpartition(":")[2]) for address in server.listening(2)]
        assert ports == [first.getsockname()[1], second.getsockname()[1]]
        for port in ports:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                client.sendall(b"hello")
                assert client.recv(5) == b"hello"
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
        assert server.stop() == 0


def test_a_silent_client_is_ended_in_order(run):
    """--idle-timeout gives EOF to who says nothing."""
    server = run("echo", "--port", "0", "--idle-timeout", "0.1")
    with server.connect() as client:
        assert client.recv(1) == b""


def test_more_connections_than_allowed_wait_in_line(run):
    """--max-connections 1 serves the second when the first has gone."""
    server = run("echo", "--port", "0", "--max-connections", "1")
    with server.connect() as first, server.connect() as second:
        second.sendall(b"second")
        first.sendall(b"first")
        assert first.recv(5) == b"first"
        second.settimeout(0.1)
        with pytest.raises(TimeoutError):
            second.recv(1)
        first.shutdown(socket.SHUT_WR)
        assert first.recv(1) == b""
        second.settimeout(PATIENCE)
        assert second.recv(6) == b"second"
    assert server.stop() == 0


@pytest.mark.parametrize(("name", "members"), [("chat", 16), ("webchat", 8)])
def test_a_chat_keeps_descriptors_for_redis(run, name, members):
    """A crowd leaves those that a node needs to reach the others again; who came too late waits in line."""
    if name == "webchat":
        pytest.importorskip("wsproto")
    more = "--port 0" if name == "chat" else "--port 0 --chat-port 0"
    command = f"ulimit -n 48; exec {sys.executable} -W error -m samples.{name} {more}"
    server = run("", command=["bash", "-c", command])
    lines = server.read_until(b"\n", 1 if name == "chat" else 2).decode().splitlines()
    port = int(lines[-1].rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        poll, crowd = select.poll(), []
        for _ in range(60):
            crowd.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)))
            poll.register(crowd[-1], select.POLLIN)
        wait_for(lambda: len(poll.poll(0)) >= members, "the crowd was not let in")
        assert len(poll.poll(0)) == members
        assert len(os.listdir(f"/proc/{server.process.pid}/fd")) <= 48 - 16


def test_trace_tells_each_thing_on_the_wire(run):
    """--trace writes the life of a connection to stderr, one line for each thing."""
    server = run("echo", "--port", "0", "--trace")
    with server.connect() as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert server.stop() == 0
    told = [" ".join(line.split()[2:4]) for line in server.errors.splitlines()]
    assert told[0].startswith("accepted 127.0.0.1:")
    assert told[1:5] == ["received 5", "sent 5", "peer FIN", "our FIN"]
    assert told[5].startswith("closed")


def test_a_trace_that_nobody_reads_ends_no_connection(run, monkeypatch):
    """When stderr is gone, tracing stops and serving goes on; the exit status is that of the connections."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # else nothing waits for the last flush
    read_end, write_end = os.pipe()
    try:
        command = f'exec "{sys.executable}" -m samples.echo --port 0 --trace 2>&{write_end} {write_end}>&-'
        server = run("echo", command=["/bin/bash", "-c", command], pass_fds=[write_end])
    finally:
        os.close(write_end)
        os.close(read_end)
    with server.connect() as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert server.stop() == 0
