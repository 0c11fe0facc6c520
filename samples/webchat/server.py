"""Browsers in the lobby: who may connect, what each is told, and how they end.

*Who may connect.* A WebSocket is not held back by a browser's same-origin policy: any page on the web could open one to
this server, from inside the user's network. So `Origin` must be ours, or one that was allowed. Who sends none is no
browser, and could send any.

*How a member ends* is told to the room in words that fit the code of the Close frame (`_PARTED`). Whoever is ended
leaves the lobby in the same breath: afterwards nobody tells them anything any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import attrs

from reactor import Listener, Options, Reactor, ReactorClosed, TimerHandle
from samples import web
from samples.chat.rooms import Member
from samples.chat.server import LINE_LIMIT, QUEUE_LIMIT, for_members
from samples.webchat.view import WatchedLobby, line_told, told
from samples.webchat.websocket import GOING_AWAY, LOST, NO_STATUS, NORMAL, WebSocket, text_frame, upgrade

# A message is one line, or a few that were pasted.
_LINES_IN_A_MESSAGE = 4
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
        super().__init__(reactor, _LINES_IN_A_MESSAGE * settings.line_limit, settings.queue_limit)
        self._board = board
        self._lobby = board.lobby
        self._settings = settings
        # Who and where they were, if they come again.
        self._wishes = {name: values[-1] for name, values in parse_qs(request.query).items()}
        self._member: Member | None = None
        self._welcome: list[str] = []
        self._shown = ("", "")
        self._count = 0
        self._idle: TimerHandle | None = None

    @property
    def room(self) -> str:
        """Where they are."""
        assert self._member is not None
        return self._member.room

    def opened(self) -> None:
        self.send(text_frame(told("hello", line_bytes=self._settings.line_limit)))
        self._member = self._lobby.enter(self.tell, self._wishes.get("nick", ""), self._wishes.get("room", ""))
        self._show_self()
        for line in self._welcome:
            self.tell(line)
        self._board.add(self)
        self._wait_for_a_word()

    def text_received(self, text: str) -> None:
        assert self._member is not None
        for line in text.split("\n"):
            if len(line.encode()) > self._settings.line_limit:
                self.tell(f"* that line was longer than {self._settings.line_limit} bytes and was not sent")
            elif not self._lobby.hear(self._member, line):
                self.end(NORMAL, "you left")
                return
        self._count += 1
        self._show_self()
        self.send(text_frame(told("heard", count=self._count)))
        self._wait_for_a_word()

    def tell(self, line: str) -> None:
        """Shows a line, or marks them as too slow. Never raises."""
        if self._member is None:
            self._welcome.append(line)  # where they are is known when `enter` returns
        else:
            self.send(_line_frame(self._member.room, line))

    def over(self, code: int, reason: str) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._board.remove(self)
        if self._member is not None:
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
