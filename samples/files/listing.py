"""A directory as a page: one file of HTML, no script, nothing loaded from anywhere.

A file's name is foreign text. In a link every byte of it that could mean something is percent-encoded, ":" too, so
that none is taken for a scheme; as text it is escaped, and isolated (`bdi`), so that it cannot reverse its neighbours.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from samples.files.tree import Entry

_STYLE = """
:root { color-scheme: light dark; --dim: #667; --line: #8884; --link: #0b5cad; --hover: #8881; }
@media (prefers-color-scheme: dark) { :root { --dim: #99a; --link: #7db8f0; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.25rem; font-weight: 600; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; font-size: .85rem; color: var(--dim); }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
td:first-child { overflow-wrap: anywhere; width: 100%; }
.size, .time { text-align: right; white-space: nowrap; color: var(--dim); }
tr:hover td { background: var(--hover); }
a { color: var(--link); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
p { color: var(--dim); font-size: .9rem; }
@media (max-width: 34rem) { .time { display: none; } body { margin-top: 1rem; } }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# Nothing may be loaded, run, framed or sent; this page's own style alone applies.
POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{crumbs}</h1>
<table>
<thead><tr><th scope="col">Name</th><th scope="col" class="size">Size</th>\
<th scope="col" class="time">Modified (UTC)</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
<p>{note}</p>
</body>
</html>
"""
_ROW = (
    '<tr><td><a href="{href}"><bdi>{name}</bdi></a></td><td class="size">{size}</td><td class="time">{time}</td></tr>'
)
_PARENT = '<tr><td><a href="../">../</a></td><td class="size"></td><td class="time"></td></tr>'

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def page(names: Sequence[str], entries: Sequence[Entry], complete: bool) -> bytes:
    """The page of the directory that the names lead to; `complete`: these are all of its entries."""
    rows = [_row(entry) for entry in entries]
    if names:
        rows.insert(0, _PARENT)
    return _PAGE.format(
        title=escape(_text("/" + "".join(f"{name}/" for name in names))),
        style=_STYLE,
        crumbs=_crumbs(names),
        rows="\n".join(rows),
        note=_note(len(entries), complete),
    ).encode()


def _row(entry: Entry) -> str:
    slash = "/" if entry.is_directory else ""
    return _ROW.format(
        href=link(entry.name) + slash,
        name=escape(_text(entry.name)) + slash,
        size="" if entry.is_directory else size(entry.size),
        time=_time(entry.modified),
    )


def link(name: str) -> str:
    """A name as a segment of a relative URL."""
    return quote(os.fsencode(name), safe="")


def _text(name: str) -> str:
    """What can be shown of a name: bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(name).decode("utf-8", "replace")


def size(count: int) -> str:
    """A file's size for people: three digits that matter, in powers of 1024."""
    if count < 1024:
        return f"{count} B"
    value, units = count / 1024, iter(_UNITS)
    unit = next(units)
    while value >= 999.5:
        value, unit = value / 1024, next(units)
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def _time(seconds: float) -> str:
    try:
        text = time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return ""  # a time stamp that no calendar has
    return f'<time datetime="{text}Z">{text}</time>'


def _crumbs(names: Sequence[str]) -> str:
    """The way from the root down to here, each step a link but the last."""
    steps = [("/", "../" * len(names))]
    steps += [(f"{name}/", "../" * (len(names) - depth)) for depth, name in enumerate(names, 1)]
    words = [f"<bdi>{escape(_text(word))}</bdi>" for word, _ in steps]
    links = [f'<a href="{href}">{word}</a>' for word, (_, href) in zip(words[:-1], steps, strict=False)]
    return " ".join([*links, words[-1]])


def _note(count: int, complete: bool) -> str:
    entries = f"{count} {'entry' if count == 1 else 'entries'}"
    return entries if complete else f"{entries}, and more that are not listed"
