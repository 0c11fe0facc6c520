"""What the site adds to Sphinx: pictures inside the page, the source beside the words, docstrings as they are written.

1. An SVG of ours goes into the page itself: so its words can be found and read aloud, and its colours follow the page.
2. A Markdown link to a Python file of the repository, `[...](../reactor/loop.py#Loop._turn)`, leads to that line of a
   page of the site. A name that is not there is a warning, which fails the build.
3. Docstrings are prose with `names` in it; autodoc expects reStructuredText, so they are made that. What the fields of
   a record mean stands in comments above them, and is put behind its docstring.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import attrs
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from docs.drawn.source import line_anchors
from docs.drawn.tables import fields_told

ROOT = Path(__file__).parents[1]
SHOWN = ("reactor", "samples", "docs/coming-from/ports", "docs/drawn")
# Classes whose objects are given, never made by a program.
MADE_FOR_YOU = {
    *("Acceptor", "Connection", "Connector", "Datagram", "Handle", "Listener", "Peer", "Relay", "TimerHandle"),
    *("FramedProtocol", "FrameTooLong", "TruncatedFrame"),
    *("DatagramReport", "DrainSummary", "ReceiveBuffer", "Report", "State", "Statistics", "Totals"),
}
logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", keep_names)
    app.connect("doctree-resolved", put_pictures_in)
    app.connect("doctree-resolved", link_sources)
    app.connect("html-collect-pages", source_pages)
    app.connect("autodoc-process-docstring", add_fields)
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.connect("autodoc-process-signature", hide_making)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# Pictures


def put_pictures_in(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replaces each image that is an SVG by the SVG."""
    for image in list(doctree.findall(nodes.image)):
        if image["uri"].endswith(".svg"):
            picture = (Path(app.srcdir) / image["uri"]).read_text(encoding="utf-8")
            image.replace_self(nodes.raw("", f'<div class="picture">{picture}</div>', format="html"))


# The source


def keep_names(app: Sphinx, docname: str, source: list[str]) -> None:
    """MyST forgets what follows the # of a link to a file that is no page; it keeps a title."""
    source[0] = re.sub(r"\]\(([^()\s]+\.py)#([\w.]+)\)", r'](\1 "\2")', source[0])


def link_sources(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Turns links to Python files into links to their pages."""
    for node in list(doctree.findall(nodes.reference)):  # a download is one, too
        target = node.get("refuri") or node.get("reftarget") or ""
        path, name = target, node.get("reftitle", "")
        if not path.endswith(".py") or "://" in path:
            continue
        if path.startswith("/"):  # MyST: from the root of the site
            path = path[1:]
        else:
            path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(docname), path))
        file = ROOT / path
        if not file.exists() or not path.startswith(SHOWN):
            logger.warning("no such source: %s", target, location=docname)
            continue
        if name and name not in line_anchors(file.read_text(encoding="utf-8")).values():
            logger.warning("%s has no %s", path, name, location=docname)
        uri = app.builder.get_relative_uri(docname, f"source/{path}") + (f"#{name}" if name else "")
        new = nodes.reference("", "", *node.children, refuri=uri, internal=True)
        node.replace_self(new)


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each Python file."""
    for top in SHOWN:
        for path in sorted((ROOT / top).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            html = app.builder.highlighter.highlight_block(text, "python")  # type: ignore[attr-defined]
            name = str(path.relative_to(ROOT))
            title = f"<h1>{escape(name)}</h1>"
            yield f"source/{name}", {"title": name, "body": title + _anchored(html, text), "parents": []}, "page.html"


def _anchored(html: str, text: str) -> str:
    start = html.index("<pre>") + len("<pre>")
    lines = html[start:].split("\n")
    for number, name in line_anchors(text).items():
        lines[number - 1] = f'<span id="{escape(name)}"></span>{lines[number - 1]}'
    return html[:start] + "\n".join(lines)


# Docstrings


def add_fields(app: Sphinx, what: str, name: str, obj: Any, options: object, lines: list[str]) -> None:
    """What the fields of a record are, behind what the record is."""
    if what == "class" and attrs.has(obj):
        for names, comment in fields_told(obj):
            lines += [", ".join(f"`{field}`" for field in names) + f": {comment}", ""]


def as_restructured_text(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Names in backticks become code, examples stay as they are, and nothing else means anything."""
    made: list[str] = []
    for line in lines:
        indented = line.startswith("    ")
        if indented and not (made and (made[-1].startswith("    ") or made[-1] == "")):
            made.append("")
        if indented and not _in_block(made):
            made += ["::", ""]
        elif not indented and made and made[-1].startswith("    "):
            made.append("")
        made.append(line if indented else re.sub(r"`+([^`]+)`+|([*|_\\])", _one, line))
    lines[:] = made


def hide_making(
    app: Sphinx, what: str, name: str, obj: Any, options: object, signature: str, returns: str
) -> tuple[str, None] | None:
    """What the library makes for its users has no signature: nobody is to call it. A record's has its defaults."""
    if what != "class":
        return None
    if name.rpartition(".")[2] in MADE_FOR_YOU:
        return "", None
    return (_making(obj), None) if attrs.has(obj) else None


def _making(record: type) -> str:
    """How a record is made: Sphinx reads a default off the source, and there is none of what attrs writes."""
    given: list[str] = []
    for field in attrs.fields(record):
        if field.init:
            if field.kw_only and "*" not in given:
                given.append("*")
            default = "" if field.default is attrs.NOTHING else f" = {field.default!r}"
            given.append(f"{field.alias}: {field.type}{default}")
    return f"({', '.join(given)})"


def _in_block(made: list[str]) -> bool:
    before = [line for line in made if line]
    return bool(before) and (before[-1].startswith("    ") or before[-1] == "::")


def _one(found: re.Match[str]) -> str:
    return f"``{found[1]}``" if found[1] else f"\\{found[2]}"
