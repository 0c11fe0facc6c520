"""What can be chosen, one frozen record per concern, each value checked where it is made.

A reactor's `listen` and `connect` take an `Options`. Every default is a constant that carries its argument. Times are
in seconds, sizes in bytes. `attrs.evolve(options, linger=False)` makes a variant.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import attrs

KiB = 1024
MiB = 1024 * KiB


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def _checked(what: str, good: Callable[[Any], bool]) -> Callable[[object, attrs.Attribute[Any], Any], None]:
    def check(record: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not good(value):
            raise ValueError(f"{type(record).__name__}.{attribute.name} must be {what}, not {value!r}")

    return check


_positive = _checked("a positive number", lambda value: _number(value) and 0 < value < float("inf"))
_not_negative = _checked("zero or a positive number", lambda value: _number(value) and 0 <= value < float("inf"))
_attempt_delay = _checked("from 0.01 to 2", lambda value: _number(value) and 0.01 <= value <= 2)
_C_INT = 2**31 - 1
_count = _checked("a positive whole number", lambda value: type(value) is int and value > 0)
_c_int = _checked("a positive whole number below 2**31", lambda value: type(value) is int and 0 < value <= _C_INT)
_tcp_time = _checked("a positive number below 2**31 / 1000", lambda value: _number(value) and 0 < value < _C_INT / 1000)
# Linux, include/net/tcp.h: MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL, in seconds; MAX_TCP_KEEPCNT.
_keepalive_time = _checked("from 1 to 32767", lambda value: type(value) is int and 0 < value <= 32767)
_keepalive_count = _checked("from 1 to 127", lambda value: type(value) is int and 0 < value <= 127)
_bytes = _checked("a whole number of bytes, zero or more", lambda value: type(value) is int and value >= 0)
_group_address = _checked(
    "an IP address in numbers, without a zone", lambda value: isinstance(value, str) and _is_address(value)
)
_interface = _checked(
    "the name of a network interface", lambda value: isinstance(value, str) and bool(value) and "\0" not in value
)
_yes_or_no = _checked("True or False", lambda value: type(value) is bool)


def _quarter(watermarks: Watermarks) -> int:
    return watermarks.high // 4 if type(watermarks.high) is int else 0


@attrs.frozen(kw_only=True)
class Watermarks:
    """When a protocol is told to pause and to resume writing: above `high`, and again at or below `low`."""

    # asyncio's numbers, which people know: enough to fill a fast link's window, little enough for 10,000 connections.
    high: int = attrs.field(default=64 * KiB, validator=_bytes)
    # A quarter of `high`: far enough below that the two do not alternate, and never so low that the line runs dry.
    low: int = attrs.field(default=attrs.Factory(_quarter, takes_self=True), validator=_bytes)

    @low.validator
    def _ordered(self, attribute: attrs.Attribute[int], value: int) -> None:
        if value > self.high:
            raise ValueError(f"Watermarks.low ({value!r}) must not be above Watermarks.high ({self.high!r})")

    def instead(self, high: int | None, low: int | None) -> Watermarks:
        """As asyncio fills in what is left out: `low` is a quarter of `high`, `high` four times `low`; else these."""
        if low is None:
            return self if high is None else Watermarks(high=high)
        return Watermarks(high=4 * low if high is None else high, low=low)


@attrs.frozen(kw_only=True)
class Limits:
    """How much of anything there may be. The budgets keep one busy connection from starving the others."""

    # One read per connection and turn, as in asyncio: what a fast sender delivers between two turns of a busy loop, in
    # one piece. A buffer of this size is cheap only because of `System.__init__`; it shrinks to what was read.
    read_bytes: int = attrs.field(default=256 * KiB, validator=_count)
    # One send(2) of this much per flush and step: below the usual send buffer, so that a step seldom falls short.
    send_bytes: int = attrs.field(default=256 * KiB, validator=_count)
    # Steps of one flush before the other connections have their turn: 4 MiB, a few milliseconds of copying.
    sends_per_flush: int = attrs.field(default=16, validator=_count)
    # Connections taken in one turn: a burst is served in few turns, and 64 accepts cost well under a millisecond.
    accepts_per_turn: int = attrs.field(default=64, validator=_count)
    # The kernel cuts this to its own limit (Linux: net.core.somaxconn, 4096), where a burst belongs.
    backlog: int = attrs.field(default=4096, validator=_c_int)
    # Bytes that may wait for one peer: far above any watermark, so that only a protocol which ignores pause_writing
    # meets it; low enough that one stalled peer cannot take the machine.
    queue_bytes: int = attrs.field(default=256 * MiB, validator=_count)
    # Bytes read and dropped after our FIN, so that an upload in progress does not turn our last reply into a reset.
    # A peer that sends more than this after the reply is not going to read it.
    linger_bytes: int = attrs.field(default=256 * MiB, validator=_count)
    # Connections of one listener at a time; the others wait in the kernel's queue. None: as many as descriptors allow.
    connections: int | None = attrs.field(default=None, validator=attrs.validators.optional(_count))


@attrs.frozen(kw_only=True)
class Deadlines:
    """How long each wait may last. Whatever waits without one, waits for the application."""

    # Nothing received and nothing sent for so long: closed in order. None, as in asyncio: silence alone is no fault.
    idle: float | None = attrs.field(default=None, validator=attrs.validators.optional(_positive))
    # After our output has ended: how long the peer may take nothing. Progress starts it anew, so a slow reader is
    # served to the end; a zero-window peer could otherwise hold us for ever (RFC 9293, MUST-37). 30 s outlives a
    # retransmission back-off of several losses in a row.
    flush: float = attrs.field(default=30.0, validator=_positive)
    # An absolute bound on that flush, for those who must bound it even against a peer that progresses. None: none.
    flush_total: float | None = attrs.field(default=None, validator=attrs.validators.optional(_positive))
    # After our FIN, with everything acknowledged and nothing heard for so long, the end is certain enough: a second
    # lets the peer's program read what its TCP has acknowledged before a late byte of its own could meet a reset.
    linger_grace: float = attrs.field(default=1.0, validator=_not_negative)
    # After our FIN: with nothing heard and nothing more acknowledged for so long, it is let go. nginx's number, as the
    # next: long enough for a slow line, short enough that lingering connections do not pile up.
    linger_silence: float = attrs.field(default=5.0, validator=_positive)
    # After a failure while reading is paused: how long the input that had arrived waits for `resume_reading`, counted
    # from the last read. Then it is discarded and counted, and the failure is told: a dead connection is not kept on.
    unread: float = attrs.field(default=30.0, validator=_positive)
    # After our FIN, all in all, since the last progress of our own output: for a peer that goes on sending.
    linger_total: float = attrs.field(default=30.0, validator=_positive)
    # Until a connect has succeeded, the look-up of the name and all its addresses included: the same patience as for a
    # flush, and what a look-up may take when all name servers are dead. The kernel's own (on Linux more than two
    # minutes of SYN retries for each address) is longer than anybody waits.
    connect: float = attrs.field(default=30.0, validator=_positive)
    # Until the next address of a name is tried beside those that have not answered: RFC 8305's 250 ms, in its bounds.
    attempt: float = attrs.field(default=0.25, validator=_attempt_delay)
    # Until a TLS handshake is complete: the same patience as for a connect. It is two round trips and some arithmetic.
    handshake: float = attrs.field(default=30.0, validator=_positive)


@attrs.frozen(kw_only=True)
class Keepalive:
    """TCP probes on a silent connection (tcp(7)): the first after `idle`, then every `interval`, dead after `count`."""

    # A dead peer is found within 60 + 5 * 10 s, and a NAT's shortest usual memory (some minutes) is never reached.
    idle: int = attrs.field(default=60, validator=_keepalive_time)
    interval: int = attrs.field(default=10, validator=_keepalive_time)
    count: int = attrs.field(default=5, validator=_keepalive_count)


@attrs.frozen(kw_only=True)
class Sockets:
    """What is asked of the kernel for each TCP socket. Accepted sockets inherit it from their listener's."""

    # Writes of a turn are gathered here, so Nagle's algorithm would only add a delay to the last one.
    nodelay: bool = attrs.field(default=True, validator=_yes_or_no)
    # Listeners only; `listen(reuse_port=True)` says the same. Several listeners, also of other processes of this user,
    # share one port (SO_REUSEPORT), and Linux deals the callers out to them. All of them must ask for it.
    reuse_port: bool = attrs.field(default=False, validator=_yes_or_no)
    # None: no probes. An idle deadline finds a dead peer as well, and costs no packets.
    keepalive: Keepalive | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.instance_of(Keepalive))
    )
    # TCP_USER_TIMEOUT (RFC 5482), seconds that sent data may stay unacknowledged, in steps of a millisecond (rounded
    # up). None: the kernel's (15 minutes).
    user_timeout: float | None = attrs.field(default=None, validator=attrs.validators.optional(_tcp_time))
    # Kernel buffer sizes, SO_SNDBUF and SO_RCVBUF. None: the kernel tunes them, which is nearly always best.
    send_buffer_bytes: int | None = attrs.field(default=None, validator=attrs.validators.optional(_c_int))
    receive_buffer_bytes: int | None = attrs.field(default=None, validator=attrs.validators.optional(_c_int))


@attrs.frozen(kw_only=True)
class Group:
    """A multicast group to be a member of: `Group(address="224.0.0.251", interface="eth0")`."""

    # In numbers, of the endpoint's own family. Without a zone: that is `interface`.
    address: str = attrs.field(validator=_group_address)
    # The name of the network interface. None: the one that the kernel's routes give.
    interface: str | None = attrs.field(default=None, validator=attrs.validators.optional(_interface))


@attrs.frozen(kw_only=True)
class Datagrams:
    """What holds for a datagram endpoint alone."""

    # Received in one turn, before the other ends have theirs: 64 system calls, a fraction of a millisecond.
    receives_per_turn: int = attrs.field(default=64, validator=_count)
    # Sent from the queue in one turn, for the same reason.
    sends_per_flush: int = attrs.field(default=64, validator=_count)
    # What may wait here, each datagram's book-keeping included. A second of a 30 Mbit/s line: what waits longer has
    # been given up, or asked for again, by whoever wanted it. Far above the high watermark, as with connections.
    queue_bytes: int = attrs.field(default=4 * MiB, validator=_count)
    # Off, as in the kernel: a datagram to everybody should be meant. Without it the kernel says EACCES.
    broadcast: bool = attrs.field(default=False, validator=_yes_or_no)
    # Several sockets, also of other processes of this user, share one address, and the kernel deals the senders out.
    reuse_port: bool = attrs.field(default=False, validator=_yes_or_no)
    # The multicast groups to be in. Any such endpoint shares its address with others (SO_REUSEADDR): all get a copy.
    groups: tuple[Group, ...] = attrs.field(
        default=(), validator=attrs.validators.deep_iterable(attrs.validators.instance_of(Group))
    )


@attrs.frozen(kw_only=True)
class Options:
    """Everything that can be chosen for the ends of one `listen`, `connect` or `datagram`."""

    watermarks: Watermarks = attrs.field(factory=Watermarks, validator=attrs.validators.instance_of(Watermarks))
    limits: Limits = attrs.field(factory=Limits, validator=attrs.validators.instance_of(Limits))
    deadlines: Deadlines = attrs.field(factory=Deadlines, validator=attrs.validators.instance_of(Deadlines))
    sockets: Sockets = attrs.field(factory=Sockets, validator=attrs.validators.instance_of(Sockets))
    datagrams: Datagrams = attrs.field(factory=Datagrams, validator=attrs.validators.instance_of(Datagrams))
    # Off: the descriptor is closed right after our FIN. A late byte from the peer then destroys what it has not read.
    linger: bool = attrs.field(default=True, validator=_yes_or_no)


DEFAULTS = Options()
