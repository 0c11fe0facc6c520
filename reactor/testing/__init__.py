"""For tests, yours and ours: what a protocol may rely on, checked while it runs; and a simulated kernel."""

from reactor.testing.faults import (
    AbortedAccepts,
    BlackHole,
    DescriptorLimit,
    Famine,
    Fault,
    ForbiddenAccepts,
    OneAtATime,
    Resets,
    Shortage,
    ShortReads,
    ShortWrites,
    Shuffled,
    SoftErrors,
    SpuriousReadiness,
    Stalls,
    TryAgain,
)
from reactor.testing.grammar import Grammar
from reactor.testing.kernel import SimulatedSystem
from reactor.testing.links import Link
from reactor.testing.peer import Acceptor, Peer
from reactor.testing.poller import Stalled

__all__ = [
    "AbortedAccepts",
    "Acceptor",
    "BlackHole",
    "DescriptorLimit",
    "Famine",
    "Fault",
    "ForbiddenAccepts",
    "Grammar",
    "Link",
    "OneAtATime",
    "Peer",
    "Resets",
    "ShortReads",
    "ShortWrites",
    "Shortage",
    "Shuffled",
    "SimulatedSystem",
    "SoftErrors",
    "SpuriousReadiness",
    "Stalled",
    "Stalls",
    "TryAgain",
]
