"""The house rules, for the stage: it may know everything, and opens each file with its rules."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from reactor import testing
from reactor.system import System
from tests.test_house import imports_of

STAGE = Path(testing.__file__).parent
FILES = sorted(STAGE.glob("*.py"))

# Top to bottom: a room of the stage imports only from rooms above it.
ROOMS = [
    # a kernel
    "links",
    "sockets",
    "names",
    "tcp",
    "unix",
    "datagrams",
    "faults",
    "peer",
    "poller",
    "kernel",
    # what must hold on it
    "grammar",
    "fingerprint",
    "machine",
    "world",
    "pair",
    "doorway",
    "explore",
    "storm",
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_opens_with_its_rules_in_at_most_25_lines(path):
    """The first lines say what it is for."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text
    assert len(text.splitlines()) <= 25


def test_a_room_of_the_stage_imports_only_from_rooms_above_it():
    """And each has its place in the order."""
    assert {path.stem for path in FILES} - {"__init__", "__main__"} == set(ROOMS)
    for place, room in enumerate(ROOMS):
        for name in imports_of(STAGE / f"{room}.py"):
            if name.startswith("reactor.testing."):
                assert name.split(".")[2] in ROOMS[:place], f"{room} imports {name}"


def test_nothing_below_the_stage_knows_it():
    """The loop holds no test code."""
    for path in STAGE.parent.rglob("*.py"):
        if STAGE not in path.parents:
            assert "reactor.testing" not in path.read_text(encoding="utf-8"), path


def test_no_clock_and_no_chance_in_the_simulation():
    """Only the progress of an exploration and of a storm looks at the machine's clock."""
    for path in FILES:
        names = {alias.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                 if isinstance(node, ast.Import) for alias in node.names}  # fmt: skip
        assert not names & {"threading", "select", "subprocess"}, path
        assert "time" not in names or path.stem in {"explore", "__main__"}, path
        assert "random" not in names or path.stem == "kernel", path


def test_every_public_name_has_a_contract():
    """Each name of the stage's door has a docstring, and so has each public method that is not the seam's."""
    assert list(testing.__all__) == sorted(testing.__all__)
    for name in testing.__all__:
        thing = getattr(testing, name)
        assert inspect.getdoc(thing), name
        for member, value in vars(thing).items():
            if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                assert inspect.getdoc(getattr(thing, member)) or hasattr(System, member), f"{name}.{member}"
