"""Addresses: how they are written, and what can be one."""

from __future__ import annotations

import socket

import pytest

from reactor.addresses import Address, address_text, check_port, numeric

V4, V6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX


@pytest.mark.parametrize(
    ("sockaddr", "text"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        ("/run/socket", "/run/socket"),
        ("", "unnamed"),
        (b"\0abstract", "@abstract"),
        (b"\0\xff", "@\\xff"),
        (b"", "unnamed"),
    ],
)
def test_addresses_read_as_people_write_them(sockaddr, text):
    """v4, v6, paths, abstract names, no name."""
    assert address_text(sockaddr) == text
    assert str(Address(UNIX, sockaddr)) == text


def test_another_port_leaves_the_rest_as_it_is():
    """The flow label and the scope of an IPv6 address belong to it."""
    assert Address(V4, ("127.0.0.1", 0)).with_port(80) == Address(V4, ("127.0.0.1", 80))
    assert Address(V6, ("fe80::1", 0, 1, 2)).with_port(80) == Address(V6, ("fe80::1", 80, 1, 2))


@pytest.mark.parametrize("port", [0, 65535])
def test_a_port_is_what_fits_into_sixteen_bits(port):
    """0 asks for a free one."""
    assert check_port(port) == port


@pytest.mark.parametrize("port", [-1, 65536, True, 80.0, "80", None])
def test_what_is_no_port_is_refused_by_name(port):
    """Also what Python would take for a number."""
    with pytest.raises(ValueError, match="a port is a whole number"):
        check_port(port)


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (V4, ("127.0.0.1", 80)),
        (V6, ("::1", 80)),
        (V6, ("::1", 65535, 2**20 - 1, 2**32 - 1)),
        (V6, ("fe80::1%eth0", 80)),
        (UNIX, "/run/socket"),
        (UNIX, b"\0abstract"),
    ],
)
def test_numbers_and_paths_can_be_sent_to(family, address):
    """Nobody has to be asked where that is."""
    assert numeric(family, address)


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (V4, ("localhost", 80)),
        (V4, ("127.0.0.1", 80, 0)),
        (V4, ("127.0.0.1", 65536)),
        (V4, ("127.0.0.1", "80")),
        (V4, ("127.0.0.1", True)),
        (V4, ("127.0.0.1",)),
        (V4, ("::1", 80)),
        (V4, ("127.0.0.1\0", 80)),
        (V4, (b"127.0.0.1", 80)),
        (V4, (None, 80)),
        (V4, ["127.0.0.1", 80]),
        (V4, "127.0.0.1"),
        (V6, ("::1", 80, 2**20)),
        (V6, ("::1", 80, 0, 2**32)),
        (V6, ("::1", 80, 0, 0, 0)),
        (UNIX, ("127.0.0.1", 80)),
        (UNIX, None),
    ],
)
def test_whatever_else_is_refused_without_asking_anybody(family, address):
    """A name would have to be looked up, and that blocks."""
    assert not numeric(family, address)
