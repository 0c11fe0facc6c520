"""What is asked over HTTP, and the three kinds of answers: a whole one, one written as time goes by, and none at all.

No sockets here, and nothing of the protocol's text: `connection.py` has that. Whoever writes a site needs no more than
this and, for a table of paths, `routes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Protocol as Interface

import attrs

from reactor import Connection, Protocol, WriteAfterEnd

Fields = tuple[tuple[str, str], ...]


@attrs.frozen(eq=False)
class Request:
    """What was asked. Names in `fields` are in lower case; several fields of one name are joined by commas."""

    method: str
    target: str
    fields: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target's path, still percent-encoded; of an absolute target (RFC 9112, 3.2.2) as well."""
        rest = self._behind_scheme
        return self.target.partition("?")[0] if rest is None else f"/{rest.partition('/')[2]}"

    @property
    def authority(self) -> str | None:
        """The host, perhaps with a port, that an absolute target names; None for any other target."""
        rest = self._behind_scheme
        return None if rest is None else rest.partition("/")[0]

    @property
    def _behind_scheme(self) -> str | None:
        """Of an absolute target what follows `http://`, without the query."""
        if self.target.startswith("/"):
            return None  # nearly every target
        scheme, mark, rest = self.target.partition("?")[0].partition("://")
        return rest if mark and scheme.lower() in ("http", "https") else None

    @property
    def query(self) -> str:
        """What follows the target's question mark."""
        return self.target.partition("?")[2]


class Piece(Interface):
    """Content that is not in memory: some of an open file, say."""

    def __len__(self) -> int: ...

    def send(self, connection: Connection) -> None:
        """Called once in its turn: queues exactly `len` bytes on the connection."""

    def close(self) -> None:
        """Called once, instead of `send`: it is not wanted (HEAD)."""


@attrs.frozen(eq=False)
class Response:
    """A whole answer. To HEAD it is as to GET; the content is then left out. Date and Content-Length are added."""

    status: int = 200
    fields: Fields = ()
    content: bytes | Sequence[bytes | Piece] = b""

    @property
    def pieces(self) -> Sequence[bytes | Piece]:
        """The content, in pieces."""
        return (self.content,) if isinstance(self.content, bytes) else self.content


# It may repeat what a client sent, so it must never be taken for a page.
_TEXT = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))


def say(status: int, why: str, *fields: tuple[str, str]) -> Response:
    """A line of text, mostly about what is wrong."""
    text = f"{status} {HTTPStatus(status).phrase}: {why}\n".encode()
    return Response(status, (*_TEXT, *fields), text)


class Outlet(Interface):
    """What an open stream is written to."""

    def write_chunk(self, data: bytes) -> None: ...
    def end_stream(self) -> None: ...
    def abort_stream(self) -> None: ...


class Stream:
    """An answer whose content is written as time goes by: server-sent events, say. Subclass it; a site returns one.

    `opened` is called once the head is on its way, then `write` and `end` may be, at any time. If the peer goes before
    the end, `gone` is called, once; afterwards, as after `end`, `write` raises WriteAfterEnd.
    """

    def __init__(self, status: int = 200, fields: Fields = ()) -> None:
        self.status = status
        self.fields = fields
        # While it is open.
        self._outlet: Outlet | None = None

    def write(self, data: bytes) -> None:
        """Sends a chunk, or queues it."""
        if self._outlet is None:
            raise WriteAfterEnd(f"write() of {len(data)} bytes refused: {self!r} is not open")
        self._outlet.write_chunk(data)

    def end(self) -> None:
        """The content is complete. Again, or when the peer has gone, does nothing."""
        if self._outlet is not None:
            outlet, self._outlet = self._outlet, None
            outlet.end_stream()

    def abort(self) -> None:
        """Cuts it off, visibly, with a reset; calls `gone`."""
        if self._outlet is not None:
            self._outlet.abort_stream()

    def opened(self) -> None:
        """The head was written. The default does nothing."""

    def gone(self) -> None:
        """The peer has gone, by FIN or by reset, or was cut off. The default does nothing."""

    def pause_writing(self) -> None:
        """More than the high watermark waits for a peer who reads too slowly. The default aborts: they can ask anew."""
        self.abort()

    def resume_writing(self) -> None:
        """No more than the low watermark waits."""

    def draining(self) -> None:
        """The reactor drains. The default ends the content."""
        self.end()

    def open(self, outlet: Outlet) -> None:
        """Called by the connection, once."""
        self._outlet = outlet
        self.opened()

    def lose(self) -> None:
        """Called by the connection when the peer has gone, or was cut off."""
        if self._outlet is not None:
            self._outlet = None
            self.gone()


@attrs.frozen(eq=False)
class Upgrade:
    """The connection belongs to `protocol` from now on, which writes the 101 itself (RFC 9110, 7.8).

    It is told `connection_made`, then what the peer has sent already. Only for a request that asked for an upgrade.
    """

    protocol: Protocol


Answer = Response | Stream | Upgrade
Site = Callable[[Request], Answer]
