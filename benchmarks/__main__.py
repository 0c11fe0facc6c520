"""The command line: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import sys
import time
from pathlib import Path

import attrs

from benchmarks import native, show
from benchmarks.cases import CASES, Case, Load, named, quick
from benchmarks.measure import QUICK, Effort, raise_descriptor_limit, run
from benchmarks.servers import SERVERS, Server, cores

BAR = 24


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="This reactor and its peers side by side. Exit status 0: everything could be measured.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a case, the beginning of several (echo), or all")
    parser.add_argument("--list", action="store_true", help="name the cases and the servers, and run nothing")
    parser.add_argument("--servers", metavar="A,B", help="only these")
    parser.add_argument("--repetitions", type=whole, metavar="N", help=f"{Effort().repetitions} by default")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"of each repetition; {Effort().seconds} by default")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter: shows that it works, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also draw a chart")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write a page of the docs")
    given = parser.parse_args()
    if given.list:
        print_list()
        return 0
    cases = chosen_cases(parser, given.names)
    servers = chosen_servers(parser, given.servers)
    if not Path("/proc/self/statm").exists():
        parser.error("the servers are measured through Linux's /proc, which this system has not")
    effort = QUICK if given.quick else Effort()
    effort = attrs.evolve(
        effort, repetitions=given.repetitions or effort.repetitions, seconds=given.seconds or effort.seconds
    )
    if given.quick:
        cases = [quick(case) for case in cases]
    done = measure(cases, servers, effort, notes_on(given.quick))
    for file, write in ((given.json, show.as_json), (given.svg, show.as_svg)):
        if file is not None:
            file.write_text(write(done), encoding="utf-8")
    if given.markdown is not None:
        chart = None if given.svg is None else os.path.relpath(given.svg, given.markdown.parent)
        given.markdown.write_text(show.as_markdown(done, chart), encoding="utf-8")
    failed = show.failures(done)
    for failure in failed:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failed else 0


def whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def chosen_cases(parser: argparse.ArgumentParser, names: list[str]) -> list[Case]:
    if not names:
        parser.error("name a case; --list names them")
    for name in names:
        if not named(name):
            parser.error(f"no such case: {name}; --list names them")
    wanted = {case.name for name in names for case in named(name)}
    return [case for case in CASES if case.name in wanted]


def chosen_servers(parser: argparse.ArgumentParser, names: str | None) -> list[Server]:
    wanted = [server.name for server in SERVERS] if names is None else names.split(",")
    unknown = set(wanted) - {server.name for server in SERVERS}
    if unknown:
        parser.error(f"no such server: {', '.join(sorted(unknown))}; --list names them")
    chosen = [server for server in SERVERS if server.name in wanted]
    missing = [server.name for server in chosen if not server.is_installed()]
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
    return [server for server in chosen if server.name not in missing]


def notes_on(quickly: bool) -> list[str]:
    """What a reader must know about how it was measured."""
    notes = []
    if native.compiler() is None:
        notes.append("The load is the Python one, for want of a C compiler: it limits the rates; compare the CPU times")
    both = cores()
    if both is None:
        notes.append("There is one core: servers and load share it, so compare the CPU times, not the rates")
    else:
        notes.append(f"Each server on core {both[0]}, the load on core {both[1]}, over the loopback")
    if quickly:
        notes.append("A quick run, with fewer connections and timers: it shows that everything works, not how fast")
    return notes


def measure(cases: list[Case], servers: list[Server], effort: Effort, notes: list[str]) -> show.Run:
    """Runs the cases, printing each one's table when it is done."""
    versions = show.versions()
    done = show.Run(
        date=datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        command=shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        machine=show.machine(),
        versions={server.name: versions[server.name] for server in servers},
        notes=notes,
        effort=effort,
    )
    descriptors = raise_descriptor_limit()
    most = max((load.idle for case in cases for load in loads_of(case)), default=0)
    if most and descriptors < most:
        notes.append(f"No more than {descriptors:,} descriptors are allowed here, so there are fewer idle connections")
    for note in notes:
        print(f"{note}.", file=sys.stderr)
    for case, results in run(cases, servers, effort, descriptors, Progress()):
        done.cases.append(case)
        done.results += results
        print(show.as_text(done, case), end="\n\n", flush=True)
    return done


def loads_of(case: Case) -> list[Load]:
    return [load for load in (case.load, *(variant.load for variant in case.variants)) if load is not None]


class Progress:
    """A bar on standard error, when that is a terminal; else a line now and then."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._told = ""

    def __call__(self, share: float, what: str) -> None:
        if not sys.stderr.isatty():
            case = what.split(" ")[0]
            if case and case != self._told:
                self._told = case
                print(f"{share:4.0%} {case}", file=sys.stderr, flush=True)
            return
        passed = time.monotonic() - self._begin
        left = f", {passed / share - passed:.0f} s left" if share else ""
        full = round(share * BAR)
        line = f"[{'#' * full}{'.' * (BAR - full)}] {share:4.0%} {what}{left}" if what else ""
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def print_list() -> None:
    width = max(len(case.name) for case in CASES)
    for case in CASES:
        print(f"{case.name:{width}}  {case.what}")
    print()
    for server in SERVERS:
        print(f"{server.name:{width}}  {server.version() if server.is_installed() else 'not installed'}")


if __name__ == "__main__":
    sys.exit(main())
