"""The one table: each cell by eye, and what must hold for all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reactor import lifecycle
from reactor.lifecycle import ABORT, CLOSED, EVENTS, FAILED, STARTING, STATES, TABLE, Input, Output, after
from reactor.lifecycle.__main__ import page

# Written out a second time, on purpose: a slip in the table must be made twice to go unseen.
EXPECTED = {
    "STARTING": {"started": "OPEN", "end": "CLOSING", "close": "CLOSING", "deadline": "CLOSED", "reset": "FAILING"},
    "OPEN": {
        "peer_eof": "PEER_END",
        "end": "ENDING",
        "close": "CLOSING",
        "reset": "FAILING",
        "send_failed": "LAST_WORDS",
    },
    "ENDING": {
        "peer_eof": "LAST",
        "end": "ENDING",
        "close": "CLOSING",
        "drained": "ENDED",
        "deadline": "CLOSED",
        "reset": "FAILING",
        "send_failed": "LAST_WORDS",
    },
    "ENDED": {
        "peer_eof": "CONFIRM",
        "end": "ENDED",
        "close": "LINGER",
        "reset": "FAILING",
        "send_failed": "LAST_WORDS",
    },
    "PEER_END": {"end": "LAST", "close": "LAST", "reset": "FAILING_LAST"},
    "CLOSING": {
        "peer_eof": "LAST",
        "end": "CLOSING",
        "close": "CLOSING",
        "drained": "LINGER",
        "deadline": "CLOSED",
        "reset": "FAILING",
    },
    "LINGER": {"peer_eof": "CONFIRM", "end": "LINGER", "close": "LINGER", "deadline": "CLOSED", "reset": "LINGER"},
    "LAST": {"end": "LAST", "close": "LAST", "drained": "CONFIRM", "deadline": "CLOSED", "reset": "FAILING_LAST"},
    "CONFIRM": {
        "end": "CONFIRM",
        "close": "CONFIRM",
        "acknowledged": "CLOSED",
        "deadline": "CLOSED",
        "reset": "CONFIRM",
    },
    "FAILING": {
        "peer_eof": "FAILING_LAST",
        "end": "FAILING",
        "close": "FAILING",
        "acknowledged": "CLOSED",
        "deadline": "CLOSED",
        "reset": "FAILING",
    },
    "FAILING_LAST": {
        "end": "FAILING_LAST",
        "close": "FAILING_LAST",
        "acknowledged": "CLOSED",
        "deadline": "CLOSED",
        "reset": "FAILING_LAST",
    },
    "LAST_WORDS": {
        "peer_eof": "CLOSED",
        "end": "LAST_WORDS",
        "close": "CLOSED",
        "deadline": "CLOSED",
        "reset": "CLOSED",
        "send_failed": "LAST_WORDS",
    },
    "CLOSED": {"end": "CLOSED", "close": "CLOSED", "abort": "CLOSED", "reset": "CLOSED"},
}
CELLS = [pytest.param(state, event, id=f"{state}-{event}") for state in STATES for event in EVENTS]


@pytest.mark.parametrize(("state", "event"), CELLS)
def test_each_cell_is_what_it_should_be(state, event):
    """A state and an event give the next state, or an assertion where that cannot happen."""
    expected = dict(EXPECTED[state.name])
    if state is not CLOSED:
        expected = {"abort": "CLOSED", "failed": "CLOSED", "send_failed": "CLOSED"} | expected
    if event.name in expected:
        assert after(state, event).name == expected[event.name]
    else:
        with pytest.raises(AssertionError, match=f"{event} cannot happen in {state}"):
            after(state, event)


def test_the_table_is_total():
    """Every state has a cell for every event, and nothing else."""
    assert set(TABLE) == set(STATES)
    for row in TABLE.values():
        assert set(row) == set(EVENTS)


def test_the_words_only_move_forward():
    """Input and output go through their words in the order of the enumerations, so every connection ends."""
    inputs, outputs = list(Input), list(Output)
    for state in STATES:
        for following in TABLE[state].values():
            if following is not None and following is not state:
                assert inputs.index(following.input) >= inputs.index(state.input)
                assert outputs.index(following.output) >= outputs.index(state.output)
                assert (following.input, following.output) != (state.input, state.output)


def test_every_state_is_reached_and_the_end_from_each():
    """Nothing in the table is dead, and nothing lives for ever."""
    reached, todo = set(), [STARTING]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += [following for following in TABLE[state].values() if following is not None]
    assert reached == set(STATES)
    for state in STATES:
        if state is not CLOSED:
            assert after(state, ABORT) is after(state, FAILED) is CLOSED
    assert {following for following in TABLE[CLOSED].values() if following is not None} == {CLOSED}


def test_the_two_words_name_the_state():
    """No two states have the same two words."""
    assert len({(state.input, state.output) for state in STATES}) == len(STATES)


def test_the_diagram_in_the_docs_is_what_the_table_says():
    """docs/lifecycle.md is what `python -m reactor.lifecycle` prints."""
    docs = Path(__file__).parent.parent / "docs" / "lifecycle.md"
    assert docs.read_text(encoding="utf-8") == page(), "stale: python -m reactor.lifecycle > docs/lifecycle.md"


def test_the_command_prints_the_page_and_warns_of_nothing():
    """`python -m reactor.lifecycle` works as the docs say."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "reactor.lifecycle"], capture_output=True, text=True, check=True
    )
    assert done.stdout == page()
    assert not done.stderr


def test_states_and_events_print_as_their_names():
    """Messages and traces name them."""
    assert str(lifecycle.OPEN) == "OPEN"
    assert str(lifecycle.PEER_EOF) == "peer_eof"
