"""The grammar of the callbacks, checked by an observer.

    grammar = Grammar()
    reactor.observe(grammar)
    ...
    grammar.check()

It listens to the records of every connection, so it sees what the reactor called, whatever the protocol made of it.
"""

from __future__ import annotations

import re

from reactor.trace import CALLBACKS, Record

_LETTERS = {
    "connection_made": "m",
    "data_received": "d",
    "pause_writing": "p",
    "resume_writing": "r",
    "eof_received": "e",
    "connection_lost": "l",
}
# `draining` may come anywhere in between and is left out.
_WHOLE = re.compile(r"m[dpr]*(e[pr]*)?l")
_BEGUN = re.compile(r"m[dpr]*(e[pr]*)?")


class Grammar:
    """An observer that remembers every connection's callbacks; `check` raises AssertionError for those out of order."""

    def __init__(self) -> None:
        self._calls: dict[str, list[str]] = {}

    def __call__(self, record: Record) -> None:
        if record.what in CALLBACKS:
            self._calls.setdefault(record.connection, []).append(record.what)

    def calls(self, connection: str) -> list[str]:
        """The callbacks of one connection (`"#1"` ...), in order."""
        return list(self._calls.get(connection, ()))

    def check(self, *, ended: bool = False) -> None:
        """Every connection's callbacks follow the grammar; with `ended`, each has had its connection_lost."""
        for connection, calls in self._calls.items():
            said = "".join(_LETTERS.get(call, "") for call in calls)
            good = _WHOLE.fullmatch(said) or (not ended and _BEGUN.fullmatch(said))
            assert good, f"connection {connection} was called out of order: {' '.join(calls)}"
            flow = said.translate({ord(letter): None for letter in "mdel"})
            assert re.fullmatch("(pr)*p?", flow), f"connection {connection} was paused out of order: {' '.join(calls)}"
