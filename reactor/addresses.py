"""Addresses: a family and what the kernel takes for it, how people write it, and what can be one.

Nothing here asks anybody: a name is looked up by `System.resolve`.
"""

from __future__ import annotations

import socket
from typing import Any, TypeAlias

import attrs

# What `getsockname` gives and `bind` takes: (host, port), (host, port, flow label, scope), a path, or an abstract name.
SocketAddress: TypeAlias = Any

# A port, and of an IPv6 address the flow label and the scope.
_MOST_IN_ADDRESS = (65535, 2**20 - 1, 2**32 - 1)


@attrs.frozen
class Address:
    """Where to listen or to connect: a family and what the kernel takes for it."""

    family: int
    sockaddr: SocketAddress

    def __str__(self) -> str:
        return address_text(self.sockaddr)

    def with_port(self, port: int) -> Address:
        """The same, but for the port."""
        host, _, *rest = self.sockaddr
        return attrs.evolve(self, sockaddr=(host, port, *rest))


def address_text(sockaddr: SocketAddress) -> str:
    """An address as people write it: 127.0.0.1:80, [::1]:80, /run/socket, @abstract, or `unnamed`."""
    if isinstance(sockaddr, tuple):
        host, port = sockaddr[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(sockaddr, bytes):
        sockaddr = "@" + sockaddr.lstrip(b"\0").decode("utf-8", "backslashreplace") if sockaddr else ""
    return str(sockaddr) or "unnamed"


def check_port(port: object) -> int:
    """A TCP port; ValueError otherwise."""
    if type(port) is not int or not 0 <= port <= 65535:
        raise ValueError(f"a port is a whole number from 0 to 65535, not {port!r}")
    return port


def is_sendable(family: int, address: object) -> bool:
    """Whether a datagram can be sent there without asking anybody: numbers, or a Unix path."""
    if family == socket.AF_UNIX:
        return isinstance(address, (str, bytes))
    if not isinstance(address, tuple) or not 2 <= len(address) <= (4 if family == socket.AF_INET6 else 2):
        return False
    host, *numbers = address
    # Port, and for v6 the flow and the scope.
    limits = zip(numbers, _MOST_IN_ADDRESS, strict=False)
    if any(type(number) is not int or not 0 <= number <= most for number, most in limits):
        return False
    if not isinstance(host, str):
        return False
    try:
        socket.inet_pton(family, host.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True
