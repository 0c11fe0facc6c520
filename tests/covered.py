"""Which branches no test takes: `python -m tests.covered`. Exit status 0: none, in the rooms that are here.

They are the rooms without a socket, and the loop: what a test can always reach. Only the tests named here run, so what
covers a room is its own tests, and not a sample's luck.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Words, pure rooms, and the loop: as the plan of the house (tests/test_house.py) has them.
ROOMS = ("errors", "options", "report", "trace", "protocol")
ROOMS += ("addresses", "lifecycle", "deadlines", "buffers", "framing", "tls", "timers", "racing", "loop")
TESTS = ("addresses", "buffers", "coverage_rooms", "deadlines", "displaced", "embedding", "errors", "framing")
TESTS += ("lifecycle", "loop", "operations", "options", "racing", "signals", "spins", "threads", "timers", "tls")
# They take half a minute.
_PATIENCE = 600.0


def main() -> int:
    """Runs the tests, then tells."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.covered",
        description="Runs the tests of the rooms without sockets and of the loop, and names the branches that no test "
        "takes. Exit status 0: there are none; 1: there are, or a test failed.",
    )
    parser.add_argument("--html", metavar="DIR", help="also write a page for each room there")
    args = parser.parse_args()
    tests = [f"tests/test_{name}.py" for name in TESTS]
    with tempfile.TemporaryDirectory() as directory:
        # Not into the tree, where a run of another's may be under way.
        environment = {**os.environ, "COVERAGE_FILE": str(Path(directory, "coverage"))}

        def coverage(*words: str) -> bool:
            command = [sys.executable, "-m", "coverage", *words]
            return not subprocess.run(command, cwd=ROOT, env=environment, timeout=_PATIENCE, check=False).returncode

        # What hypothesis happens to try must not decide.
        if not coverage("run", "-m", "pytest", "-q", "--hypothesis-seed=0", *tests) or not coverage("combine", "-q"):
            return 1
        include = "--include=" + ",".join(path for room in ROOMS for path in _files(room))
        if args.html:
            coverage("html", include, "-d", str(Path(args.html).absolute()))
        return 0 if coverage("report", include, "--fail-under=100") else 1


def _files(room: str) -> tuple[str, ...]:
    return f"reactor/{room}.py", f"reactor/{room}/*"


if __name__ == "__main__":
    sys.exit(main())
