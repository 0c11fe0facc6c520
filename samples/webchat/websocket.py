"""One WebSocket connection (RFC 6455) on a reactor `Connection`: wsproto reads and writes the frames.

*The end has an order.* A Close frame, the other side's Close frame, then our FIN, then theirs. Who begins waits
`CLOSE_SECONDS` for the other's Close, and then ends TCP all the same. After a frame that cannot be understood nothing
can be read any more, so our Close (1002, 1007) is followed by the FIN at once; `close()` discards what still comes.

*Bounded.* A message has a size (1009). Once the kernel takes no more for a peer, at most `queue_limit` bytes wait, and
then they are ended: 1008, because the peer breaks our rule; 1013 would say that we are overloaded. A peer of whom
nothing is heard is asked with a ping, and ended when nothing comes: a browser answers by itself, a dead one never.
A peer may be held: nothing more is read or taken from it, and nothing is expected of it, until it may go on.

*Never from inside.* `send` may be called while a line is spread to many, so it ends nobody: who turns out to be too
slow is ended in a call of its own.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    RejectConnection,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

from reactor import Connection, Protocol, Reactor, TimerHandle
from samples import web
from samples.chat.pace import PATIENCE, Outgoing

# RFC 6455, 7.4.1.
NORMAL, GOING_AWAY, UNSUPPORTED, NO_STATUS, LOST, POLICY, TOO_BIG = 1000, 1001, 1003, 1005, 1006, 1008, 1009

# Below the shortest usual memory of a NAT or a proxy (a minute), so that these keep the connection, too.
PING_SECONDS = 20.0
# For the other side's Close frame. A browser's comes at once.
CLOSE_SECONDS = 5.0


def upgrade(request: web.Request, make: Callable[[], WebSocket]) -> web.Answer:
    """What is answered to an opening handshake (RFC 6455, 4.2): 426 or 400, or the upgrade to what `make` makes."""
    if request.method != "GET" or "websocket" not in request.fields.get("upgrade", "").lower():
        return web.say(426, "a WebSocket is served here", ("Upgrade", "websocket"), ("Connection", "Upgrade"))
    machine = WSConnection(ConnectionType.SERVER)
    try:
        if len(base64.b64decode(request.fields.get("sec-websocket-key", ""), validate=True)) != 16:
            return web.say(400, "Sec-WebSocket-Key must be 16 bytes in base64")
        fields = [(name.encode(), value.encode("latin-1")) for name, value in request.fields.items()]
        machine.initiate_upgrade_connection(fields, request.target)
    except RemoteProtocolError as exc:
        hint = exc.event_hint if isinstance(exc.event_hint, RejectConnection) else RejectConnection()
        more = [(bytes(name).decode(), bytes(value).decode()) for name, value in hint.headers]
        return web.say(hint.status_code, str(exc), *more)
    except ValueError as exc:
        return web.say(400, str(exc))
    protocol = make()
    protocol.machine = machine
    return web.Upgrade(protocol)


def text_frame(text: str) -> bytes:
    """A whole message in one frame. A server's frames are the same for every peer, so one can be sent to many."""
    return bytes(_FRAMES.send(TextMessage(data=text)))


_FRAMES = Frames(ConnectionType.SERVER)


class WebSocket(Protocol):
    """One peer. Override `opened`, `text_received` and `over`; use `send` and `end`."""

    machine: WSConnection

    # What of the request's Sec-WebSocket-Protocol is agreed on.
    subprotocol: str | None = None

    def __init__(self, reactor: Reactor, message_limit: int, queue_limit: int, patience: float = PATIENCE) -> None:
        self._reactor = reactor
        self._message_limit = message_limit
        self._queue_limit = queue_limit
        self._patience = patience
        self._parts: list[str] | list[bytes] = []
        self._size = 0
        # The next ping or, once we have sent our Close, the end of waiting for theirs.
        self._timer: TimerHandle | None = None
        self._heard = True
        # What had been written behind the last ping, and what the peer had taken when that was last looked at.
        self._asked = self._taken = 0
        self._held = self._over = False

    # For who uses it

    def opened(self) -> None:
        """Messages can be sent."""

    def text_received(self, text: str) -> None:
        """A whole message came."""

    def binary_received(self, data: bytes) -> None:
        """A whole binary message came. The default refuses it: 1003."""
        self.end(UNSUPPORTED, "only text is spoken here")

    def over(self, code: int, reason: str) -> None:
        """No message comes or goes any more: the Close frame's code, or 1006 without one. Called once, last.

        Never from inside `send`, but from inside `end`.
        """

    def filled(self, full: bool) -> None:
        """More than the high watermark waits for the peer; or not any more."""

    def is_waited_for(self) -> bool:
        """Whether somebody waits until the peer is not full any more: who takes nothing meanwhile is ended."""
        return False

    def hold(self) -> None:
        """Takes no message until `go_on`."""
        self._held = True
        self.connection.pause_reading()

    def go_on(self) -> None:
        """Takes what has come meanwhile, and reads on unless it is held again."""
        self._held, self._heard = False, True
        self._take_events()
        if not self._held:
            self.connection.resume_reading()

    def send(self, frame: bytes) -> None:
        """Sends what `text_frame` made, or queues it. Never raises and never calls back; nothing once it is over."""
        if not self._over:
            self._outgoing.write(frame)

    def end(self, code: int, reason: str = "") -> None:
        """Ends in order, with a Close frame behind what was sent. Again, or when it is over, does nothing."""
        if self._over:
            return
        self.connection.write(self.machine.send(CloseConnection(code=code, reason=reason)))
        self._set_timer(CLOSE_SECONDS, self._finish)
        if self._held:
            self.connection.call_soon(self.go_on)  # their Close is waited for
        self._tell_over(code, reason)

    # Callbacks

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        self._outgoing = Outgoing(
            self._reactor,
            connection,
            self._queue_limit,
            self._patience,
            self._drop,
            changed=self.filled,
            is_waited_for=self.is_waited_for,
        )
        connection.write(self.machine.send(AcceptConnection(subprotocol=self.subprotocol)))
        self._set_timer(PING_SECONDS, self._ping)
        self.opened()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self.machine.receive_data(data)
        self._take_events()

    def eof_received(self) -> bool:
        self._set_timer(None)
        self._tell_over(LOST, "")
        return False

    def pause_writing(self) -> None:
        self._outgoing.pause_writing()

    def resume_writing(self) -> None:
        self._outgoing.resume_writing()

    def draining(self) -> None:
        self.end(GOING_AWAY, "the server is shutting down")

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
        self._tell_over(LOST, "")

    # Frames

    def _take_events(self) -> None:
        for event in self.machine.events():
            self._take(event)
            if self._held or self.connection.is_closing():
                return

    def _take(self, event: Event) -> None:
        if isinstance(event, CloseConnection):
            self._take_close(event)
        elif self._over:
            pass  # RFC 6455, 5.5.1: after our Close, theirs alone counts
        elif isinstance(event, (TextMessage, BytesMessage)):
            self._take_part(event)
        elif isinstance(event, Ping):
            self.send(self.machine.send(event.response()))

    def _take_close(self, event: CloseConnection) -> None:
        """Theirs, in answer to ours or first; or wsproto's word for a frame that cannot be understood."""
        code, reason = event.code, event.reason or ""
        if self.machine.state is ConnectionState.REMOTE_CLOSING:
            self.connection.write(self.machine.send(event.response()))
        elif self.machine.state is ConnectionState.OPEN:
            self.connection.write(self.machine.send(CloseConnection(code=code, reason=reason)))
        self._finish()
        self._tell_over(code, reason)

    def _take_part(self, event: Message[str] | Message[bytes | bytearray]) -> None:
        part = event.data
        self._size += len(part.encode() if isinstance(part, str) else part)
        if self._size > self._message_limit:
            self._parts = []
            self.end(TOO_BIG, f"a message has at most {self._message_limit} bytes")
            return
        if part:  # those without a byte count for nothing, and may come without end
            self._parts.append(part)  # type: ignore[arg-type]
        if not event.message_finished:
            return
        parts, self._parts, self._size = self._parts, [], 0
        if isinstance(part, str):
            self.text_received("".join(parts))  # type: ignore[arg-type]
        else:
            self.binary_received(b"".join(parts))  # type: ignore[arg-type]

    def _finish(self) -> None:
        """Both Close frames were exchanged, or enough was waited: TCP's turn."""
        self._set_timer(None)
        self.connection.close()

    def _tell_over(self, code: int, reason: str) -> None:
        if not self._over:
            self._over = True
            self._outgoing.stop()
            self.over(code, reason)

    # Who does not read, and who is not there

    def _drop(self, waiting: int) -> None:
        self.end(POLICY, f"too slow: {waiting} bytes waited for you")

    def _ping(self) -> None:
        if self._is_reading_up_to_it():
            self._set_timer(PING_SECONDS, self._ping)
            return
        if not (self._heard or self._held):
            self.end(POLICY, f"nothing was heard of you for {PING_SECONDS:.0f} s")
            return
        self._heard = False
        self.send(self.machine.send(Ping()))
        self._asked, self._taken = self.connection.report.written, self._outgoing.taken
        self._set_timer(PING_SECONDS, self._ping)

    def _is_reading_up_to_it(self) -> bool:
        """Whether the last ping still waits behind what the peer is busy reading."""
        before, self._taken = self._taken, self._outgoing.taken
        return before < self._taken < self._asked

    def _set_timer(self, seconds: float | None, callback: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None or callback is None else self._reactor.call_later(seconds, callback)
