"""What goes to the stream and is not known to be there: in order, counted, and kept until it is acknowledged.

*Acknowledged* means: the stream has said that it has the entry. A member asks with /sync, and is told for how many
of their lines that is so.
"""

from __future__ import annotations

from collections import deque

from samples.chat.entries import Entry
from samples.chat.rooms import Member


class Outbox:
    """The entries of one node that wait. `limit` of them are many; it is for others to keep to it."""

    def __init__(self, limit: int) -> None:
        # The count of the last entry made, and of the last acknowledged.
        self.count = self.acknowledged = 0
        self._limit = limit
        self._entries: deque[Entry] = deque()
        # How many lines each member has said; and for those who asked, up to which count, and how many lines that is:
        # their first question that has no answer, and the last, if there are more.
        self._lines: dict[Member, int] = {}
        self._questions: dict[Member, list[tuple[int, int]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def full(self) -> bool:
        """Whether as many wait as may."""
        return len(self._entries) >= self._limit

    @property
    def half_full(self) -> bool:
        """Whether half as many wait as may."""
        return 2 * len(self._entries) >= self._limit

    @property
    def lines(self) -> int:
        """How many of those that wait are lines that somebody said."""
        return sum(entry.kind == "said" for entry in self._entries)

    def add(self, kind: str, name: str = "", room: str = "", text: str = "", speaker: Member | None = None) -> None:
        """One entry more; of a line, also whose it is."""
        self.count += 1
        self._entries.append(Entry(self.count, kind, name, room, text))
        if speaker is not None:
            self._lines[speaker] = self._lines.get(speaker, 0) + 1

    def first(self, most: int) -> list[Entry]:
        """The oldest so many: the same ones again until `acknowledge`."""
        return [entry for entry, _ in zip(self._entries, range(most), strict=False)]

    def acknowledge(self, number: int) -> None:
        """The stream has the oldest so many."""
        for _ in range(number):
            self.acknowledged = self._entries.popleft().count
        self._answer()

    def ask(self, member: Member) -> None:
        """Tells the member, now or later, when what they have said by now is acknowledged."""
        questions = self._questions.setdefault(member, [])
        questions[1:] = [(self.count, self._lines.get(member, 0))]
        self._answer()

    def forget(self, member: Member) -> None:
        """They have left, and are told nothing more."""
        self._lines.pop(member, None)
        self._questions.pop(member, None)

    def _answer(self) -> None:
        for member, questions in list(self._questions.items()):
            while questions and questions[0][0] <= self.acknowledged:
                _, lines = questions.pop(0)
                member.tell(f"* safe with the other machines: {lines} of your lines")
            if not questions:
                del self._questions[member]
