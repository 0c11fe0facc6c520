"""A sheet to draw on: boxes, lines with heads, words; readable on a light page and on a dark one.

Colours are roles, not values. As a file of its own a picture follows the reader's system; inside a page of the site it
follows the page's own switch.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

_ROLES = ("paper", "ink", "dim", "fill", "line", "accent", "good", "bad")
_LIGHT_COLOURS = ("#ffffff", "#1f2328", "#656d76", "#eef1f5", "#8c959f", "#0550ae", "#116329", "#b3261e")
_DARK_COLOURS = ("#131416", "#e6edf3", "#9aa4af", "#22272e", "#768390", "#79b8ff", "#56d364", "#ff7b72")
_LIGHT, _DARK = (
    "; ".join(f"--{role}: {colour}" for role, colour in zip(_ROLES, colours, strict=True))
    for colours in (_LIGHT_COLOURS, _DARK_COLOURS)
)
_STYLE = f"""
svg.drawn {{ {_LIGHT}; font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 12px }}
@media (prefers-color-scheme: dark) {{ svg.drawn {{ {_DARK} }} }}
body[data-theme="light"] svg.drawn {{ {_LIGHT} }}
body[data-theme="dark"] svg.drawn {{ {_DARK} }}
svg.drawn text {{ fill: var(--ink) }}
svg.drawn .box {{ fill: var(--fill); stroke: var(--line) }}
svg.drawn .grid {{ fill: none; stroke: var(--line); stroke-width: 0.5; stroke-dasharray: 2 4 }}
svg.drawn .stroke {{ fill: none; stroke: var(--ink); stroke-width: 1.4 }}
svg.drawn .head {{ fill: var(--ink); stroke: none }}
svg.drawn .strong {{ font-weight: 650 }}
svg.drawn .small {{ font-size: 10.5px }}
svg.drawn .code {{ font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 11px }}
svg.drawn .halo {{ paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round }}
svg.drawn .dim {{ fill: var(--dim) }}
svg.drawn .stroke.dim {{ fill: none; stroke: var(--line); stroke-width: 1 }}
svg.drawn .head.dim {{ fill: var(--line) }}
svg.drawn .accent {{ fill: var(--accent) }}
svg.drawn .stroke.accent {{ fill: none; stroke: var(--accent) }}
svg.drawn .bad {{ fill: var(--bad) }}
svg.drawn .stroke.bad {{ fill: none; stroke: var(--bad) }}
svg.drawn .good {{ fill: var(--good) }}
svg.drawn .stroke.good {{ fill: none; stroke: var(--good) }}
svg.drawn .box.accent {{ fill: var(--fill); stroke: var(--accent); stroke-width: 1.6 }}
"""

Point = tuple[float, float]


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


class Sheet:
    """One picture. `title` and `description` are read aloud to who cannot see it."""

    def __init__(self, name: str, width: float, height: float, title: str, description: str) -> None:
        self._root = ET.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "class": "drawn",
                "viewBox": f"0 0 {_number(width)} {_number(height)}",
                "width": _number(width),
                "role": "img",
                "aria-labelledby": f"{name}-title {name}-description",
            },
        )
        for tag, words in (("title", title), ("desc", description)):
            ident = "description" if tag == "desc" else tag
            ET.SubElement(self._root, tag, {"id": f"{name}-{ident}"}).text = words
        ET.SubElement(self._root, "style").text = _STYLE

    def box(self, x: float, y: float, width: float, height: float, kind: str = "box", radius: float = 6) -> None:
        """A rectangle; `kind` is its class."""
        where = {"x": x, "y": y, "width": width, "height": height, "rx": radius}
        ET.SubElement(self._root, "rect", {"class": kind} | {key: _number(value) for key, value in where.items()})

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        """One line of words, `y` its base line."""
        given = {"x": _number(x), "y": _number(y), "text-anchor": anchor} | ({"class": kind} if kind else {})
        ET.SubElement(self._root, "text", given).text = words

    def line(self, points: list[Point], kind: str = "", head: bool = True, bend: Point | None = None) -> None:
        """Through all the points, with a head at the last one. With `bend`, a curve that is drawn towards it."""
        if bend is None:
            path = "M" + " L".join(f"{_number(x)} {_number(y)}" for x, y in points)
            before = points[-2]
        else:
            (x0, y0), (x1, y1) = points
            path = f"M{_number(x0)} {_number(y0)} Q{_number(bend[0])} {_number(bend[1])} {_number(x1)} {_number(y1)}"
            before = bend
        ET.SubElement(self._root, "path", {"class": f"stroke {kind}".strip(), "d": path})
        if head:
            self._head(before, points[-1], kind)

    def _head(self, before: Point, tip: Point, kind: str) -> None:
        angle = math.atan2(tip[1] - before[1], tip[0] - before[0])
        corners = [tip]
        for side in (math.pi - 0.42, math.pi + 0.42):
            corners.append((tip[0] + 9 * math.cos(angle + side), tip[1] + 9 * math.sin(angle + side)))
        points = " ".join(f"{_number(x)},{_number(y)}" for x, y in corners)
        ET.SubElement(self._root, "polygon", {"class": f"head {kind}".strip(), "points": points})

    def __str__(self) -> str:
        ET.indent(self._root)
        return ET.tostring(self._root, encoding="unicode") + "\n"
