"""What lies between two simulated sockets: how long it takes, in what pieces, and how much each side holds."""

from __future__ import annotations

import attrs

KiB = 1024


@attrs.frozen(kw_only=True)
class Link:
    """The line of one TCP connection, the same both ways. With no latency, what is sent has arrived.

    The system's own link is the line of each UDP datagram as well.
    """

    # Seconds from one end to the other, and at most so many more, drawn anew for each packet. TCP's order is kept.
    latency: float = 0.0
    jitter: float = 0.0
    # The chance that a UDP datagram, or the ICMP answer to it, never arrives. TCP sends again: there a loss is a delay.
    loss: float = 0.0
    # The most bytes one packet carries.
    segment_bytes: int = 64 * KiB
    # What the two ends' kernels hold: accepted and not acknowledged, and arrived and not read. About Linux's defaults.
    # The options' `Sockets` sizes take their place on the sockets of the reactor.
    send_buffer_bytes: int = 256 * KiB
    receive_buffer_bytes: int = 128 * KiB
