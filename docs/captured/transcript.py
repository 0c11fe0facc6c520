"""What happened, and where, as lines of text; and back again, for the tests: there is no other form of it.

Four places stand side by side: our program, our kernel, the peer's kernel, the peer's program. Between the kernels is
the wire. A packet is one line where it leaves and one where it arrives; its arrow says which way it goes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

import attrs

OUR_PROGRAM, OUR_KERNEL, THEIR_KERNEL, THEIR_PROGRAM = "our program", "our kernel", "its kernel", "the peer's program"

# The columns' widths; the wire is one, with a kernel at each edge.
_TIME, _OURS, _WIRE, _THEIRS = 6, 34, 37, 27
_LINE = f"{{:>{_TIME}}}  {{:<{_OURS}}} |{{:<{_WIRE}}}| {{:<{_THEIRS}}}"
_OURS_AT = _TIME + 2
_WIRE_AT = _OURS_AT + _OURS + 2
_THEIRS_AT = _WIRE_AT + _WIRE + 2
# Title, circumstances, nothing, the columns' names, a rule.
_HEAD = 5
# What goes on in the next line is indented.
_INDENT = "  "
# Nothing happens before it is due, and all of it a little late: right from 3 ms too early to 7 ms too late.
_STEP, _EARLY = 0.01, 0.003


@attrs.frozen
class Event:
    """One thing that happened: when, in which of the four places, and in words."""

    time: float
    place: str
    words: str


def rounded(time: float) -> float:
    """To 10 ms: what is below that is the machine's, not TCP's."""
    return round((time + _EARLY) // _STEP * _STEP, 2)


def render(title: str, captured_by: str, events: Iterable[Event]) -> str:
    """A line each of the title and the circumstances, the names of the columns, and the events in their order."""
    kernels = OUR_KERNEL + THEIR_KERNEL.rjust(_WIRE - len(OUR_KERNEL))
    lines = [title, captured_by, "", _LINE.format("time", OUR_PROGRAM, kernels, THEIR_PROGRAM)]
    lines.append("-" * len(lines[-1]))
    shown = ""
    for event in events:
        time = f"{event.time:.2f}"
        lines += _lines(event, "" if time == shown else time)
        shown = time
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _lines(event: Event, time: str) -> Iterator[str]:
    if event.place in (OUR_KERNEL, THEIR_KERNEL):
        assert len(event.words) < _WIRE, event  # else nobody sees at which edge it is
        words = event.words if event.place == OUR_KERNEL else event.words.rjust(_WIRE)
        yield _LINE.format(time, "", words, "")
        return
    width = _OURS if event.place == OUR_PROGRAM else _THEIRS
    for row in textwrap.wrap(event.words, width, subsequent_indent=_INDENT, break_on_hyphens=False):
        yield _LINE.format(time, *((row, "", "") if event.place == OUR_PROGRAM else ("", "", row)))
        time = ""


def parse(text: str) -> list[Event]:
    """The events of what `render` has made."""
    events: list[Event] = []
    time = 0.0
    for line in text.splitlines()[_HEAD:]:
        time = float(line[:_TIME].strip() or time)
        ours, wire, theirs = line[_OURS_AT : _WIRE_AT - 2], line[_WIRE_AT : _THEIRS_AT - 2], line[_THEIRS_AT:]
        words = f"{ours}{wire}{theirs}".strip()
        if wire.strip():
            events.append(Event(time, THEIR_KERNEL if wire.startswith(" ") else OUR_KERNEL, words))
        elif ours.startswith(_INDENT + words[0]) or theirs.startswith(_INDENT):
            events[-1] = attrs.evolve(events[-1], words=f"{events[-1].words} {words}")
        else:
            events.append(Event(time, OUR_PROGRAM if ours.strip() else THEIR_PROGRAM, words))
    return events
