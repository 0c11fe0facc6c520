"""The table of `reactor.lifecycle`, drawn where its two words put it.

A state's column is what becomes of input, its row what becomes of output. Since no move goes left or up, every path
through the picture ends in its lower right corner, after few moves.
"""

from __future__ import annotations

from docs.drawn.svg import Point, Sheet
from reactor.lifecycle import (
    ABORT,
    CLOSED,
    DEADLINE,
    FAILED,
    LAST_WORDS,
    RESET,
    SEND_FAILED,
    STARTING,
    STATES,
    TABLE,
    Input,
    Output,
    State,
)

COLUMNS = {Input.HOLD: 8, Input.DELIVER: 192, Input.DISCARD: 392, Input.STOP: 592}
ROWS = {
    Output.HOLD: 44,
    Output.ACCEPT: 150,
    Output.DRAIN: 270,
    Output.STOP: 396,
    Output.RESET: 516,
    Output.DONE: 636,
}
WIDTH, HEIGHT = 140.0, 66.0
# What cuts a life short, without an arrow for each. Of these `deadline` alone is named, in the boxes where it can come.
CUTS = (DEADLINE, ABORT, SEND_FAILED, FAILED)
# What leads to the states of a failure, without an arrow for each.
TURNS = (RESET, SEND_FAILED)


def draw() -> str:
    """The picture."""
    sheet = Sheet(
        "lifecycle",
        748,
        720,
        "The life of a connection",
        f"{len(STATES)} states in a grid: the column says what becomes of input, the row of output. Moves go"
        " only to the right and down, from STARTING at the upper left to CLOSED at the lower right. From every state"
        " abort and failed lead to CLOSED, and a cross marks where a deadline does. reset leads to FAILING, or to"
        " FAILING_LAST where the input has stopped. send_failed leads to LAST_WORDS where input is delivered, else to"
        " CLOSED.",
    )
    for word, x in COLUMNS.items():
        sheet.text(x + WIDTH / 2, 22, f"input: {word.value}", "dim", "middle")
    for out, y in ROWS.items():
        # STARTING stands where the words of its row would be: they are below it.
        down = HEIGHT + 18 if out is Output.HOLD else HEIGHT / 2 + 4
        sheet.text(8, y + down, f"output: {out.value}", "dim")
    for state in STATES:
        for following, events in _arrows(state).items():
            _arrow(sheet, state, following, ", ".join(events))
    for state in STATES:
        _state(sheet, state)
    return str(sheet)


def place(state: State) -> Point:
    return COLUMNS[state.input], ROWS[state.output]


def _arrows(state: State) -> dict[State, list[str]]:
    """Where it can go, other than by being cut short."""
    found: dict[State, list[str]] = {}
    for event, following in TABLE[state].items():
        short = (following is CLOSED and event in CUTS) or event in TURNS
        if following is not None and following is not state and not short and state is not LAST_WORDS:
            found.setdefault(following, []).append(event.name)
    return found


def _state(sheet: Sheet, state: State) -> None:
    x, y = place(state)
    sheet.box(x, y, WIDTH, HEIGHT, "box accent" if state in (STARTING, CLOSED) else "box")
    middle = x + WIDTH / 2
    sheet.text(middle, y + 20, state.name, "strong", "middle")
    # At most two of the kernel's names fit on a line.
    names = state.rfc9293.split(", ")
    for row, part in enumerate([", ".join(names[:2]), ", ".join(names[2:])]):
        if part:
            sheet.text(middle, y + 35 + 12 * row, part, "small accent", "middle")
    notes = ["✕ deadline"] if TABLE[state][DEADLINE] is CLOSED else []
    if TABLE[state][RESET] not in (state, CLOSED):
        notes.append("↓ reset")
    if notes:
        sheet.text(middle, y + 60, " ".join(notes), "small bad", "middle")


def _arrow(sheet: Sheet, state: State, following: State, label: str) -> None:
    (x0, y0), (x1, y1) = place(state), place(following)
    right, down = x1 > x0, y1 > y0
    if right and down and x1 - x0 < 300:  # the next column and the next row: corner to corner
        sheet.line([(x0 + WIDTH, y0 + HEIGHT), (x1, y1)])
        sheet.text((x0 + WIDTH + x1) / 2 + 10, (y0 + HEIGHT + y1) / 2 - 4, label, "code")
    elif right and down:  # around what lies between
        middle = x1 + WIDTH / 2
        sheet.line([(x0 + WIDTH, y0 + HEIGHT / 2), (middle, y0 + HEIGHT / 2), (middle, y1)])
        sheet.text(x0 + WIDTH + 10, y0 + HEIGHT / 2 - 6, label, "code")
    elif down:
        middle = x0 + WIDTH / 2
        sheet.line([(middle, y0 + HEIGHT), (middle, y1)])
        sheet.text(middle - 6, y1 - 12, label, "code", "end")
    elif x1 - x0 > 300 and any(place(state) == (COLUMNS[Input.DISCARD], y0) for state in STATES):
        # Below the box between.
        low = y0 + HEIGHT
        sheet.line([(x0 + WIDTH - 16, low), (x1 + 16, low)], bend=((x0 + WIDTH + x1) / 2, low + 52))
        sheet.text(x0 + WIDTH + 14, low + 36, label, "code")
    else:
        sheet.line([(x0 + WIDTH, y0 + HEIGHT / 2), (x1, y1 + HEIGHT / 2)])
        near = x1 - x0 < 300
        sheet.text((x0 + WIDTH + x1) / 2 - (0 if near else 60), y0 + HEIGHT / 2 - 6, label, "code", "middle")
