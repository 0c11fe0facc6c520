"""Browsers in the lobby: who may connect, what each is told, and how they end.

*Who may connect.* A WebSocket is not held back by a browser's same-origin policy: any page on the web could open one to
this server, from inside the user's network. So `Origin` must be ours, or one that was allowed. Who sends none is no
browser, and could send any.

*The same member again.* When the network of a browser goes away without a word, its member stays until a ping is not
answered. The page has come back by then, and would find its name taken by its own ghost. So each browser is told a
token that nobody can guess and nobody else is told; whoever offers it when they connect takes the name over from that
member, who is ended. It is offered as a subprotocol, `again.TOKEN`, because addresses are logged. A token is good once,
and only as long as its member is there, so there are as many as browsers.

*How a member ends* is told to the room in words that fit the code of the Close frame (`_PARTED`). Whoever is ended
leaves the lobby in the same breath: afterwards nobody tells them anything any more.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import attrs

from reactor import Listener, Options, Reactor, ReactorClosed, TimerHandle
from samples import web
from samples.chat.pace import PATIENCE, Turns
from samples.chat.rooms import Member
from samples.chat.server import LINE_LIMIT, QUEUE_LIMIT, for_members
from samples.webchat.view import WatchedLobby, line_told, told
from samples.webchat.websocket import GOING_AWAY, LOST, NO_STATUS, NORMAL, WebSocket, text_frame, upgrade

# A line that is too long is told of; one that is so many times as long as a line may be ends the WebSocket: 1009.
_TIMES_TOO_LONG = 4
# The page takes a connection for dead when a message has no answer for 10 s.
_HELD_SECONDS = 4.0
_SUBPROTOCOL, _AGAIN = "chat", "again."
# Who is where is told at most so often: a storm of people coming costs each browser four messages a second.
_LOOK_SECONDS = 0.25

# What the others read when a WebSocket ended with that code; with any other, `was dropped: REASON`.
_PARTED = {NORMAL: "left", GOING_AWAY: "left", NO_STATUS: "left", LOST: "lost the connection"}

_PAGE = Path(__file__).with_name("page.html")
_PAGE_FIELDS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
)
_HELD = text_frame(told("held"))
_DEFAULT_PORTS = {"http": 80, "https": 443}


@lru_cache(maxsize=4)
def _line_frame(room: str, line: str) -> bytes:
    """A line as it is sent. The same object for each member of a room: a hundred queues hold it once."""
    return text_frame(line_told(room, line))


class Board:
    """Shows every browser who is where, soon after it changes."""

    def __init__(self, reactor: Reactor, lobby: WatchedLobby) -> None:
        self._reactor = reactor
        self.lobby = lobby
        # With the frames that each was last shown.
        self._guests: dict[Guest, tuple[bytes, bytes]] = {}
        self._next: TimerHandle | None = None
        self._looked = -_LOOK_SECONDS
        lobby.watchers.append(self.look)

    def add(self, guest: Guest) -> None:
        """Shows them everything, soon."""
        self._guests[guest] = (b"", b"")
        self.look()

    def remove(self, guest: Guest) -> None:
        """Shows them nothing more. Again does nothing."""
        self._guests.pop(guest, None)

    def look(self) -> None:
        """Something has changed. Shows it in a call of its own, together with what else changes meanwhile."""
        if self._next is not None or not self._guests:
            return
        try:
            self._next = self._reactor.call_at(max(self._reactor.time(), self._looked + _LOOK_SECONDS), self._show)
        except ReactorClosed:
            pass  # everybody is being ended, and nobody is left to be shown that

    def _show(self) -> None:
        self._next, self._looked = None, self._reactor.time()
        rooms = text_frame(self.lobby.rooms_told())
        people: dict[str, bytes] = {}
        for guest, before in self._guests.items():
            room = guest.room
            if room not in people:
                people[room] = text_frame(self.lobby.people_told(room))
            now = (rooms, people[room])
            for frame, shown in zip(now, before, strict=True):
                if frame != shown:
                    guest.send(frame)
            self._guests[guest] = now


class Guest(WebSocket):
    """One browser, and the member behind it."""

    def __init__(self, reactor: Reactor, board: Board, request: web.Request, settings: Settings) -> None:
        super().__init__(reactor, _TIMES_TOO_LONG * settings.line_limit, settings.queue_limit, settings.patience)
        self._board = board
        self._lobby = board.lobby
        self._settings = settings
        # Who and where they were, if they come again.
        self._wishes = {name: values[-1] for name, values in parse_qs(request.query).items()}
        offered = [word.strip() for word in request.fields.get("sec-websocket-protocol", "").split(",")]
        self.subprotocol = _SUBPROTOCOL if _SUBPROTOCOL in offered else None
        self._again = next((word.removeprefix(_AGAIN) for word in offered if word.startswith(_AGAIN)), "")
        self._token = secrets.token_urlsafe(16)
        self._member: Member | None = None
        self._welcome: list[str] = []
        self._shown = ("", "")
        self._count = 0
        self._idle: TimerHandle | None = None
        self._held_notice: TimerHandle | None = None

    @property
    def _there(self) -> Member:
        assert self._member is not None
        return self._member

    @property
    def room(self) -> str:
        """Where they are."""
        return self._there.room

    def opened(self) -> None:
        self._turns: Turns[str] = Turns(
            self._lobby,
            self._reactor.time,
            self.connection.call_soon,
            room=lambda text: self.room,
            length=lambda text: len(text.encode()),
            is_blocked=lambda text: self._lobby.is_blocked(self._there, text),
            take=self._hear,
            hold=self.hold,
            go_on=self.go_on,
        )
        self.send(text_frame(told("hello", line_bytes=self._settings.line_limit)))
        self._member = self._lobby.enter(self.tell, *self._name_and_room())
        self._show_self()
        self._lobby.claims[self._token] = self._give_way
        self.send(text_frame(told("claim", token=self._token)))
        for line in self._welcome:
            self.tell(line)
        self.filled(self._outgoing.full)
        self._board.add(self)
        self._wait_for_a_word()

    def _name_and_room(self) -> tuple[str, str]:
        """As whom they wish to come, and where to; who comes again, as the member that they were."""
        ghost = self._lobby.claims.get(self._again)
        return (self._wishes.get("nick", ""), self._wishes.get("room", "")) if ghost is None else ghost()

    def _give_way(self) -> tuple[str, str]:
        """Their page has come back on another connection."""
        was = (self._there.name, self._there.room)
        self._part("lost the connection", NORMAL, "your page is connected again")
        return was

    def text_received(self, text: str) -> None:
        self._turns.add([text])

    def _hear(self, text: str) -> bool:
        """One message, which is one line. False when they have left."""
        if "\n" in text or "\r" in text:
            self.tell("* a message is one line; that one was more and was not sent")
        elif len(text.encode()) > self._settings.line_limit:
            self.tell(f"* that line was longer than {self._settings.line_limit} bytes and was not sent")
        elif not self._lobby.hear(self._there, text):
            self.end(NORMAL, "you left")
            return False
        self._count += 1
        self._show_self()
        self.send(text_frame(told("heard", count=self._count)))
        self._wait_for_a_word()
        return True

    def hold(self) -> None:
        super().hold()
        self._tell_held()

    def _tell_held(self) -> None:
        """While others read slowly, they are neither silent nor without an answer."""
        self.send(_HELD)
        self._wait_for_a_word()
        self._held_notice = self._reactor.call_later(_HELD_SECONDS, self._tell_held)

    def go_on(self) -> None:
        if self._held_notice is not None:
            self._held_notice.cancel()
        super().go_on()

    def filled(self, full: bool) -> None:
        if self._member is not None:
            self._member.full = full
            if not full:
                self._lobby.eased(self.room)

    def is_waited_for(self) -> bool:
        return self._lobby.is_waited_for(self.room)

    def tell(self, line: str) -> None:
        """Shows a line, or marks them as too slow. Never raises."""
        if self._member is None:
            self._welcome.append(line)  # where they are is known when `enter` returns
        else:
            self.send(_line_frame(self._member.room, line))

    def over(self, code: int, reason: str) -> None:
        for timer in (self._idle, self._held_notice):
            if timer is not None:
                timer.cancel()
        self._board.remove(self)
        self._lobby.claims.pop(self._token, None)
        if self._member is not None:
            self._turns.stop()
            self._lobby.leave(self._member, _PARTED.get(code, f"was dropped: {reason}" if reason else "was dropped"))

    def draining(self) -> None:
        self._part("", GOING_AWAY, "the server is shutting down")

    def _part(self, how: str, code: int, reason: str) -> None:
        """Out of the lobby, in words of their own, and ended: in one breath."""
        if self._member is not None:
            self._lobby.leave(self._member, how)
        self.end(code, reason)

    def _show_self(self) -> None:
        assert self._member is not None
        now = (self._member.name, self._member.room)
        if now != self._shown:
            self._shown = now
            self.send(text_frame(told("you", name=now[0], room=now[1])))

    def _wait_for_a_word(self) -> None:
        """Pongs keep the connection, but only words keep a member, if there is a limit to silence."""
        seconds = self._settings.idle_seconds
        if seconds is None:
            return
        if self._idle is not None:
            self._idle.cancel()
        reason = f"you were silent for {seconds:g} s"
        self._idle = self._reactor.call_later(seconds, self._part, "was silent for too long", NORMAL, reason)


@attrs.frozen(kw_only=True)
class Settings:
    """What can be chosen."""

    # Origins beside our own, as a browser sends them: "https://chat.example.org".
    origins: Collection[str] = ()
    line_limit: int = LINE_LIMIT
    queue_limit: int = QUEUE_LIMIT
    # Drop a member for whom others wait, and who takes next to nothing for so long.
    patience: float = PATIENCE
    # End a member who says nothing for so long, whatever their browser answers. None: never.
    idle_seconds: float | None = None


def serve(
    reactor: Reactor,
    *where: Any,
    lobby: WatchedLobby | None = None,
    settings: Settings | None = None,
    options: Options | None = None,
    **how: Any,
) -> Listener:
    """Takes what `Reactor.listen` takes, but for the factory. Give `chat.serve` the same `lobby`, and all meet."""
    chosen = Settings() if settings is None else settings
    site = _site(reactor, Board(reactor, WatchedLobby() if lobby is None else lobby), chosen)
    options = for_members(Options() if options is None else options, chosen.queue_limit)
    # Silence is a member's, not a connection's: pongs break it.
    options = attrs.evolve(options, deadlines=attrs.evolve(options.deadlines, idle=None))
    return web.serve(reactor, site, *where, settings=web.Settings(early=site.refusal), options=options, **how)


def _site(reactor: Reactor, board: Board, settings: Settings) -> web.Routes:
    page = web.page_response(_PAGE.read_bytes(), *_PAGE_FIELDS)

    def socket(request: web.Request) -> web.Answer:
        if not may_connect(request.fields, settings.origins):
            return web.say(403, "this server takes no WebSocket from that origin")
        return upgrade(request, lambda: Guest(reactor, board, request, settings))

    return web.Routes({"/": {"GET": lambda _: page}, "/socket": {"GET": socket}})


def may_connect(fields: Mapping[str, str], origins: Collection[str] = ()) -> bool:
    """Whether a request's `Origin` is the server that it was sent to (RFC 6454), or an allowed one, or absent."""
    origin = fields.get("origin")
    if origin is None or origin.lower() in {one.lower() for one in origins}:
        return True
    try:
        theirs = urlsplit(origin)
        ours = urlsplit(f"{theirs.scheme}://{fields.get('host', '')}")
        return bool(theirs.hostname) and _where(theirs) == _where(ours)
    except (ValueError, KeyError):
        return False


def _where(url: SplitResult) -> tuple[str | None, int]:
    """ValueError for a port that is none, KeyError for a scheme that is not the web's."""
    return url.hostname, url.port or _DEFAULT_PORTS[url.scheme]
