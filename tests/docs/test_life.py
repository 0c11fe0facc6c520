"""The table of docs/life.md, "the peer did this, you are told that", line by line, on the simulated kernel."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from docs.drawn import endings
from docs.drawn.sequence import draw
from reactor import (
    ConnectFailed,
    Deadlines,
    IdleTimeout,
    Options,
    Reactor,
)
from reactor.testing import BlackHole, Link, Peer, SimulatedSystem
from tests.helpers import Recorder

PAGE = (Path(__file__).parents[2] / "docs" / "life.md").read_text(encoding="utf-8")
IDLE = Options(deadlines=Deadlines(idle=60))
LINES: dict[str, Callable[[], None]] = {}


def line(first_cell: str):
    """The test of the line that begins so."""

    def keep(test: Callable[[], None]) -> Callable[[], None]:
        LINES[first_cell] = test
        return test

    return keep


class Scene:
    """A server of ours, its one client, and virtual seconds."""

    def __init__(self, keep_open: bool = False, options: Options | None = None, link: Link | None = None) -> None:
        self.system = SimulatedSystem(link=link)
        self.protocol = Recorder(keep_open)
        self.reactor = Reactor(system=self.system)
        listener = self.reactor.listen(lambda: self.protocol, "127.0.0.1", 0, options=options or Options())
        self.peer: Peer = self.system.peer(listener.addresses[0])
        self.run(0.1)

    def run(self, seconds: float) -> None:
        self.system.run(self.reactor, seconds)

    def end(self) -> Recorder:
        self.run(200)
        self.reactor.close()
        return self.protocol


@line("sends bytes")
def sends_bytes():
    scene = Scene()
    scene.peer.send(b"hello")
    scene.run(1)
    assert scene.protocol.data == b"hello"
    scene.reactor.close()


@line("says that it is done: `shutdown(SHUT_WR)`")
def says_that_it_is_done():
    for keep_open in (True, False):
        scene = Scene(keep_open)
        scene.protocol.connection.write(b"before ")
        scene.peer.fin()
        scene.run(100)
        if keep_open:
            scene.protocol.connection.write(b"and after")
            scene.protocol.connection.close()
        protocol = scene.end()
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]
        assert protocol.lost is None
        assert scene.peer.data == (b"before and after" if keep_open else b"before ")


@line("closes, having read all that we sent")
def closes_having_read_all():
    scene = Scene(keep_open=True)
    scene.peer.close()
    scene.run(1)
    assert scene.protocol.calls[-1] == "eof_received"
    scene.protocol.connection.write(b"nobody reads this")
    scene.run(1)
    assert isinstance(scene.end().lost, (ConnectionResetError, BrokenPipeError))


@line("closes, and has not read all")
def closes_with_unread_input():
    scene = Scene()
    scene.peer.stop_reading()
    scene.protocol.connection.write(b"unread")
    scene.run(1)
    scene.peer.close()
    assert isinstance(scene.end().lost, ConnectionResetError)


@line("exits, or is killed")
def exits():
    closes_having_read_all()
    closes_with_unread_input()


@line("gives up: `SO_LINGER` 0 and `close()`")
def gives_up():
    scene = Scene()
    scene.peer.send(b"last words")
    scene.peer.reset()
    protocol = scene.end()
    assert protocol.data == b"last words"
    assert isinstance(protocol.lost, ConnectionResetError)


@line("resets after its FIN, while nothing happens")
def resets_after_its_fin():
    scene = Scene(keep_open=True)
    scene.peer.fin()
    scene.run(10)
    scene.peer.reset()
    scene.run(1)
    lost = scene.protocol.lost
    assert isinstance(lost, BrokenPipeError)
    assert lost.errno == errno.EPIPE
    scene.reactor.close()


@line("reads slowly, or not at all")
def does_not_read():
    scene = Scene(link=Link(send_buffer_bytes=1000, receive_buffer_bytes=1000))
    scene.peer.stop_reading()
    scene.protocol.connection.write(b"x" * 100_000)
    scene.run(1000)
    assert scene.protocol.calls[-1] == "pause_writing"
    scene.peer.resume_reading()
    scene.run(1)
    assert scene.protocol.calls[-1] == "resume_writing"
    scene.reactor.close()


@line("sends on after your `close()`")
def sends_on():
    scene = Scene()
    scene.protocol.connection.close()
    scene.peer.send(b"too late")
    scene.peer.fin()
    protocol = scene.end()
    assert (protocol.data, protocol.lost, protocol.report.discarded) == (b"", None, 8)


@line("ends after our FIN, or before it")
def ends_after_us():
    scene = Scene()
    scene.protocol.connection.close()
    scene.run(0.5)
    scene.peer.fin()
    scene.run(0.1)
    assert scene.protocol.lost is None
    scene.reactor.close()


@line("takes everything, and never ends")
def never_ends():
    scene = Scene()
    scene.protocol.connection.write(b"all of it")
    scene.protocol.connection.close()
    scene.run(0.9)
    assert not scene.protocol.ended
    scene.run(0.2)
    assert scene.protocol.lost is None
    scene.reactor.close()


@line("vanishes: power, cable, a NAT that forgot")
def vanishes():
    scene = Scene()
    scene.system.faults = [BlackHole()]
    scene.run(100_000)
    assert not scene.protocol.ended
    scene.reactor.close()
    scene = Scene(options=IDLE)
    scene.system.faults = [BlackHole()]
    assert isinstance(scene.end().lost, IdleTimeout)


@line("is not there when you connect")
def is_not_there():
    system, protocol = SimulatedSystem(), Recorder()
    with Reactor(system=system) as reactor:
        reactor.connect(lambda: protocol, "10.0.0.9", 80)
        system.run(reactor, seconds=1)
    assert protocol.calls == ["connection_failed"]
    assert isinstance(protocol.failed, ConnectFailed)
    assert [type(cause) for _, cause in protocol.failed.causes] == [ConnectionRefusedError]


def lines_of_the_table() -> list[str]:
    """The first cells."""
    table = PAGE.split("## The peer did this")[1].split("\n\n")[1].splitlines()
    return [row.split(" | ")[0].removeprefix("| ") for row in table[2:]]


@pytest.mark.parametrize("first", [row for row in lines_of_the_table() if not row.startswith("(TLS)")])
def test_a_line_of_the_table_is_what_happens(first):
    """What the page says that one is told, one is told."""
    LINES[first]()


def test_every_line_has_its_test():
    """The TLS one is in docs/how-to/tls.md, with its test."""
    assert set(lines_of_the_table()) == set(LINES) | {"(TLS) ends its TCP without `close_notify`"}


@pytest.mark.parametrize("name", endings.ENDINGS)
def test_an_ending_ends_as_it_says(name):
    """What the two programs learn in the end is what stands there; the page has it, with picture and capture."""
    ending = endings.ENDINGS[name]
    story = ending.play()
    assert draw(name, ending, story) == draw(name, ending, ending.play()), "the same each time"
    assert f"pictures/ending-{name}.svg" in PAGE
    assert f"wire/{name}.txt" in PAGE
    assert any(heading.endswith(ending.title) for heading in PAGE.splitlines() if heading.startswith("### "))
