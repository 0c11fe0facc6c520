"""Small servers in processes of their own, for what needs one: signals, descriptor limits, network namespaces.

A program is Python source that runs after `PRELUDE`. It calls `say(name=value)` for each thing that the test waits for,
and `finish(reactor)` at its end.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

from tests.helpers import PATIENCE

ROOT = Path(__file__).parent.parent.parent

PRELUDE = """
import json, logging, os, resource, sys, time
import attrs
from reactor import *
from reactor.options import *

lines = []
class Lines(logging.Handler):
    def emit(self, record):
        lines.append((record.levelname, record.getMessage()))
logging.getLogger("reactor").addHandler(Lines())
logging.getLogger("reactor").setLevel(logging.INFO)
logging.getLogger("reactor").propagate = False

def say(**what):
    print(json.dumps(what), flush=True)

def finish(reactor, **more):
    ended = attrs.asdict(reactor.statistics().ended)
    say(ended=ended, turns=reactor.turns, lines=lines, **more)

class Told(Protocol):
    made = 0
    lost = []
    def connection_made(self, connection):
        Told.made += 1
        super().connection_made(connection)
    def connection_lost(self, exc):
        report = self.connection.report
        Told.lost.append(exc)
        say(lost=type(exc).__name__, how=report.how, written=report.written, accepted=report.accepted,
            acknowledged=report.acknowledged, unacknowledged=report.unacknowledged, unsent=report.unsent,
            received=report.received, discarded=report.discarded, fin_sent=report.fin_sent,
            fin_acknowledged=report.fin_acknowledged, after=time.monotonic() - BEGAN)

BEGAN = time.monotonic()
REPLY = b"".join(b"%07d\\n" % number for number in range(375_000))
NARROW = Sockets(send_buffer_bytes=256 * 1024)
"""


class Program:
    """A program under way; a context manager that ends it whatever happens."""

    def __init__(self, source: str, poller: str = "epoll", namespace: str | None = None, *arguments: str) -> None:
        command = [sys.executable, "-W", "error", "-c", PRELUDE + source, *arguments]
        if namespace is not None:
            command = ["ip", "netns", "exec", namespace, *command]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "REACTOR_POLLER": poller}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            bufsize=0,
        )
        self.buffer = b""

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def tell(self, line: str) -> None:
        """Writes a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def hear(self, name: str) -> dict:
        """The next thing it says that has this name; what it says before is passed over."""
        while True:
            line = self._line()
            said = json.loads(line)
            if name in said:
                return said

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
            assert ready, "the program says nothing"
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                self.process.wait(PATIENCE)
                assert self.process.stderr is not None
                raise AssertionError(f"the program has ended: {self.process.stderr.read().decode()}")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def exit_code(self) -> int:
        """Waits for its end."""
        return self.process.wait(PATIENCE)


def client(port: int) -> socket.socket:
    """A blocking client with a bound on its patience."""
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def read_to_end(sock: socket.socket, most: int = 1 << 20) -> tuple[bytes, str]:
    """All the bytes, and how it ended."""
    data = bytearray()
    while True:
        try:
            more = sock.recv(most)
        except ConnectionResetError:
            return bytes(data), "reset"
        if not more:
            return bytes(data), "EOF"
        data += more
