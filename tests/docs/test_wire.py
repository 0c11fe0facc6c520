"""The ten endings on a real wire (`docs/wire`, captured by `docs.captured`): they are what the model says, and what is.

The fast tests read the files and play the model. The slow ones capture anew: that takes seven seconds, Linux and root.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import attrs
import pytest

from docs.captured import KEPT
from docs.captured.cable import OURS, device, new_network
from docs.captured.transcript import OUR_KERNEL, OUR_PROGRAM, THEIR_PROGRAM, Event, parse, render
from docs.drawn.endings import ENDINGS
from docs.drawn.recording import Story

ROOT = Path(__file__).parents[2]
# A kernel may delay an acknowledgement by 40 ms, and a busy machine anything by some. One moment differs by 80 ms: when
# the peer learns of our reset in "late-bytes-without-linger". Our kernel's RST has the number that the late bytes had
# acknowledged, the peer's kernel is further by then and drops it (RFC 9293, 3.10.7.4), and only the next one counts.
# The model's first one does.
TOLERANCE = 0.1

Moments = list[tuple[float, str]]


@attrs.frozen
class Course:
    """What must agree. How acknowledgements and segments are cut and merged, and what is repeated, need not."""

    # What either program did and was told, and when.
    ours: Moments
    theirs: Moments
    # Whose FINs and RSTs left, and in which order. A kernel may say them again.
    ends: list[tuple[bool, str]]
    # Bytes that arrived: at the peer's kernel, and at ours.
    carried: tuple[int, int]

    def words(self) -> tuple[object, ...]:
        """All but the times."""
        return [what for _, what in self.ours], [what for _, what in self.theirs], self.ends, self.carried

    def times(self) -> list[float]:
        return [time for time, _ in self.ours + self.theirs]


def captured(events: Iterable[Event]) -> Course:
    """The course of a capture."""
    ours: Moments = []
    theirs: Moments = []
    ends: list[tuple[bool, str]] = []
    carried = [0, 0]
    for event in events:
        if event.place == OUR_PROGRAM:
            ours.append((event.time, event.words))
        elif event.place == THEIR_PROGRAM:
            theirs.append((event.time, event.words.removesuffix(": ENOTCONN")))
        elif event.words.endswith(" lost"):
            continue
        else:
            sent_by_us = event.words.endswith(" -->")
            words = event.words.removesuffix(" -->").removeprefix("<-- ").split(", ")
            if (event.place == OUR_KERNEL) == sent_by_us:
                ends += [(sent_by_us, word) for word in words if word in ("FIN", "RST")]
            else:
                carried[not sent_by_us] = max([carried[not sent_by_us], *(_last_byte(word) for word in words)])
    assert ours.pop(0)[1] == "accepted"
    assert [theirs.pop(0)[1] for _ in range(2)] == ["connect()", "connected"]
    return Course(_merged(ours), _merged(theirs), _once(ends), (carried[0], carried[1]))


def _last_byte(words: str) -> int:
    found = re.match(r"bytes \d+-(\d+)", words)
    return int(found[1]) if found else 0


def _merged(moments: Moments) -> Moments:
    """Neighbours that only tell of bytes are one: at the first's time, with all the bytes."""
    merged: Moments = []
    for kind, same in groupby(moments, lambda moment: re.sub(r"\d+(?= bytes$|$)", "N", moment[1])):
        times, words = zip(*same, strict=True)
        if kind.endswith(("N", "N bytes")) and "," not in kind:
            total = sum(int(number) for word in words for number in re.findall(r"\d+", word))
            merged.append((times[0], kind.replace("N", str(total))))
        else:
            merged += zip(times, words, strict=True)
    return merged


def _once(ends: list[tuple[bool, str]]) -> list[tuple[bool, str]]:
    return [end for end, _ in groupby(ends)]


def modelled(story: Story) -> Course:
    """The course of what the simulated kernel has played."""
    lines = [line.split(maxsplit=2) for line in story.transcript.splitlines()]
    ours = [(float(time), _unnamed(words)) for time, _, words in lines[1:]]
    theirs = [(moment.time, moment.what) for moment in story.moments if moment.side == "theirs" and moment.what]
    ends = [(packet.ours, packet.what) for packet in story.packets if packet.what in ("FIN", "RST")]
    arrived = [packet for packet in story.packets if packet.arrived is not None]
    there, back = (sum(packet.size for packet in arrived if packet.ours is ours) for ours in (True, False))
    return Course(_merged(ours), _merged(theirs), _once(ends), (there, back))


def _unnamed(words: str) -> str:
    """Without the connection's name, and with the reason only where it is told first."""
    words = re.sub(r"<Connection [^>]*>: ", "", words)
    return re.sub(r"\((\w+): .*\)", r"(\1)", words) if words.startswith("closed") else words


def test_each_ending_has_its_capture():
    """One file each, and no other."""
    assert {path.stem for path in KEPT.iterdir()} == set(ENDINGS)


@pytest.mark.parametrize("name", ENDINGS)
def test_a_real_wire_bears_out_the_model(name):
    """Both programs were told the same, at the same times; the same FINs, RSTs and bytes crossed the wire."""
    real, model = captured(kept(name)), modelled(ENDINGS[name].play())
    assert real.words() == model.words()
    assert real.times() == pytest.approx(model.times(), abs=TOLERANCE)


@pytest.mark.parametrize("name", ENDINGS)
def test_a_transcript_can_be_read_back(name):
    """What these tests read in a file is all that is in it."""
    text = (KEPT / f"{name}.txt").read_text(encoding="utf-8")
    title, captured_by = text.splitlines()[:2]
    assert render(title, captured_by, parse(text)) == text
    assert max(len(line) for line in text.splitlines()) <= 110


def kept(name: str) -> list[Event]:
    return parse((KEPT / f"{name}.txt").read_text(encoding="utf-8"))


def need_networks() -> None:
    """Skips where the cable cannot be laid."""
    if sys.platform != "linux" or not os.path.exists("/dev/net/tun"):
        pytest.skip("needs Linux and /dev/net/tun")
    try:
        with new_network(), device(OURS):
            pass
    except PermissionError as exc:
        pytest.skip(f"needs root: {exc}")


def test_a_network_of_its_own_is_left_as_it_was_entered():
    """Inside there is the cable's device and nothing of ours; outside there never was one."""
    need_networks()
    before = socket.if_nameindex()
    with new_network(), device(OURS):
        assert sorted(name for _, name in socket.if_nameindex()) == ["cable", "lo"]
    assert socket.if_nameindex() == before


@pytest.fixture(scope="module")
def anew(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new capture of all ten, made by a process of its own: whatever becomes of it, its networks end with it."""
    need_networks()
    into = tmp_path_factory.mktemp("wire")
    done = subprocess.run(
        [sys.executable, "-m", "docs.captured", "--into", str(into)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return into


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ENDINGS)
def test_what_is_shown_is_what_happens(name, anew):
    """A new capture tells the same story: a stale file fails."""
    old, new = captured(kept(name)), captured(parse((anew / f"{name}.txt").read_text(encoding="utf-8")))
    assert new.words() == old.words()
    assert new.times() == pytest.approx(old.times(), abs=TOLERANCE)
