"""The frameworks, and a server of one of them as a subprocess that serves one behaviour."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import platform
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import attrs

import reactor
from benchmarks.closing.clients import PATIENCE, Client

ROOT = Path(__file__).resolve().parents[2]
# Between two looks at something that tells of no change by itself.
_GLANCE = 0.01


@attrs.frozen
class Framework:
    """What is compared. Its name is also that of its module and of its distribution."""

    name: str

    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.name) is not None

    def version(self) -> str:
        if self.name == "reactor":
            return reactor.__version__
        return platform.python_version() if self.name == "asyncio" else importlib.metadata.version(self.name)

    def served_how(self) -> str:
        """What its adapter's docstring says."""
        adapter = Path(__file__).parent / "adapters" / f"{self.name}_.py"
        return ast.get_docstring(ast.parse(adapter.read_text(encoding="utf-8"))) or ""


THIS = Framework("reactor")
FRAMEWORKS = (THIS, *map(Framework, ("asyncio", "uvloop", "twisted", "tornado", "trio", "gevent")))


class ServerFailed(Exception):
    """The server did not start, or ended before it was asked to."""


class Server:
    """A running adapter. Leaving the context kills it."""

    def __init__(self, framework: Framework, behaviour: str, size: int, **options: float) -> None:
        command = [sys.executable, "-m", f"benchmarks.closing.adapters.{framework.name}_", behaviour]
        command += ["--size", str(size)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._facts: list[dict[str, Any]] = []
        self._log: list[str] = []
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            _in_thread(self._process.stdout, self._lines.put, at_end=lambda: self._lines.put(None)),
            _in_thread(self._process.stderr, self._log.append),
        ]
        try:
            self.address = ("127.0.0.1", self._port())
        except BaseException:
            self.close()
            raise
        self._logged_before = len(self._log)

    def _port(self) -> int:
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise ServerFailed("it did not start") from None
        if line is None or not line.startswith("listening "):
            self._process.wait(PATIENCE)
            self._readers[1].join(PATIENCE)
            raise ServerFailed(f"it did not start: {''.join(self._log[-1:]).strip()}")
        return int(line.split()[1])

    def connect(self) -> Client:
        return Client(self.address)

    def told(self, name: str, seconds: float = PATIENCE) -> dict[str, Any] | None:
        """The next fact of that name that the server tells; None when none comes in time."""
        deadline = time.monotonic() + seconds
        while True:
            for fact in self._facts:
                if name in fact:
                    self._facts.remove(fact)
                    return fact
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if line is None:
                self._lines.put(None)  # for whoever asks next
                return None
            self._facts.append(json.loads(line))

    def say_go_on(self) -> None:
        """The word that `job.wait_for_word` waits for."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def stand_still(self) -> None:
        """Stops the whole process, until `go_on`."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def exit_status(self) -> int | None:
        """How it ended; None when it did not in time."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return None

    def log_lines(self) -> int:
        """How many it has written since it began to listen."""
        return len(self._log) - self._logged_before

    def cpu_seconds(self) -> float:
        """What the process has used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def sockets(self) -> int:
        """How many the process has open."""
        links = Path(f"/proc/{self._process.pid}/fd")
        return sum(os.readlink(link).startswith("socket:") for link in links.iterdir())

    def wait_for_sockets(self, count: int, seconds: float) -> float | None:
        """How long it took until no more than so many were open; None when it did not come to that."""
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < seconds:
            if self.sockets() <= count:
                return passed
            time.sleep(_GLANCE)
        return None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _in_thread(
    pipe: IO[str], take: Callable[[str], object], at_end: Callable[[], object] = lambda: None
) -> threading.Thread:
    def read() -> None:
        for line in pipe:
            take(line)
        at_end()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread
