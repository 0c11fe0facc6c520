"""What is answered to a request for a file: a site for `samples.web`, which does the rest of HTTP.

The order is RFC 9110's: the method, then the target, then the file itself, then the conditions, then the range.

A large file's bytes never pass through here: what is answered is a promise of so many of them, which `send_file` keeps
in its time. A file that shrinks meanwhile ends its connection with a reset: nobody takes a part for the whole.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from io import FileIO
from typing import Any

import attrs

from reactor import Connection, Listener, Options, Reactor, Watermarks
from samples import web
from samples.common import Room, patient
from samples.files import conditions, listing, ranges
from samples.files.conditions import Validators
from samples.files.media import content_type
from samples.files.ranges import Span
from samples.files.tree import Found, Path, Refused, Tree, path_of
from samples.web import Fields, Request, Response, Settings, say

INDEX = "index.html"
IDLE_TIMEOUT = Settings().idle_seconds
# A page of that many lines takes some 30 ms to make, and nobody looks at more.
LISTED = 2000
# So little leaves together with the head: for small files a seventh more requests in a second than by sendfile(2).
_AT_ONCE_BYTES = 16 * 1024
# A connection and its file; a way through the deepest tree, what a process begins with, and a few to spare.
ROOM = Room(each=2, reserve=96)

_METHODS = ("GET", "HEAD")
# No browser is to guess a type that the file was not meant to have.
_NO_GUESSING = ("X-Content-Type-Options", "nosniff")


@attrs.frozen(eq=False)
class Content:
    """An open file, and what of it is sent, with text around it. It is closed when that is queued, or not wanted."""

    file: FileIO
    parts: Sequence[bytes | Span]

    def __len__(self) -> int:
        return sum(part.count if isinstance(part, Span) else len(part) for part in self.parts)

    def send(self, connection: Connection) -> None:
        """Queues it on the connection."""
        with self.file:
            for part in self.parts:
                if isinstance(part, Span):
                    connection.send_file(self.file, part.offset, part.count)
                else:
                    connection.write(part)

    def close(self) -> None:
        """Instead of `send`."""
        self.file.close()


class Site:
    """One tree of files, and how it is shown. Called with a request, it answers; `clock` tells seconds since 1970."""

    def __init__(self, tree: Tree, listings: bool = True, clock: Callable[[], float] = time.time) -> None:
        self._tree = tree
        self._listings = listings
        self._clock = clock

    def __call__(self, request: Request) -> Response:
        refused = _method_refused(request)
        if refused is not None:
            return refused
        try:
            return self._look(path_of(request.path), request)
        except Refused as exc:
            return say(exc.status, exc.why, *((("Retry-After", "1"),) if exc.status == 503 else ()))

    def _look(self, path: Path, request: Request) -> Response:
        with self._tree.find(path.names) as found:
            if not found.is_directory:
                if path.slash:
                    raise Refused(404, "that is a file, not a directory")
                return _file(found, path.names[-1], request, self._clock())
        if not path.slash:
            return _redirect(path, request.query)
        try:
            with self._tree.find((*path.names, INDEX)) as found:
                if not found.is_directory:
                    return _file(found, INDEX, request, self._clock())
        except Refused as exc:
            if exc.status != 404:
                raise
        return self._list(path, request.fields)

    def _list(self, path: Path, asked: Mapping[str, str]) -> Response:
        if not self._listings:
            raise Refused(403, "directories are not listed here")
        entries, complete = self._tree.entries(path.names, LISTED)
        if status := conditions.failed(asked, Validators()):
            return _condition_failed(status, ())
        fields = (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Security-Policy", listing.POLICY),
            ("Cache-Control", "no-cache"),
            _NO_GUESSING,
        )
        return Response(200, fields, listing.page(path.names, entries, complete))


def serve(reactor: Reactor, *where: Any, site: Site, options: Options | None = None, **how: Any) -> Listener:
    """Takes what `Reactor.listen` takes, but for the factory."""
    given = Options() if options is None else options
    idle = IDLE_TIMEOUT if given.deadlines.idle is None else given.deadlines.idle
    return web.serve(
        reactor,
        site,
        *where,
        settings=Settings(idle_seconds=idle, early=_refused_before_content),
        options=attrs.evolve(
            given,
            # The next request waits until everything before it has left: so a connection holds one file open, which its
            # limit counts upon.
            watermarks=Watermarks(high=0),
            # HTTP has the idle deadline while another request may come, for it knows a slow reader from an idle one.
            # The last answer of a connection has the same time.
            deadlines=attrs.evolve(patient(given.deadlines, idle), idle=None),
            limits=attrs.evolve(given.limits, connections=ROOM.limit(given.limits.connections)),
        ),
        **how,
    )


def _refused_before_content(request: Request) -> Response | None:
    """For `Settings.early`: no content is waited for, nor too much of it told, where the method is refused.

    Little content that comes without being asked for is read first: so the connection goes on behind the refusal.
    """
    length = web.announced(request)
    if "expect" not in request.fields and length is not None and length <= Settings().body_bytes:
        return None
    return _method_refused(request)


def _method_refused(request: Request) -> Response | None:
    if request.method not in web.KNOWN_METHODS:
        return say(501, "that method is not known")
    if request.method not in _METHODS:
        return say(405, "files can only be read here", ("Allow", ", ".join(_METHODS)))
    return None


def _redirect(path: Path, query: str) -> Response:
    """To the same with a slash, or the page's relative links would lead elsewhere.

    It is made of the names, and no name is empty, so it begins with one slash: it never names another host.
    """
    location = "/" + "".join(f"{listing.link(name)}/" for name in path.names) + (f"?{query}" if query else "")
    return say(301, f"{location} is what you want", ("Location", location))


def _file(found: Found, name: str, request: Request, now: float) -> Response:
    fields, ours, size = request.fields, conditions.validators_of(found.status, now), found.status.st_size
    validators = _validator_fields(ours)
    if status := conditions.failed(fields, ours):
        return _condition_failed(status, validators)
    # Only GET can have a range (RFC 9110, 14.2).
    ranged = request.method == "GET" and "range" in fields and conditions.range_applies(fields, ours)
    asked = ranges.spans(fields["range"], size) if ranged else None
    if asked == []:
        return say(416, f"the file has {size} bytes", ("Content-Range", f"bytes */{size}"))
    kind, about = content_type(name), (*validators, ("Accept-Ranges", "bytes"), _NO_GUESSING)
    if asked is None:
        whole = [Span(0, size)] if size else []
        return Response(200, (("Content-Type", kind), *about), _content(found, whole))
    if len(asked) == 1:
        one = (("Content-Type", kind), ("Content-Range", asked[0].of(size)))
        return Response(206, (*one, *about), _content(found, asked))
    # Nobody can have put into the file what is chosen now.
    boundary = secrets.token_hex(16)
    several = ("Content-Type", f"multipart/byteranges; boundary={boundary}")
    return Response(206, (several, *about), _content(found, _parts(asked, size, kind, boundary)))


def _content(found: Found, parts: Sequence[bytes | Span]) -> bytes | tuple[Content]:
    """Little enough is read now; a promise would cost more, and a packet of its own."""
    if sum(part.count for part in parts if isinstance(part, Span)) > _AT_ONCE_BYTES:
        return (Content(found.take(), parts),)
    read = [os.pread(found.fd, part.count, part.offset) if isinstance(part, Span) else part for part in parts]
    if any(len(data) < part.count for data, part in zip(read, parts, strict=True) if isinstance(part, Span)):
        raise Refused(503, "the file is changing at this moment")
    return b"".join(read)


def _parts(asked: Sequence[Span], size: int, kind: str, boundary: str) -> list[bytes | Span]:
    parts: list[bytes | Span] = []
    for span in asked:
        line = "\r\n" if parts else ""
        head = f"{line}--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {span.of(size)}\r\n\r\n"
        parts += (head.encode("ascii"), span)
    return [*parts, f"\r\n--{boundary}--\r\n".encode("ascii")]


def _condition_failed(status: int, validators: Fields) -> Response:
    if status == HTTPStatus.NOT_MODIFIED:
        return Response(status, validators)
    return say(status, "the file is not, or no longer, as the request assumes")


def _validator_fields(ours: Validators) -> Fields:
    assert ours.tag is not None
    assert ours.modified is not None
    return (
        ("ETag", ours.tag),
        ("Last-Modified", conditions.format_date(ours.modified)),
        # Without it, caches would guess how long the file stays as it is. To ask again costs a 304.
        ("Cache-Control", "no-cache"),
    )
