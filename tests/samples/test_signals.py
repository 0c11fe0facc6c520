"""Signals that come when a sample has done what an earlier one asked for: its status and output stay as they are."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys

import pytest

from tests.samples.test_echo import send_until_refused

# A sample in which each change of a handler is followed at once by both signals, once a file says so; and another pair
# comes when the interpreter ends. So no moment between the end of the drain and that of the process is left out.
HAUNTED = """
import atexit, os, runpy, signal, sys

flag, *sys.argv = sys.argv[1:]
set_handler = signal.signal


def haunt():
    if os.path.exists(flag):
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)


def haunted(number, handler):
    before = set_handler(number, handler)
    haunt()
    return before


signal.signal = haunted
atexit.register(haunt)
runpy.run_module(sys.argv[0], run_name="__main__")
"""
SERVERS = {
    "echo": ("samples.echo", "--port", "0"),
    "echo, two workers": ("samples.echo", "--port", "0", "--workers", "2"),
    "smtpsink": ("samples.smtpsink", "--port", "0"),
    "proxy": ("samples.proxy", "--port", "0", "--to", "127.0.0.1:1"),
    "files": ("samples.files", "--port", "0", "."),
    "chat": ("samples.chat", "--port", "0"),
    "webchat": ("samples.webchat", "--port", "0", "--chat-port", "0"),
    "echo with a monitor": ("samples.echo", "--port", "0", "--monitor", "0"),
    "the ladder's last step": ("samples.ladder.with_reactor", "--port", "0"),
    "a guest of asyncio": ("samples.embedding.asyncio_host", "--port", "0"),
    "a guest of a reactor": ("samples.embedding.guest", "--port", "0"),
}
NEEDS = {"files": ["h11"], "webchat": ["h11", "wsproto"], "echo with a monitor": ["h11", "prometheus_client"]}


def haunted(run, flag, *arguments, **more):
    return run("", command=[sys.executable, "-W", "error", "-c", HAUNTED, str(flag), *arguments], **more)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_has_drained_ends_as_it_drained(run, tmp_path, server, number):
    """Status 0 and not a word, although both signals come again at every step of the way out."""
    missing = [module for module in NEEDS.get(server, ()) if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    sample = haunted(run, tmp_path / "haunt", *SERVERS[server])
    sample.read_until(b"listening on")
    (tmp_path / "haunt").touch()
    assert sample.stop(number) == 0, sample.errors
    assert sample.errors == ""


def test_what_was_lost_in_a_drain_is_still_told(run, tmp_path):
    """Status 1 and one line, and a signal behind it changes neither."""
    sample = haunted(run, tmp_path / "haunt", "samples.echo", "--port", "0", "--drain-timeout", "0.1")
    with sample.connect() as client:
        send_until_refused(client)
        (tmp_path / "haunt").touch()
        assert sample.stop() == 1
    assert sample.errors.startswith("drained in ")
    assert sample.errors.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_client_that_has_drained_ends_as_it_drained(run, tmp_path, number):
    """The other side of the chat's and the exchange's connections."""
    server = run("echo", "--port", "0")
    read_end, write_end = os.pipe()
    with open(read_end), open(write_end, "wb", buffering=0) as terminal:
        target = f"127.0.0.1:{server.port()}"
        client = haunted(run, tmp_path / "haunt", "samples.chat", "--connect", target, stdin=read_end)
        terminal.write(b"hello\n")
        client.read_until(b"hello\n")
        (tmp_path / "haunt").touch()
        assert client.stop(number) == 0, client.errors
    assert client.errors == ""
