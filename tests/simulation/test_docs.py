"""What docs/testing.md shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reactor import testing

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def examples() -> dict[str, object]:
    """Everything that the page's code blocks define, run in their order."""
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("name", [name for name in examples() if name.startswith("test_")])
def test_an_example_of_the_page_holds(name):
    """Each test that the page shows passes."""
    examples()[name]()


def test_the_page_has_the_test_of_ten_lines():
    """The example that the page promises is as short as it says."""
    text = PAGE.read_text(encoding="utf-8")
    body = re.search(r"def test_half_a_request.*?\n((?:    .*\n)+)", text)
    assert body is not None
    assert len(body.group(1).splitlines()) <= 10


def test_the_page_names_every_fault():
    """A new rule is told there."""
    text = PAGE.read_text(encoding="utf-8")
    for name in testing.__all__:
        thing = getattr(testing, name)
        if isinstance(thing, type) and issubclass(thing, testing.Fault):
            assert f"`{name}" in text, name
