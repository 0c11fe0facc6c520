"""What became of a connection's bytes. Every connection leaves one report; a live one can be asked for at any time."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Report:
    """Counts are in bytes. `None` means that this platform, or this kind of socket, cannot tell.

    Always `written == accepted + unsent`, and `accepted == acknowledged + unacknowledged` where these are known. Under
    TLS it is plaintext that is counted, but for `discarded`; a record counts as accepted when the kernel has all of it,
    and `acknowledged` is what is certain: less than the truth while the peer's TCP has not confirmed everything.
    """

    # What `connection_lost` was given: None when nothing was lost (or while the connection lives).
    reason: Exception | None
    # The state it is in; at the end, how it got there: "in order", "reset" (by us), "failed", or "cut" (lingering or a
    # platform's silence ended before the peer confirmed).
    how: str
    # Taken by `write`.
    written: int
    # Given to the kernel.
    accepted: int
    # Confirmed by the peer's TCP (its program may not have read it yet). On a Unix socket: read by the peer's program.
    acknowledged: int | None
    # Given to the kernel and not confirmed when the descriptor was released. After an end in order the kernel goes on
    # sending them; after a reset they are gone.
    unacknowledged: int | None
    # Never given to the kernel.
    unsent: int
    # Delivered to `data_received`.
    received: int
    # Read after `close`, or after a failure while reading was paused, and thrown away.
    discarded: int
    # Our FIN left, and was acknowledged.
    fin_sent: bool
    fin_acknowledged: bool | None
    # The states it went through, each with the seconds spent there; STARTING only if it was a handshake.
    stages: tuple[tuple[str, float], ...]

    @property
    def lost(self) -> int | None:
        """Bytes written that were not confirmed when we let go. After an end in order they may still arrive."""
        return None if self.unacknowledged is None else self.unsent + self.unacknowledged

    def __str__(self) -> str:
        words = [self.how if self.reason is None else f"{self.how} ({type(self.reason).__name__}: {self.reason})"]
        words.append(f"written {self.written}")
        if self.acknowledged is not None:
            words.append(f"acknowledged {self.acknowledged}")
        if self.unsent:
            words.append(f"unsent {self.unsent}")
        words.append(f"received {self.received}")
        if self.discarded:
            words.append(f"discarded {self.discarded}")
        return ", ".join(words)


@attrs.define
class Totals:
    """What the connections that have ended leave behind, added up."""

    # All of them; those that were told `connection_lost(None)`, and those that were told an error.
    connections: int = 0
    ended_in_order: int = 0
    lost: int = 0
    # In bytes, as in their reports.
    received: int = 0
    discarded: int = 0
    written: int = 0
    unsent: int = 0
    # Of those connections whose kernel could tell.
    unacknowledged: int = 0
    # Datagrams that endpoints had taken and never gave to the kernel.
    datagrams_unsent: int = 0

    def add(
        self, *, in_order: bool, received: int, discarded: int, written: int, unsent: int, unacknowledged: int
    ) -> None:
        """Counts one more connection."""
        self.connections += 1
        if in_order:
            self.ended_in_order += 1
        else:
            self.lost += 1
        self.received += received
        self.discarded += discarded
        self.written += written
        self.unsent += unsent
        self.unacknowledged += unacknowledged

    def since(self, before: Totals) -> Totals:
        """What was added after `before`, an earlier copy."""
        return Totals(*(now - then for now, then in zip(attrs.astuple(self), attrs.astuple(before), strict=True)))

    def copy(self) -> Totals:
        """As it stands."""
        return attrs.evolve(self)


@attrs.frozen(kw_only=True)
class Statistics:
    """A reactor at one moment."""

    # The turns it has taken.
    turns: int
    # Those that have not ended; and the calls that wait for a time.
    connections: int
    listeners: int
    timers: int
    # Descriptors that are watched: of all these, of connects, of datagram endpoints, and foreign ones.
    watched: int
    # What is under way elsewhere and will come back: connects and calls in threads.
    elsewhere: int
    # The connections that have ended.
    ended: Totals


@attrs.define(kw_only=True)
class DrainSummary:
    """What a drain has come to; complete once `finished`."""

    # The connections that ended since it began.
    ended: Totals = attrs.field(factory=Totals)
    # How long it took; 0 until it is finished.
    seconds: float = 0.0
    # No connection, connect, listener or datagram endpoint is left.
    finished: bool = False

    @property
    def clean(self) -> bool:
        """Finished; every connection was told `connection_lost(None)`, and no datagram was left unsent."""
        return self.finished and not self.ended.lost and not self.ended.datagrams_unsent

    def __str__(self) -> str:
        ended = self.ended
        words = f"drained in {self.seconds:.1f} s: {ended.ended_in_order} connections ended in order"
        if ended.lost:
            words += f", {ended.lost} not; {ended.unsent} bytes unsent, {ended.unacknowledged} unacknowledged"
        if ended.datagrams_unsent:
            words += f"; {ended.datagrams_unsent} datagrams unsent"
        return words
