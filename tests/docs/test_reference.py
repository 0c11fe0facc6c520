"""The reference has every public name, and of each class every public method but those that only the loop calls."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import reactor
from docs.drawn import tables
from reactor import testing

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
# (name, its options) for each directive.
TOLD = {
    name: dict(re.findall(r"^   :([\w-]+): ?(.*)$", options, re.MULTILINE))
    for name, options in re.findall(r"^\.\. auto\w+:: (\S+)\n((?:   :.*\n)*)", PAGE, re.MULTILINE)
}
LAST_WORDS = {name.rpartition(".")[2] for name in TOLD}


def thing(name: str) -> object:
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def words(option: str) -> set[str]:
    return {word.strip() for word in option.split(",") if word.strip()}


def public(cls: type) -> set[str]:
    """What the class and the rooms it is built of add to Python's own types."""
    rooms = [base for base in cls.__mro__ if base.__module__.startswith("reactor.")]
    return {name for base in rooms for name, value in vars(base).items() if not name.startswith("_")} - {"args"}


def test_every_public_name_is_in_the_reference():
    """Those of the package and of its testing room; options and errors have tables of their own."""
    tabled = tables.options() + tables.errors()
    missing = {
        name
        for name in (*reactor.__all__, *testing.__all__)
        if name not in LAST_WORDS and f"## {name}\n" not in tabled and f"| `{name}` |" not in tabled
    }
    assert missing == {"__version__"}


CLASSES = [name for name, options in TOLD.items() if options.get("members") == "" and isinstance(thing(name), type)]


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_is_told_or_is_the_loops(name):
    """A method without a docstring would be left out in silence; one that is left out by name is still there."""
    cls = thing(name)
    assert isinstance(cls, type)
    left_out = words(TOLD[name].get("exclude-members", ""))
    assert left_out - public(cls) - set(getattr(cls, "__annotations__", ())) == set()
    for member in public(cls) - left_out:
        if callable(getattr(cls, member)) or isinstance(getattr(cls, member), property):
            assert inspect.getdoc(getattr(cls, member)), f"{name}.{member}"


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_inherited_is_told_as_well(name):
    """Unless the class that it comes from is told itself: of what rooms a class is built, a reader need not know."""
    cls = thing(name)
    assert isinstance(cls, type)
    untold = [
        base for base in cls.__mro__[1:] if base.__module__.startswith("reactor.") and base.__name__ not in LAST_WORDS
    ]
    assert not untold or "inherited-members" in TOLD[name]
