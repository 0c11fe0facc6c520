"""What a run came to: a table for the terminal, JSON, Markdown for the docs, and a chart in SVG."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable
from html import escape
from typing import Any

import attrs

from benchmarks.cases import METRICS, Case, Target
from benchmarks.measure import Effort, Result
from benchmarks.servers import SERVERS

THIS = "reactor"
# Whom the others are compared with.
YARDSTICKS = ("uvloop", "asyncio")


@attrs.define
class Run:
    """All there is to tell."""

    date: str
    command: str
    machine: str
    versions: dict[str, str]
    notes: list[str]
    effort: Effort
    cases: list[Case] = attrs.Factory(list)
    results: list[Result] = attrs.Factory(list)

    def of(self, case: Case) -> list[Result]:
        return [result for result in self.results if result.case == case.name]

    def median(self, case: Case, metric: str, server: str, variant: str = "") -> float | None:
        """None when it was not measured."""
        for result in self.of(case):
            if (result.server, result.variant) == (server, variant or case.variants[0].name):
                return spread(result, metric)[0]
        return None


def machine() -> str:
    """Processor, cores, kernel and Python, as a sentence's part."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    system = f"{platform.system()} {platform.release()}"
    return f"{processor}, {system}, {platform.python_implementation()} {platform.python_version()}"


def spread(result: Result, metric: str) -> tuple[float | None, float, float]:
    """Median, least and most."""
    values = [each[metric] for each in result.values if metric in each]
    return (statistics.median(values), min(values), max(values)) if values else (None, 0.0, 0.0)


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def with_spread(result: Result, metric: str) -> str:
    median, least, most = spread(result, metric)
    if median is None:
        return "-"
    return number(median) if len(result.values) == 1 else f"{number(median)} ({number(least)}-{number(most)})"


def main_metric(case: Case) -> str:
    return case.metrics()[0]


def ratio(run: Run, case: Case, result: Result, than: str) -> str:
    """How many times the yardstick's; with a time, less is better."""
    metric = main_metric(case)
    mine = spread(result, metric)[0]
    other = run.median(case, metric, than, result.variant)
    return f"{mine / other:.2f}" if mine and other else "-"


def rows(run: Run, case: Case) -> tuple[list[str], list[list[str]]]:
    """A heading, and one row per server and variant, the best first."""
    metric = main_metric(case)
    more_is_better = METRICS[metric][1]

    def rank(result: Result) -> float:
        median = spread(result, metric)[0]
        if median is None:
            return float("inf")
        return -median if more_is_better else median

    heading = ["server", *(f"{name} {METRICS[name][0]}".removesuffix(" /s") for name in case.metrics())]
    heading += [f"x {than}" for than in YARDSTICKS]
    table = []
    for result in sorted(run.of(case), key=rank):
        cells = [f"{result.server} {result.variant}".strip()]
        cells += [with_spread(result, name) for name in case.metrics()]
        cells += [ratio(run, case, result, than) for than in YARDSTICKS]
        table.append(cells)
    return heading, table


@attrs.frozen
class Verdict:
    """A target, the figure that was measured, and whether it is reached; None where something was not measured."""

    target: Target
    figure: float | None
    reached: bool | None

    def __str__(self) -> str:
        if self.figure is None:
            return f"{self.target}: not measured"
        unit = f"x {self.target.than}" if self.target.than else METRICS[self.target.metric][0]
        return f"{self.target}: {self.figure:.2f} {unit}, {'reached' if self.reached else 'not reached'}"


def verdicts(run: Run, case: Case) -> list[Verdict]:
    """What became of this reactor's targets in this case."""
    found = []
    for target in case.targets:
        figure = run.median(case, target.metric, THIS, target.variant or "")
        if target.than is not None and figure is not None:
            if target.variant is None:
                other = run.median(case, target.metric, target.than)
            else:
                other = run.median(case, target.metric, THIS, target.than)
            figure = figure / other if other else None
        reached = None if figure is None else (figure >= target.figure) == target.at_least or figure == target.figure
        found.append(Verdict(target, figure, reached))
    return found


def failures(run: Run) -> list[str]:
    """What has no result, and why."""
    return [
        f"{result.case} {result.server} {result.variant}: {failure}"
        for result in run.results
        for failure in result.failures
    ]


def as_text(run: Run, case: Case) -> str:
    """One case as a table for the terminal."""
    heading, table = rows(run, case)
    widths = [max(map(len, column)) for column in zip(heading, *table, strict=True)]
    lines = [f"{case.name}: {case.what}"]
    for cells in (heading, *table):
        first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
    lines += [f"  {verdict}" for verdict in verdicts(run, case)]
    return "\n".join(lines)


def as_json(run: Run) -> str:
    """Everything, each repetition included."""
    return json.dumps(
        {
            "date": run.date,
            "command": run.command,
            "machine": run.machine,
            "versions": run.versions,
            "notes": run.notes,
            "effort": attrs.asdict(run.effort),
            "cases": [
                {
                    "name": case.name,
                    "what": case.what,
                    "results": [as_record(result) for result in run.of(case)],
                    "targets": [
                        {"target": str(verdict.target), "figure": verdict.figure, "reached": verdict.reached}
                        for verdict in verdicts(run, case)
                    ],
                }
                for case in run.cases
            ],
        },
        indent=2,
        ensure_ascii=False,
    )


def as_record(result: Result) -> dict[str, Any]:
    names = list(dict.fromkeys(name for values in result.values for name in values))
    return {
        "server": result.server,
        "variant": result.variant,
        "medians": {name: spread(result, name)[0] for name in names},
        "repetitions": result.values,
        "failures": result.failures,
    }


def as_markdown(run: Run, chart: str | None = None) -> str:
    """A page of the docs; `chart` is where its picture is, seen from there."""
    lines = [
        "# Performance",
        "",
        f"Generated by `{run.command}` on {run.date}; do not edit.",
        "",
        f"- Machine: {run.machine}",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in run.versions.items())}",
        f"- {run.effort.repetitions} repetitions of {run.effort.seconds:g} s each after {run.effort.warmup:g} s of"
        " warm-up, the servers in turn; medians, with the least and the most in parentheses",
        *(f"- {note}" for note in run.notes),
        "",
        "What the columns say:",
        "",
        *(f"- `{name}`: {what}" + (f" ({unit})" if unit != "/s" else "") for name, (unit, _, what) in METRICS.items()),
        "- `x uvloop`, `x asyncio`: the first column, divided by that server's",
    ]
    targets = [(case, verdict) for case in run.cases for verdict in verdicts(run, case)]
    if targets:
        lines += ["", "## Targets", "", "| case | target | measured | |", "|---|---|---|---|"]
    for case, verdict in targets:
        figure = "-" if verdict.figure is None else _told(verdict.figure)
        word = {True: "reached", False: "not reached", None: "not measured"}[verdict.reached]
        lines.append(f"| {case.name} | {verdict.target} | {figure} | {word} |")
    for case in run.cases:
        heading, table = rows(run, case)
        lines += ["", f"## {case.name}", "", f"{case.what[0].upper()}{case.what[1:]}.", ""]
        lines += [markdown_row(heading), "|---|" + "---:|" * (len(heading) - 1)]
        lines += [
            markdown_row([f"**{cell}**" for cell in cells] if cells[0].split()[0] == THIS else cells) for cells in table
        ]
    if failed := failures(run):
        lines += ["", "## Failed", "", *(f"- {failure}" for failure in failed)]
    if chart is not None:
        lines += ["", f"![The first figure of each table, as bars]({chart})"]
    return "\n".join(lines) + "\n"


def _told(figure: float) -> str:
    """Two digits behind the point; three where two would hide a miss."""
    return f"{figure:.3f}" if 0.99 < figure < 1 else f"{figure:.2f}"


def markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# The chart: one group of bars per case and variant, each bar a server's median, with a whisker from least to most.
LABEL, BAR, PLOT, ROW, GAP = 130, 16, 520, 20, 46

_LIGHT = "--back: #ffffff; --text: #24292f; --quiet: #6e7781; --bar: #9aa7b4; --this: #0969da; --whisker: #24292f"
_DARK = "--back: #0d1117; --text: #e6edf3; --quiet: #8b949e; --bar: #57616d; --this: #58a6ff; --whisker: #e6edf3"
# As a file of its own it follows the reader's system, inside a page of the site the page's own switch.
STYLE = f"""
svg.chart {{ {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ svg.chart {{ {_DARK} }} }}
body[data-theme="light"] svg.chart {{ {_LIGHT} }}
body[data-theme="dark"] svg.chart {{ {_DARK} }}
svg.chart .back {{ fill: var(--back) }}
svg.chart .bar {{ fill: var(--bar) }}
svg.chart .this {{ fill: var(--this) }}
svg.chart .whisker {{ stroke: var(--whisker); stroke-width: 1.5 }}
svg.chart text {{ fill: var(--text); font: 12px system-ui, sans-serif }}
svg.chart .title {{ font-weight: 600; font-size: 14px }}
svg.chart .quiet {{ fill: var(--quiet) }}
"""


def as_svg(run: Run) -> str:
    """The first figure of every case. Colours follow the reader's light or dark mode."""
    parts: list[str] = []
    y = 56
    for case in run.cases:
        metric = main_metric(case)
        unit, more_is_better, _ = METRICS[metric]
        for variant in case.variants:
            measured = [
                (result, *spread(result, metric))
                for result in run.of(case)
                if result.variant == variant.name and result.values
            ]
            if not measured:
                continue
            measured.sort(key=lambda row: row[1] or 0, reverse=more_is_better)
            most = max(row[3] for row in measured)
            title = f"{case.name} {variant.name}".strip()
            better = "more is better" if more_is_better else "less is better"
            parts.append(f'<text class="title" x="20" y="{y}">{escape(title)}</text>')
            parts.append(f'<text class="quiet" x="20" y="{y + 15}">{escape(case.what)} ({unit}, {better})</text>')
            y += 24
            for result, median, least, greatest in measured:
                parts += bar(result.server, y, median or 0, least, greatest, PLOT / most if most > 0 else 0)
                y += ROW
            y += GAP
    head = f"{run.machine}; {run.date}; medians of {run.effort.repetitions}, least to most"
    width, height = LABEL + PLOT + 250, y
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}" width="{width}"'
            f' height="{height}" role="img" aria-label="Benchmark results">',
            f"<style>{STYLE}</style>",
            f'<rect class="back" width="{width}" height="{height}"/>',
            f'<text class="quiet" x="20" y="24">{escape(head)}</text>',
            *parts,
            "</svg>\n",
        ]
    )


def bar(name: str, y: float, median: float, least: float, most: float, scale: float) -> list[str]:
    middle = y + BAR / 2
    kind = "this" if name == THIS else "bar"
    return [
        f'<text x="{LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>',
        f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{max(0.0, median * scale):.1f}" height="{BAR}" rx="2"/>',
        f'<line class="whisker" x1="{LABEL + max(0.0, least * scale):.1f}" x2="{LABEL + most * scale:.1f}"'
        f' y1="{middle}" y2="{middle}"/>',
        f'<text x="{LABEL + most * scale + 8:.1f}" y="{middle + 4}">{number(median)}</text>',
    ]


def versions() -> dict[str, str]:
    return {server.name: server.version() for server in SERVERS if server.is_installed()}
