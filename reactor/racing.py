"""Happy eyeballs (RFC 8305): which address of a name to try, and when. A machine without sockets, told the time.

1. The addresses come in getaddrinfo's order, RFC 6724's. Families then take turns, beginning with the first address's
   (First Address Family Count 1): a family that is cut off costs one delay, not one for each of its addresses.
2. An attempt starts `delay` seconds after the one before it, or at once when one fails: that one has made room. Those
   under way run on, for a slow answer is better than none.
3. The first to succeed wins. All others under way lose and are to be closed, even one that succeeded as well.
4. Without a winner every attempt has its cause; they are told in the order of failing.

Whoever drives it tells what happened (`succeeded`, `failed`), and then, as when a `Wait` is over, asks what is next:
`proceed(now)` says to `Start` one attempt and ask again, to `Wait`, to take the `Win`, or to `GiveUp`.

Not here: RFC 8305's resolution delay, 50 ms for an AAAA answer later than A. It matters only to who asks for both
apart; getaddrinfo asks for both and returns once. The cost: nothing starts before the slower of the two answers.

A name of n silent addresses holds up to n descriptors, until its driver's deadline; the bound is the resolver's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain, zip_longest
from typing import Generic, Protocol, TypeAlias, TypeVar

import attrs


class HasFamily(Protocol):
    """What is asked of an address; it must be hashable as well."""

    @property
    def family(self) -> int: ...


A = TypeVar("A", bound=HasFamily)


@attrs.frozen
class Start(Generic[A]):
    """Try this address now, and ask again."""

    address: A


@attrs.frozen
class Wait:
    """Nothing to do before an attempt is decided, or before that time; None: only the attempts matter."""

    until: float | None


@attrs.frozen
class Win(Generic[A]):
    """This address is connected to. The attempts at the losers are to be closed."""

    address: A
    losers: tuple[A, ...]


@attrs.frozen
class GiveUp(Generic[A]):
    """Every attempt has failed: the addresses with their errors, in the order of failing."""

    causes: tuple[tuple[A, Exception], ...]


Next: TypeAlias = Start[A] | Wait | Win[A] | GiveUp[A]


class Race(Generic[A]):
    """One race to the addresses of one name."""

    def __init__(self, addresses: Iterable[A], delay: float) -> None:
        """`delay` is `Deadlines.attempt`, which keeps within RFC 8305's bounds: 10 ms to 2 s."""
        self._waiting = deque(interleaved(addresses))
        self._delay = delay
        self._next_start = float("-inf")
        self._under_way: dict[A, None] = {}  # in the order of starting, as a set is not
        self._causes: list[tuple[A, Exception]] = []
        self._winner: A | None = None

    def proceed(self, now: float) -> Next[A]:
        """What to do at this time. Once it is `Win` or `GiveUp`, it stays that."""
        if self._winner is not None:
            return Win(self._winner, tuple(self._under_way))
        if self._waiting:
            if now < self._next_start:
                return Wait(self._next_start)
            address = self._waiting.popleft()
            self._under_way[address] = None
            self._next_start = now + self._delay
            return Start(address)
        if self._under_way:
            return Wait(None)
        return GiveUp(tuple(self._causes))

    def succeeded(self, address: A) -> None:
        """The attempt at it is connected. A second success changes nothing: it is a loser."""
        assert address in self._under_way
        if self._winner is None:
            self._winner = address
            del self._under_way[address]

    def failed(self, address: A, cause: Exception) -> None:
        """The attempt at it is over, and closed."""
        del self._under_way[address]
        self._causes.append((address, cause))
        self._next_start = float("-inf")

    def expire(self, cause: Exception) -> GiveUp[A]:
        """The driver's deadline has passed: the cause of every attempt under way. What was never tried has none."""
        self._waiting.clear()
        for address in tuple(self._under_way):
            self.failed(address, cause)
        return GiveUp(tuple(self._causes))


def interleaved(addresses: Iterable[A]) -> list[A]:
    """Families take turns, each in its own order; an address given twice is tried once."""
    families: dict[int, list[A]] = {}
    for address in dict.fromkeys(addresses):
        families.setdefault(address.family, []).append(address)
    rounds = zip_longest(*families.values())
    return [address for address in chain.from_iterable(rounds) if address is not None]
