"""The command line: `python -m benchmarks.closing --help`."""

from __future__ import annotations

import argparse
import datetime
import functools
import sys
import time
from pathlib import Path

from benchmarks.closing.scenarios import SCENARIOS, Scenario, Verdict, judged
from benchmarks.closing.servers import FRAMEWORKS, THIS, Framework, Server
from benchmarks.closing.tables import Run, as_json, as_markdown, as_text


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.closing",
        description="How connections end, in each framework that is installed. Exit status 0: this reactor passes all.",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="scenarios, frameworks, or some of both")
    parser.add_argument("--list", action="store_true", help="name the scenarios and the frameworks, and run nothing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="also write the table there, as Markdown")
    given = parser.parse_args()
    if given.list:
        print_list()
        return 0
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in given.only]
    frameworks = [framework for framework in FRAMEWORKS if framework.name in given.only]
    unknown = set(given.only) - {one.name for one in scenarios} - {one.name for one in frameworks}
    if unknown:
        parser.error(f"no such scenario or framework: {', '.join(sorted(unknown))}; --list names them")
    if not Path("/proc/self/fd").is_dir():
        parser.error("the servers are observed through /proc, which this system has not")
    run = play(scenarios or list(SCENARIOS), frameworks or list(FRAMEWORKS))
    if given.markdown:
        command = " ".join(["python -m benchmarks.closing", *sys.argv[1:]])
        given.markdown.write_text(as_markdown(run, command), encoding="utf-8")
    print(as_json(run) if given.json else as_text(run))
    return 0 if run.passes(THIS) else 1


def print_list() -> None:
    width = max(len(scenario.name) for scenario in SCENARIOS)
    for scenario in SCENARIOS:
        print(f"{scenario.name:{width}}  {scenario.what}")
    print()
    for framework in FRAMEWORKS:
        print(f"{framework.name:{width}}  {framework.version() if framework.is_installed() else 'not installed'}")


def play(scenarios: list[Scenario], wanted: list[Framework]) -> Run:
    frameworks = [framework for framework in wanted if framework.is_installed()]
    date = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    begin = time.monotonic()
    verdicts: dict[tuple[str, str], Verdict] = {}
    for scenario in scenarios:
        for framework in frameworks:
            show_progress(f"{len(verdicts) + 1}/{len(scenarios) * len(frameworks)} {scenario.name} {framework.name}")
            verdicts[scenario.name, framework.name] = judged(scenario, functools.partial(Server, framework))
    show_progress("")
    missing = [framework for framework in wanted if framework not in frameworks]
    return Run(date, time.monotonic() - begin, scenarios, frameworks, missing, verdicts)


def show_progress(words: str) -> None:
    """On a terminal one line that is written over; elsewhere one line each."""
    if sys.stderr.isatty():
        print(f"\r\033[K{words}", end="", file=sys.stderr, flush=True)
    elif words:
        print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
