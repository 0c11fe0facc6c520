"""How many connections there are descriptors for, when each needs a second one beside it: a file, or an upstream."""

from __future__ import annotations

import resource


def pairs(wanted: int | None, reserve: int) -> int | None:
    """How many to let in: no more than wanted, and than can have two each beside `reserve` others; None: any number.

    The others wait in the kernel's queue, and none is let in to be told that there is no descriptor left. At least one
    is always let in.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = None if limit == resource.RLIM_INFINITY else max(1, (limit - reserve) // 2)
    return min((number for number in (wanted, possible) if number is not None), default=None)
