"""Plays the ten endings on the machine's own kernel and writes down what crosses the wire: `python -m docs.captured`.

The protocols and the peers' scripts are those of `docs.drawn.endings`, which plays them on the simulated kernel. Here
both ends are real sockets, and between them is a cable of ours (`cable`). `stage` plays; `flow` puts packets into
words; what is kept is a `transcript` for each ending, in `docs/wire`. `tests/docs/test_wire.py` holds these files
against the model, and against a new capture.

Needs Linux and root. Unlike `docs.drawn` it reads a clock: two captures differ by some milliseconds, and in how the
kernels cut, merge and repeat.
"""

from __future__ import annotations

from pathlib import Path

KEPT = Path(__file__).parents[1] / "wire"
