"""The house check of this folder: every scenario of the closing rules has its test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

SCENARIOS = set(range(1, 72))


def scenarios_told() -> dict[int, list[str]]:
    """Each scenario's number, with the tests whose docstring begins with it."""
    told: dict[int, list[str]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                match = re.match(r"Scenario (\d+): ", ast.get_docstring(node) or "")
                if match:
                    told.setdefault(int(match[1]), []).append(node.name)
    return told


def test_every_scenario_has_a_test():
    """Numbers 1 to 71, and no number that is none."""
    assert set(scenarios_told()) == SCENARIOS
