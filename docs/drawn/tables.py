"""Tables that the pages include, read off the source: the rooms, the options with their reasons, the errors."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

import reactor
from reactor import errors as errors_module
from reactor import given as given_module
from reactor import options as options_module

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "tests" / "test_house.py"
# What each floor of the house is for.
FLOORS = {
    "words": "what is said: errors, options, records, callbacks",
    "pure": "no sockets, no clock: addresses, the table, buffers, timers, TLS as bytes in and bytes out",
    "seam": "all that touches the operating system; the simulated kernel plugs in here",
    "loop": "one turn after another, in a fixed order",
    "ends": "what the loop serves: connections, listeners, connects, datagrams, foreign descriptors, signals",
    "front": "what a program asks for",
}


def floors() -> Iterator[tuple[str, str, list[str]]]:
    """Each floor, what it is for, and its rooms, as the house test has them."""
    found = re.search(r"^ROOMS = \[\n(.*?)^\]", HOUSE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found
    rooms: dict[str, list[str]] = {"words": []}
    name = "words"
    for line in found[1].splitlines():
        if line.strip().startswith("#"):
            name = line.strip("# ,").split()[0]
            rooms.setdefault(name, [])
        else:
            rooms[name].append(line.strip(' ",'))
    assert rooms.keys() == FLOORS.keys(), "a floor of tests/test_house.py has no words here"
    return ((name, words, rooms[name]) for name, words in FLOORS.items())


def source_of(room: str) -> Path:
    """The file of a room."""
    module = ROOT / "reactor" / f"{room}.py"
    return module if module.exists() else ROOT / "reactor" / room / "__init__.py"


def rooms() -> str:
    """The rooms in their order, with the first sentence of each."""
    lines = ["| | room | opens with |", "|---|---|---|"]
    for floor, _, names in floors():
        for index, room in enumerate(names):
            path = source_of(room)
            doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            first = " ".join(doc.split("\n\n")[0].split())
            where = f"../{path.relative_to(ROOT)}"
            lines.append(f"| {f'**{floor}**' if not index else ''} | [`{room}`]({where}) | {_cell(first)} |")
    return "\n".join(lines) + "\n"


def options() -> str:
    """Each option, its default, and the comment above it."""
    lines = []
    for record in (
        reactor.Watermarks,
        reactor.Limits,
        reactor.Deadlines,
        reactor.Keepalive,
        reactor.Sockets,
        reactor.Datagrams,
        reactor.Group,
        reactor.Options,
    ):
        lines += [f"## {record.__name__}", "", _cell(inspect.getdoc(record) or ""), ""]
        lines += ["| field | default | what, and why |", "|---|---|---|"]
        reasons = _comments(record)
        previous = ""
        for field in attrs.fields(record):
            reason = reasons.get(field.name) or _of_record(field) or previous
            previous = reason
            lines.append(f"| `{field.name}` | {_default(field)} | {_cell(reason)} |")
        lines.append("")
    return "\n".join(lines)


def _default(field: attrs.Attribute[Any]) -> str:
    default: Any = field.default
    if default is attrs.NOTHING:
        return "required"
    if hasattr(default, "takes_self"):  # an attrs.Factory
        return "from the others" if default.takes_self else f"`{default.factory.__name__}()`"
    sized = type(default) is int and (field.name.endswith("bytes") or field.name in ("high", "low"))
    return f"`{_size(default) if sized else repr(default)}`"


def _of_record(field: attrs.Attribute[Any]) -> str:
    """What a field that is itself a record is for."""
    made = getattr(field.default, "factory", None)
    return inspect.getdoc(made) or "" if isinstance(made, type) else ""


def _size(number: int) -> str:
    for unit, name in ((options_module.MiB, "MiB"), (options_module.KiB, "KiB")):
        if number >= unit and number % unit == 0:
            return f"{number // unit} {name}"
    return str(number)


def _comments(record: type) -> dict[str, str]:
    """The comment directly above each field that has one."""
    found: dict[str, str] = {}
    comment: list[str] = []
    for line in inspect.getsource(record).splitlines():
        words = line.strip()
        if words.startswith("#"):
            comment.append(words.lstrip("# "))
            continue
        field = re.match(r"(\w+): \w", words)
        if field and comment:
            found[field[1]] = " ".join(comment)
        comment = []
    return found


def fields_told(record: type) -> list[tuple[list[str], str]]:
    """The public fields of a record by the comments above them; one that is above several is for all of them."""
    comments = _comments(record)
    told: list[tuple[list[str], str]] = []
    for field in attrs.fields(record):
        if field.name.startswith("_"):
            continue
        if field.name in comments:
            told.append(([field.name], comments[field.name]))
        elif told:
            told[-1][0].append(field.name)
    return told


def errors() -> str:
    """Every error type: what it derives from, and what it tells."""
    lines = ["| error | is a | what it tells |", "|---|---|---|"]
    for name, thing in vars(errors_module).items():
        if isinstance(thing, type) and issubclass(thing, Exception) and thing.__module__ == errors_module.__name__:
            bases = ", ".join(f"`{base.__name__}`" for base in thing.__bases__)
            lines.append(f"| `{name}` | {bases} | {_cell(inspect.getdoc(thing) or '')} |")
    return "\n".join(lines) + "\n"


def given() -> str:
    """What becomes of the options of a socket that somebody else made."""
    lines = ["| option | becomes | because |", "|---|---|---|"]
    for row in given_module.TABLE:
        becomes = "kept" if row.value is None else "the system's default" if row.name == "TCP_LINGER2" else "off"
        becomes = "1" if row.name == "SO_RCVLOWAT" else becomes
        lines.append(f"| `{row.name}` | {becomes} | {_cell(row.why)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
