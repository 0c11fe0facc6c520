"""A chat node: joins a lobby to the other machines through one stream in Redis (`cluster.py` has the rules).

Two connections, since a blocked one can do nothing else: one reads (XREAD BLOCK), one appends. Each is made again, with
back-off, whenever it is lost; reading goes on after the last entry read, appending with the first not acknowledged.

*Appended as one.* What waits is sent in a transaction (MULTI, XADD ..., EXEC), one at a time. So when Redis refuses one
of them (out of memory, read-only by now), it has none of that transaction, and a later line cannot come before an
earlier one, which would then be dropped as a repetition.

*Reading first.* A node says hello only when it has its place in the stream, so that it misses no answer.

*No faster than the members here read.* While one of them reads slowly, the lines of other machines wait in the stream
(`pace.py`): the entries that were read and not yet taken are at most those of one XREAD.

*Acknowledged* is what EXEC has answered for. How safe that is, Redis's configuration decides: with `appendonly yes` and
`appendfsync always` it is on disk.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from reactor import Connector, Misuse, Reactor, TimerHandle
from samples.chat.cluster import EXPIRY, Cluster
from samples.chat.entries import ACTS
from samples.chat.pace import Turns
from samples.chat.redis import RedisConnection, Target
from samples.chat.rooms import Lobby

logger = logging.getLogger("samples.chat")

# One stream; another chat in the same Redis takes another database.
STREAM = "reactor:chat"
# What the stream keeps, and so how far a node may fall behind: ten times what one node keeps back.
STREAM_LENGTH = 50_000
# Entries of one transaction, and of one XREAD: a few milliseconds of work.
_TOGETHER = 200
# Seconds that XREAD waits: it finds out so often that the connection still works.
_BLOCK = 5.0
_PATIENCE = 10.0
# Different reasons for a loss that are logged before it works again.
_REASONS = 20


# An entry's id and its fields.
_Read = tuple[str, Mapping[str, str]]


class Backoff:
    """How long to wait before the next attempt: twice as long each time, up to a bound; half of it is chance.

    Chance, so that nodes that lost Redis together do not return together.
    """

    def __init__(self, chance: random.Random, first: float = 0.1, longest: float = 5.0) -> None:
        self._chance = chance
        self._first = self._next = first
        self._longest = longest

    def delay(self) -> float:
        """Seconds to wait now."""
        delay, self._next = self._next, min(self._next * 2, self._longest)
        return delay * self._chance.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It worked: the next delay is the shortest again."""
        self._next = self._first


class Channel:
    """A connection to Redis that is made again whenever it is lost. `ready()` is called for each that is open."""

    def __init__(
        self,
        reactor: Reactor,
        target: Target,
        context: ssl.SSLContext | None,
        backoff: Backoff,
        ready: Callable[[], None],
        lost: Callable[[str], None],
        drain: Callable[[], None],
    ) -> None:
        # While there is one that is ready.
        self.connection: RedisConnection | None = None
        self.worked = False
        self._reactor = reactor
        self._target = target
        self._context = context
        self._backoff = backoff
        self._ready = ready
        self._lost = lost
        self._drain = drain
        self._connector: Connector | None = None
        self._retry: TimerHandle | None = None
        self._protocol: RedisConnection | None = None

    def open(self) -> None:
        """Begins; from then on it goes on by itself."""
        self._retry = None

        def make() -> RedisConnection:
            self._protocol = RedisConnection(
                self._reactor, self._target.introduction(), self._is_ready, self._is_lost, self._drain
            )
            return self._protocol

        try:
            self._connector = self._target.connect(self._reactor, make, self._context)
        except Misuse:
            pass  # the reactor has drained
        except (OSError, ValueError) as exc:
            self._is_lost(str(exc))

    def does_work(self) -> None:
        """It has done what it is for."""
        self.worked = True
        self._backoff.reset()

    def close(self) -> None:
        """Ends it in order, for good."""
        self.connection, self.worked = None, False
        if self._retry is not None:
            self._retry.cancel()
        if self._connector is not None:
            self._connector.cancel()
        if self._protocol is not None:
            self._protocol.close()

    def _is_ready(self) -> None:
        self.connection = self._protocol
        self._ready()

    def _is_lost(self, reason: str) -> None:
        self.connection = self._protocol = None
        self.worked = False
        try:
            self._retry = self._reactor.call_later(self._backoff.delay(), self.open)
        except Misuse:
            return  # the reactor has closed
        self._lost(reason)


class Node:
    """This machine among the others. Begins at once; ends when the reactor drains, once everybody here has left."""

    def __init__(
        self,
        reactor: Reactor,
        lobby: Lobby,
        target: Target,
        name: str,
        *,
        context: ssl.SSLContext | None = None,
        chance: random.Random | None = None,
        expiry: float = EXPIRY,
        stream_length: int = STREAM_LENGTH,
    ) -> None:
        chance = chance or random.SystemRandom()
        self.cluster = Cluster(lobby, name, f"{chance.getrandbits(64):016x}", expiry=expiry)
        self.cluster.on_work = self._work_soon
        self._reactor = reactor
        self._lobby = lobby
        self._target = target
        self._turns: Turns[_Read] = Turns(
            lobby,
            reactor.time,
            self._soon,
            room=lambda read: read[1].get("room", ""),
            length=lambda read: len(read[1].get("text", "").encode()),
            is_blocked=lambda read: read[1].get("kind") in ACTS and lobby.is_full(read[1].get("room", "")),
            take=self._take,
            hold=_nothing,
            go_on=self._read,
        )
        self._stream_length = stream_length
        self._beat_delay = expiry / 3
        # Whoever returns must be heard before the others give it up.
        longest = min(5.0, expiry / 4)
        self._reading, self._writing = (
            Channel(reactor, target, context, Backoff(chance, longest=longest), ready, self._lost, self.drain)
            for ready in (self._find_place, self._begin_to_append)
        )
        self._appending = False
        self._begun = self._draining = self._said_goodbye = self._work_is_due = False
        self._reasons: set[str] = set()
        self._reading.open()
        self._next_beat = reactor.call_later(self._beat_delay, self._beat)

    @property
    def unsaid(self) -> int:
        """Lines that were said here, and that no other machine will ever see if this one ends now."""
        return self.cluster.unsaid

    @property
    def up(self) -> bool:
        """Whether what is said goes to the other machines, and theirs comes here."""
        return self._reading.worked and self._writing.worked

    def drain(self) -> None:
        """Says goodbye once nobody is here any more, and ends when that is acknowledged."""
        self._draining = True
        self._work_soon()

    def close(self) -> None:
        """Ends now, without a word: the others will find this node silent."""
        self._next_beat.cancel()
        self._reading.close()
        self._writing.close()

    def _beat(self) -> None:
        self._next_beat = self._reactor.call_later(self._beat_delay, self._beat)
        self.cluster.beat()

    def _lost(self, reason: str) -> None:
        if self._writing.connection is None:
            self._appending = False
        if self._reading.connection is None:
            self._turns.stop()  # what was not taken is read again
        if reason not in self._reasons and len(self._reasons) < _REASONS and not self._said_goodbye:
            self._reasons.add(reason)
            logger.warning("Redis at %s: %s; trying again until it works", self._target, reason)
        self.cluster.connected(False)

    def _works(self, channel: Channel) -> None:
        channel.does_work()
        if self.up:
            if self._reasons:
                logger.warning("Redis at %s: it works", self._target)
                self._reasons.clear()
            self.cluster.connected(True)

    # Reading

    def _find_place(self) -> None:
        assert self._reading.connection is not None
        self._reading.connection.call("XREVRANGE", STREAM, "+", "-", "COUNT", 1, then=self._found_place, kind=list)

    def _found_place(self, newest: list[Any]) -> None:
        self.cluster.resume(newest[0][0].decode() if newest else None)
        self._read(wait=False)

    def _read(self, wait: bool = True) -> None:
        if self._reading.connection is not None:
            assert self.cluster.last is not None
            block = ("BLOCK", round(_BLOCK * 1000)) if wait else ()
            self._reading.connection.call(
                *("XREAD", "COUNT", _TOGETHER, *block, "STREAMS", STREAM, self.cluster.last),
                then=self._came,
                kind=list | None,
                patience=_BLOCK + _PATIENCE,
            )

    def _came(self, reply: list[Any] | None) -> None:
        if not self._reading.worked:
            self._works(self._reading)
        if not self._begun:
            self._begun = True
            self._writing.open()
        self._turns.add(_entry(id, words) for id, words in (reply[0][1] if reply else ()))
        if not self._turns.held:
            self._read()

    def _take(self, read: _Read) -> bool:
        self.cluster.feed(*read)
        return True

    # Appending

    def _begin_to_append(self) -> None:
        self.cluster.beat()  # something to append, whose answer tells that it works
        self._append()

    def _work_soon(self) -> None:
        """What one turn gathers goes out together."""
        if not self._work_is_due:
            self._work_is_due = True
            self._soon(self._work)

    def _soon(self, callback: Callable[[], None]) -> None:
        try:
            self._reactor.call_soon(callback)
        except Misuse:
            pass  # the reactor has closed

    def _work(self) -> None:
        self._work_is_due = False
        if self._draining and not self._said_goodbye and self._lobby.empty:
            self._said_goodbye = True
            self._next_beat.cancel()
            self.cluster.goodbye()
        self._append()

    def _append(self) -> None:
        connection = self._writing.connection
        if connection is None or self._appending:
            return
        batch = self.cluster.batch(_TOGETHER)
        if batch:
            self._appending = True
            connection.call("MULTI")
            for fields in batch:
                connection.call("XADD", STREAM, "MAXLEN", "~", self._stream_length, "*", *fields)
            connection.call("EXEC", then=self._appended, kind=list)

    def _appended(self, replies: list[Any]) -> None:
        self._appending = False
        refused = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if refused is not None:
            assert self._writing.connection is not None
            self._writing.connection.fail(str(refused))
            return
        self._works(self._writing)
        self.cluster.acknowledge(len(replies))
        if self._said_goodbye and not self.cluster.waiting:
            self.close()
        else:
            self._append()


def _entry(id: bytes, words: list[bytes]) -> _Read:
    texts = [word.decode("utf-8", "replace") for word in words]
    return id.decode(), dict(zip(texts[::2], texts[1::2], strict=False))


def _nothing() -> None:
    """Nothing is read while entries wait: the next XREAD is sent when all were taken."""
