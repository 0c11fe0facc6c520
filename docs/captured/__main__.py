"""`python -m docs.captured` captures the ten endings anew, in seven seconds. Needs Linux, and root."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

from docs.captured import KEPT
from docs.captured.cable import LATENCY
from docs.captured.stage import Disturbed, capture
from docs.captured.transcript import render
from docs.drawn.endings import ENDINGS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.captured", description=__doc__)
    parser.add_argument("--into", type=Path, default=KEPT, metavar="DIRECTORY", help="instead of docs/wire")
    into: Path = parser.parse_args().into
    hurry()
    try:
        stories = capture()
    except (OSError, Disturbed) as exc:
        print(f"nothing was captured: {exc!r}", file=sys.stderr)
        return 1
    into.mkdir(exist_ok=True)
    kernel = ".".join(platform.release().split(".")[:2])
    captured_by = f"Captured by python -m docs.captured on Linux {kernel}, with {1000 * LATENCY:.0f} ms each way."
    for name, events in stories.items():
        (into / f"{name}.txt").write_text(render(ENDINGS[name].title, captured_by, events), encoding="utf-8")
    return 0


def hurry() -> None:
    """Runs before all ordinary programs, which might otherwise keep a packet waiting. This one mostly sleeps."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        pass  # then it may have to play more than once


if __name__ == "__main__":
    sys.exit(main())
