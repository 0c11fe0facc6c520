"""When a wait has lasted long enough: a connection's deadlines, as functions of its state and its times.

Nothing here asks for the time or sets a timer. A connection keeps three times: when it last read something (`read_at`),
when the kernel last took something from it or was seen to have delivered something (`sent_at`), and when its present
state began (`since`). A deadline is never moved when something happens; its timer looks at these times when it fires
(`passed`), and is set again for the next moment that matters (`next_look`). So traffic costs an assignment.

Acknowledgements count as progress, and come without an event: while they matter they are asked for at doubling
intervals. docs/decisions/0003 has the reasons.
"""

from __future__ import annotations

from enum import Enum

from reactor.lifecycle import CONFIRM, LAST_WORDS, LINGER, STARTING, Input, Output, State
from reactor.options import Deadlines

# Between two looks at what a peer has acknowledged, however short the deadlines are.
_SHORTEST_WAIT = 0.001
# The first look at a flush, as a share of its deadline; a peer is found dead that much late at most.
_FIRST_LOOK = 1 / 16
# The longest wait between two looks while only an acknowledgement is awaited. The looks begin at the shortest wait and
# double: so the end is told soon after the acknowledgement, and a peer that acknowledges slowly costs little.
_LONGEST_WAIT = 1.0


class Passed(Enum):
    """Which deadline has passed."""

    HANDSHAKE = "the handshake took longer than Deadlines.handshake"
    STALLED = "the peer took nothing for Deadlines.flush"
    FLUSH_TOTAL = "the flush took longer than Deadlines.flush_total"
    LINGERED = "lingered enough"
    UNREAD = "reading was not resumed for Deadlines.unread after a failure"
    IDLE = "nothing received and nothing sent for Deadlines.idle"


# Output that the kernel and the peer have still to take.
_FLUSHING = (Output.DRAIN, Output.RESET)


def needs_acknowledgements(state: State) -> bool:
    """Whether what the peer acknowledges decides a deadline of this state."""
    return state is LINGER or state is CONFIRM or state.output in _FLUSHING


def passed(
    state: State, deadlines: Deadlines, now: float, read_at: float, sent_at: float, since: float, confirmed: bool
) -> Passed | None:
    """The deadline that has passed by `now`. `confirmed`: everything and our FIN are known to be acknowledged."""
    heard, progress = max(read_at, since), max(sent_at, since)
    if state is STARTING:
        return Passed.HANDSHAKE if now >= since + deadlines.handshake else None
    if state is LINGER:
        enough = (
            (confirmed and now >= heard + deadlines.linger_grace)
            or now >= max(heard, progress) + deadlines.linger_silence
            or now >= progress + deadlines.linger_total
        )
        return Passed.LINGERED if enough else None
    if state is CONFIRM:
        return Passed.LINGERED if now >= progress + deadlines.flush else None
    if state is LAST_WORDS:
        return Passed.UNREAD if now >= heard + deadlines.unread else None
    if state.output in _FLUSHING:
        if now >= progress + deadlines.flush:
            return Passed.STALLED
        if deadlines.flush_total is not None and now >= since + deadlines.flush_total:
            return Passed.FLUSH_TOTAL
    if deadlines.idle is not None and _in_use(state) and now >= max(read_at, sent_at) + deadlines.idle:
        return Passed.IDLE
    return None


def next_look(
    state: State, deadlines: Deadlines, now: float, read_at: float, sent_at: float, since: float
) -> float | None:
    """The next moment at which `passed` could say something new; None: this state waits without a deadline."""
    progress = max(sent_at, since)
    moments = []
    if state is STARTING:
        moments.append(since + deadlines.handshake)
    elif state is LINGER:
        last = max(read_at, progress)
        moments.append(now + max(deadlines.linger_grace, now - last, _SHORTEST_WAIT))
        moments.append(last + deadlines.linger_silence)
        moments.append(progress + deadlines.linger_total)
    elif state is CONFIRM:
        moments.append(now + _soon(now - since))
        moments.append(progress + deadlines.flush)
    elif state is LAST_WORDS:
        moments.append(max(read_at, since) + deadlines.unread)
    elif state.output in _FLUSHING:
        if state.output is Output.RESET:
            moments.append(now + _soon(now - since))
        else:
            moments.append(now + max(deadlines.flush * _FIRST_LOOK, now - progress, _SHORTEST_WAIT))
        moments.append(progress + deadlines.flush)
        if deadlines.flush_total is not None:
            moments.append(since + deadlines.flush_total)
    if deadlines.idle is not None and _in_use(state):
        moments.append(max(read_at, sent_at) + deadlines.idle)
    return min(moments, default=None)


def _soon(waited: float) -> float:
    """Until the next look at what has been awaited for so long."""
    return max(min(waited, _LONGEST_WAIT), _SHORTEST_WAIT)


def _in_use(state: State) -> bool:
    """Whether an idle deadline applies: while the peer may still send, or the protocol may still write."""
    return state is not LAST_WORDS and (state.input is Input.DELIVER or state.output is Output.ACCEPT)
