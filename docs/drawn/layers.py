"""The rooms of the package, in the order that `tests/test_house.py` enforces, beside the way the bytes go."""

from __future__ import annotations

from docs.drawn.svg import Sheet
from docs.drawn.tables import floors

WIDTH, BOX, ROW = 748.0, 102.0, 30.0
PER_ROW = 6


def draw() -> str:
    """The picture."""
    stories = [(name, words, _rows(rooms)) for name, words, rooms in floors()]
    height = sum(26 + (ROW + 6) * len(rows) + 12 for _, _, rows in stories) + 8
    sheet = Sheet(
        "layers",
        WIDTH,
        height,
        "The rooms of the package",
        "From top to bottom; a room imports only from rooms above it: "
        + "; ".join(f"{name}: {', '.join(room for row in rows for room in row)}" for name, _, rows in stories),
    )
    y = 8.0
    for name, words, rows in stories:
        tall = 26 + (ROW + 6) * len(rows)
        sheet.box(4, y, WIDTH - 8, tall, "grid")
        sheet.text(14, y + 17, name, "strong")
        sheet.text(74, y + 17, words, "small dim")
        for number, row in enumerate(rows):
            for column, room in enumerate(row):
                left, top = 74 + (BOX + 8) * column, y + 24 + (ROW + 6) * number
                sheet.box(left, top, BOX, ROW)
                sheet.text(left + BOX / 2, top + 19, room, "code", "middle")
        y += tall + 12
    return str(sheet)


def _rows(rooms: list[str]) -> list[list[str]]:
    return [rooms[at : at + PER_ROW] for at in range(0, len(rooms), PER_ROW)]
