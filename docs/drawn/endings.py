"""Ten endings of a connection: the protocol, what its peer does, and what must come of it.

Each is played on the simulated kernel by `docs.drawn.recording`, and on the machine's own by `docs.captured`;
`docs/life.md` shows the protocols from here, so they are written to be read.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from docs.drawn.recording import Actor, Scene, Script, Stage, Story
from reactor import Deadlines, Options, Protocol
from reactor.options import DEFAULTS
from reactor.testing import BlackHole, Fault


@attrs.frozen(kw_only=True)
class Ending:
    """One of them. `peer`, `told`: what the two programs learn in the end."""

    title: str
    protocol: Callable[[], Protocol]
    script: Script
    peer: tuple[int, str | None]
    told: str
    options: Options = DEFAULTS
    faults: tuple[Fault, ...] = ()
    seconds: float = 60.0

    def play(self) -> Story:
        """Plays it; AssertionError when it does not end as it says."""
        story = Stage(self.faults).play(self.protocol(), self.script, self.options, self.seconds)
        assert (story.peer_bytes, story.peer_ending) == self.peer, (self.title, story)
        assert story.told == self.told, (self.title, story)
        return story


class Echo(Protocol):
    def data_received(self, data: bytes) -> None:
        self.connection.write(data)


class Reply(Protocol):
    """Answers the first bytes with a page, and is done."""

    size = 3000

    def data_received(self, data: bytes) -> None:
        self.connection.write(b"x" * self.size)
        self.connection.close()


class LongReply(Reply):
    size = 12000


class HugeReply(Reply):
    size = 40000


class Server(Protocol):
    """Takes the whole request, until the client's FIN, and only then answers."""

    def eof_received(self) -> bool:
        self.connection.write(b"x" * 3000)
        self.connection.close()
        return True


class Hesitant(Protocol):
    """Has nothing to say, and leaves at the first word."""

    def data_received(self, data: bytes) -> None:
        self.connection.close()


class Failing(Protocol):
    """Breaks in the middle of its answer."""

    def data_received(self, data: bytes) -> None:
        self.connection.write(b"x" * 12000)
        raise LookupError("the second half")


def peer_first(stage: Scene, peer: Actor) -> None:
    stage.at(0.1, peer.send, b"hello")
    stage.at(0.3, peer.fin)


def we_first(stage: Scene, peer: Actor) -> None:
    stage.at(0.1, peer.send, b"GET /")
    stage.at(0.4, peer.fin)


def both_at_once(stage: Scene, peer: Actor) -> None:
    stage.at(0.1, peer.send, b"bye")
    stage.at(0.13, peer.fin)


def half_close(stage: Scene, peer: Actor) -> None:
    stage.at(0.1, peer.send, b"a request of no known length")
    stage.at(0.12, peer.fin)


def late_bytes(stage: Scene, peer: Actor) -> None:
    stage.at(0.1, peer.send, b"GET /")
    stage.at(0.22, peer.send, b"late")
    stage.at(0.7, peer.fin)


def peer_resets(stage: Scene, peer: Actor) -> None:
    stage.at(0.1, peer.send, b"GET /")
    stage.at(0.22, peer.reset)


def callback_raises(stage: Scene, peer: Actor) -> None:
    stage.at(0.1, peer.send, b"GET /")


def stalled(stage: Scene, peer: Actor) -> None:
    stage.at(0.05, peer.stop_reading)
    stage.at(0.1, peer.send, b"GET /")
    stage.at(6, peer.resume_reading)


def vanished(stage: Scene, peer: Actor) -> None:
    stage.at(0.1, peer.send, b"GET /")
    stage.vanish(0.12)


ENDINGS = {
    "peer-first": Ending(title="The peer ends first", protocol=Echo, script=peer_first, peer=(5, "EOF"), told="None"),
    "we-first": Ending(title="We end first", protocol=Reply, script=we_first, peer=(3000, "EOF"), told="None"),
    "both-at-once": Ending(
        title="Both end at once", protocol=Hesitant, script=both_at_once, peer=(0, "EOF"), told="None"
    ),
    "half-close": Ending(
        title="Half-close: the request ends, the reply follows",
        protocol=Server,
        script=half_close,
        peer=(3000, "EOF"),
        told="None",
    ),
    "late-bytes": Ending(
        title="Late bytes, and somebody who reads on",
        protocol=LongReply,
        script=late_bytes,
        peer=(12000, "EOF"),
        told="None",
    ),
    "late-bytes-without-linger": Ending(
        title="The same late bytes, and nobody who reads on",
        protocol=LongReply,
        script=late_bytes,
        options=Options(linger=False),
        peer=(8000, "reset"),
        told="Unacknowledged",
    ),
    "callback-raises": Ending(
        title="We give up in the middle",
        protocol=Failing,
        script=callback_raises,
        peer=(4000, "reset"),
        told="LookupError",
    ),
    "peer-resets": Ending(
        title="The peer gives up in the middle",
        protocol=LongReply,
        script=peer_resets,
        peer=(4000, None),
        told="ConnectionResetError",
    ),
    "stalled": Ending(
        title="The peer stops reading",
        protocol=HugeReply,
        script=stalled,
        options=Options(deadlines=Deadlines(flush=5.0)),
        peer=(4000, "reset"),
        told="FlushTimeout",
    ),
    "vanished": Ending(
        title="The peer vanishes",
        protocol=Reply,
        script=vanished,
        faults=(BlackHole(start=0.12),),
        peer=(0, None),
        told="Unacknowledged",
    ),
}
