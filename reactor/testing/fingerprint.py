"""When are two worlds the same? When everything is that decides what happens next.

Absolute counts and times are left out: a world that has moved more bytes, or moved them later, has the same future.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from reactor import Reactor
from reactor.connection import Connection
from reactor.testing.sockets import StreamSocket
from reactor.testing.tcp import TcpSocket
from reactor.testing.unix import UnixSocket

_PLAIN = (bool, int, str, type(None))

# Counts and clocks that grow, and what only names or is named: without them equal worlds look equal.
_GROWING = {
    "_received", "_discarded", "_accepted", "_unsent", "_acknowledged", "_turn", "_number", "_stages", "_report",
    "_read_at", "_sent_at", "_since", "_watch", "_loop", "_socket", "_fd", "_address", "_options", "_watermarks",
    "_read_bytes", "_protocol", "_queue", "_observer", "_on_end", "_armed_at", "_accepted_when_armed",
}  # fmt: skip


def connection_fingerprint(connection: Connection, reactor: Reactor) -> tuple[Any, ...]:
    """Everything of a connection's own that decides what it does next. The one place that looks inside."""
    get: Callable[..., Any] = getattr
    now = reactor.time()
    words: list[Any] = [connection.get_write_buffer_size()]
    for name in _field_names():
        value = get(connection, name)
        if not isinstance(value, _PLAIN):
            # A state, a callable, or an object of which it matters only that it is there.
            value = get(value, "name", None) or get(value, "__name__", None) or type(value).__name__
        words.append(value)
    words.append(get(connection, "_turn", None) == reactor.turns)
    watch = get(connection, "_watch", None)
    if watch is not None:
        words += [
            round(now - get(connection, name, 0.0), 6) for name in ("_read_at", "_sent_at", "_since", "_armed_at")
        ]
        words.append(get(connection, "_accepted", 0) == get(connection, "_accepted_when_armed", 0))
        words.append(round(watch.when() - now, 6))
        words.append(get(connection, "_accepted", 0) - get(connection, "_acknowledged", 0))
    words.append(get(connection, "_unsent", 0) > 0)
    posted = get(reactor, "_posted", ())
    words.append(tuple(get(get(handle, "_callback"), "__name__", None) for handle in posted))
    words += [len(reactor.gathered), len(reactor.dead)]
    return tuple(words)


def _field_names() -> tuple[str, ...]:
    if not _names:
        _names.extend(field.name for field in attrs.fields(Connection) if field.name not in _GROWING)
    return tuple(_names)


_names: list[str] = []


def socket_fingerprint(sock: StreamSocket) -> tuple[Any, ...]:
    words: tuple[Any, ...] = (len(sock.inbox), sock.shut, sock.fin_received, sock.error_number, sock.released)
    if isinstance(sock, TcpSocket):
        words += (len(sock.out), sock.in_flight, sock.fin_posted, sock.fin_acked, sock.dead, sock.was_reset)
        words += (sock.orphan, sock.fin_came_first)
    elif isinstance(sock, UnixSocket):
        words += (sock.peer_gone,)
    return words
