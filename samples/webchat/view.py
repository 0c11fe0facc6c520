"""What a browser is told, as JSON, and when it changes. No sockets, no frames.

A browser says the same lines as anybody (`/join tea`, or something to say), one in each text message, never more than
one. It is told:

    {"kind": "hello", "line_bytes": 2000}                           once, first: how long a line may be
    {"kind": "said", "room": "tea", "from": "ann", "text": "hi"}    somebody said something, perhaps themselves
    {"kind": "note", "room": "tea", "text": "ann joined tea"}       the server's own word, for them or for the room
    {"kind": "you", "name": "ann", "room": "tea"}                   who and where they are now
    {"kind": "claim", "token": "..."}                               what makes it the same member again (`server.py`)
    {"kind": "held"}                                                its messages wait until others have read
    {"kind": "heard", "count": 3}                                   so many of their messages were taken, and answered
    {"kind": "people", "room": "tea", "names": [...], "more": 0}    who is in their room, and how many more
    {"kind": "rooms", "rooms": [["tea", 3, 120], ...]}              each room, how many are in it, lines said in it

The count of lines lets a page mark the rooms in which something was said that it has not shown. `people` and `rooms`
are the same for everybody in a room, and are sent when they differ from what was sent last.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from samples.chat.rooms import Lobby, Member

# A page of more is read by nobody, and every change is sent to everybody it concerns.
MOST_NAMES = 200
MOST_ROOMS = 100


def told(kind: str, **facts: Any) -> str:
    """One of the messages above."""
    return json.dumps({"kind": kind, **facts}, ensure_ascii=False, separators=(",", ":"))


def line_told(room: str, line: str) -> str:
    """A lobby's line. What a member said is always behind `<name> `, and no name has a `>`."""
    if line.startswith("<"):
        name, _, text = line[1:].partition("> ")
        return told("said", room=room, **{"from": name, "text": text})
    return told("note", room=room, text=line.removeprefix("* "))


class WatchedLobby(Lobby):
    """A lobby that tells when somebody came, went, was renamed or spoke."""

    def __init__(self) -> None:
        super().__init__()
        # Each is called after a change. None may act in the lobby, for more may be about to change.
        self.watchers: list[Callable[[], None]] = []
        # Lines said in each room since it was made.
        self._spoken: Counter[str] = Counter()
        # By its token, what takes a browser's member out and returns who and where they were: for its page came back.
        self.claims: dict[str, Callable[[], tuple[str, str]]] = {}

    def place(self, member: Member) -> None:
        super().place(member)
        self._changed()

    def remove(self, member: Member) -> None:
        super().remove(member)
        self._changed()

    def renamed(self, member: Member, name: str) -> None:
        super().renamed(member, name)
        self._changed()

    def said(self, member: Member, text: str) -> None:
        super().said(member, text)
        self._spoken[member.room] += 1
        self._changed()

    def _changed(self) -> None:
        for watcher in self.watchers:
            watcher()

    def people_told(self, room: str) -> str:
        """Who is in a room."""
        names = [member.name for member in self.members(room)]
        return told("people", room=room, names=names[:MOST_NAMES], more=max(0, len(names) - MOST_NAMES))

    def rooms_told(self) -> str:
        """The rooms, the fullest first."""
        rooms = self.rooms
        for gone in self._spoken.keys() - set(rooms):
            del self._spoken[gone]
        rows = sorted(((room, len(self.members(room)), self._spoken[room]) for room in rooms), key=_fullest)
        return told("rooms", rooms=rows[:MOST_ROOMS])


def _fullest(row: tuple[str, int, int]) -> tuple[int, str]:
    return -row[1], row[0]
