"""A recorded ending as a sequence diagram: our program and kernel to the left, the peer's to the right, time downwards.

Each moment at which anything happened is one band. Packets that leave one side in the same moment are one arrow, as a
kernel would send them in one segment. Time is not to scale: the clock stands at the left of each band.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import attrs

from docs.drawn.endings import Ending
from docs.drawn.recording import Packet, Story
from docs.drawn.svg import Sheet

WIDTH = 748.0
OURS, THEIRS = 300.0, 500.0
TOP, LINE, SPACE = 58.0, 16.0, 12.0
TIMES = "\N{MULTIPLICATION SIGN}"


@attrs.define
class Band:
    """What happened at one time, and where it is drawn."""

    time: float
    # (words, class) for each line of either side.
    left: list[tuple[str, str]] = attrs.field(factory=list)
    right: list[tuple[str, str]] = attrs.field(factory=list)
    top: float = 0.0

    @property
    def bottom(self) -> float:
        return self.top + LINE * max(len(self.left), len(self.right), 1)


def draw(name: str, ending: Ending, story: Story) -> str:
    """The picture."""
    bands = _bands(story)
    y = TOP
    for band in bands:
        band.top = y
        y = band.bottom + SPACE
    height = y + 52
    sheet = Sheet(f"ending-{name}", WIDTH, height, ending.title, _in_words(story))
    sheet.text(OURS - 12, 18, "this reactor", "strong", "end")
    sheet.text(OURS - 12, 33, "its state · its kernel's", "small accent", "end")
    sheet.text(THEIRS + 12, 18, "the peer", "strong")
    sheet.text(THEIRS + 12, 33, "its kernel's state", "small accent")
    for x in (OURS, THEIRS):
        sheet.line([(x, 42), (x, y)], "dim", head=False)
    for band in bands:
        sheet.text(6, band.top + 11, f"{band.time:.2f} s", "small dim")
        for x, lines, anchor in ((OURS - 12, band.left, "end"), (THEIRS + 12, band.right, "start")):
            for row, (words, kind) in enumerate(lines):
                sheet.text(x, band.top + 11 + LINE * row, words, kind, anchor)
    _packets(sheet, story, bands)
    told = "good" if story.told == "None" else "bad"
    sheet.text(OURS - 12, y + 22, f"connection_lost({story.told})", f"strong {told}", "end")
    happy = "good" if story.peer_ending == "EOF" else "bad"
    ending_words = {"EOF": "and EOF", "reset": "and a reset", None: "and never an end"}[story.peer_ending]
    sheet.text(THEIRS + 12, y + 22, f"has read {story.peer_bytes} bytes {ending_words}", f"strong {happy}")
    return str(sheet)


def _bands(story: Story) -> list[Band]:
    """What happened, gathered by its time; a state is shown when it has changed."""
    crossing = {time for packet in story.packets for time in (packet.left, packet.arrived) if time is not None}
    times = sorted(crossing | {moment.time for moment in story.moments})
    bands = []
    shown = ("", "", "")
    for time in times:
        band = Band(time)
        here = [moment for moment in story.moments if moment.time == time]
        for (side, what), same in groupby(here, lambda moment: (moment.side, moment.what)):
            if what:
                count = sum(1 for _ in same)
                words = what if count == 1 else f"{count} {TIMES} {what}"
                (band.left if side == "ours" else band.right).append((words, _kind(what)))
        if here:
            last = here[-1]
            state = (last.state, last.our_kernel, last.their_kernel)
            if state[:2] != shown[:2]:
                band.left.append((f"{last.state} · {last.our_kernel}", "small accent"))
            if state[2] != shown[2]:
                band.right.append((last.their_kernel, "small accent"))
            shown = state
        if band.left or band.right or time in crossing:
            bands.append(band)
    return bands


def _kind(what: str) -> str:
    bad = ("connection_lost(" in what and "None" not in what) or "ECONNRESET" in what
    return "code bad" if bad else "code"


def _packets(sheet: Sheet, story: Story, bands: list[Band]) -> None:
    places = {band.time: band for band in bands}
    for packets in _segments(story.packets):
        first = packets[0]
        start, end = (OURS, THEIRS) if first.ours else (THEIRS, OURS)
        y0 = places[first.left].bottom - 4
        words = _label(packets)
        kind = "bad" if "RST" in words else "dim" if words in ("ACK", "window") else ""
        if first.arrived is None:
            middle = (start + end) / 2
            sheet.line([(start, y0), (middle, y0 + 14)], "bad", head=False)
            sheet.text(
                middle + (8 if first.ours else -8),
                y0 + 18,
                "✕ lost",
                "small halo bad",
                "start" if first.ours else "end",
            )
            y1 = y0 + 28
        else:
            y1 = places[first.arrived].top + 4
            sheet.line([(start, y0), (end, y1)], kind)
        # Beside the line's first third, so that two that cross keep their words apart.
        half = 3.2 * len(words)
        third = min(max(start + (end - start) * 0.36, OURS + half), THEIRS - half)
        y = y0 + (y1 - y0) * 0.36
        sheet.text(third, y - 5, words, f"small halo {kind}".strip(), "middle")


def _segments(packets: list[Packet]) -> Iterator[list[Packet]]:
    """Packets of one side that leave in one moment and arrive in one."""
    together: dict[tuple[bool, float, float | None], list[Packet]] = {}
    for packet in packets:
        together.setdefault((packet.ours, packet.left, packet.arrived), []).append(packet)
    return iter(together.values())


def _label(packets: list[Packet]) -> str:
    words = [packet.what for packet in packets]
    if "RST" in words:
        return "RST"
    size = sum(packet.size for packet in packets)
    parts = ["ACK"] * ("ACK" in words) + [f"{size} bytes"] * bool(size) + ["FIN"] * ("FIN" in words)
    return " + ".join(parts) or words[0]  # every other packet tells the window as well


def _in_words(story: Story) -> str:
    """The whole of it, for who cannot see it."""
    lines = []
    for moment in story.moments:
        if moment.what:
            who = "our program" if moment.side == "ours" else "the peer"
            lines.append(f"At {moment.time:.2f} s, {who}: {moment.what}, now {moment.state}.")
    return " ".join(lines)
