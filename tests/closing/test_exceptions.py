"""A callback raises: the peer must see a reset, never the clean end of a truncated reply: scenarios 47 to 51."""

from __future__ import annotations

import logging

import pytest

from reactor import Aborted, Options
from tests.closing.support import QUEUEING, REPLY, TCP, Scripted, check_cut, check_end, ended, scripted, turn
from tests.helpers import Recorder, turn_until

ERROR = RuntimeError("on purpose")


def fail(connection) -> None:
    raise ERROR


def write_and_fail(connection) -> None:
    connection.write(REPLY)
    raise ERROR


def errors(caplog) -> list[BaseException]:
    """What the reactor's log has, exactly."""
    return [record.exc_info[1] for record in caplog.records if record.levelno >= logging.ERROR]


def check_neighbour(server, other, neighbour) -> None:
    """Somebody else is served as before."""
    other.send(b"still here")
    turn_until(server.reactor, lambda: neighbour.data == b"still here")
    other.fin()
    assert other.read_to_end() == "EOF"
    ended(neighbour)
    assert neighbour.lost is None


@pytest.mark.logs_errors
@TCP
def test_an_exception_in_connection_made_resets_and_nothing_is_delivered(serve, caplog):
    """Scenario 47: what the client had sent stays undelivered; connection_lost gets that very exception."""
    server = serve(scripted(connection_made=fail))
    with server.peer() as peer:
        peer.sock.send(b"request")
        assert peer.read_to_end() == "reset"
        assert peer.data == b""
    (protocol,) = server.protocols
    ended(protocol)
    check_end(protocol, "connection_made connection_lost", ERROR, "reset", written=0, received=0, fin_sent=False)
    assert errors(caplog) == [ERROR]


@pytest.mark.logs_errors
def test_an_exception_with_3_mb_queued_never_looks_like_a_whole_reply(serve, transport, caplog):
    """Scenario 48: data_received raises behind its write; the client sees a reset, the report counts the rest."""
    server = serve(scripted(data_received=write_and_fail), QUEUEING)
    other, neighbour = server.connected()
    with other, server.peer() as peer:
        neighbour.script.clear()
        peer.send(b"request")
        assert peer.read_to_end() == ("EOF" if transport == "unix" else "reset")
        protocol = server.protocols[1]
        ended(protocol)
        calls = "connection_made data_received connection_lost"
        check_end(protocol, calls, ERROR, "reset", written=len(REPLY), received=7, fin_sent=False)
        check_cut(protocol, peer, REPLY)
        assert protocol.report.unsent > 1_000_000
        check_neighbour(server, other, neighbour)
    assert errors(caplog) == [ERROR]


@pytest.mark.logs_errors
@TCP
@pytest.mark.parametrize("callback", ["eof_received", "pause_writing", "resume_writing"])
def test_an_exception_in_another_callback_resets_too(serve, caplog, callback):
    """Scenario 49: whichever callback it is, the connection ends with it, once, and the neighbour lives."""
    script = {callback: fail, "data_received": lambda connection: connection.write(REPLY)}
    server = serve(lambda: Scripted(**script), QUEUEING)
    other, neighbour = server.connected()
    with other, server.peer() as peer:
        neighbour.script.clear()
        if callback == "eof_received":
            peer.fin()
        else:
            peer.send(b"request")
        assert peer.read_to_end() == "reset"
        protocol = server.protocols[1]
        ended(protocol)
        calls = {
            "eof_received": "connection_made eof_received connection_lost",
            "pause_writing": "connection_made data_received pause_writing connection_lost",
            "resume_writing": "connection_made data_received pause_writing resume_writing connection_lost",
        }[callback]
        check_end(protocol, calls, ERROR, "reset", fin_sent=False)
        assert REPLY.startswith(peer.data)
        check_neighbour(server, other, neighbour)
    assert errors(caplog) == [ERROR]


@pytest.mark.logs_errors
def test_an_exception_in_connection_lost_is_logged_once(serve, caplog):
    """Scenario 49: the end was in order for the peer and stays so; nobody is called again; the loop lives."""
    server = serve(scripted(connection_lost=fail))
    other, neighbour = server.connected()
    neighbour.script.clear()
    with other, server.peer() as peer:
        peer.fin()
        assert peer.read_to_end() == "EOF"
        protocol = server.protocols[1]
        ended(protocol)
        turn(server.reactor)
        check_end(protocol, "connection_made eof_received connection_lost")
        check_neighbour(server, other, neighbour)
    assert errors(caplog) == [ERROR]


@pytest.mark.logs_errors
@TCP
def test_an_exception_in_draining_resets_that_connection(serve, caplog):
    """Scenario 49: the others drain in order, and the summary tells of the one."""
    server = serve(scripted(draining=lambda connection: connection.close()))
    peer, protocol = server.connected()
    other, neighbour = server.connected()
    protocol.script["draining"] = fail
    with peer, other:
        other.fin()
        summary = server.reactor.drain(10)
        assert peer.read_to_end() == "reset"
        assert other.read_to_end() == "EOF"
    check_end(protocol, "connection_made draining connection_lost", ERROR, "reset")
    assert neighbour.lost is None
    assert summary.finished
    assert not summary.clean
    assert (summary.ended.ended_in_order, summary.ended.lost) == (1, 1)
    assert errors(caplog) == [ERROR]


@pytest.mark.logs_errors
def test_an_exception_in_eof_received_with_a_queue_is_no_clean_end(serve, transport, caplog):
    """Scenario 49: the FIN would have followed by default; now it must not."""
    server = serve(scripted(keep_open=True, eof_received=write_and_fail), QUEUEING)
    with server.peer() as peer:
        peer.fin()
        assert peer.read_to_end() == ("EOF" if transport == "unix" else "reset")
    (protocol,) = server.protocols
    ended(protocol)
    check_end(protocol, "connection_made eof_received connection_lost", ERROR, "reset", written=len(REPLY))
    check_cut(protocol, peer, REPLY)
    assert errors(caplog) == [ERROR]


@pytest.mark.logs_errors
def test_an_exception_in_the_factory_costs_one_connection(serve, transport, caplog):
    """Scenario 50: no protocol, no callback; the client sees a reset, the next client is served."""
    made = []

    def factory():
        made.append(Recorder())
        if len(made) == 1:
            raise ERROR
        return made[-1]

    server = serve(factory)
    with server.peer() as peer:
        assert peer.read_to_end() == ("EOF" if transport == "unix" else "reset")
        assert peer.data == b""
    assert made[0].calls == []
    assert server.reactor.connections == ()
    other, neighbour = server.connected()
    with other:
        check_neighbour(server, other, neighbour)
    assert errors(caplog) == [ERROR]
    assert server.reactor.statistics().ended.connections == 2


@pytest.mark.parametrize("when", ["at once", "under way"])
def test_abort_with_a_queue_is_a_reset_with_every_byte_accounted_for(serve, transport, when):
    """Scenario 51: what was acknowledged arrived, what was not is counted, and no clean end pretends otherwise."""
    server = serve(options=QUEUEING)
    peer, protocol = server.connected()
    with peer:
        protocol.connection.write(REPLY)
        if when == "under way":
            turn(server.reactor)
            peer.read_until(500_000)
        protocol.connection.abort()
        assert not protocol.ended
        ended(protocol)
        assert peer.read_to_end() == ("EOF" if transport == "unix" else "reset")
    flow = "pause_writing " if when == "under way" else ""
    check_end(
        protocol,
        f"connection_made {flow}connection_lost",
        Aborted,
        "reset",
        written=len(REPLY),
        received=0,
        fin_sent=False,
        fin_acknowledged=None,
    )
    check_cut(protocol, peer, REPLY)
    assert protocol.report.unsent > 1_000_000


def test_abort_with_unread_input_is_a_reset_on_every_transport(serve):
    """Scenario 51: also a Unix socket can say so, when something of the client's was left unread."""
    server = serve(options=Options())
    peer, protocol = server.connected()
    with peer:
        protocol.connection.pause_reading()
        peer.sock.send(b"unread")
        turn(server.reactor)
        protocol.connection.abort()
        ended(protocol)
        assert peer.read_to_end() == "reset"
    check_end(protocol, "connection_made connection_lost", Aborted, "reset", received=0, discarded=0)
