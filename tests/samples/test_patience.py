"""`--idle-timeout`: how long a peer may be silent, wherever in its conversation it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reactor import Listener, Options, Reactor
from reactor.testing import Link, SimulatedSystem
from samples import common, echo, exchange, smtpsink
from samples.common.arguments import options_of
from samples.files.site import Site
from samples.files.site import serve as serve_files
from samples.files.tree import Tree

SIZE = 50_000
# Either most of the last answer waits here, or all of it waits in our kernel.
LINKS = {
    "most waits here": Link(receive_buffer_bytes=4096, send_buffer_bytes=8192),
    "all waits in the kernel": Link(receive_buffer_bytes=4096, send_buffer_bytes=1_000_000),
}
GET = b"GET /big HTTP/1.%d\r\nHost: x\r\n%b\r\n"
ASKED: dict[str, tuple[str, bytes, bool]] = {
    # sample, what is sent, and whether a FIN follows: the answer is the last one
    "echo": ("echo", b"x" * SIZE, True),
    "exchange": ("exchange", b"x" * SIZE, True),
    "files, Connection: close": ("files", GET % (1, b"Connection: close\r\n"), False),
    "files, HTTP/1.0": ("files", GET % (0, b""), False),
    "files, a FIN": ("files", GET % (1, b""), True),
    "smtpsink": ("smtpsink", b"HELP\r\n" * 800 + b"QUIT\r\n", False),
}


@pytest.fixture
def tree(tmp_path: Path):
    (tmp_path / "big").write_bytes(b"x" * SIZE)
    made = Tree(str(tmp_path))
    yield made
    made.close()


def options_for(*arguments: str) -> Options:
    return options_of(common.parser("test", "", 0, "").parse_args(arguments))


def listen(name: str, reactor: Reactor, tree: Tree, options: Options) -> Listener:
    where = (reactor, "127.0.0.1", 0)
    serve: dict[str, Callable[[], Listener]] = {
        "echo": lambda: echo.serve(*where, options=options),
        "exchange": lambda: exchange.serve(*where, options=options),
        "files": lambda: serve_files(*where, site=Site(tree), options=options),
        "smtpsink": lambda: smtpsink.serve(*where, options=options),
    }
    return serve[name]()


@pytest.mark.parametrize("seconds", [4, 600])
@pytest.mark.parametrize("name", ["echo", "exchange", "files", "smtpsink"])
def test_a_client_that_has_never_said_anything_has_the_idle_timeout(tree: Tree, name: str, seconds: int):
    """Neither less nor more, and then an end in order."""
    system = SimulatedSystem(seed=1)
    with Reactor(system=system) as reactor:
        listener = listen(name, reactor, tree, options_for("--idle-timeout", str(seconds)))
        peer = system.peer(listener.addresses[0])
        system.run(reactor, seconds - 0.5)
        assert peer.ending is None
        system.run(reactor, 2)
        assert peer.ending == "EOF"
        peer.close()


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("asked", ASKED)
def test_a_reader_that_rests_for_less_than_the_idle_timeout_gets_everything(tree: Tree, link: str, asked: str):
    """Also of the last answer, whose end no other deadline brings forward; and the end is one in order."""
    name, request, fin = ASKED[asked]
    system = SimulatedSystem(seed=1, link=LINKS[link])
    with Reactor(system=system) as reactor:
        listener = listen(name, reactor, tree, options_for("--idle-timeout", "600"))
        peer = system.peer(listener.addresses[0])
        peer.stop_reading()
        peer.send(request)
        if fin:
            peer.fin()
        system.run(reactor, 300)
        peer.read(4096)
        system.run(reactor, 500)
        peer.resume_reading()
        system.run(reactor, 30)
        assert peer.ending == "EOF"
        peer.close()
        system.run(reactor, 30)
        ended = reactor.statistics().ended
        assert len(peer.data) == ended.written > SIZE - 2000
        assert (ended.ended_in_order, ended.lost) == (1, 0)


@pytest.mark.parametrize("asked", ASKED)
def test_a_reader_that_takes_nothing_any_more_is_reset(tree: Tree, asked: str):
    """Within some idle timeouts: silence has an end after the last answer, too."""
    name, request, fin = ASKED[asked]
    system = SimulatedSystem(seed=1, link=LINKS["most waits here"])
    with Reactor(system=system) as reactor:
        listener = listen(name, reactor, tree, options_for("--idle-timeout", "600"))
        peer = system.peer(listener.addresses[0])
        peer.stop_reading()
        peer.send(request)
        if fin:
            peer.fin()
        system.run(reactor, 2000)
        assert not reactor.connections
        peer.resume_reading()
        assert peer.ending == "reset"


def test_a_short_idle_timeout_shortens_no_other_deadline():
    """A peer that does not speak is ended soon; one that takes the last answer slowly keeps the library's patience."""
    short, default = options_for("--idle-timeout", "1").deadlines, Options().deadlines
    assert short.idle == 1
    assert (short.flush, short.linger_silence, short.linger_total) == (
        default.flush,
        default.linger_silence,
        default.linger_total,
    )
    assert options_for().deadlines == default
