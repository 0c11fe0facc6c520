"""`python -m docs.drawn` writes everything that is generated; `--check` only tells what is stale (exit status 1)."""

from __future__ import annotations

import argparse
import sys

from docs.drawn import everything, stale


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.drawn", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    if parser.parse_args().check:
        late = stale()
        for path in late:
            print(f"stale: {path}", file=sys.stderr)
        return 1 if late else 0
    for path, text in everything().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
