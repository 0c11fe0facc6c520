"""HTTP/1.1 for samples: h11 reads and writes the protocol, this joins it to a connection, and a *site* answers.

A site is a function from a `Request` to a `Response`; or to a `Stream`, whose content is written as time goes by; or to
an `Upgrade`, which hands the connection over to another protocol. `Routes` makes a site of a table.

*In order.* Answers go out in the order of the requests. While one is not complete, or while too much of it waits for
the peer, the next request waits, and what the peer sends ahead of its turn is bounded.

*To the end.* Before an answer that ends the connection there may be an upload in progress. `close()` reads on and
discards it, so that the answer arrives whole and is not destroyed by a reset (RFC 9112, 9.6). Content of unknown length
ends with a last chunk or, for HTTP/1.0, with our FIN; what we cut off ends with a reset, never with a seeming end.

*Bounded.* A head has a size and a deadline from its first byte on, a body too; between requests there is a deadline as
well. What is wrong with a request is answered, once (400, 408, 413, 414, 417, 431, 501, 505), and the connection ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from typing import Protocol as Interface

import attrs
import h11

from reactor import Connection, Listener, Options, Protocol, Reactor, TimerHandle, WriteAfterEnd
from reactor.options import KiB
from reactor.system import address_text

logger = logging.getLogger("samples.web")

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
        path = self.target.partition("?")[0]
        scheme, mark, rest = path.partition("://")
        return f"/{rest.partition('/')[2]}" if mark and scheme.lower() in ("http", "https") else path

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


class Stream:
    """An answer whose content is written as time goes by: server-sent events, say. Subclass it; a site returns one.

    `opened` is called once the head is on its way, then `write` and `end` may be, at any time. If the peer goes before
    the end, `gone` is called, once; afterwards, as after `end`, `write` raises WriteAfterEnd.
    """

    def __init__(self, status: int = 200, fields: Fields = ()) -> None:
        self.status = status
        self.fields = fields
        self._http: Http | None = None

    def write(self, data: bytes) -> None:
        """Sends a chunk, or queues it."""
        if self._http is None:
            raise WriteAfterEnd(f"write() of {len(data)} bytes refused: {self!r} is not open")
        self._http.write_chunk(data)

    def end(self) -> None:
        """The content is complete. Again, or when the peer has gone, does nothing."""
        if self._http is not None:
            http, self._http = self._http, None
            http.end_stream()

    def abort(self) -> None:
        """Cuts it off, visibly, with a reset; calls `gone`."""
        if self._http is not None:
            self._http.connection.abort()
            self.lose()

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

    def open(self, http: Http) -> None:
        """Called by `Http`, once."""
        self._http = http
        self.opened()

    def lose(self) -> None:
        """Called by `Http` when the peer has gone."""
        if self._http is not None:
            self._http = None
            self.gone()


@attrs.frozen(eq=False)
class Upgrade:
    """The connection belongs to `protocol` from now on, which writes the 101 itself (RFC 9110, 7.8).

    It is told `connection_made`, then what the peer has sent already. Only for a request that asked for an upgrade.
    """

    protocol: Protocol


Answer = Response | Stream | Upgrade
Site = Callable[[Request], Answer]

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"})


# It may repeat what a client sent, so it must never be taken for a page.
_TEXT = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))


def say(status: int, why: str, *fields: tuple[str, str]) -> Response:
    """A line of text, mostly about what is wrong."""
    text = f"{status} {HTTPStatus(status).phrase}: {why}\n".encode()
    return Response(status, (*_TEXT, *fields), text)


class Routes:
    """A site by a table: path, then method. HEAD is answered as GET; 404, 405 and 501 for what is not there."""

    def __init__(self, table: Mapping[str, Mapping[str, Site]]) -> None:
        self._table = table

    def __call__(self, request: Request) -> Answer:
        return self.refusal(request) or self._site(request)(request)

    def refusal(self, request: Request) -> Response | None:
        """What is wrong with the path or the method. Good for `Settings.early`: no body is waited for then."""
        if request.method not in KNOWN_METHODS:
            return say(501, "that method is not known")
        methods = self._table.get(request.path)
        if methods is None:
            return say(404, "there is nothing under that name")
        allowed = [*methods, *(["HEAD"] if "GET" in methods else [])]
        if request.method not in allowed:
            return say(405, "not with that method", ("Allow", ", ".join(allowed)))
        return None

    def _site(self, request: Request) -> Site:
        methods = self._table[request.path]
        return methods["GET" if request.method == "HEAD" and "HEAD" not in methods else request.method]


@attrs.frozen(kw_only=True)
class Settings:
    """How much, and how long. Sizes in bytes, times in seconds."""

    # Request line and fields together. Browsers with many cookies come near 8 KiB; nginx and Apache allow as much.
    head_bytes: int = 16 * KiB
    # RFC 9112, 3: at least 8000.
    target_bytes: int = 8000
    # More than that is answered 413.
    body_bytes: int = 64 * KiB
    # From a head's first byte (of the first head: from the connection's begin) to its last. A second is usual.
    head_seconds: float = 10.0
    # From the head's end to the body's: the allowed size over a slow line.
    body_seconds: float = 30.0
    # Without a request. Browsers keep theirs for a minute or two, and ask anew when it has gone.
    idle_seconds: float = 60.0
    # Asked when a body is coming and nothing of it was read: what this returns is the answer, None goes on.
    early: Callable[[Request], Response | None] | None = None


# Whoever was let in by a drain may have asked already; it only was not read yet.
_LET_IN_SECONDS = 1.0


class _Phase(Enum):
    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"  # a stream is open, or the connection is ending: no deadline of ours


class Http(Protocol):
    """One connection, and the requests that come over it."""

    def __init__(self, reactor: Reactor, site: Site, settings: Settings) -> None:
        self._reactor = reactor
        self._site = site
        self._settings = settings
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=settings.head_bytes)
        self._phase = _Phase.HEAD
        self._request: Request | None = None
        self._body = bytearray()
        self._stream: Stream | None = None
        self._deadline: TimerHandle | None = None
        # Too much of the last answer waits for the peer, and: it was told to us.
        self._held = self._writing_paused = False
        # Whether any request was answered, and whether the one that is under way is the last.
        self._served = self._last = False
        # What the peer had taken when the idle time was last over; None: it was not, since the last answer.
        self._taken: int | None = None
        # What was received and is not looked at yet.
        self._ahead = 0

    # Callbacks

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        self._enter(_Phase.HEAD)

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.IDLE:
            self._enter(_Phase.HEAD)
        self._http.receive_data(data)
        self._ahead += len(data)
        self._go_on()
        if self._is_waiting() and self._ahead > self._settings.head_bytes:
            self.connection.pause_reading()

    def eof_received(self) -> bool:
        """Whoever has said everything may still listen: the answers go out, then our side ends, too."""
        if self._stream is not None:
            self._stop_stream()
            return False
        self._http.receive_data(b"")
        self._go_on()
        return not self.connection.is_closing()

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._stream is not None:
            self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._stream is not None:
            self._stream.resume_writing()
        elif self._held:
            self._release()

    def draining(self) -> None:
        self._last = True
        if self._stream is not None:
            self._stream.draining()
        elif self._request is None and not self._ahead:
            if self._served:
                self._end()
            else:
                self._enter(_Phase.HEAD, _LET_IN_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self._lose_stream()
        if exc is not None and self.connection.report.unsent:
            peer = address_text(self.connection.get_extra_info("peername"))
            logger.info("%s %d bytes of the answers were not sent: %s", peer, self.connection.report.unsent, exc)

    # Reading

    def _go_on(self) -> None:
        """Serves what has come, until more is needed, or somebody must be waited for."""
        while not self._is_waiting():
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                self._refuse(*self._what_is_wrong(exc))
                return
            if type(event) is h11.Request:
                self._take_head(event)
            elif type(event) is h11.Data:
                self._take_body(event.data)
            elif type(event) is h11.EndOfMessage:
                assert self._request is not None
                self._answer(attrs.evolve(self._request, body=bytes(self._body)))
            elif type(event) is h11.ConnectionClosed:
                self._end()
            else:
                self._ahead = len(self._http.trailing_data[0])
                return

    def _is_waiting(self) -> bool:
        return self._held or self._phase is _Phase.ANSWER

    def _what_is_wrong(self, exc: h11.RemoteProtocolError) -> tuple[int, str]:
        """h11 cannot tell a target that is too long from fields that are."""
        if exc.error_status_hint != 431:
            return exc.error_status_hint, str(exc)
        in_first_line = b"\n" not in self._http.trailing_data[0].lstrip(b"\r\n")
        if in_first_line and self._request is None:
            return 414, f"the target has more than {self._settings.target_bytes} bytes"
        return 431, f"the fields have more than {self._settings.head_bytes} bytes"

    def _take_head(self, event: h11.Request) -> None:
        fields: dict[str, str] = {}
        for raw_name, raw_value in event.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        if event.http_version < b"1.1":
            fields.pop("upgrade", None)  # RFC 9110, 7.8
        target, settings = event.target.decode("ascii"), self._settings
        self._request = request = Request(event.method.decode("ascii"), target, fields)
        length = int(fields.get("content-length", "0"))
        if len(target) > settings.target_bytes:
            self._refuse(414, f"the target has more than {settings.target_bytes} bytes")
        elif sum(len(name) + len(value) + 4 for name, value in event.headers) > settings.head_bytes:
            self._refuse(431, f"the fields have more than {settings.head_bytes} bytes")
        elif not event.http_version.startswith(b"1."):
            self._refuse(505, "HTTP/1.1 is spoken here")
        elif fields.get("expect", "100-continue").lower() != "100-continue":
            self._refuse(417, "only 100-continue can be expected here")
        elif length or "transfer-encoding" in fields:
            early = None if settings.early is None else settings.early(request)
            if early is not None:
                self._respond(early, last=True)
            elif length > settings.body_bytes:
                self._refuse_body()
            else:
                if self._http.they_are_waiting_for_100_continue:
                    self.connection.write(
                        self._http.send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue"))
                    )
                self._enter(_Phase.BODY)

    def _take_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._settings.body_bytes:
            self._refuse_body()

    def _refuse_body(self) -> None:
        self._refuse(413, f"the content has more than {self._settings.body_bytes} bytes")

    # Answering

    def _answer(self, request: Request) -> None:
        try:
            answer = self._site(request)
        except Exception:
            logger.exception("%s %s: the site failed", request.method, request.target)
            answer = say(500, "something is wrong here")
        if isinstance(answer, Response):
            self._respond(answer)
        elif isinstance(answer, Upgrade):
            self._hand_over(request, answer.protocol)
        else:
            self._begin_stream(request, answer)

    def _refuse(self, status: int, why: str) -> None:
        self._respond(say(status, why), last=True)

    def _respond(self, response: Response, last: bool = False) -> None:
        pieces = response.pieces
        length = sum(map(len, pieces))
        bodiless = response.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        unsent = bodiless or (self._request is not None and self._request.method == "HEAD")
        fields = response.fields if bodiless else (*response.fields, ("Content-Length", str(length)))
        out: list[bytes | Piece] = [self._head(response.status, fields, last)]
        for piece in pieces:
            if not unsent:
                out += self._http.send_with_data_passthrough(h11.Data(data=piece)) or ()  # type: ignore[arg-type]
            elif not isinstance(piece, bytes):
                piece.close()
        out.append(self._http.send(h11.EndOfMessage()))
        self._write(out)
        self._log(response.status, 0 if unsent else length)
        self._next()

    def _head(self, status: int, fields: Fields, last: bool) -> bytes:
        more = (("Connection", "close"),) if last or self._last else ()
        headers = [("Date", _date(int(time.time()))), *fields, *more]
        reason = HTTPStatus(status).phrase
        return self._http.send(h11.Response(status_code=status, headers=headers, reason=reason))

    def _write(self, pieces: Sequence[bytes | Piece]) -> None:
        """In few writes: the head leaves together with what is in memory behind it."""
        gathered: list[bytes] = []
        for piece in pieces:
            if isinstance(piece, bytes):
                gathered.append(piece)
                continue
            self.connection.write(b"".join(gathered))
            gathered.clear()
            piece.send(self.connection)
        self.connection.write(b"".join(gathered))

    def _log(self, status: int, length: int | str) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        peer = address_text(self.connection.get_extra_info("peername"))
        what = "-" if self._request is None else f"{self._request.method} {self._request.target}"
        logger.info('%s "%s" %d %s', peer, what, status, length)

    def _next(self) -> None:
        """An answer is complete: makes ready for the next request, or ends."""
        self._request, self._body, self._served, self._taken = None, bytearray(), True, None
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            self._end()
            return
        self._http.start_next_cycle()
        begun, ended = self._http.trailing_data
        self._ahead = len(begun)
        if self._last and not begun:
            self._end()
            return
        self._held = self._is_behind()
        self._enter(_Phase.HEAD if (begun or ended) and not self._held else _Phase.IDLE)

    def _is_behind(self) -> bool:
        """Whether too much waits for the peer; if so, `_release` comes when that is over.

        `resume_writing` tells, if `pause_writing` did; what the kernel takes at the end of this turn, neither does.
        """
        if self.connection.get_write_buffer_size() <= self.connection.get_write_buffer_limits()[1]:
            return False
        if not self._writing_paused:
            self._reactor.call_soon(self._look_again)
        return True

    def _look_again(self) -> None:
        if self._held and not self.connection.is_closing() and not self._is_behind():
            self._release()

    def _release(self) -> None:
        """Whoever was waited for is not any more."""
        self._held = False
        if self._ahead:
            self._enter(_Phase.HEAD)
        self.connection.resume_reading()
        self._go_on()

    # Streams

    def _begin_stream(self, request: Request, stream: Stream) -> None:
        self.connection.write(self._head(stream.status, stream.fields, last=False))
        self._log(stream.status, "-")
        if request.method == "HEAD":
            self._http.send(h11.EndOfMessage())
            self._next()
            return
        self._enter(_Phase.ANSWER)
        self._stream = stream
        stream.open(self)
        if (
            self._stream is not None and self._http.trailing_data[1]
        ):  # its FIN came while an earlier answer was being read
            self._stop_stream()

    def _stop_stream(self) -> None:
        """Of what has no end, nobody shuts one side only: a peer that ends has gone, like a tab that was closed."""
        self._lose_stream()
        self._end()

    def write_chunk(self, data: bytes) -> None:
        """For the open stream."""
        self.connection.write(self._http.send(h11.Data(data=data)))

    def end_stream(self) -> None:
        """For the open stream. What follows comes in a call of its own, not inside the stream's."""
        self._stream = None
        self.connection.write(self._http.send(h11.EndOfMessage()))
        self._reactor.call_soon(self._after_stream)

    def _after_stream(self) -> None:
        if not self.connection.is_closing():
            self._next()
            if not self._held and not self.connection.is_closing():
                self._release()

    def _lose_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.lose()

    # Handing over, and ending

    def _hand_over(self, request: Request, protocol: Protocol) -> None:
        assert "upgrade" in request.fields, "nobody asked for it"
        self._enter(_Phase.ANSWER)
        self._log(101, "-")
        self.connection.set_protocol(protocol)
        protocol.connection_made(self.connection)
        already, ended = self._http.trailing_data
        if already and not self.connection.is_closing():
            protocol.data_received(already)
        if ended and not self.connection.is_closing() and not protocol.eof_received():
            self.connection.close()

    def _end(self) -> None:
        self._enter(_Phase.ANSWER)
        self.connection.close()

    # Deadlines

    def _enter(self, phase: _Phase, seconds: float | None = None) -> None:
        self._stop_clock()
        self._phase = phase
        if phase is _Phase.IDLE:
            seconds = self._settings.idle_seconds
        elif phase is _Phase.HEAD:
            seconds = self._settings.head_seconds if seconds is None else seconds
        elif phase is _Phase.BODY:
            seconds = self._settings.body_seconds
        if seconds is not None:
            self._deadline = self._reactor.call_later(seconds, self._too_late)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        """Who has asked nothing is told nothing: an answer could be taken for that to a request just under way."""
        if self._phase is _Phase.IDLE and self._is_still_read():
            self._enter(_Phase.IDLE)
        elif self._held or (self._request is None and not self._ahead):
            self._end()
        else:
            self._refuse(408, "the request took too long")

    def _is_still_read(self) -> bool:
        """Whether the peer was busy with the last answer all the time: most of a long one waits in the kernel."""
        report = self.connection.report
        before, self._taken = self._taken, report.accepted if report.acknowledged is None else report.acknowledged
        return self._taken < report.written if before is None else self._taken > before


@lru_cache(maxsize=1)
def _date(now: int) -> str:
    return formatdate(now, usegmt=True)


def serve(
    reactor: Reactor,
    site: Site,
    *where: Any,
    settings: Settings | None = None,
    options: Options | None = None,
    **how: Any,
) -> Listener:
    """Takes what `Reactor.listen` takes, but for the factory."""
    chosen = Settings() if settings is None else settings
    given = Options() if options is None else options
    # What is read at once bounds how much a peer can ask for in one turn.
    options = attrs.evolve(given, limits=attrs.evolve(given.limits, read_bytes=64 * KiB))
    return reactor.listen(lambda: Http(reactor, site, chosen), *where, options=options, **how)
