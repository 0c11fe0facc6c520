"""What the pages show is what happens: code blocks, transcripts, pictures, tables, command lines, links."""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import drawn
from docs.drawn.source import line_anchors

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Pages with a test of their own, and those that are not written here.
OTHERS = {
    "testing.md": "tests/simulation/test_docs.py",
    "how-to/embedding.md": "tests/test_embedding.py",
    "how-to/workers.md": "tests/test_workers.py",
    "how-to/systemd.md": "tests/test_systemd.py",
    "performance.md": "tests/test_benchmarks.py",
}
PAGES = sorted(
    page for page in DOCS.rglob("*.md") if str(page.relative_to(DOCS)) not in OTHERS and "tables" not in page.parts
)
# What some examples need, and the library does not.
OTHERS_LIBRARIES = ("h11", "wsproto", "hiredis", "trustme")
# What is shown and not run here, and why not.
_SET_UP = "python3 -m venv .venv && .venv/bin/pip install "
NOT_RUN = {
    _SET_UP + ". && .venv/bin/python -m samples.chat --port 7000": "needs a package index; .ci/run does the same",
    _SET_UP + "-e '.[test]' && .venv/bin/python -m pytest": "needs a package index; .ci/run does the same",
    "nc 127.0.0.1 7000": "tests/samples/test_chat_process.py talks with nc",
    **{
        f"python -m samples.ladder.{step}": "tests/docs/test_ladder.py runs it"
        for step in ("blocking", "with_select", "with_selectors", "with_reactor")
    },
    "printf hello | nc -N 127.0.0.1 7000": "tests/test_readme.py runs the server, and sends the same",
}


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS))


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line number, text) of each code block in that language."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, one.start(1)), one[1]) for one in found]


def names_defined(page: Path) -> dict[str, object]:
    """Runs the page's Python blocks, in their order, in one namespace; lines keep the numbers of the page."""
    for library in OTHERS_LIBRARIES:
        if any(f"import {library}" in block for _, block in blocks(page, "python")):
            pytest.importorskip(library)
    names: dict[str, object] = {"__name__": f"docs.{page.stem}"}
    for line, block in blocks(page, "python"):
        exec(compile("\n" * line + block, str(page), "exec"), names)
    return names


def examples_of(page: Path) -> list[str]:
    """The names of the tests that the page's blocks define."""
    return [
        node.name
        for _, block in blocks(page, "python")
        for node in ast.parse(block).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


EXAMPLES = [pytest.param(page, name, id=f"{name_of(page)}:{name}") for page in PAGES for name in examples_of(page)]


@pytest.mark.parametrize(("page", "name"), EXAMPLES)
def test_an_example_holds(page, name):
    """Each test that a page shows passes, with the code that the page shows above it."""
    test = names_defined(page)[name]
    assert callable(test)
    test()


def test_code_on_a_page_has_a_test_on_that_page():
    """Nobody has to believe what is shown."""
    assert [name_of(page) for page in PAGES if blocks(page, "python") and not examples_of(page)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")], ids=name_of)
def test_a_session_says_what_the_page_says(page):
    """Each interactive session, typed again, gives the same answers."""
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    session = "".join(block for _, block in blocks(page, "pycon"))
    said: list[str] = []
    runner.run(parser.get_doctest(session, {}, name_of(page), str(page), 0), out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_shows_code_in_known_languages(page):
    """A block that nothing here would run has no place: a misspelt language would hide it."""
    fences = re.findall(r"^```(\S*)[^\n]*\n.*?^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert {fence.strip("{}") for fence in fences} <= {
        *("python", "pycon", "sh", "text", "none", "mermaid"),
        *("include", "literalinclude", "toctree", "eval-rst"),
    }


COMMANDS = sorted({line for page in PAGES for _, block in blocks(page, "sh") for line in block.splitlines() if line})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_is_what_it_says(command):
    """Each is run, or is known to be run elsewhere; a server is asked for its help with the same arguments."""
    if command in NOT_RUN:
        return
    words = command.split()
    assert words[:2] == ["python", "-m"], f"say in NOT_RUN where this is run: {command}"
    serves = words[2].startswith("samples.")
    done = subprocess.run(
        [sys.executable, *words[1:], *(["--help"] if serves else [])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0, done.stderr


def test_nothing_generated_is_stale():
    """Pictures, transcripts and tables are what the code makes of them now: `python -m docs.drawn` writes them."""
    assert [str(path) for path in drawn.stale()] == []


def links(page: Path) -> list[str]:
    """Where the page's links into the repository lead."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not target.startswith(("http", "#"))]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    """Each file that is linked to is there, and each name in it."""
    for target in links(page):
        path, _, name = target.partition("#")
        file = (page.parent / path).resolve()
        assert file.exists() or str(file.relative_to(DOCS)) in OTHERS, target
        if name and file.suffix == ".py":
            assert name in line_anchors(file.read_text(encoding="utf-8")).values(), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_included_piece_is_there(page):
    """What a page includes of a file, by its name, is in that file."""
    text = page.read_text(encoding="utf-8")
    for path, options in re.findall(r"^```\{literalinclude\} (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        file = page.parent / path
        assert file.exists(), path
        for name in re.findall(r":pyobject: (\S+)", options):
            assert name in line_anchors(file.read_text(encoding="utf-8")).values(), f"{path}: {name}"


def test_the_quickstart_is_the_one_that_the_readme_shows():
    """It is run, as it stands, by tests/test_readme.py."""
    shown = (DOCS / "quickstart.py").read_text(encoding="utf-8")
    assert f"```python\n{shown}```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_what_is_not_run_is_still_shown():
    """An exception for a command line that is on no page any more is deleted."""
    assert set(NOT_RUN) <= set(COMMANDS)


@pytest.mark.parametrize(("page", "test"), [(page, test) for page, test in OTHERS.items() if (DOCS / page).exists()])
def test_a_page_that_is_not_looked_at_here_is_looked_at_elsewhere(page, test):
    """The test that is named for it knows it."""
    assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")
