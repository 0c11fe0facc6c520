"""The PROXY protocol's header, as pure functions: who really called, said by a proxy before its client's first byte.

After HAProxy's specification (proxy-protocol.txt, 2.1 and 2.2): version 1 is one line of text, version 2 is binary.

1. A header is whole or it is nothing: `parse` answers None until its last byte is there, and never looks behind it.
   What can no longer become one is `Malformed` at the first byte that says so. Both are bounded by `MOST_BYTES`.
2. Nothing is guessed: no other line end than CRLF, no leading zero, no sign, no port above 65535, no address of another
   family. Who lets such things pass lets others put words into their logs and rules.
3. A header may say that it does not know (UNKNOWN, LOCAL, a family or transport that is none of ours): then the
   connection's own addresses are the truth.
4. Version 2's extensions (TLVs) are skipped, as the specification allows, its checksum too: TCP has its own.

An address is what `socket` takes for one: `(host, port)`, or a Unix socket's path, empty for one without a name.
"""

from __future__ import annotations

import ipaddress
import os
import struct
from typing import TypeAlias

import attrs

Address: TypeAlias = "tuple[str, int] | str"

# 107 bytes are the longest line there is. A binary header's own 16 bytes, its addresses, and extensions: the largest of
# these is a client's certificate, one to three KiB. The field could say 64 KiB, which nobody has a use for.
MOST_BYTES = 4096
_LINE_BYTES = 107
_TEXT = b"PROXY "
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_VERSION, _LOCAL, _PROXY = 0x20, 0x0, 0x1
# The fixed part of version 2: signature, version and command, family and transport, the length of the rest.
_FIXED = struct.Struct("!12sBBH")
_STREAM = 0x1
_INET, _INET6, _UNIX = 0x1, 0x2, 0x3
_BLOCKS = {_INET: struct.Struct("!4s4sHH"), _INET6: struct.Struct("!16s16sHH"), _UNIX: struct.Struct("!108s108s")}
_KINDS = {_INET: "TCP4", _INET6: "TCP6"}
_FAMILIES, _TRANSPORTS = range(0x4), range(0x3)


class Malformed(ValueError):
    """What came is not a PROXY header."""


@attrs.frozen
class Header:
    """A whole header: how long it is, and whom it names. None: it says nothing of that (3 above)."""

    length: int
    source: Address | None = None
    destination: Address | None = None


def parse(data: bytes | bytearray) -> Header | None:
    """The header at the beginning of `data`, of either version; None while it is not complete. Raises Malformed."""
    for start, parse_version in ((_TEXT, _parse_text), (_SIGNATURE, _parse_binary)):
        if data[: len(start)] == start[: len(data)]:
            return parse_version(bytes(data[:MOST_BYTES])) if len(data) >= len(start) else None
    raise Malformed("it is not a PROXY header")


def build(version: int, source: Address | None, destination: Address | None) -> bytes:
    """The header that says so. One without both addresses, or with a kind that the version lacks, says "unknown"."""
    block = None if source is None or destination is None else _block(source, destination)
    return _build_text(block) if version == 1 else _build_binary(block)


# Version 1


def _parse_text(data: bytes) -> Header | None:
    line, end, _ = data[:_LINE_BYTES].partition(b"\r\n")
    if not end:
        # The last byte may be the first half of the line's end.
        if len(data) >= _LINE_BYTES or b"\r" in line[:-1] or b"\n" in line:
            raise Malformed(f"no line that ends in CRLF within {_LINE_BYTES} bytes")
        return None
    if b"\r" in line or b"\n" in line:
        raise Malformed("a line end that is not CRLF")
    kind, _, rest = line.removeprefix(_TEXT).partition(b" ")
    length = len(line) + len(end)
    if kind == b"UNKNOWN":
        return Header(length)
    if kind not in (b"TCP4", b"TCP6"):
        raise Malformed(f"{_quoted(kind)} is no kind of connection")
    words = rest.split(b" ")
    if len(words) != 4:
        raise Malformed(f"{len(words)} words instead of two addresses and two ports")
    source, destination = (_host(word, 4 if kind == b"TCP4" else 6) for word in words[:2])
    ports = [_port(word) for word in words[2:]]
    return Header(length, (source, ports[0]), (destination, ports[1]))


def _host(word: bytes, version: int) -> str:
    try:
        text = word.decode("ascii")
        if "%" not in text and ipaddress.ip_address(text).version == version:
            return text
    except ValueError:
        pass
    raise Malformed(f"{_quoted(word)} is no IPv{version} address")


def _port(word: bytes) -> int:
    if word.isdigit() and len(word) <= 5 and (word == b"0" or word[:1] != b"0") and int(word) <= 65535:
        return int(word)
    raise Malformed(f"{_quoted(word)} is no port")


def _quoted(word: bytes) -> str:
    """For a log line: nothing that a terminal would obey."""
    return ascii(word.decode("latin-1"))


def _build_text(block: _Block | None) -> bytes:
    if block is None or block[0] == _UNIX:
        return b"PROXY UNKNOWN\r\n"
    family, fields = block
    return " ".join(("PROXY", _KINDS[family], *map(str, fields))).encode() + b"\r\n"


# Version 2


def _parse_binary(data: bytes) -> Header | None:
    # Told as soon as it is there: the rest need not be waited for.
    if len(data) > 12 and data[12] not in (_VERSION | _LOCAL, _VERSION | _PROXY):
        raise Malformed(f"version and command 0x{data[12]:02x} are not of version 2")
    if len(data) < _FIXED.size:
        return None
    _, command, kind, rest = _FIXED.unpack_from(data)
    length = _FIXED.size + rest
    if length > MOST_BYTES:
        raise Malformed(f"a header of {length} bytes, more than {MOST_BYTES}")
    if len(data) < length:
        return None
    family, transport = kind >> 4, kind & 0xF
    if command == _VERSION | _LOCAL:
        return Header(length)
    if family not in _FAMILIES or transport not in _TRANSPORTS:
        raise Malformed(f"family and transport 0x{kind:02x} do not exist")
    block = _BLOCKS.get(family)
    if block is None or transport != _STREAM:
        return Header(length)
    if rest < block.size:
        raise Malformed(f"{rest} bytes of addresses instead of {block.size}")
    return Header(length, *_addresses(family, block.unpack_from(data, _FIXED.size)))


def _addresses(family: int, fields: tuple[bytes | int, ...]) -> tuple[Address, Address]:
    if family == _UNIX:
        source, destination = (_path(field) for field in fields if isinstance(field, bytes))
        return source, destination
    near, far = (str(ipaddress.ip_address(field)) for field in fields[:2])
    near_port, far_port = (int(port) for port in fields[2:])
    return (near, near_port), (far, far_port)


def _path(field: bytes) -> str:
    """As the kernel has it: up to a NUL, but for a name of the abstract kind, which begins with one."""
    return os.fsdecode(field.rstrip(b"\0") if field[:1] == b"\0" else field.partition(b"\0")[0])


def _build_binary(block: _Block | None) -> bytes:
    if block is None:
        return _FIXED.pack(_SIGNATURE, _VERSION | _PROXY, 0, 0)
    family, fields = block
    addresses = _BLOCKS[family].pack(*(field if isinstance(field, (int, bytes)) else field.packed for field in fields))
    return _FIXED.pack(_SIGNATURE, _VERSION | _PROXY, family << 4 | _STREAM, len(addresses)) + addresses


# What a header says of two addresses: their family, and the fields of its block

_Host: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
_Block: TypeAlias = "tuple[int, tuple[_Host | int | bytes, ...]]"


def _block(source: Address, destination: Address) -> _Block | None:
    """None: a header has no words for such a pair."""
    if isinstance(source, str) and isinstance(destination, str):
        return _UNIX, (os.fsencode(source), os.fsencode(destination))
    if isinstance(source, str) or isinstance(destination, str):
        return None
    hosts = [_plain(address[0]) for address in (source, destination)]
    family = _INET
    if any(host.version == 6 for host in hosts):
        family, hosts = _INET6, [_mapped(host) for host in hosts]
    return family, (*hosts, source[1], destination[1])


def _plain(host: str) -> _Host:
    """To a socket of both families an IPv4 caller is ::ffff:a.b.c.d; and elsewhere a scope means nothing."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def _mapped(host: _Host) -> _Host:
    return host if host.version == 6 else ipaddress.IPv6Address(f"::ffff:{host}")
