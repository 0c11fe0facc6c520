"""Where the names of a Python file are, so that pages can link to them and tests can check that they are there."""

from __future__ import annotations

import ast


def line_anchors(text: str) -> dict[int, str]:
    """Line numbers of what can be linked to: functions, classes, methods, constants of the module."""
    found: dict[int, str] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                found.setdefault(line, prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        found.setdefault(node.lineno, prefix + target.id)

    visit(ast.parse(text).body, "")
    return found
