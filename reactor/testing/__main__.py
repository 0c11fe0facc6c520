"""Explore, replay, storm: see `python -m reactor.testing --help`."""

from __future__ import annotations

import argparse
import sys
import time

from reactor.testing.explore import Printer, explore, replay
from reactor.testing.machine import SCENARIOS
from reactor.testing.storm import PROTOCOLS, storm

# Half a million schedules over all scenarios, in two to three minutes.
DEPTH = 5


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 when nothing was violated."""
    parser = argparse.ArgumentParser(prog="python -m reactor.testing", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    exploring = commands.add_parser("explore", help="run every interleaving of up to so many steps")
    exploring.add_argument("--depth", type=int, default=DEPTH, help=f"steps of a schedule (default {DEPTH})")
    exploring.add_argument(
        "--scenario", choices=list(SCENARIOS), action="append", help="only this one; may be repeated"
    )
    replaying = commands.add_parser("replay", help="run one schedule again, with its trace")
    replaying.add_argument("schedule", nargs="+", help="as explore prints it: SCENARIO: STEP STEP ...")
    storming = commands.add_parser("storm", help="a long random run of many connections under all faults at once")
    storming.add_argument("--seed", type=int, default=0)
    storming.add_argument("--connections", type=int, default=200)
    storming.add_argument("--protocol", choices=list(PROTOCOLS), action="append", help="only this, and this")
    chosen = parser.parse_args(arguments)
    if chosen.command == "explore":
        return _explore(chosen.scenario or list(SCENARIOS), chosen.depth)
    if chosen.command == "replay":
        return 0 if replay(" ".join(chosen.schedule)) is None else 1
    return _storm(chosen.protocol or list(PROTOCOLS), chosen.seed, chosen.connections)


def _explore(scenarios: list[str], depth: int) -> int:
    schedules = states = 0
    begun = time.monotonic()
    for name in scenarios:
        result = explore(name, depth, progress=Printer(_tell))
        schedules += result.schedules
        states += result.states
        levels = " ".join(f"{level}:{count}" for level, count in result.by_depth.items())
        print(f"{name}: depth {result.depth}, {result.schedules} schedules, {result.states} states (new at {levels})")
        if result.violation is not None:
            print(f'VIOLATION: {result.what}\n  python -m reactor.testing replay "{result.text}"')
            return 1
    seconds = time.monotonic() - begun
    print(f"{schedules} distinct schedules, {states} distinct states, {seconds:.1f} s, no violation")
    return 0


def _storm(protocols: list[str], seed: int, connections: int) -> int:
    for name in protocols:
        begun = time.monotonic()
        try:
            summary = storm(name, seed, connections)
        except AssertionError as exc:
            again = f"python -m reactor.testing storm --seed {seed} --connections {connections} --protocol {name}"
            print(f"VIOLATION: {exc}\n  {again}")
            return 1
        print(f"{name}: {summary} ({time.monotonic() - begun:.1f} s)")
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
