"""Sockets that somebody else made: what this library's promises cannot bear is switched off, and the rest is kept.

Whoever makes a socket may set options on it that change what a close, a send or an event means; accepted sockets
inherit them from their listener. `TABLE` says for each option what becomes of it, and why. Sockets made by this library
have the kernel's defaults, so nothing of this is asked for them. Part of the seam.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from reactor.errors import named

_LINUX = sys.platform == "linux"
_NO_LINGER = struct.pack("ii", 0, 0)


@attrs.frozen
class Row:
    """An option of a given socket. The numbers are Linux's; elsewhere only SO_LINGER and SO_RCVLOWAT are looked at."""

    name: str
    level: int
    number: int
    # What it is set to; None: it is kept as it comes.
    value: int | bytes | None
    why: str
    # Set whatever its present value is.
    always: bool = False


_SOCKET, _IP, _IPV6, _TCP, _UDP = socket.SOL_SOCKET, 0, 41, 6, 17

TABLE = (
    Row("SO_LINGER", _SOCKET, socket.SO_LINGER, _NO_LINGER, "our close would reset, or block"),
    Row("SO_RCVLOWAT", _SOCKET, socket.SO_RCVLOWAT, 1, "the last bytes of a message would not make it readable"),
    Row("SO_TIMESTAMPING", _SOCKET, 37, 0, "time stamps of what we send fill the error queue, which nobody reads"),
    Row("IP_RECVERR", _IP, 11, 0, "one ICMP message would end a TCP connection; 0 also empties the error queue", True),
    Row("IPV6_RECVERR", _IPV6, 25, 0, "the same for IPv6", True),
    Row("TCP_CORK", _TCP, 3, 0, "what is written would wait for 200 ms"),
    Row("TCP_LINGER2", _TCP, 8, 0, "a negative one makes our close a reset once the peer has acknowledged our FIN"),
    Row("UDP_CORK", _UDP, 1, 0, "datagrams would be joined, and never sent"),
    Row("UDP_SEGMENT", _UDP, 103, 0, "one datagram would be sent as several"),
    Row("UDP_GRO", _UDP, 104, 0, "several datagrams would be received as one"),
    Row("SO_RCVTIMEO", _SOCKET, 20, None, "a non-blocking call does not wait"),
    Row("SO_SNDTIMEO", _SOCKET, 21, None, "a non-blocking call does not wait"),
    Row(
        "SO_OOBINLINE",
        _SOCKET,
        socket.SO_OOBINLINE,
        None,
        "where an urgent byte is read is between its owner and the peer",
    ),
    Row("SO_KEEPALIVE", _SOCKET, socket.SO_KEEPALIVE, None, "finds a dead peer; Options.sockets can set it as well"),
    Row("SO_ZEROCOPY", _SOCKET, 60, None, "means nothing without MSG_ZEROCOPY, which is not used here"),
    Row("SO_BUSY_POLL", _SOCKET, 46, None, "only costs time"),
    Row("TCP_DEFER_ACCEPT", _TCP, 9, None, "who has sent nothing is not in the accept queue, so no drain lets it in"),
    Row("TCP_FASTOPEN", _TCP, 23, None, "data in a SYN is read like any other"),
    Row("TCP_USER_TIMEOUT", _TCP, 18, None, "finds a dead peer; Options.sockets can set it as well"),
    Row("TCP_NOTSENT_LOWAT", _TCP, 25, None, "only says when the kernel takes more"),
)


def check(what: str, sock: object) -> None:
    """TypeError for what is no socket, or does more than a socket."""
    if not isinstance(sock, socket.socket):
        raise TypeError(f"{what} takes a socket.socket as sock, not {sock!r}")
    ssl = sys.modules.get("ssl")  # whoever has such a socket has imported it
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        raise TypeError(f"{what} takes no TLS socket as sock ({sock!r}): give a plain socket, and an SSLContext as tls")


@contextmanager
def taken(sock: socket.socket) -> Iterator[None]:
    """Makes the socket non-blocking and its options as in `TABLE`; if that or what follows fails, it is as it was."""
    timeout = sock.gettimeout()
    before: list[tuple[Row, int | bytes]] = []
    try:
        try:
            sock.setblocking(False)
            for row in TABLE:
                if row.value is not None and _is_for(row, sock):
                    _switch_off(row, row.value, sock, before)
        except OSError as exc:
            raise named(exc, f"cannot use {sock!r}") from exc
        yield
    except BaseException:
        _give_back(sock, timeout, before)
        raise


def _is_for(row: Row, sock: socket.socket) -> bool:
    if row.level == _SOCKET:
        return _LINUX or row.number in (socket.SO_LINGER, socket.SO_RCVLOWAT)
    if not _LINUX or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    if row.level == _IP:
        return True  # an IPv6 socket may have IPv4 peers
    if row.level == _IPV6:
        return sock.family == socket.AF_INET6
    return sock.type == (socket.SOCK_STREAM if row.level == _TCP else socket.SOCK_DGRAM)


def _switch_off(row: Row, value: int | bytes, sock: socket.socket, before: list[tuple[Row, int | bytes]]) -> None:
    try:
        found = _get(row, sock)
    except OSError:
        return  # an option that this kernel, or this protocol, does not have
    if found == value and not row.always:
        return
    try:
        sock.setsockopt(row.level, row.number, value)
    except OSError as exc:
        raise named(exc, f"its {row.name} cannot be switched off") from exc
    before.append((row, found))


def _get(row: Row, sock: socket.socket) -> int | bytes:
    if isinstance(row.value, bytes):
        return sock.getsockopt(row.level, row.number, len(row.value))
    return sock.getsockopt(row.level, row.number)


def _give_back(sock: socket.socket, timeout: float | None, before: list[tuple[Row, int | bytes]]) -> None:
    try:
        sock.settimeout(timeout)
        for row, value in before:
            sock.setsockopt(row.level, row.number, value)
    except OSError:
        pass  # not even a socket any more
