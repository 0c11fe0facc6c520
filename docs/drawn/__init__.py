"""Draws and writes what the documentation shows of the code, from the code: `python -m docs.drawn`.

Pictures (`docs/pictures/*.svg`) and tables (`docs/tables/*.md`) are kept in the repository, so that the pages can be
read without building anything. `python -m docs.drawn --check` says which of them are stale, and a test does the same.
Nothing here draws chance or reads a clock: the same code gives the same files. What needs a real kernel is in
`docs.captured`.
"""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[1]


def everything() -> dict[Path, str]:
    """Each generated file and what should be in it."""
    from docs.drawn import endings, layers, lifecycle, sequence, tables, turn

    made = {
        "pictures/lifecycle.svg": lifecycle.draw(),
        "pictures/layers.svg": layers.draw(),
        "pictures/turn.svg": turn.draw(),
        "tables/rooms.md": tables.rooms(),
        "tables/options.md": tables.options(),
        "tables/errors.md": tables.errors(),
        "tables/given.md": tables.given(),
    }
    for name, ending in endings.ENDINGS.items():
        made[f"pictures/ending-{name}.svg"] = sequence.draw(name, ending, ending.play())
    return {DOCS / name: text for name, text in made.items()}


def stale() -> list[Path]:
    """The generated files that are not what they should be."""
    return [
        path for path, text in everything().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
