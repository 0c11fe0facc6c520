"""When are two worlds the same? When everything is that decides what happens next.

Absolute counts and times are left out: a world that has moved more bytes, or moved them later, has the same future.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from reactor import Reactor
from reactor.connection import Connection
from reactor.listener import Listener
from reactor.testing.sockets import StreamSocket
from reactor.testing.tcp import TcpSocket
from reactor.testing.unix import UnixSocket

_PLAIN = (bool, int, str, type(None))

# Counts and clocks that grow, and what only names or is named: without them equal worlds look equal.
_GROWING = {
    "_received", "_discarded", "_accepted", "_unsent", "_acknowledged", "_turn", "_number", "_stages",
    "_read_at", "_sent_at", "_since", "_watch", "_loop", "_socket", "_fd", "_address", "_options", "_watermarks",
    "_read_bytes", "_protocol", "_queue", "_observer", "_on_end",
}  # fmt: skip
_ALL = [field.name for field in attrs.fields(Connection)]
assert set(_ALL) >= _GROWING, "a field that is left out is not there any more"
_FIELDS = [name for name in _ALL if name not in _GROWING]


def connection_fingerprint(connection: Connection, reactor: Reactor) -> tuple[Any, ...]:
    """Everything of a connection's own that decides what it does next. The one place that looks inside.

    No name has a default: one that is no longer there must fail, or different worlds would look the same.
    """
    get: Callable[[object, str], Any] = getattr
    now = reactor.time()
    words: list[Any] = [connection.get_write_buffer_size()]
    for name in _FIELDS:
        value = get(connection, name)
        if not isinstance(value, _PLAIN):
            # A state, a callable, or an object of which it matters only that it is there.
            value = getattr(value, "name", None) or getattr(value, "__name__", None) or type(value).__name__
        words.append(value)
    accepted = get(connection, "_accepted")
    words += [get(connection, "_turn") == reactor.turns, get(connection, "_unsent") > 0]
    watch = get(connection, "_watch")
    if watch is not None:
        armed_at, accepted_by_then = get(watch, "_args")
        words += [round(now - get(connection, name), 6) for name in ("_read_at", "_sent_at", "_since")]
        words += [round(watch.when() - now, 6), round(now - armed_at, 6), accepted - accepted_by_then > 0]
        words.append(accepted - get(connection, "_acknowledged"))
    words.append(tuple(get(get(handle, "_callback"), "__name__") for handle in get(reactor, "_posted")))
    words += [len(reactor.gathered), len(reactor.dead)]
    return tuple(words)


def listener_fingerprint(listener: Listener, reactor: Reactor) -> tuple[Any, ...]:
    """The same of a listener: whether it pauses, for how long the next time, and whether it watches its sockets."""
    get: Callable[[object, str], Any] = getattr
    retry = get(listener, "_retry")
    return (
        listener.is_closing(),
        listener.connections,
        get(listener, "_back_off"),
        get(listener, "_famine") is not None,
        None if retry is None else round(retry.when() - reactor.time(), 6),
        tuple((door.registered, door.open) for door in get(listener, "_doors")),
    )


def socket_fingerprint(sock: StreamSocket) -> tuple[Any, ...]:
    words: tuple[Any, ...] = (len(sock.inbox), sock.shut, sock.fin_received, sock.error_number, sock.released)
    words += (len(sock.error_queue),)
    if isinstance(sock, TcpSocket):
        words += (len(sock.out), sock.in_flight, sock.fin_posted, sock.fin_acked, sock.dead, sock.was_reset)
        words += (sock.orphan, sock.fin_came_first, sock.soft_error)
    elif isinstance(sock, UnixSocket):
        words += (sock.peer_gone,)
    return words
