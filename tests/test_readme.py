"""What the README shows is what happens."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(start: str) -> str:
    """The first fenced block that begins so."""
    found = re.search(rf"^```{start}(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert found, start
    return found[1]


@pytest.fixture
def run():
    """Starts programs; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def exchange(address: tuple[str, int], data: bytes) -> bytes:
    """Sends, half-closes, and reads to the end."""
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        reply = b""
        while chunk := client.recv(65536):
            reply += chunk
        return reply


def stop(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def test_the_first_example_is_an_echo_server(run):
    """The code block runs as it stands (on a free port), echoes, and drains on SIGTERM."""
    code = block("python\n").replace("7000", "0")
    process = run(sys.executable, "-u", "-W", "error", "-c", code)
    said = process.stdout.readline()
    port = int(re.fullmatch(r"listening on \('127\.0\.0\.1', (\d+)\)\n", said)[1])
    assert exchange(("127.0.0.1", port), b"hello") == b"hello"
    assert stop(process) == (0, "", "")


def test_there_are_exactly_two_set_up_commands_one_line_each():
    """One that installs and runs a server, one that installs and tests."""
    commands = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert [command.count("\n") for command in commands] == [1, 1]
    assert commands[0].rstrip().endswith("-m samples.chat --port 7000")
    assert commands[1].rstrip().endswith("-m pytest")


def test_the_transcript_is_what_trace_prints(run):
    """The shown lines, but for times and ports."""

    def shape(line: str) -> str:
        return re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", re.sub(r"^ *\d+\.\d{4}", "TIME", line))

    shown = [shape(line) for line in ("listening" + block("\nlistening")).splitlines()]
    process = run(sys.executable, "-m", "samples.echo", "--port", "0", "--trace")
    first = process.stdout.readline()
    port = int(first.rsplit(":", 1)[1])
    assert exchange(("127.0.0.1", port), b"hello") == b"hello"
    status, out, err = stop(process)
    assert status == 0, err
    lines = [shape(line) for line in (first + out + err).splitlines()]
    assert [line for line in lines if line.startswith(("listening", "TIME"))] == shown


@pytest.mark.parametrize("command", re.findall(r"^\| `python (-m samples\.[^`]*)`", README, re.MULTILINE))
def test_each_sample_in_the_table_has_help(command):
    """Every command of the table starts, and explains itself."""
    module = shlex.split(command)[:2]
    done = subprocess.run([sys.executable, *module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: python {shlex.join(module)} ")


def test_every_link_into_the_repository_leads_somewhere():
    """No dead links."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
