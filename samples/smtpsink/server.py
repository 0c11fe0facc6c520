"""The sink's connections: frames in, replies out.

*Two kinds of lines.* A command is read up to LF, so that who forgot the CR (`nc` without -C) is told so at once. In a
message only CR LF ends a line, whatever else is in it. The reader is changed between the two frames, so it does not
matter whether the client waited for the 354.

*A line that is too long* is skipped up to its end, never held; a command is answered then, a message where it ends.

*The answer means what it says.* A message is delivered in a thread, because a disk or a terminal may block. Until that
is done this client waits: its next commands are held, and the 250 or the 451 comes before their replies, even if the
client has sent its FIN meanwhile.

*STARTTLS.* The last thing in the clear is our 220. Whoever sits in between could put commands behind STARTTLS, to be
taken for the client's own under TLS (CVE-2011-0411). So what came with it is never obeyed: 421 ends the connection, and
a line of the log says why. What comes later in the clear fails the handshake.

*Descriptors.* No more clients are let in than leave descriptors for the messages of those who are: the others wait in
the kernel's queue.

*The end.* A drain says 421 to whoever is between two commands; a message that is under way is still taken, and then
answered with both. A client that leaves in the middle of a message leaves nothing behind.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from concurrent.futures import Future
from typing import Any

import attrs

from reactor import Connection, Listener, Options, Reactor
from reactor.framing import Delimited, FramedProtocol, FrameTooLong, FramingError, Reader, SkipTo
from reactor.tls import codecs
from samples.common import Room, patient, reason
from samples.smtpsink.session import COMMAND_BYTES, LINE_BYTES, Message, Reply, Session, reply
from samples.smtpsink.sink import DESCRIPTORS, Sink

logger = logging.getLogger("samples.smtpsink")

# What the server of this shape in the standard library took.
SIZE_LIMIT = 32 * 1024 * 1024
# RFC 5321, 4.5.3.2.7: a server waits for at least five minutes.
IDLE_TIMEOUT = 300.0
# Messages on their way to files; the standard streams, the poller, the waker, listeners, and modules imported late.
ROOM = Room(each=1, reserve=DESCRIPTORS + 16)
_COMMANDS = Delimited(b"\n", COMMAND_BYTES - 1)


class Visit(FramedProtocol):
    """One client. `tls` is what STARTTLS begins, or None: it is not offered."""

    reader: Reader = _COMMANDS

    def __init__(
        self, reactor: Reactor, sink: Sink, size_limit: int, line_limit: int, tls: ssl.SSLContext | None
    ) -> None:
        self._reactor = reactor
        self._sink = sink
        self._size_limit = size_limit
        # Without its CR LF, and with the dot that is not counted (4.5.3.1.6).
        self._lines = Delimited(b"\r\n", line_limit - 2 + 1)
        self._tls = tls
        self._shaking = False
        self._waits: set[str] = set()
        self._draining = False
        self._gone = False

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        address = connection.get_extra_info("peername")
        self._peer = str(address[0]) if isinstance(address, tuple) else "unix"
        self._session = Session(
            socket.gethostname(),
            self._peer,
            self._size_limit,
            offers_tls=self._tls is not None,
            under_tls=connection.get_extra_info("ssl_object") is not None,
        )
        self._say(self._session.greeting())

    def frame_received(self, frame: bytes) -> None:
        if isinstance(self.reader, SkipTo):
            self._read_on()
        elif self._session.in_message:
            self._take(frame)
        elif frame.endswith(b"\r"):
            answer = self._session.obey(frame[:-1])
            if self._session.starting_tls:
                self._start_tls(answer)
            else:
                self._say(answer)
                self._read_on()
        else:
            self._say(self._session.refused(reply(500, "5.5.2 a line ends with CR LF (try nc -C)")))

    def _read_on(self) -> None:
        self.reader = self._lines if self._session.in_message else _COMMANDS

    def _start_tls(self, answer: Reply) -> None:
        if self.unread:
            logger.warning("%s sent more behind STARTTLS in the clear; nothing of it is obeyed", self._peer)
            self._say(reply(421, "4.7.0 nothing may come behind STARTTLS before the handshake"))
            return
        self._say(answer)
        if self.connection.is_closing():
            self.connection.abort()  # it could not be told: it is gone
            return
        assert self._tls is not None
        self._shaking = True
        self._session.secured()
        self.connection.start_tls(self._tls, server_side=True, done=self._secured)

    def _secured(self) -> None:
        self._shaking = False

    def _take(self, line: bytes) -> None:
        if len(line) >= self._lines.limit_bytes and not line.startswith(b"."):
            self._refuse_line()
        done = self._session.take(line)
        if done is None:
            return
        self._read_on()
        if isinstance(done, Message):
            self._wait_for("delivery")
            self._reactor.run_in_thread(self._sink.deliver, done, done=self._delivered)
        else:
            self._answer_message(done)

    def _delivered(self, future: Future[None]) -> None:
        exc = future.exception()
        if exc is not None:
            expected = isinstance(exc, OSError)
            logger.error("a message was not delivered: %s", exc, exc_info=None if expected else exc)
        if self._gone:
            return
        if exc is None:
            self._answer_message(reply(250, "2.0.0 shown, and sent to nobody"))
        elif isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):
            self._answer_message(reply(452, "4.3.1 no space left"))
        else:
            self._answer_message(reply(451, "4.3.0 could not be shown or kept"))
        self._go_on_after("delivery")

    def _answer_message(self, answer: Reply) -> None:
        self._say(answer)
        if self._draining:
            self._say_goodbye()

    def _say(self, answer: Reply) -> None:
        self.connection.write(answer.encode())
        if answer.ends:
            self.connection.close()

    # What cannot be read

    def framing_failed(self, exc: FramingError) -> None:
        if not isinstance(exc, FrameTooLong):
            return  # the client ended in the middle of a line: end_received follows
        if self._session.in_message:
            self._refuse_line()
            self.reader = SkipTo(b"\r\n")
        else:
            self._say(self._session.refused(reply(500, "5.5.2 line too long")))
            self.reader = SkipTo(b"\n")

    def _refuse_line(self) -> None:
        most = self._lines.limit_bytes + 1
        self._session.refuse_message(reply(500, f"5.5.2 a line has at most {most} bytes, and ends with CR LF"))

    # Waiting

    def _wait_for(self, what: str) -> None:
        self._waits.add(what)
        self.pause_reading()

    def _go_on_after(self, what: str) -> None:
        self._waits.discard(what)
        if not self._waits:
            self.resume_reading()

    def pause_writing(self) -> None:
        self._wait_for("replies")  # a client that asks and does not read the answers

    def resume_writing(self) -> None:
        self._go_on_after("replies")

    # The end

    def end_received(self) -> bool:
        if self._session.in_message:
            logger.warning("a client ended in the middle of a message; nothing of it is kept")
        return False

    def draining(self) -> None:
        self._draining = True
        if not self._session.in_message and "delivery" not in self._waits:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        self._say(reply(421, "4.3.2 shutting down"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        if self._shaking and exc is not None:
            logger.warning("the TLS handshake with %s failed: %s", self._peer, reason(exc))


def serve(
    reactor: Reactor,
    *where: Any,
    sink: Sink | None = None,
    size_limit: int = SIZE_LIMIT,
    line_limit: int = LINE_BYTES,
    tls: ssl.SSLContext | None = None,
    tls_at_once: bool = False,
    options: Options | None = None,
    **how: Any,
) -> Listener:
    """Takes what `Reactor.listen` takes, but for the factory. `tls` is for STARTTLS, unless it is to be at once."""
    there = Sink() if sink is None else sink
    options = Options() if options is None else options
    idle = IDLE_TIMEOUT if options.deadlines.idle is None else options.deadlines.idle
    options = attrs.evolve(
        options,
        deadlines=patient(options.deadlines, idle),
        limits=attrs.evolve(options.limits, connections=ROOM.limit(options.limits.connections)),
    )
    if tls is not None and not tls_at_once:
        codecs(tls, server_side=True)  # what cannot be used is refused now, and not to each client
    at_once, later = (tls, None) if tls_at_once else (None, tls)
    return reactor.listen(
        lambda: Visit(reactor, there, size_limit, line_limit, later), *where, tls=at_once, options=options, **how
    )
