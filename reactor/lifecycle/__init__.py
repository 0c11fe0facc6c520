"""The life of a connection: two words, and one table that moves them, only forward.

A state is what becomes of *input* (hold, deliver, discard, stop) and of *output* (hold, accept, drain, stop, reset,
done). What is asked of the poller, which handler serves it, our FIN, the deadlines and the callbacks are derived from
these two words and stand nowhere else. `TABLE` is total: each cell is the next state, `.` (allowed, changes nothing),
or `-` (cannot happen: an assertion, never a silent pass). No state can be reached twice, so a life has few moves, and
ends.

Effects, derived from the words by `Connection`:
    output becomes stop                            -> our FIN: shutdown(SHUT_WR)
    input goes from deliver to stop by `peer_eof`  -> eof_received
    output is drain                                -> the flush deadline runs; `drained` comes when nothing is queued
    output is reset                                -> the same, without a FIN; `acknowledged` ends it with a reset
    input is discard, output is stop               -> the linger deadlines run
    both are stop                                  -> `acknowledged` ends it, or the linger deadline without progress
    input is deliver, output is done               -> what had arrived before a failure is read
    CLOSED                                         -> the descriptor is released, connection_lost comes, once

`python -m reactor.lifecycle` prints the diagram and the table. Backpressure is not lifecycle: it stays in the buffers.
A connect attempt is not a state of a connection: that life belongs to the connector.
"""

from __future__ import annotations

from enum import Enum

import attrs


class Input(Enum):
    """What becomes of what the peer sends."""

    HOLD = "hold"
    DELIVER = "deliver"
    DISCARD = "discard"
    STOP = "stop"


class Output(Enum):
    """What becomes of what the protocol writes."""

    HOLD = "hold"
    ACCEPT = "accept"
    DRAIN = "drain"
    STOP = "stop"
    RESET = "reset"
    DONE = "done"


@attrs.frozen(eq=False)
class State:
    """One row of the table. Compare with `is`: there is one object for each."""

    # As it stands in the table, in capitals.
    name: str
    # The two words.
    input: Input
    output: Output
    # What RFC 9293 (3.3.2) calls the kernel's side of it.
    rfc9293: str
    # In a few words.
    meaning: str

    def __str__(self) -> str:
        return self.name


@attrs.frozen(eq=False)
class Event:
    """One column of the table."""

    name: str
    meaning: str

    def __str__(self) -> str:
        return self.name


STARTING = State(
    "STARTING", Input.HOLD, Output.HOLD, "ESTABLISHED", "connected, and perhaps in a TLS handshake; no protocol yet"
)
OPEN = State("OPEN", Input.DELIVER, Output.ACCEPT, "ESTABLISHED", "both sides talk")
ENDING = State("ENDING", Input.DELIVER, Output.DRAIN, "ESTABLISHED", "we ended our output; what is queued is flushed")
ENDED = State("ENDED", Input.DELIVER, Output.STOP, "FIN-WAIT-1, FIN-WAIT-2", "our FIN is sent; the peer may go on")
PEER_END = State("PEER_END", Input.STOP, Output.ACCEPT, "CLOSE-WAIT", "the peer's FIN was read; we may go on")
CLOSING = State("CLOSING", Input.DISCARD, Output.DRAIN, "ESTABLISHED", "closed by us; what is queued is flushed")
LINGER = State(
    "LINGER",
    Input.DISCARD,
    Output.STOP,
    "FIN-WAIT-1, FIN-WAIT-2, CLOSING",
    "our FIN is sent; we read on, so that no late byte turns our last words into a reset",
)
LAST = State("LAST", Input.STOP, Output.DRAIN, "CLOSE-WAIT", "the peer's FIN was read; what is queued is flushed")
CONFIRM = State(
    "CONFIRM",
    Input.STOP,
    Output.STOP,
    "LAST-ACK, CLOSING",
    "both sides have sent a FIN; we wait until the peer's TCP has acknowledged everything",
)
FAILING = State(
    "FAILING",
    Input.DISCARD,
    Output.RESET,
    "ESTABLISHED",
    "ended by us with a failure; what is queued is flushed and acknowledged, then the connection is reset",
)
FAILING_LAST = State(
    "FAILING_LAST", Input.STOP, Output.RESET, "CLOSE-WAIT", "the same, and the peer's FIN was read meanwhile"
)
LAST_WORDS = State(
    "LAST_WORDS",
    Input.DELIVER,
    Output.DONE,
    "CLOSED",
    "the connection has failed; what had arrived before is delivered first",
)
CLOSED = State("CLOSED", Input.STOP, Output.DONE, "TIME-WAIT, CLOSED", "over; the descriptor is released")

STATES = (
    STARTING,
    OPEN,
    ENDING,
    ENDED,
    PEER_END,
    CLOSING,
    LINGER,
    LAST,
    CONFIRM,
    FAILING,
    FAILING_LAST,
    LAST_WORDS,
    CLOSED,
)

STARTED = Event("started", "the protocol exists and may be told")
PEER_EOF = Event("peer_eof", "a read of zero bytes: the peer's FIN")
END = Event("end", "write_eof(): we end our output")
CLOSE = Event("close", "close(), or an idle deadline: we want neither side any more")
DRAINED = Event("drained", "everything queued was given to the kernel")
ACKNOWLEDGED = Event("acknowledged", "the peer's TCP has acknowledged everything, or nobody can tell")
DEADLINE = Event("deadline", "the deadline of this state has passed: handshake, flush, linger or unread")
ABORT = Event("abort", "abort(), or a callback raised: a reset")
RESET = Event("reset", "abort(flush=True), or a failed handshake: a reset behind everything that is queued")
SEND_FAILED = Event("send_failed", "the kernel told an error, and input that had arrived may wait to be read")
FAILED = Event("failed", "the kernel told an error, and nothing more can be read")

EVENTS = (STARTED, PEER_EOF, END, CLOSE, DRAINED, ACKNOWLEDGED, DEADLINE, ABORT, RESET, SEND_FAILED, FAILED)

# To be read by eye, and by the tests, cell by cell. `started` comes once and first; `drained`, `acknowledged` and
# `deadline` come only while something is flushed or waited for; nothing is read, flushed or told once it is CLOSED.
_ROWS = """
             started peer_eof     end     close   drained acknowledged deadline abort  reset        send_failed failed
STARTING     OPEN    -            CLOSING CLOSING -       -            CLOSED   CLOSED FAILING      CLOSED      CLOSED
OPEN         -       PEER_END     ENDING  CLOSING -       -            -        CLOSED FAILING      LAST_WORDS  CLOSED
ENDING       -       LAST         .       CLOSING ENDED   -            CLOSED   CLOSED FAILING      LAST_WORDS  CLOSED
ENDED        -       CONFIRM      .       LINGER  -       -            -        CLOSED FAILING      LAST_WORDS  CLOSED
PEER_END     -       -            LAST    LAST    -       -            -        CLOSED FAILING_LAST CLOSED      CLOSED
CLOSING      -       LAST         .       .       LINGER  -            CLOSED   CLOSED FAILING      CLOSED      CLOSED
LINGER       -       CONFIRM      .       .       -       -            CLOSED   CLOSED .            CLOSED      CLOSED
LAST         -       -            .       .       CONFIRM -            CLOSED   CLOSED FAILING_LAST CLOSED      CLOSED
CONFIRM      -       -            .       .       -       CLOSED       CLOSED   CLOSED .            CLOSED      CLOSED
FAILING      -       FAILING_LAST .       .       -       CLOSED       CLOSED   CLOSED .            CLOSED      CLOSED
FAILING_LAST -       -            .       .       -       CLOSED       CLOSED   CLOSED .            CLOSED      CLOSED
LAST_WORDS   -       CLOSED       .       CLOSED  -       -            CLOSED   CLOSED CLOSED       .           CLOSED
CLOSED       -       -            .       .       -       -            -        .      .            -           -
"""


def _parse(rows: str) -> dict[State, dict[Event, State | None]]:
    states = {state.name: state for state in STATES}
    events = {event.name: event for event in EVENTS}
    head, *lines = (line.split() for line in rows.strip().splitlines())
    columns = [events[name] for name in head]
    table: dict[State, dict[Event, State | None]] = {}
    for name, *cells in lines:
        here = states[name]
        targets = (here if cell == "." else None if cell == "-" else states[cell] for cell in cells)
        table[here] = dict(zip(columns, targets, strict=True))
    return table


TABLE = _parse(_ROWS)


def after(state: State, event: Event) -> State:
    """The state that follows; the same one where the event changes nothing. What cannot happen is an AssertionError."""
    following = TABLE[state][event]
    assert following is not None, f"{event} cannot happen in {state}: a bug in this library"
    return following
