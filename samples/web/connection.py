"""One HTTP/1.1 connection: h11 makes requests of its bytes and bytes of answers; what is answered, the site says.

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
from collections.abc import Sequence
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import attrs
import h11

from reactor import Connection, Listener, Options, Protocol, Reactor, TimerHandle
from reactor.addresses import address_text
from reactor.options import KiB
from samples.web.heads import Settings, announced, request_of, unreadable, without_empty_lines, wrong_in
from samples.web.messages import Fields, Piece, Request, Response, Site, Stream, Upgrade, say

logger = logging.getLogger("samples.web")

# A few hundred pipelined requests.
_READ_BYTES = 64 * KiB
# Whoever was let in by a drain may have asked already; it only was not read yet.
_LET_IN_SECONDS = 1.0
_LINE_ENDS = (b"\r", b"\n")


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
        self._patience = {
            _Phase.IDLE: settings.idle_seconds,
            _Phase.HEAD: settings.head_seconds,
            _Phase.BODY: settings.body_seconds,
        }
        self._http = self._new_http()
        self._phase = _Phase.IDLE
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
        # A CR that came before a request: the LF behind it would make it an empty line.
        self._half_line = b""

    def _new_http(self) -> h11.Connection:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=self._settings.head_bytes)

    # Callbacks

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        self._enter(_Phase.IDLE)

    def data_received(self, data: bytes) -> None:
        if not self._ahead and (self._half_line or data.startswith(_LINE_ENDS)) and self._http.their_state is h11.IDLE:
            data = self._behind_empty_lines(self._half_line + data)
            if not data:
                return
        if self._phase is _Phase.IDLE and not self._held:
            self._enter(_Phase.HEAD)
        self._http.receive_data(data)
        self._ahead += len(data)
        self._go_on()
        if self._is_waiting() and self._ahead > self._settings.head_bytes:
            self.connection.pause_reading()

    def _behind_empty_lines(self, data: bytes) -> bytes:
        """What a request begins with. Half an empty line is kept for the next call."""
        data, self._half_line = without_empty_lines(data), b""
        if data == b"\r":
            data, self._half_line = b"", data
        return data

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
                unread, in_head = self._http.trailing_data[0], self._request is None
                self._refuse(*unreadable(exc, unread, self._settings, in_head=in_head))
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

    def _take_head(self, event: h11.Request) -> None:
        self._request = request = request_of(event)
        wrong = wrong_in(event, request, self._settings)
        if wrong is not None:
            self._refuse(*wrong)
        elif announced(request) != 0:
            self._expect_body(request)

    def _expect_body(self, request: Request) -> None:
        settings, length = self._settings, announced(request)
        early = None if settings.early is None else settings.early(request)
        if early is not None:
            self._respond(early, last=True)
        elif length is not None and length > settings.body_bytes:
            self._refuse_body()
        elif not self._http.they_are_waiting_for_100_continue:
            self._enter(_Phase.BODY)
        elif request.method in ("GET", "HEAD") and "upgrade" not in request.fields:
            self._last = True  # the client may send the body all the same
            self._answer(request)
        else:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
            self.connection.write(self._http.send(go_on))
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
        if begun.startswith(_LINE_ENDS):
            begun = self._begin_anew(begun, ended)
        self._ahead = len(begun)
        if self._last and not begun:
            self._end()
            return
        self._held = self._is_behind()
        self._enter(_Phase.HEAD if (begun or ended) and not self._held else _Phase.IDLE)

    def _begin_anew(self, received: bytes, ended: bool) -> bytes:
        """h11 cannot give back what it has received, so a new one is given what is behind the empty lines."""
        self._http = self._new_http()
        begun = self._behind_empty_lines(received)
        if begun:
            self._http.receive_data(begun)
        if ended:
            self._http.receive_data(b"")
        return begun

    def _is_behind(self) -> bool:
        """Whether too much waits for the peer; if so, `_release` comes when that is over.

        `resume_writing` tells, if `pause_writing` did; what the kernel takes at the end of this turn, neither does.
        """
        if self.connection.get_write_buffer_size() <= self.connection.get_write_buffer_limits()[1]:
            return False
        if not self._writing_paused:
            self.connection.call_soon(self._look_again)
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
        already_ended = self._http.trailing_data[1]  # the FIN came while an earlier answer was being read
        if already_ended and self._stream is not None:
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
        self.connection.call_soon(self._after_stream)

    def abort_stream(self) -> None:
        """For the open stream."""
        self.connection.abort()
        self._lose_stream()

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
        already, ended = self._http.trailing_data
        self._ahead = 0  # nothing waits here any more
        self.connection.set_protocol(protocol)
        protocol.connection_made(self.connection)
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
        if phase is not _Phase.ANSWER:
            patience = self._patience[phase] if seconds is None else seconds
            self._deadline = self._reactor.call_later(patience, self._too_late)

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
    most = min(given.limits.read_bytes, _READ_BYTES)
    options = attrs.evolve(given, limits=attrs.evolve(given.limits, read_bytes=most))
    return reactor.listen(lambda: Http(reactor, site, chosen), *where, options=options, **how)
