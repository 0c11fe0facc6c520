"""What an adapter is told on its command line, and how it tells the suite what happened, on its standard output.

    python -m benchmarks.closing.adapters.NAME BEHAVIOUR [--size BYTES] [--deadline SECONDS] [--spare DESCRIPTORS]

An adapter prints `listening PORT`, and from then on one JSON object per line: {"lost": null} when its framework told
it a normal end, {"lost": "ConnectionResetError"} when it was told an error. SIGTERM asks it to stop as gracefully as
its framework knows how to.

The behaviours, each for every connection:
- reply: on the first data, write `size` bytes and close.
- queue: on the first data, write `size` bytes; close when the peer's end of file has come.
- echo: send back what comes, until the peer's end of file.
- half-close-reply: read until the peer's end of file; 0.2 s later write `size` bytes and close.
- early-half-close: on the first data, end the own output; count what comes until end of file: {"received": 1000}.
- raise: on the first data, queue `size` bytes; on the next, raise.
- abort: on the first data, queue `size` bytes; 0.2 s later abort.
- write-after-close: on the first data, queue `size` bytes, close, write again: {"late": null} if that went well.
- last-words: on the first data, tell {"waiting": true}, wait for a line on standard input with the whole loop
  standing still, write; count what was received afterwards: {"received": 1000}.
- idle: stay open after the peer's end of file, and tell {"half_open": true}.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import attrs

BEHAVIOURS = (
    "reply",
    "queue",
    "echo",
    "half-close-reply",
    "early-half-close",
    "raise",
    "abort",
    "write-after-close",
    "last-words",
    "idle",
)

HOST = "127.0.0.1"
# The same for all, so that no crowd fails for want of a place in the kernel's queue.
BACKLOG = 4096
# Between the request and what `abort` and `half-close-reply` do.
DELAY = 0.2
# How long a framework that can wait for its connections when it stops is allowed to.
PATIENCE = 30.0


def tell(**fact: object) -> None:
    """One thing that happened, for the suite."""
    print(json.dumps(fact), flush=True)


def tell_lost(exc: BaseException | None) -> None:
    """How the framework told the end of a connection."""
    tell(lost=None if exc is None else type(exc).__name__)


def tell_late(exc: Exception | None) -> None:
    """What became of a write after the close."""
    tell(late=None if exc is None else type(exc).__name__)


def wait_for_word() -> None:
    """Blocks everything, as a busy handler would, until the suite says so."""
    sys.stdin.readline()


@attrs.frozen
class Job:
    behaviour: str
    payload: bytes
    deadline: float | None
    spare: int | None

    @classmethod
    def from_command_line(cls) -> Job:
        parser = argparse.ArgumentParser()
        parser.add_argument("behaviour", choices=BEHAVIOURS)
        parser.add_argument("--size", type=int, default=0)
        parser.add_argument("--deadline", type=float)
        parser.add_argument("--spare", type=int)
        given = parser.parse_args()
        return cls(given.behaviour, bytes(given.size), given.deadline, given.spare)

    def listening(self, port: int) -> None:
        """The server is ready."""
        if self.spare is not None:
            _limit_descriptors(self.spare)
        print(f"listening {port}", flush=True)


def _limit_descriptors(spare: int) -> None:
    import resource

    # The listing's own descriptor is in it, too, and is the highest when there are no gaps.
    highest = max(fd for fd in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}"))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + spare, hard))
