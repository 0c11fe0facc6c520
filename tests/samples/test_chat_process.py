"""The chat as a process, with the tools that people have, and with its own client."""

from __future__ import annotations

import os
import pty
import shutil
import socket
import subprocess

import pytest
import trustme

from tests.samples.processes import PATIENCE, read_to_end, wait_for


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def server(run):
    return run("chat", "--port", "0")


def stop(server) -> None:
    assert server.stop() == 0
    assert server.errors == ""


@pytest.mark.parametrize("command", [["nc", "-N", "127.0.0.1", "PORT"], ["socat", "-t5", "-", "tcp:127.0.0.1:PORT"]])
def test_a_script_with_a_tool_gets_everything(server, command):
    """nc and socat half-close at the end of their input, and still print the answers."""
    words = [tool(command[0]), *(word.replace("PORT", str(server.port())) for word in command[1:])]
    ended = subprocess.run(words, input=b"/nick ann\nhello\nbye", capture_output=True, timeout=PATIENCE)
    assert ended.returncode == 0
    assert ended.stdout.decode().splitlines()[-3:] == ["* guest1 is now ann", "<ann> hello", "<ann> bye"]
    stop(server)


def test_a_real_telnet_client_can_talk(run, server):
    """Its line ends are understood, and /quit ends it."""
    telnet = run("", command=[tool("telnet"), "127.0.0.1", str(server.port())], stdin=subprocess.PIPE)
    telnet.read_until(b"joined lobby")
    telnet.process.stdin.write(b"/nick tel\nhello\n")
    telnet.read_until(b"<tel> hello")
    telnet.process.stdin.write(b"/quit\n")
    telnet.ended()
    assert "closed by foreign host" in telnet.output.decode() + telnet.errors
    stop(server)


def test_sigterm_tells_every_member(server):
    """They read why, then EOF; the exit status is 0."""
    with server.connect() as first, server.connect() as second:
        for client in (first, second):
            assert client.recv(10) == b"* welcome,"
        server.process.terminate()
        for client in (first, second):
            assert read_to_end(client).endswith(b"* the server is shutting down\n")
    assert server.ended() == 0
    assert server.errors == ""


# The client


def test_the_client_through_a_pipe(run, server):
    """What comes on stdin is said, what others say is printed; the end of stdin ends it with status 0."""
    client = run("chat", "--connect", f"127.0.0.1:{server.port()}", stdin=subprocess.PIPE)
    client.read_until(b"* guest1 joined lobby\n")
    with server.connect() as other:
        client.read_until(b"* guest2 joined lobby\n")
        client.process.stdin.write("grüße\n".encode())
        client.read_until("<guest1> grüße\n".encode())
        other.sendall(b"hello\n")
        client.read_until(b"<guest2> hello\n")
        client.process.stdin.close()
        assert client.ended() == 0
    assert client.errors == ""
    stop(server)


@pytest.mark.parametrize("poller", ["epoll", "poll"])
def test_the_client_reads_a_regular_file(run, server, tmp_path, poller):
    """epoll cannot watch one; it is read in steps, whole, all the same."""
    script = tmp_path / "script"
    script.write_bytes(b"/nick ann\n" + b"".join(b"line %d\n" % number for number in range(3000)))
    with open(script, "rb") as stdin:
        client = run("chat", "--connect", f"127.0.0.1:{server.port()}", "--poller", poller, stdin=stdin)
        assert client.ended() == 0, client.errors
    assert client.output.decode().splitlines()[3:] == [f"<ann> line {number}" for number in range(3000)]
    stop(server)


def test_the_client_on_a_terminal(run, server):
    """A line is said when Enter is pressed; Ctrl-D ends; the terminal stays blocking for others."""
    try:
        ours, terminal = pty.openpty()
    except OSError as exc:
        pytest.skip(f"this machine gives no pseudo-terminal: {exc}")
    try:
        client = run("chat", "--connect", f"localhost:{server.port()}", stdin=terminal)
        client.read_until(b"joined lobby\n")
        os.write(ours, b"hello\n")
        client.read_until(b"<guest1> hello\n")
        assert os.get_blocking(terminal)
        os.write(ours, b"\x04")
        assert client.ended() == 0
        assert client.errors == ""
    finally:
        os.close(ours)
        os.close(terminal)
    stop(server)


def test_the_client_over_a_unix_socket_ends_with_the_server(run, tmp_path):
    """--connect unix:PATH; when the server drains, its last word is printed and the status is 0."""
    path = tmp_path / "chat.sock"
    server = run("chat", "--unix", str(path))
    server.listening()
    client = run("chat", "--connect", f"unix:{path}", stdin=subprocess.PIPE)
    client.read_until(b"joined lobby\n")
    stop(server)
    assert client.ended() == 0
    assert client.output.endswith(b"* the server is shutting down\n")


def test_the_client_over_tls(run, tmp_path):
    """--tls-cert on one side, --tls and --tls-ca on the other; everything said is shown, and the end is in order."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    server = run("chat", "--port", "0", "--tls-cert", f"{tmp_path}/server.pem")
    where = ["--connect", f"localhost:{server.port()}", "--tls", "--tls-ca", f"{tmp_path}/ca.pem"]
    client = run("chat", *where, stdin=subprocess.PIPE)
    client.process.stdin.write("grüße\n".encode())
    client.read_until("<guest1> grüße\n".encode())
    client.process.stdin.close()
    assert client.ended() == 0
    assert client.errors == ""
    stop(server)


def test_ctrl_c_ends_the_client_in_order(run, server):
    """SIGINT closes; nothing was lost, so the status is 0, and the others see it leave."""
    client = run("chat", "--connect", f"127.0.0.1:{server.port()}", stdin=subprocess.PIPE)
    client.read_until(b"joined lobby\n")
    assert client.stop(2) == 0
    assert client.errors == ""
    stop(server)


def test_a_failed_connect_is_told(run):
    """Status 1 and one line, when nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen, so nobody else can
        client = run("chat", "--connect", f"127.0.0.1:{bound.getsockname()[1]}")
        assert client.ended() == 1
    assert "Connection refused" in client.errors
    assert client.errors.count("\n") == 1


def test_a_lost_connection_is_told(run):
    """Status 1 and the reason, when the server resets; and no escape sequence of its reaches the terminal."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        client = run("chat", "--connect", f"127.0.0.1:{listening.getsockname()[1]}", stdin=subprocess.PIPE)
        served, _ = listening.accept()
        with served:
            served.sendall(b"\x1b[2Jhello \xc3")
            client.read_until(b"[2Jhello ")
            served.sendall(b"\xa4\r\n")
            client.read_until("[2Jhello ä\n".encode())
            served.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert client.ended() == 1
    assert client.output == "[2Jhello ä\n".encode()
    assert client.errors == "python -m samples.chat: Connection reset by peer\n"


def test_the_client_ends_when_nobody_reads_its_output(run, server):
    """A closed stdout ends it with status 1 and one line; others see it go."""
    read_end, write_end = os.pipe()
    try:
        client = run("chat", "--connect", f"127.0.0.1:{server.port()}", stdin=subprocess.PIPE, stdout=write_end)
    finally:
        os.close(write_end)
    assert os.read(read_end, 9) == b"* welcome"
    os.close(read_end)
    client.process.stdin.write(b"hello\n")
    wait_for(lambda: client.process.poll() is not None, "the client did not end")
    assert client.process.returncode == 1
    assert client.errors == "python -m samples.chat: Broken pipe\n"
    stop(server)
