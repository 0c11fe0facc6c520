"""Addresses: a family and what the kernel takes for it, how people write it, and what can be one.

Every address has one normal form, whatever role it has: the one that `getsockname`, `getpeername` and `recvfrom` give.
`numeric` and `unix_name` make it; two addresses are the same if their normal forms are equal. A zone
(`fe80::1%eth0`, RFC 4007) becomes the scope number, or is refused; it is never dropped, as `bind` and `sendto` would.

A C library reads a string up to the first NUL. So a NUL is refused in every string that is passed to one: a host, a
path, the name of a network interface, the host name of a certificate. An abstract Unix name is counted instead: it
begins with NUL, and may have more of them.

Nothing here asks anybody: a name is looked up by `System.resolve`, a zone by `System.zone_index`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

# What `getsockname` gives and `bind` takes: (host, port), (host, port, flow label, scope), a path, or an abstract name.
SocketAddress: TypeAlias = Any

# What is asked for: (host, port), or as `getsockname` gives it; a path, or an abstract name.
InetAddress: TypeAlias = tuple[str, int] | tuple[str, int, int] | tuple[str, int, int, int]
UnixPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

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
    """An address as people write it: 127.0.0.1:80, [fe80::1%2]:80, /run/socket, @abstract, or `unnamed`."""
    if isinstance(sockaddr, tuple):
        host, port = sockaddr[:2]
        if len(sockaddr) == 4 and sockaddr[3] and "%" not in host:
            host = f"{host}%{sockaddr[3]}"
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    name = os.fsencode(sockaddr)
    if name.startswith(b"\0"):
        name = b"@" + name[1:]
    return "".join(_shown(character) for character in name.decode("utf-8", "backslashreplace")) or "unnamed"


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def check_port(port: object) -> int:
    """A TCP port; ValueError otherwise."""
    if type(port) is not int or not 0 <= port <= 65535:
        raise ValueError(f"a port is a whole number from 0 to 65535, not {port!r}")
    return port


def check_string(what: str, value: object) -> str:
    """A string that a C library reads to its end; ValueError, naming the argument, otherwise."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is a string, not {value!r}")
    if "\0" in value:
        raise ValueError(f"{what} has no NUL character, unlike {value!r}: everything behind it would be cut off")
    return value


def check_host(what: str, host: object) -> str:
    """A host name, or an address in numbers; only one that needs a scope has a zone. ValueError otherwise."""
    text = check_string(what, host)
    if "%" in text:
        packed = _packed(socket.AF_INET6, text.partition("%")[0])
        if packed is None or not _needs_scope(packed):
            raise ValueError(f"{what} has a zone (%) only behind a link-local IPv6 address, unlike {host!r}")
    return text


def unix_name(what: str, path: object) -> str | bytes:
    """The normal form of a Unix address: a path in words, an abstract name in bytes. ValueError for what is neither.

    An empty path asks the kernel for an abstract name.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise ValueError(f"{what} is a path, or an abstract name that begins with NUL, not {path!r}")
    name = os.fsencode(path)
    if name.startswith(b"\0"):
        return name
    return check_string(what, os.fsdecode(name))


def numeric(family: int, address: object, zone_index: Callable[[str], int]) -> SocketAddress:
    """The normal form of an address that is given in numbers; None for anything else, a name for instance.

    `zone_index` gives the number of the network interface of that name, or raises OSError. The scope may be given as a
    zone or as the number in fourth place. An address that needs no scope must have none: the kernel would ignore it.
    """
    if not isinstance(address, tuple) or not 2 <= len(address) <= (4 if family == socket.AF_INET6 else 2):
        return None
    host, *numbers = address
    limits = zip(numbers, _MOST_IN_ADDRESS, strict=False)
    if any(type(number) is not int or not 0 <= number <= most for number, most in limits):
        return None
    if not isinstance(host, str):
        return None
    host, percent, zone = host.partition("%")
    packed = _packed(family, host)
    if packed is None:
        return None
    host = socket.inet_ntop(family, packed)
    if family == socket.AF_INET:
        return None if percent else (host, *numbers)
    port, flow, scope = (*numbers, 0, 0)[:3]
    if (percent or scope) and not _needs_scope(packed):
        return None
    if percent:
        index = _index(zone, zone_index)
        if index is None or scope not in (0, index):
            return None
        scope = index
    return host, port, flow, scope


def _packed(family: int, host: str) -> bytes | None:
    try:
        return socket.inet_pton(family, host)
    except (OSError, ValueError):
        return None


def _needs_scope(packed: bytes) -> bool:
    """Link-local, or multicast on one link or interface: where a scope has a meaning (Linux; RFC 4007, 4 and 6)."""
    link_local = packed[0] == 0xFE and packed[1] & 0xC0 == 0x80
    return link_local or (packed[0] == 0xFF and packed[1] & 0x0F in (1, 2))


def _index(zone: str, zone_index: Callable[[str], int]) -> int | None:
    if zone.isascii() and zone.isdigit():
        number = int(zone)
        return number if 0 < number <= _MOST_IN_ADDRESS[2] else None
    return zone_index(zone) if zone and "\0" not in zone else None


def same_place(one: SocketAddress, other: SocketAddress) -> bool:
    """Whether two addresses in normal form are the same: the flow label says how to go there, not where it is."""
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other) == 4:
        return one[:2] == other[:2] and one[3] == other[3]
    return bool(one == other)
