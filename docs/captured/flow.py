"""One direction of a connection, and what its packets say, in words.

Bytes are counted from 1, as TCP counts them behind the SYN: `bytes 1-2000`. `ACK 2000` says how many have arrived in
order (on the wire stands the next one, 2001), and `ACK 2000 + FIN` takes the FIN as well. An acknowledgement is named
when it is new or all that there is, a window when it is closed or has changed by half a segment, and PSH never.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from docs.captured.cable import Segment
from docs.drawn.recording import LINK

WINDOW_STEP = LINK.segment_bytes // 2
MODULUS = 1 << 32


@attrs.define
class Flow:
    """What has left so far, and what was said of the other direction."""

    # The sequence number of the SYN, which is the one before the first byte's.
    start: int | None = None
    # Bytes that have left, and how many there are: known when the FIN has left.
    sent: int = 0
    total: int | None = None
    acknowledged: int = 0
    window: int = 0

    def leaves(self, segment: Segment, back: Flow) -> str:
        """The words of a packet that leaves; `back` is the other direction."""
        words = ", ".join(self._words(segment, back))
        if "SYN" in segment.flags:
            self.start = segment.sequence
        self.sent = max(self.sent, self._bytes_before(segment.sequence) + segment.size)
        if "FIN" in segment.flags:
            self.total = self.sent
        return words

    def _words(self, segment: Segment, back: Flow) -> Iterator[str]:
        flags = segment.flags
        before = self._bytes_before(segment.sequence)
        carries = ["SYN"] * ("SYN" in flags)
        carries += [f"bytes {before + 1}-{before + segment.size}"] * bool(segment.size)
        carries += ["FIN"] * ("FIN" in flags)
        if carries:
            yield ", ".join(carries) + " again" * self._has_left(segment, before + segment.size)
        if "RST" in flags:
            yield f"RST, next byte {before + 1}"
        alone = not carries and "RST" not in flags
        if alone and before < self.sent:
            yield "window probe"
            return
        count = back._bytes_before(segment.acknowledged)
        if "ACK" in flags and (alone or "SYN" in flags or count != self.acknowledged):
            self.acknowledged = count
            yield back._acknowledged(count)
        if "RST" not in flags and (not segment.window or abs(segment.window - self.window) >= WINDOW_STEP):
            self.window = segment.window
            yield f"window {segment.window}"

    def _has_left(self, segment: Segment, end: int) -> bool:
        if "SYN" in segment.flags:
            return self.start is not None
        return self.total is not None if "FIN" in segment.flags else end <= self.sent

    def _acknowledged(self, count: int) -> str:
        if self.total is not None and count > self.total:
            return f"ACK {self.total} + FIN"
        return f"ACK {count}" if count else "ACK"

    def _bytes_before(self, sequence: int) -> int:
        """How many bytes come before this sequence number. A SYN's own: none."""
        return 0 if self.start is None else max(0, (sequence - self.start - 1 + MODULUS // 2) % MODULUS - MODULUS // 2)
