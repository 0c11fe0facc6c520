"""How the proxy is, in one line."""

from __future__ import annotations

import os
import resource

import attrs

from reactor.relaying import Relay


@attrs.define(eq=False)
class Health:
    """Counts since the start, of all listeners that share it."""

    # Let in and not joined yet: the header, the look-up or the connect is under way.
    waiting: int = 0
    relays: set[Relay] = attrs.field(factory=set)
    # Callers in all; and those whose end was not in order, or who never came to a relay.
    callers: int = 0
    failed: int = 0
    # Bytes of the relays that are over, and of those that are not what came before they began.
    up: int = 0
    down: int = 0

    def ended(self, relay: Relay) -> None:
        """A relay is over: only its counts are kept."""
        self.relays.discard(relay)
        self.up += relay.one_to_other
        self.down += relay.other_to_one
        self.failed += relay.failure is not None

    def __str__(self) -> str:
        up = self.up + sum(relay.one_to_other for relay in self.relays)
        down = self.down + sum(relay.other_to_one for relay in self.relays)
        return (
            f"proxy[{os.getpid()}]: relays {len(self.relays)} open, {self.waiting} waiting, {self.callers} in all,"
            f" {self.failed} failed; bytes {up} up, {down} down; descriptors {_descriptors()}"
        )


def _descriptors() -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "any number" if limit == resource.RLIM_INFINITY else str(limit)
    try:
        return f"{len(os.listdir('/dev/fd')) - 1} of {most}"  # one of them is the listing's own
    except OSError:
        return f"{most} of {most}"  # none is left to look with
