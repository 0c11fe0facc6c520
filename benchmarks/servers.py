"""The servers that are compared, each in a process of its own on a core of its own."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

import reactor
from benchmarks import native

ROOT = Path(__file__).resolve().parents[1]
ADAPTERS = Path(__file__).parent / "adapters"
# Far more than a start or a load takes, beyond its own time.
PATIENCE = 60.0

ALL = ("echo", "relay", "upload", "fanout", "churn")


class Failed(Exception):
    """A measurement that has no result, and why."""


@attrs.frozen
class Server:
    """One of those compared. Its adapter is `adapters/NAME_.py`; `c` is `server.c`."""

    name: str
    # What its adapter can do. An idle deadline and the timers are things of some frameworks only.
    can: tuple[str, ...]
    # The module that a program imports to use it, if it is one.
    module: str | None = None

    def is_installed(self) -> bool:
        if self.name == "c":
            return native.compiler() is not None
        return self.module is None or importlib.util.find_spec(self.module.partition(".")[0]) is not None

    def version(self) -> str:
        if self.name == "c":
            return "bare epoll"
        if self.name == "reactor":
            return reactor.__version__
        if self.name in ("asyncio", "epoll"):
            return f"CPython {platform.python_version()}"
        return importlib.metadata.version(self.name)

    def command(self, *arguments: str) -> list[str]:
        if self.name == "c":
            return [str(native.program("server")), *arguments]
        return [sys.executable, str(ADAPTERS / f"{self.name}_.py"), *arguments]


SERVERS = (
    Server("reactor", (*ALL, "idle", "trace", "timers", "import"), "reactor"),
    Server("c", ("echo", "relay", "upload", "fanout", "churn")),
    Server("epoll", ("echo", "upload", "fanout", "churn")),
    Server("uvloop", (*ALL, "idle", "timers", "import"), "uvloop"),
    Server("asyncio", (*ALL, "idle", "timers", "import"), "asyncio"),
    Server("twisted", (*ALL, "idle", "timers", "import"), "twisted.internet.reactor"),
    Server("tornado", ("echo", "relay", "upload", "fanout", "timers", "import"), "tornado.tcpserver"),
    Server("trio", (*ALL, "idle", "import"), "trio"),
    Server("gevent", (*ALL, "idle", "import"), "gevent.server"),
)


@functools.cache
def cores() -> tuple[int, int] | None:
    """One for the servers and one for the load; None when there are not two."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[-1], allowed[0]) if len(allowed) > 1 else None


@contextmanager
def on_core_of(role: str) -> Iterator[None]:
    """What is started in here, by this thread, begins there and stays there: role is `server` or `load`."""
    before = os.sched_getaffinity(0)
    both = cores()
    if both is not None:
        os.sched_setaffinity(0, {both[role == "load"]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment() -> dict[str, str]:
    """As an installed program has it: with its modules compiled once and for all, as its peers' are."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**outside, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


class Running:
    """A server that listens. Leaving the context kills it."""

    def __init__(self, server: Server, *arguments: str) -> None:
        command = server.command(*arguments)
        with on_core_of("server"):
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
            )
        # Its standard error is read all the time: a full pipe would stop the server.
        self._log: list[str] = []
        self._line: queue.Queue[str] = queue.Queue()
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_line, self._read_log)]
        for reader in self._readers:
            reader.start()
        try:
            line = self._line.get(timeout=PATIENCE)
        except queue.Empty:
            line = ""
        if not line.startswith("listening "):
            self.close()
            raise Failed(f"it did not start: {self.last_words()}")
        self.port = int(line.split()[1])

    def _read_line(self) -> None:
        assert self.process.stdout is not None
        self._line.put(self.process.stdout.readline())

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._log = [*self._log[-9:], line]

    def last_words(self) -> str:
        return self._log[-1].strip() if self._log else "it said nothing"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def put_under_load(running: Running, *arguments: object) -> dict[str, Any]:
    """What the load measured: `load.c` says what the arguments are and what comes back."""
    mode, *numbers = arguments
    built = native.program("load")
    command = [str(built)] if built else [sys.executable, str(Path(__file__).parent / "load.py")]
    command += [str(mode), str(running.port), str(running.process.pid), *map(str, numbers)]
    patience = PATIENCE + float(numbers[-1]) + float(numbers[-2])
    try:
        with on_core_of("load"):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=patience, env=environment(), check=False
            )
    except subprocess.TimeoutExpired:
        raise Failed("the load did not come to its end") from None
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["it said nothing"]
        raise Failed(f"{words[-1]} (the server: {running.last_words()})")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
