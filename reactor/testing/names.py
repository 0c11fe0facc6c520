"""Who is bound where: one table of a kernel's, for listening sockets or for those that receive datagrams.

A name is a host and a port, or a Unix socket's path. Who is bound to all addresses of a family (0.0.0.0, ::) has every
host of it; dual-stack, of both. No two names of a table may mean the same address: EADDRINUSE, whoever comes second.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Generic, TypeVar

from reactor.testing.sockets import SimulatedSocket, os_error

Bound = TypeVar("Bound", bound=SimulatedSocket)

_ALL = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
WILDCARDS = tuple(_ALL.values())


def family_of(sockaddr: Any) -> socket.AddressFamily:
    """A Unix socket's name is no tuple."""
    if not isinstance(sockaddr, tuple):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in sockaddr[0] else socket.AF_INET


class Names(Generic[Bound]):
    """See the top of this module."""

    def __init__(self) -> None:
        self._bound: dict[Any, Bound] = {}

    def bind(self, sockaddr: Any, sock: Bound, *, dual_stack: bool = False) -> None:
        """EADDRINUSE, and nothing is bound, when another has the name or a part of what it means."""
        keys = [(host, sockaddr[1]) for host in WILDCARDS] if dual_stack else [_key(sockaddr)]
        if any(_overlap(key, taken) for key in keys for taken in self._bound):
            raise os_error(errno.EADDRINUSE)
        for key in keys:
            self._bound[key] = sock

    def unbind(self, sock: Bound) -> None:
        """All names that it has."""
        self._bound = {key: bound for key, bound in self._bound.items() if bound is not sock}

    def find(self, sockaddr: Any) -> Bound | None:
        """Who is bound there, be it to all addresses of the family."""
        found = self._bound.get(_key(sockaddr))
        if found is None and isinstance(sockaddr, tuple):
            found = self._bound.get((_ALL[family_of(sockaddr)], sockaddr[1]))
        return found

    def has_port(self, port: int) -> bool:
        """Whether anybody is bound to it, on any address."""
        return any(isinstance(key, tuple) and key[1] == port for key in self._bound)


def _key(sockaddr: Any) -> Any:
    """What tells two names apart: of an IPv6 address the scope, and not the flow."""
    if not isinstance(sockaddr, tuple):
        return sockaddr
    host, port, *rest = sockaddr
    return (f"{host}%{rest[1]}" if len(rest) == 2 and rest[1] else host, port)


def _overlap(one: Any, other: Any) -> bool:
    if one == other or not (isinstance(one, tuple) and isinstance(other, tuple)):
        return bool(one == other)
    if one[1] != other[1] or family_of(one) != family_of(other):
        return False
    return one[0] in WILDCARDS or other[0] in WILDCARDS
