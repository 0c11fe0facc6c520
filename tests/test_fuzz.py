"""Bad input: whatever comes, nothing but a typed error, nothing beyond the limits, and the loop goes on.

What must hold stands in `tests/fuzz/`, so that atheris can drive the same (by hand, and in the slow tests here).
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.framing import READERS, check_protocol, check_reader, check_writing
from tests.fuzz.tls import KINDS, VERSIONS, Change, check_client, check_garbage, check_server
from tests.samples.processes import ROOT


def runs(few: int, many: int) -> pytest.MarkDecorator:
    """So many examples by default, and so many in the slow run."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])


def drive(check, examples: int, *strategies: st.SearchStrategy) -> None:
    """Calls `check` with so many examples."""
    quiet = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    quiet(given(*strategies)(check))()


# Framing

# Mostly what means something to one of the readers.
STREAMS = st.one_of(st.lists(st.sampled_from(b"ab\r\n\0\1\2\6\7\xff"), max_size=40).map(bytes), st.binary(max_size=40))
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=4)
STEPS = st.lists(st.one_of(st.integers(0, len(READERS) - 1), st.integers(19, 25)), max_size=6)


@runs(200, 8000)
def test_any_bytes_cut_in_any_way_are_the_same_frames_or_the_same_error(examples):
    """Every reader; never another exception, never more held than its limit; what was read can be written again."""
    drive(check_reader, examples, st.sampled_from(READERS), STREAMS, SIZES)


@runs(100, 3000)
def test_any_data_is_framed_truly_or_refused(examples):
    """The reader makes of it exactly what was given."""
    drive(check_writing, examples, st.sampled_from(READERS), STREAMS)


@pytest.mark.logs_errors
@runs(50, 1500)
def test_a_protocol_that_does_anything_at_each_frame_is_told_no_wrong_one(examples):
    """Replaced readers, pauses of both kinds, ends, exceptions: the same frames as the readers alone, and one end."""
    drive(check_protocol, examples, STREAMS, SIZES, STEPS)


# TLS

ENDINGS = st.sampled_from(["end", "fin", "reset", "silence"])
VERSION = st.sampled_from(VERSIONS)
SAYS = st.lists(st.binary(min_size=1, max_size=300), max_size=3)
GARBAGE = st.binary(min_size=1, max_size=60)
CHANGES = st.lists(
    st.builds(Change, st.integers(0, 7), st.sampled_from([*KINDS]), st.integers(0, 800), GARBAGE),
    min_size=1,
    max_size=3,
    unique_by=lambda change: change.number,
)
# Headers of records, of every kind and length, with something behind them; and something else altogether.
FRAGMENTS = st.builds(
    lambda kind, version, length, body: bytes([kind, 3, version]) + length.to_bytes(2, "big") + body,
    st.sampled_from([20, 21, 22, 23, 24, 128]),
    st.integers(0, 4),
    st.one_of(st.integers(0, 40), st.integers(0, 65535)),
    st.binary(max_size=40),
)
NO_TLS = st.one_of(st.binary(max_size=100), st.lists(FRAGMENTS, max_size=4).map(b"".join))


@runs(40, 1000)
def test_a_client_that_speaks_no_tls_harms_nobody(examples):
    """A handshake that failed is counted, the client is let go, and the next one is served."""
    drive(check_garbage, examples, VERSION, NO_TLS, ENDINGS)


@runs(50, 1500)
def test_a_client_whose_records_are_changed_on_the_way_deceives_nobody(examples):
    """Cut, dropped, doubled, late, flipped, replaced: a typed error, or the whole truth; and the next is served."""
    drive(check_server, examples, VERSION, CHANGES, SAYS, ENDINGS)


@runs(50, 1500)
def test_a_server_whose_records_are_changed_on_the_way_deceives_nobody(examples):
    """The same for our side of a connect: connection_failed or connection_lost, once, with a type."""
    drive(check_client, examples, VERSION, CHANGES, SAYS, ENDINGS)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("check", [check_server, check_client])
def test_records_that_are_not_changed_are_the_truth(version, check):
    """What the fuzzing changes is a conversation that works."""
    check(version, [], [b"first", b"second"], "end")


# With atheris


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed: no coverage to follow"
)
@pytest.mark.parametrize(("target", "count"), [("framing", 100_000), ("tls", 1500)])
def test_atheris_finds_nothing(tmp_path, target, count):
    """So many runs that follow the coverage of the code."""
    ended = subprocess.run(
        [sys.executable, "-m", f"tests.fuzz.{target}", f"-runs={count}", f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert f"Done {count} runs" in ended.stderr
