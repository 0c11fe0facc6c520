"""One turn of the loop, read off `Loop._turn`: the steps and their order are the source's own."""

from __future__ import annotations

import ast
import inspect
import textwrap

from docs.drawn.svg import Sheet
from reactor.loop import Loop

# What each call of `_turn` is, to a reader; a call that has no words here fails the drawing.
WORDS = {
    "_send_gathered": ("send what was gathered", "what was written since leaves together; pause_writing"),
    "poll": ("poll", "the only place that waits: for descriptors, at most until the next timer"),
    "look_at_clock": ("read the clock", "once: everybody in this turn has the same time"),
    "_serve": ("serve what is ready", "connection_made, data_received, eof_received, resume_writing"),
    "_fire_timers": ("fire the timers due", "call_later, deadlines; no more than there are now"),
    "_run_posted": ("run the calls posted before now", "call_soon, call_soon_threadsafe, done callbacks"),
    "_bury": ("bury the dead", "release descriptors, connection_lost; so no number is reused within a turn"),
}
WIDTH, STEP = 640.0, 56.0


def steps() -> list[str]:
    """The methods that `_turn` calls in each turn, in its order."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(Loop._turn)))
    found = []
    for node in ast.walk(tree):
        # The loop's own calls; a stopwatch, if there is one, looks on from outside.
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            if called.startswith("self.") and node.func.attr != "_patience":
                found.append((node.lineno, node.func.attr))
    names = [name for _, name in sorted(found)]
    # The clock is also read before gathered output is sent, for hosts that lend their loop; that is not a step.
    first = names.index("look_at_clock")
    if names.index("_send_gathered") > first:
        del names[first]
    return names


def draw() -> str:
    """The picture."""
    names = steps()
    sheet = Sheet(
        "turn",
        WIDTH + 108,
        STEP * len(names) + 16,
        "One turn of the loop",
        "The steps, from the first to the last, and round again: " + ", then ".join(WORDS[name][0] for name in names),
    )
    x, width = 80.0, WIDTH - 40
    for row, name in enumerate(names):
        y = 8 + STEP * row
        title, detail = WORDS[name]
        sheet.box(x, y, width, STEP - 16, "box accent" if name == "poll" else "box")
        sheet.text(x + 14, y + 25, title, "strong")
        sheet.text(x + width - 14, y + 25, detail, "small dim", "end")
        if row:
            sheet.line([(x + 36, y - 16), (x + 36, y)])
    low, high = 8 + STEP * (len(names) - 1) + (STEP - 16) / 2, 8 + (STEP - 16) / 2
    sheet.line([(x, low), (x - 36, low), (x - 36, high), (x, high)])
    sheet.text(x - 44, (low + high) / 2, "again", "dim", "end")
    return str(sheet)
