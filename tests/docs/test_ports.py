"""The ports from asyncore, asynchat and smtpd: before and after do the same, and where they differ the page says so."""

from __future__ import annotations

import re
import smtplib
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.samples.processes import PATIENCE, ROOT, Sample, read_to_end

PORTS = ROOT / "docs" / "coming-from" / "ports"
PAGE = (PORTS.parent / "asyncore.md").read_text(encoding="utf-8")
OLD = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="asyncore, asynchat and smtpd are gone since Python 3.12"),
]
BOTH = [pytest.param("before", marks=OLD), "after"]


@pytest.fixture
def start(no_descriptor_left):
    """Starts a port; none outlives its test."""
    running: list[Sample] = []

    def start(name: str, *arguments: object) -> Sample:
        script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import runpy;"
        script += f"sys.argv = ['x', *sys.argv[1:]]; runpy.run_path({str(PORTS / name)!r}, run_name='__main__')"
        command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
        running.append(Sample(command, subprocess.DEVNULL, subprocess.PIPE))
        return running[-1]

    yield start
    for sample in running:
        sample.kill()


def port_of(sample: Sample) -> int:
    return int(sample.read_until(b"\n").split()[0])


@pytest.mark.parametrize("when", BOTH)
def test_lines_are_answered_in_capitals(start, when):
    """A line in two pieces, two lines in one piece, and `quit`, after which the connection ends in order."""
    server = start(f"lines_{when}.py", 0)
    with socket.create_connection(("127.0.0.1", port_of(server)), PATIENCE) as client:
        client.sendall(b"hel")
        client.sendall(b"lo\r\none\r\ntwo\r\nquit\r\n")
        assert read_to_end(client) == b"HELLO\r\nONE\r\nTWO\r\nbye\r\n"


def serve_page(listening: socket.socket, whole: bool) -> None:
    """Answers one request with 1,000 bytes, and then ends: in order, or not."""
    connected, _ = listening.accept()
    with connected:
        connected.settimeout(PATIENCE)
        while not connected.recv(65536).endswith(b"\r\n\r\n"):
            pass
        connected.sendall(b"x" * 1000)
        if not whole:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("when", BOTH)
@pytest.mark.parametrize("whole", [True, False])
def test_a_page_is_fetched(start, when, whole):
    """A whole page is told by both; that one was cut off, only by the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = start(f"fetch_{when}.py", *listening.getsockname(), "/")
        listening.settimeout(PATIENCE)
        serve_page(listening, whole)
    assert client.ended() == 0, client.errors
    if whole or when == "before":
        assert client.output == b"1000 bytes\n"
    else:
        assert client.output == b"cut off after 1000 bytes: [Errno 104] Connection reset by peer\n"


@pytest.mark.parametrize("when", BOTH)
def test_a_mail_is_delivered(start, when):
    """smtplib sends a message; the server prints who writes to whom."""
    server = start(f"mail_{when}.py", 0)
    with smtplib.SMTP("127.0.0.1", port_of(server), timeout=PATIENCE) as client:
        client.sendmail("ann@example.org", ["bob@example.org", "eve@example.org"], b"Subject: hi\r\n\r\nhello\r\n")
    said = server.read_until(b"\n", 2).decode().splitlines()[1]
    assert re.fullmatch(r"ann@example.org writes \d+ bytes to bob@example.org, eve@example.org", said)


@pytest.mark.parametrize("path", sorted(PORTS.glob("*.py")), ids=lambda path: path.stem)
def test_every_port_is_on_the_page(path: Path):
    """None is forgotten."""
    assert f"{{literalinclude}} ports/{path.name}" in PAGE
