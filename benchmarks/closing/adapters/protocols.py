"""The behaviours as callback protocols, once for all frameworks that have them: this reactor, asyncio, uvloop, Twisted.

They are plain `asyncio.Protocol` classes. An adapter gives them `call_later`, and a transport with asyncio's names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from benchmarks.closing.adapters.job import DELAY, Job, tell, tell_late, tell_lost, wait_for_word


class Telling(asyncio.Protocol):
    """Tells how its connection ended; knows the first data from the later."""

    transport: Any

    def __init__(self, payload: bytes, call_later: Callable[..., object]) -> None:
        self.payload = payload
        self.call_later = call_later
        self.asked = False
        self.received = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.asked:
            self.received += len(data)
            self.more_received(data)
        else:
            self.asked = True
            self.request_received(data)

    def request_received(self, data: bytes) -> None:
        """The first data."""

    def more_received(self, data: bytes) -> None:
        """All later data."""

    def connection_lost(self, exc: Exception | None) -> None:
        tell_lost(exc)


class Reply(Telling):
    def request_received(self, data: bytes) -> None:
        self.transport.write(self.payload)
        self.transport.close()


class Queue(Telling):
    def request_received(self, data: bytes) -> None:
        self.transport.write(self.payload)  # eof_received's default closes after the flush


class Echo(Telling):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class HalfCloseReply(Telling):
    def eof_received(self) -> bool:
        self.call_later(DELAY, self.reply)
        return True

    def reply(self) -> None:
        self.transport.write(self.payload)
        self.transport.close()


class EarlyHalfClose(Telling):
    def request_received(self, data: bytes) -> None:
        self.transport.write_eof()

    def eof_received(self) -> None:
        tell(received=self.received)


class Raise(Telling):
    def request_received(self, data: bytes) -> None:
        self.transport.write(self.payload)

    def more_received(self, data: bytes) -> None:
        raise RuntimeError("the handler is meant to raise")


class Abort(Telling):
    def request_received(self, data: bytes) -> None:
        self.transport.write(self.payload)
        self.call_later(DELAY, self.abort)

    def abort(self) -> None:
        self.transport.abort()


class WriteAfterClose(Telling):
    def request_received(self, data: bytes) -> None:
        self.transport.write(self.payload)
        self.transport.close()
        try:
            self.transport.write(b"late")
        except Exception as exc:
            tell_late(exc)
        else:
            tell_late(None)


class LastWords(Telling):
    def request_received(self, data: bytes) -> None:
        tell(waiting=True)
        wait_for_word()
        self.transport.write(b"too late for the peer")

    def connection_lost(self, exc: Exception | None) -> None:
        tell(received=self.received)
        tell_lost(exc)


class Idle(Telling):
    def eof_received(self) -> bool:
        tell(half_open=True)
        return True


PROTOCOLS = {
    "reply": Reply,
    "queue": Queue,
    "echo": Echo,
    "half-close-reply": HalfCloseReply,
    "early-half-close": EarlyHalfClose,
    "raise": Raise,
    "abort": Abort,
    "write-after-close": WriteAfterClose,
    "last-words": LastWords,
    "idle": Idle,
}


def factory(job: Job, call_later: Callable[..., object]) -> Callable[[], Telling]:
    """Makes the protocols of the job's behaviour."""
    protocol = PROTOCOLS[job.behaviour]
    return lambda: protocol(job.payload, call_later)
