"""Random long runs under every fault at once: from a seed, and with the moves chosen by Hypothesis."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from reactor.lifecycle import STARTING, STATES
from reactor.testing.__main__ import main
from reactor.testing.storm import PROTOCOLS, Storm, storm

# What a storm must not miss: every state, every way to end, every reason, every callback.
RARE = {state.name for state in STATES if state is not STARTING} | {
    "ended: in order",
    "ended: reset",
    "ended: failed",
    "ended: cut",
    "lost nothing",
    "Aborted",
    "ConnectionResetError",
    "FlushTimeout",
    "IdleTimeout",
    "Unacknowledged",
    "eof_received",
    "pause_writing",
    "resume_writing",
    "discarded",
}


# The first two are seeds of which each misses little, and both together nothing.
@pytest.mark.parametrize(("seeds", "connections"), [((2, 7), 50), pytest.param(range(10), 50, marks=pytest.mark.slow)])
def test_storms_leave_nothing_behind_and_visit_everything(seeds, connections):
    """Three protocols, some seeds; each storm checks itself, and together they miss no rare state."""
    visits: Counter[str] = Counter()
    for seed in seeds:
        for protocol in PROTOCOLS:
            visits.update(storm(protocol, seed, connections).visits)
    assert {name for name in RARE if not visits[name]} == set()


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_the_same_seed_is_the_same_storm_to_the_byte(protocol):
    """Twice in this process; another seed is another storm."""
    first = storm(protocol, 11, 20)
    assert storm(protocol, 11, 20) == first
    assert storm(protocol, 12, 20).digest != first.digest


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_the_same_seed_is_the_same_storm_under_every_hash_seed(hash_seed):
    """In a process whose sets and dictionaries of strings have another order, every protocol's storm is this one."""
    program = "from reactor.testing.storm import *\nfor name in PROTOCOLS: print(storm(name, 11, 20).digest)"
    told = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert told.stdout.split() == [storm(name, 11, 20).digest for name in PROTOCOLS]


def test_the_command_line_tells_what_the_storm_was(capsys):
    """One line for each protocol."""
    assert main(["storm", "--seed", "3", "--connections", "10", "--protocol", "echo"]) == 0
    assert capsys.readouterr().out.startswith("echo: 10 connections, ")


class Weather(RuleBasedStateMachine):
    """Hypothesis chooses who does what, and shrinks what goes wrong to the fewest moves."""

    protocol = "echo"
    visits: Counter[str] = Counter()

    def __init__(self):
        super().__init__()
        self.storm = Storm(self.protocol, connections=20).__enter__()
        self.torn_down = False

    def client(self, number):
        return self.storm.clients[number % len(self.storm.clients)]

    @rule(number=st.integers(1, 3))
    def connect(self, number):
        for _ in range(number):
            if len(self.storm.clients) < 20:
                self.storm.connect()

    @rule(seconds=st.sampled_from([0.0, 0.02, 0.3, 2.0, 7.0, 30.0]))
    def pass_time(self, seconds):
        self.storm.pass_time(seconds)

    @precondition(lambda self: self.storm.clients)
    @rule(number=st.integers(0, 19), size=st.sampled_from([1, 100, 5000, 40_000]))
    def send(self, number, size):
        self.storm.send(self.client(number), size)

    @precondition(lambda self: self.storm.clients)
    @rule(number=st.integers(0, 19), move=st.sampled_from(["stop_reading", "resume_reading", "fin"]))
    def act(self, number, move):
        getattr(self.storm, move)(self.client(number))

    @precondition(lambda self: self.storm.clients)
    @rule(number=st.integers(0, 19), reset=st.booleans())
    def leave(self, number, reset):
        self.storm.leave(self.client(number), reset)

    @rule(number=st.integers(0, 19), how=st.sampled_from(["close", "write_eof", "abort", "fail"]))
    def server_ends(self, number, how):
        self.storm.server_ends(number, how)

    @rule(number=st.integers(0, 15))
    def change_the_weather(self, number):
        fault = self.storm.weather[number]
        fault.enabled = not fault.enabled

    @invariant()
    def holds(self):
        self.storm.check()

    def teardown(self):
        try:
            self.storm.finish()
            type(self).visits.update(self.storm.visits)
        finally:
            self.storm.__exit__()


# Derandomized: the same moves in every run, so that what it visits is known.
CALM = settings(
    stateful_step_count=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize("examples", [150, pytest.param(400, marks=pytest.mark.slow)])
def test_hypothesis_finds_no_moves_that_violate_anything(protocol, examples):
    """The same machine, its moves chosen to break it; what it must have seen on the way is counted."""
    machine = type("Weather", (Weather,), {"protocol": protocol, "visits": Counter()})
    run_state_machine_as_test(machine, settings=settings(CALM, max_examples=examples))
    must = {"OPEN", "CLOSED", "PEER_END", "LAST", "ENDED", "ENDING", "LINGER", "CLOSING", "lost nothing", "Aborted"}
    assert {name for name in must if not machine.visits[name]} == set()
