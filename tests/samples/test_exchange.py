"""The HOWTO's exchange: request, shutdown(1), reply, EOF."""

from __future__ import annotations

import array
import fcntl
import hashlib
import re
import shutil
import signal
import socket
import subprocess
import termios
from typing import IO

import pytest

from samples.exchange import reply_to
from tests.samples.processes import PATIENCE, read_to_end, wait_for


@pytest.fixture
def server(run):
    return run("exchange", "--port", "0")


def test_the_reply_tells_what_the_request_was():
    """Counts, the checksum, and the request in capitals."""
    sha256 = hashlib.sha256("grüße an\nalle\n".encode()).hexdigest()
    expected = f"lines  2\nwords  3\nbytes  16\nsha256 {sha256}\n\nGRÜSSE AN\nALLE\n"
    assert reply_to("grüße an\nalle\n".encode()).decode() == expected


def test_a_raw_client_gets_its_reply_after_its_fin(server):
    """Nothing comes before the FIN; then the whole reply, and EOF."""
    with server.connect() as client:
        client.sendall(b"one two")
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(PATIENCE)
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == reply_to(b"one two")
    assert server.stop() == 0
    assert server.errors == ""


def test_nc_gets_its_reply(server):
    """Any client that can half-close will do."""
    nc = shutil.which("nc")
    if nc is None:
        pytest.skip("nc is not installed")
    ended = subprocess.run(
        [nc, "-N", "127.0.0.1", str(server.port())], input=b"one two", capture_output=True, timeout=PATIENCE
    )
    assert ended.stdout == reply_to(b"one two")


def test_the_client_sends_its_argument(run, server):
    """The reply is printed, the status is 0."""
    client = run("exchange", "--connect", f"127.0.0.1:{server.port()}", "grüße")
    assert client.ended() == 0
    assert client.output == reply_to("grüße".encode())
    assert client.errors == ""


def test_the_client_sends_a_large_file_whole(run, server, tmp_path):
    """A regular file on stdin, far larger than any queue may be, and the reply as large."""
    request = b"0123456789abcde\n" * 250_000
    path = tmp_path / "request"
    path.write_bytes(request)
    with open(path, "rb") as stdin:
        client = run("exchange", "--connect", f"127.0.0.1:{server.port()}", stdin=stdin)
        assert client.ended() == 0, client.errors
    assert client.output == reply_to(request)


def test_the_client_sends_a_pipe_whole(run, server):
    """The same through a pipe, whose end is the end of the request."""
    request = b"0123456789abcde\n" * 250_000
    client = run("exchange", "--connect", f"127.0.0.1:{server.port()}", stdin=subprocess.PIPE)
    output, _ = client.process.communicate(request, timeout=PATIENCE)
    assert client.process.returncode == 0
    assert output == reply_to(request)


def test_an_empty_request_has_a_reply(run, server):
    """With nothing on stdin, there is still an exchange."""
    client = run("exchange", "--connect", f"127.0.0.1:{server.port()}")
    assert client.ended() == 0
    assert client.output == reply_to(b"")


def test_a_request_that_is_too_long_is_refused_not_reset(run):
    """The client that is still sending reads the refusal, and then EOF."""
    server = run("exchange", "--port", "0", "--request-limit", "1000")
    with server.connect() as client:
        client.sendall(b"x" * 2_000_000)
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b"error: the request is longer than 1000 bytes\n"
    assert server.stop() == 0


def test_a_request_under_way_is_finished_while_draining(run):
    """SIGTERM in the middle of a request: it gets its reply, and the status is 0."""
    server = run("exchange", "--port", "0", "--log-level", "info", "--trace")
    with server.connect() as client, server.connect() as silent:
        client.sendall(b"one ")
        wait_for(lambda: "received 4" in server.errors, "the first half was not seen")
        server.process.terminate()
        assert silent.recv(1) == b""
        client.sendall(b"two")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == reply_to(b"one two")
    assert server.ended() == 0


def test_a_client_whose_output_nobody_reads_ends_on_a_signal(run, server, tmp_path):
    """It waits for its reader without being deaf: the drain's deadline ends it, and it tells what was not shown."""
    path = tmp_path / "request"
    path.write_bytes(b"x" * 1_000_000)  # the reply is far more than a pipe holds
    with open(path, "rb") as stdin:
        where = f"127.0.0.1:{server.port()}"
        client = run("exchange", "--connect", where, "--drain-timeout", "0.1", stdin=stdin)
    wait_for(lambda: _held(client.process.stdout) > 60_000, "the pipe was not filled")
    client.process.send_signal(signal.SIGTERM)
    assert client.process.wait(PATIENCE) == 1
    assert re.fullmatch(
        r"python -m samples\.exchange: .*drain's deadline.*[1-9]\d* bytes that came were not shown\n", client.errors
    )


def _held(pipe: IO[bytes]) -> int:
    """The bytes that wait in it (FIONREAD, pipe(7))."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def test_a_signal_leaves_a_reply_under_way_whole(run, tmp_path):
    """The request was whole when the signal came: what still comes is shown, up to the server's end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        where = f"127.0.0.1:{listening.getsockname()[1]}"
        client = run("exchange", "--connect", where, "--log-level", "info", "one two")
        served, _ = listening.accept()
        with served:
            assert read_to_end(served) == b"one two"
            served.sendall(b"the reply ")
            client.read_until(b"reply ")
            client.process.send_signal(signal.SIGINT)
            wait_for(lambda: "a signal asks to end" in client.errors, "the signal was not seen")
            served.sendall(b"and its end")
        assert client.ended() == 0
    assert client.output == b"the reply and its end"


def test_a_signal_in_the_middle_of_a_request_resets(run):
    """A FIN would say that this was the whole request, and it would be answered as such."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        where = f"127.0.0.1:{listening.getsockname()[1]}"
        client = run("exchange", "--connect", where, stdin=subprocess.PIPE)
        served, _ = listening.accept()
        with served:
            served.settimeout(PATIENCE)
            client.process.stdin.write(b"one ")
            assert served.recv(100) == b"one "
            client.process.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionResetError):
                served.recv(100)
        assert client.ended() == 1
    assert client.errors == "python -m samples.exchange: interrupted before the end of the request\n"
