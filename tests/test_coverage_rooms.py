"""What the tests of a room leave out because it is small: defaults, words, and what befalls the loop seldom.

Together with the rooms' own tests these take every branch of the rooms that `tests/covered.py` names.
"""

from __future__ import annotations

import io
import json
import logging
import runpy
import socket
import ssl
from pathlib import Path

import attrs
import pytest

from reactor import DatagramProtocol, DrainSummary, Protocol, Reactor, Reader, ReceiveBuffer, Report, Totals, Watermarks
from reactor.testing import DescriptorLimit, SimulatedSystem
from reactor.tls import Codec, codecs
from reactor.trace import Record, json_lines, text
from tests.helpers import Recorder, all_closed, sealed, turn_until
from tests.test_tls import client_context, server_context

ROOT = Path(__file__).parent.parent

# Words


class Closable:
    """Counts how often it was closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_connect_that_failed_is_logged_unless_it_is_dealt_with(caplog):
    """The default of `connection_failed` says why, as a warning."""
    with caplog.at_level(logging.WARNING, logger="reactor"):
        Protocol().connection_failed(ConnectionRefusedError("nobody listens there"))
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "nobody listens there")
    ]


def test_a_lost_datagram_is_logged_unless_it_is_dealt_with(caplog):
    """The default of `error_received` says why, as a warning."""
    with caplog.at_level(logging.WARNING, logger="reactor"):
        DatagramProtocol().error_received(OSError("too long"))
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(logging.WARNING, "too long")]


@pytest.mark.parametrize("protocol", [Protocol(), DatagramProtocol()])
def test_a_drain_closes_in_order_unless_the_protocol_knows_better(protocol):
    """The default of `draining` closes what `connection_made` was given."""
    end = Closable()
    protocol.connection_made(end)
    protocol.draining()
    assert end.closed == 1


@pytest.mark.parametrize(
    ("totals", "clean", "words"),
    [
        (Totals(ended_in_order=3), True, "drained in 1.5 s: 3 connections ended in order"),
        (
            Totals(ended_in_order=1, lost=2, unsent=30, unacknowledged=4),
            False,
            "drained in 1.5 s: 1 connections ended in order, 2 not; 30 bytes unsent, 4 unacknowledged",
        ),
        (Totals(datagrams_unsent=5), False, "drained in 1.5 s: 0 connections ended in order; 5 datagrams unsent"),
    ],
)
def test_a_drain_is_clean_only_if_nothing_was_lost(totals, clean, words):
    """Connections and datagrams that were lost are both told, in words and by `clean`."""
    summary = DrainSummary(ended=totals, seconds=1.5, finished=True)
    assert (summary.clean, str(summary)) == (clean, words)
    assert not DrainSummary(ended=totals).clean  # it has not finished


def test_a_reader_of_ones_own_must_say_how_it_reads_and_writes():
    """A way to tell where a frame ends has no default."""
    with pytest.raises(NotImplementedError):
        Reader().read(ReceiveBuffer())
    with pytest.raises(NotImplementedError):
        Reader().frame(b"")


@pytest.mark.parametrize(
    ("high", "low", "expected"),
    [(None, None, (100, 10)), (40, None, (40, 10)), (None, 5, (20, 5)), (9, 5, (9, 5))],
)
def test_a_watermark_that_is_left_out_follows_from_the_other(high, low, expected):
    """A quarter below, four times above; without either, what was chosen holds."""
    found = Watermarks(high=100, low=10).instead(high, low)
    assert (found.high, found.low) == expected


@pytest.mark.parametrize(("unacknowledged", "lost"), [(4, 7), (0, 3), (None, None)])
def test_what_was_lost_is_known_only_if_the_kernel_could_tell(unacknowledged, lost):
    """Unsent and unacknowledged bytes together; no guess where one of them is not known."""
    blank = dict.fromkeys(field.name for field in attrs.fields(Report))
    assert Report(**{**blank, "unsent": 3, "unacknowledged": unacknowledged}).lost == lost


RECORDS = [
    Record(100.0, "#1", "received", 5),
    Record(100.0, "#1", "data_received", 5),
    Record(100.25, "#2", "closed", None, "no \N{EURO SIGN}"),
]


def test_a_trace_for_people_has_what_was_on_the_wire():
    """A line for each thing, with the seconds since the first; callbacks are left out."""
    out = io.StringIO()
    write = text(out)
    for record in RECORDS:
        write(record)
    assert out.getvalue() == "   0.0000 #1 received 5\n   0.2500 #2 closed no \N{EURO SIGN}\n"


def test_a_trace_for_programs_has_everything():
    """A line of JSON for each record, with all its fields."""
    out = io.StringIO()
    for record in RECORDS:
        json_lines(out)(record)
    assert [Record(**json.loads(line)) for line in out.getvalue().splitlines()] == RECORDS


def test_the_page_of_the_table_is_what_the_command_prints(capsys):
    """`python -m reactor.lifecycle` prints the page that the docs have."""
    runpy.run_path(str(ROOT / "reactor" / "lifecycle" / "__main__.py"), run_name="__main__")
    assert capsys.readouterr().out == (ROOT / "docs" / "lifecycle.md").read_text(encoding="utf-8")


# TLS in memory


def shaken() -> tuple[Codec, Codec]:
    """A client and a server whose handshake is complete."""
    client = Codec(client_context(), server_side=False, server_hostname="localhost")
    server = Codec(server_context(), server_side=True, server_hostname=None)
    done = [False, False]
    for _ in range(10):
        done[0] = done[0] or client.shake()
        server.hold(client.take())
        done[1] = done[1] or server.shake()
        client.hold(server.take())
    assert done == [True, True]
    return client, server


@pytest.mark.parametrize("context", [True, "cert.pem", ssl.SSLContext])
def test_what_is_no_context_is_refused_at_once(context):
    """TypeError names what was given, before anybody connects."""
    with pytest.raises(TypeError, match=r"must be an ssl\.SSLContext, not "):
        codecs(context, server_side=True)


def test_a_client_without_a_name_to_check_is_refused_at_once():
    """A certificate that is good for nobody in particular proves nothing; a context may be told not to ask."""
    with pytest.raises(ValueError, match="needs a server_hostname"):
        codecs(ssl.create_default_context(), server_side=False)


@pytest.mark.parametrize("server_side", [True, False])
def test_a_context_made_for_the_other_side_is_refused_at_once(server_side):
    """ValueError names the kind of context that it is, and the kind that is needed."""
    context = client_context() if server_side else server_context()
    needed = "PROTOCOL_TLS_SERVER" if server_side else "PROTOCOL_TLS_CLIENT"
    with pytest.raises(ValueError, match=f"is for the other side: it has PROTOCOL_TLS_.*, and {needed} is needed"):
        codecs(context, server_side=server_side, server_hostname=None if server_side else "localhost")


@pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning")
@pytest.mark.parametrize("server_side", [True, False])
def test_a_context_made_for_both_sides_serves_both(server_side):
    """The deprecated kind, without a side of its own."""
    assert codecs(ssl.SSLContext(ssl.PROTOCOL_TLS), server_side=server_side)() is not None


def test_a_name_that_tls_cannot_carry_is_refused_at_once():
    """ValueError names it: a name of more than 255 bytes."""
    name = ".".join(["label"] * 60)
    with pytest.raises(ValueError, match=f"cannot be used with server_hostname '{name}'"):
        codecs(client_context(), server_side=False, server_hostname=name)


def test_what_is_held_is_read_later_and_in_order():
    """Records that came too early for anybody are not lost, and stand before what comes next."""
    client, server = shaken()
    server.hold(sealed(client, b"one, "))
    assert server.read(sealed(client, b"two")) == b"one, two"


def test_what_openssl_cannot_encrypt_yet_waits_for_a_read():
    """During a handshake, the first one here, OpenSSL has to read before it can write."""
    codec = codecs(client_context(), server_side=False, server_hostname="localhost")()
    assert codec.encrypt(b"too early") == 0
    assert codec.wants_input
    assert codec.read() == b""
    assert not codec.wants_input


def test_whether_anything_is_held_can_be_asked():
    """Plaintext that was not read yet, or the peer's end."""
    client, server = shaken()
    assert not server.has_input()
    server.hold(sealed(client, b"held"))
    assert server.has_input()
    assert server.read() == b"held"
    assert not server.has_input()


def test_a_spoiled_stream_is_told_after_what_was_good():
    """What came whole is delivered first; from then on every read says what is wrong."""
    client, server = shaken()
    good, bad = sealed(client, b"good"), bytearray(sealed(client, b"bad"))
    bad[-1] ^= 1
    assert server.read(good + bytes(bad)) == b"good"
    for _ in range(2):
        with pytest.raises(ssl.SSLError):
            server.read()


# The loop


def test_who_was_dismissed_within_a_batch_is_not_served_in_it(reactor):
    """Two descriptors are ready at once; the first to be called ends the other, which is called no more."""
    pairs = [socket.socketpair() for _ in range(2)]
    with all_closed(*pairs[0], *pairs[1]):
        called = []

        def ready(mine: socket.socket, other: socket.socket) -> None:
            called.append(mine)
            reactor.remove_reader(other)

        for ours, theirs in pairs:
            theirs.send(b"x")
            other = pairs[1][0] if ours is pairs[0][0] else pairs[0][0]
            reactor.add_reader(ours, ready, ours, other)
        turn_until(reactor, lambda: called)
        assert len(called) == 1
        reactor.remove_reader(called[0])


def test_who_starves_is_told_when_a_descriptor_is_free():
    """A listener that ran out of descriptors lets the next one in as soon as another connection has ended."""
    system = SimulatedSystem()
    with Reactor(system=system) as reactor:
        served: list[Recorder] = []

        def make() -> Recorder:
            served.append(Recorder())
            return served[-1]

        listener = reactor.listen(make, "127.0.0.1", 0)
        system.faults = [DescriptorLimit(len(system.descriptors) + 2)]
        first, second, third = (system.peer(listener.addresses[0]) for _ in range(3))
        system.run(reactor, seconds=10)  # by now it looks again seldom, on its own
        assert reactor.starved
        assert len(served) == 2
        first.close()
        second.close()
        system.run(reactor, until=lambda: served[0].ended)
        freed = system.now
        system.run(reactor, until=lambda: len(served) == 3)
        assert system.now == freed
        assert not reactor.starved
        third.close()
        system.run(reactor, until=lambda: not reactor.connections)


@pytest.mark.logs_errors
def test_a_number_that_comes_back_belongs_to_the_new_end(reactor, caplog):
    """Somebody closed a watched descriptor, and the kernel gave its number to a connection: that one is served, and
    the mistake is logged."""
    ours, theirs = socket.socketpair()
    number = ours.fileno()
    reactor.add_reader(ours, pytest.fail, "the watch of a closed descriptor was called")
    ours.close()
    new, peer = socket.socketpair()
    with all_closed(theirs, peer):
        assert number == new.fileno()
        protocol = Recorder()
        reactor.connect(lambda: protocol, sock=new)
        peer.send(b"hello")
        turn_until(reactor, lambda: protocol.data)
        peer.close()
        turn_until(reactor, lambda: protocol.ended)
    assert (protocol.data, protocol.lost) == (b"hello", None)
    assert "closed while it was watched" in caplog.text
