"""The house rules, checked on the source: which room may know which, and who may touch the operating system."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

import reactor

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "reactor"

# Top to bottom: a room imports only from rooms above it.
ROOMS = [
    "version",
    # words
    "errors",
    "options",
    "report",
    "trace",
    "protocol",
    # pure
    "addresses",
    "lifecycle",
    "deadlines",
    "buffers",
    "framing",
    "tls",
    "timers",
    "racing",
    # seam
    "syscalls",
    "pollers",
    "service",
    "given",
    "lookups",
    "system",
    # loop
    "wakeup",
    "loop",
    # ends
    "secure",
    "life",
    "connection",
    "relaying",
    "descriptor",
    "listener",
    "connector",
    "datagram",
    "signals",
    # front
    "reactor",
    "embedding",
]
SEAM = {"syscalls", "pollers", "service", "given", "lookups", "system"}
OPERATING_SYSTEM = {
    "socket",
    "selectors",
    "select",
    "signal",
    "threading",
    "time",
    "subprocess",
    "random",
    "ssl",
    "fcntl",
}
# What only names a type, or checks and formats a value, asks the system nothing.
TYPES_ONLY = {("addresses", "socket"), ("loop", "selectors"), ("reactor", "selectors"), ("tls", "ssl")}


def imports_of(path: Path) -> set[str]:
    """Every module imported at run time; imports for the type checker alone do not count."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room is meant"
            names = [alias.name for alias in node.names]
            if node.module == "reactor":
                found.update(f"reactor.{name}" for name in names)
            else:
                assert node.module is not None
                found.add(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def room_path(room: str) -> Path:
    module = PACKAGE / f"{room}.py"
    return module if module.exists() else PACKAGE / room / "__init__.py"


def test_every_room_is_in_the_plan():
    """A new module has its place in the order, or this fails."""
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there - {"__init__", "testing"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_above_it(room):
    """No room knows one below it."""
    above = ROOMS[: ROOMS.index(room)]
    for name in imports_of(room_path(room)):
        if name.split(".")[0] == "reactor":
            assert name.split(".")[1] in above, f"{room} imports {name}"


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in SEAM])
def test_only_the_seam_touches_the_operating_system(room):
    """socket, select, signal, threading, time and their like stay behind one seam."""
    touched = {name.split(".")[0] for name in imports_of(room_path(room))} & OPERATING_SYSTEM
    assert {name for name in touched if (room, name) not in TYPES_ONLY} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_opens_with_its_rules_in_at_most_25_lines(room):
    """The first lines of a module say what it is for."""
    text = ast.get_docstring(ast.parse(room_path(room).read_text(encoding="utf-8")))
    assert text
    assert len(text.splitlines()) <= 25


def test_the_core_needs_only_attrs_and_the_standard_library():
    """No other import at run time."""
    for room in ROOMS:
        for name in imports_of(room_path(room)):
            top = name.split(".")[0]
            assert top in {"reactor", "attrs"} or top in sys.stdlib_module_names, f"{room} imports {name}"


def test_the_door_names_each_public_thing_once_in_order():
    """__all__ is sorted, complete, and everything in it is there."""
    assert list(reactor.__all__) == sorted(reactor.__all__, key=lambda name: name)
    assert len(set(reactor.__all__)) == len(reactor.__all__)
    for name in reactor.__all__:
        assert getattr(reactor, name) is not None


def test_every_public_method_has_a_contract():
    """Each public name of the door, and each public method of its classes, has a docstring."""
    for name in reactor.__all__:
        thing = getattr(reactor, name)
        if isinstance(thing, type):
            assert thing.__doc__, name
            for member, value in vars(thing).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                    assert inspect.getdoc(getattr(thing, member)), f"{name}.{member} has no docstring"


def test_nothing_is_left_to_do_in_the_source():
    """No TODO and its like."""
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "samples").rglob("*.py")]:
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text(encoding="utf-8")), path
