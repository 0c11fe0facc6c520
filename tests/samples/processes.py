"""A sample in a process of its own, as people run it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 10.0


class Sample:
    """One running sample. Its stdout is read with patience; its stderr goes to a file, so that it never blocks."""

    def __init__(self, command: list[str], stdin, stdout, pass_fds=()) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (kill() closes it)
        environment = {name: value for name, value in os.environ.items() if name != "REACTOR_POLLER"}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=self._stderr,
            pass_fds=pass_fds,
            bufsize=0,
        )
        self.output = b""

    def read_until(self, wanted: bytes, times: int = 1) -> bytes:
        """Everything on stdout so far, once `wanted` is in it so many times."""
        while self.output.count(wanted) < times:
            data = self._read()
            assert data, f"no {wanted!r} x{times}; stdout {self.output!r}, stderr {self.errors!r}"
            self.output += data
        return self.output

    def _read(self) -> bytes:
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, f"silent for {PATIENCE} s; stdout {self.output!r}, stderr {self.errors!r}"
        return os.read(self.process.stdout.fileno(), 65536)

    def listening(self, count: int = 1) -> list[str]:
        """The addresses that it printed."""
        lines = self.read_until(b"\n", count).decode().splitlines()
        assert all(line.startswith("listening on ") for line in lines)
        return [line.removeprefix("listening on ") for line in lines]

    def port(self) -> int:
        return int(self.listening()[0].rpartition(":")[2])

    def connect(self) -> socket.socket:
        """A raw client, on 127.0.0.1."""
        return socket.create_connection(("127.0.0.1", self.port()), PATIENCE)

    def ended(self) -> int:
        """Its exit status, once it has ended; stdout is read to its end."""
        if self.process.stdout is not None:
            while data := self._read():
                self.output += data
        return self.process.wait(PATIENCE)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends the signal; its exit status."""
        self.process.send_signal(number)
        return self.ended()

    @property
    def errors(self) -> str:
        """What it wrote to stderr."""
        # Not by seek and read: the place in the file is shared with the sample, which goes on writing there.
        return os.pread(self._stderr.fileno(), 1 << 24, 0).decode()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._stderr):
            if pipe is not None:
                pipe.close()


def read_to_end(sock: socket.socket) -> bytes:
    """Everything until EOF; a reset raises."""
    chunks = []
    while chunk := sock.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Returns once the condition holds; AssertionError when it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        select.select([], [], [], 0.005)
