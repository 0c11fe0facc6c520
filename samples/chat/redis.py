"""One connection to Redis: commands out, replies in. The protocol is hiredis's; nothing of it is written here.

`Target.parse` reads a URL; `RedisConnection` introduces itself (AUTH, SELECT), says `ready`, and from then on takes
commands, whose replies come in the order of the commands. It ends in one way: `lost(reason)`, once, whatever it was:
nobody there, a reset, an error reply, silence while a reply is due, bytes that are no Redis's. Then nothing more comes.

An error reply ends the connection too. Most are about the whole server (LOADING, READONLY, OOM, NOAUTH, MISCONF), and
what may help is the same as for a lost one: wait, connect again (perhaps to another machine by now), and try again.
"""

from __future__ import annotations

import os
import ssl
from collections import deque
from collections.abc import Callable
from types import UnionType
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs
import hiredis

from reactor import ConnectFailed, Connection, Connector, Deadlines, Options, Protocol, Reactor, TimerHandle
from reactor.addresses import check_host, check_port, unix_name
from samples.common import reason

PORT = 6379
# What fits into a socket's address (unix(7)), with its NUL.
_PATH_BYTES = 107
# Redis answers in microseconds; a disk that is asked to sync may take seconds.
_PATIENCE = 10.0
# Of one reply: far above what was asked for, far below what would hurt.
_REPLY_BYTES = 64 * 1024 * 1024
# A connect keeps the default of 30 s, for it begins with a look-up: of three name servers each is asked twice, for 5 s
# (resolv.conf(5)). With 5 s, one dead name server would keep a node from Redis for good.
_OPTIONS = Options(deadlines=Deadlines(handshake=5.0, flush=5.0, linger_total=5.0))
_NOTHING = object()


@attrs.frozen
class Target:
    """Where Redis is, and as whom to speak to it. `str()` has no password."""

    host: str | None
    port: int | None
    path: str | None
    tls: bool
    user: str | None
    password: str | None = attrs.field(repr=False)
    database: int

    @classmethod
    def parse(cls, url: str) -> Target:
        """redis://, rediss:// (TLS) and unix:// URLs, as other clients take them; ValueError in words."""
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("a Redis URL begins with redis://, rediss:// or unix://")
        user, password = (unquote(word) if word else None for word in (parts.username, parts.password))
        if user is not None and password is None:
            raise ValueError(f"the Redis URL has a user, {user}, without a password")
        if parts.fragment:
            raise ValueError("a Redis URL has no #fragment; within a password # is %23")
        if parts.scheme == "unix":
            host, port, path = None, None, unquote(parts.path)
            database = _only_database(parts)
            if len(path) < 2 or parts.hostname:
                raise ValueError("unix:// needs the path of a socket, with three slashes: unix:///run/redis.sock")
            if len(os.fsencode(path)) > _PATH_BYTES:
                raise ValueError(f"the path of a Unix socket has at most {_PATH_BYTES} bytes")
        else:
            host, port, path = parts.hostname, _port(parts), None
            database = parts.path.removeprefix("/") or "0"
            if host is None or parts.query:
                raise ValueError(f"{parts.scheme}://[USER:PASSWORD@]HOST[:PORT][/DATABASE] is needed")
        if not (database.isascii() and database.isdigit() and len(database) < 10):
            raise ValueError(f"a Redis database is a number, not {database!r}")
        if host is not None:
            check_host("the host", host)
        if path is not None:
            unix_name("the path", path)
        return cls(host, port, path, parts.scheme == "rediss", user, password, int(database))

    def __str__(self) -> str:
        if self.path is not None:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in str(self.host) else f"{self.host}:{self.port}"

    def introduction(self) -> list[tuple[str, ...]]:
        """The commands that a connection begins with."""
        commands: list[tuple[str, ...]] = []
        if self.password is not None:
            commands.append(("AUTH", *([self.user] if self.user else []), self.password))
        if self.database:
            commands.append(("SELECT", str(self.database)))
        return commands

    def connect(
        self, reactor: Reactor, make: Callable[[], RedisConnection], context: ssl.SSLContext | None
    ) -> Connector:
        """Begins to connect; `context` is for TLS."""
        where: dict[str, Any] = {"path": self.path} if self.path is not None else {"host": self.host, "port": self.port}
        return reactor.connect(make, **where, tls=context if self.tls else None, options=_OPTIONS)


def _port(parts: SplitResult) -> int:
    try:
        return check_port(parts.port if parts.port is not None else PORT)
    except ValueError:
        raise ValueError("the port in the Redis URL is no number from 0 to 65535") from None


def _only_database(parts: SplitResult) -> str:
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    database = query.pop("db", "0")
    if query:
        raise ValueError(f"a unix:// URL takes ?db=NUMBER, not {', '.join(query)}")
    return database


class RedisConnection(Protocol):
    """See the module. `ready()` and `lost(reason)` are called once each at most; `drain()` when the reactor drains."""

    def __init__(
        self,
        reactor: Reactor,
        introduction: list[tuple[str, ...]],
        ready: Callable[[], None],
        lost: Callable[[str], None],
        drain: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._introduction = introduction
        self._ready = ready
        self._lost = lost
        self._drain = drain
        self._over = False
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._unfinished = 0
        # For each reply that is due, the oldest first: whom to tell, what it must be, and how long it may take after
        # the one before.
        self._due: deque[tuple[Callable[[Any], None], type | UnionType, float]] = deque()
        self._deadline: TimerHandle | None = None

    def call(
        self,
        *words: str | int | bytes,
        then: Callable[[Any], None] | None = None,
        kind: type | UnionType = bytes,
        patience: float = _PATIENCE,
    ) -> None:
        """Sends a command; `then` is given its reply. An error, another kind, or none within `patience`, is the end."""
        if self._over:
            return
        self._due.append((then or _ignore, kind, patience))
        self.connection.write(hiredis.pack_command(words))  # type: ignore[arg-type]
        if self._deadline is None:
            self._set_deadline()

    def fail(self, reason: str) -> None:
        """Ends it; `lost` is told why."""
        if not self._end(reason):
            self.connection.close()

    def close(self) -> None:
        """Ends it in order; nobody is told."""
        if not self._end(None):
            self.connection.close()

    def _end(self, reason: str | None) -> bool:
        """Whether it was over already."""
        over, self._over = self._over, True
        if not over:
            if self._deadline is not None:
                self._deadline.cancel()
            self._due.clear()
            if reason is not None:
                self._lost(reason)
        return over

    # From the reactor

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        for words in self._introduction:
            self.call(*words)
        # The answer to this one follows those: whoever is not let in does not get so far.
        self.call("PING", then=lambda reply: self._ready())

    def data_received(self, data: bytes) -> None:
        self._unfinished += len(data)
        try:
            self._reader.feed(data)
            while not self._over and (reply := self._reader.gets()) is not _NOTHING:
                self._unfinished = 0
                self._take(reply)
        except hiredis.ProtocolError as exc:
            self.fail(f"what it sends is not Redis's protocol: {exc}")
        if self._unfinished > _REPLY_BYTES:
            self.fail(f"a reply of more than {_REPLY_BYTES} bytes")

    def _take(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self.fail(str(reply))
        elif not self._due or not isinstance(reply, self._due[0][1]):
            self.fail("a reply that nobody asked for")
        else:
            then, _, _ = self._due.popleft()
            self._set_deadline()
            then(reply)

    def _set_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._reactor.call_later(self._due[0][2], self._too_late) if self._due else None

    def _too_late(self) -> None:
        if not self._end(f"no reply within {self._due[0][2]:g} s"):
            self.connection.abort()  # whoever does not answer would not take our end either

    def eof_received(self) -> bool:
        self._end("it closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(_in_words(exc) if exc is not None else "the connection was closed")

    def connection_failed(self, exc: Exception) -> None:
        self._end(_in_words(exc))

    def draining(self) -> None:
        self._drain()


def _ignore(reply: Any) -> None:
    """An OK, a QUEUED: only an error would have mattered."""


def _in_words(exc: Exception) -> str:
    if isinstance(exc, ConnectFailed) and exc.causes:
        exc = exc.causes[-1][1]
    return reason(exc)
