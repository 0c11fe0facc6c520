"""How many connections a server can let in, so that descriptors are left for what it does for those it let in.

A server that lets in as many callers as there are descriptors has none left for a file, an upstream or a module that is
imported late: then an idle crowd costs somebody else's request. What is said here to be needed is never given to
callers; they wait in the kernel's queue, and none of them is let in to be told that there is no descriptor left.
"""

from __future__ import annotations

import resource

import attrs


@attrs.frozen
class Room:
    """What a server needs: `each` for a connection, itself included, and `reserve` for all the rest together."""

    each: int
    reserve: int

    def limit(self, wanted: int | None, listeners: int = 1) -> int | None:
        """How many connections each of so many listeners may have: no more than wanted; None: any number.

        At least one is always let in.
        """
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        shared = limit - self.reserve
        possible = None if limit == resource.RLIM_INFINITY else max(1, shared // self.each // listeners)
        return min((number for number in (wanted, possible) if number is not None), default=None)

    def beside(self, others: int) -> Room:
        """The same server where others in the process may have so many descriptors."""
        return attrs.evolve(self, reserve=self.reserve + others)
