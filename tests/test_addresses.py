"""Addresses: how they are written, what can be one, and which are the same."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from reactor.addresses import (
    Address,
    address_text,
    check_host,
    check_port,
    check_string,
    numeric,
    same_place,
    unix_name,
)

V4, V6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX


@pytest.mark.parametrize(
    ("sockaddr", "text"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("fe80::1", 80, 0, 2), "[fe80::1%2]:80"),
        (("fe80::1%eth0", 80, 0, 2), "[fe80::1%eth0]:80"),
        ("/run/socket", "/run/socket"),
        (b"/run/socket", "/run/socket"),
        (os.fsdecode(b"/run/\xff"), "/run/\\xff"),
        ("/run/two\nlines", "/run/two\\nlines"),
        ("", "unnamed"),
        (b"\0abstract", "@abstract"),
        ("\0abstract", "@abstract"),
        (b"\0\0two", "@\\x00two"),
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


INTERFACES = {"lo": 1, "eth0": 2}


def zone_index(name):
    if name not in INTERFACES:
        raise OSError(errno.ENODEV, "no such interface")
    return INTERFACES[name]


@pytest.mark.parametrize(
    ("family", "address", "normal"),
    [
        (V4, ("127.0.0.1", 80), ("127.0.0.1", 80)),
        (V6, ("::1", 80), ("::1", 80, 0, 0)),
        (V6, ("::1", 80, 7), ("::1", 80, 7, 0)),
        (V6, ("0:0:0:0:0:0:0:1", 80, 0, 0), ("::1", 80, 0, 0)),
        (V6, ("FE80::0:A", 80, 0, 3), ("fe80::a", 80, 0, 3)),
        (V6, ("::FFFF:7f00:1", 80), ("::ffff:127.0.0.1", 80, 0, 0)),
        (V6, ("fe80::1", 65535, 2**20 - 1, 2**32 - 1), ("fe80::1", 65535, 2**20 - 1, 2**32 - 1)),
        (V6, ("fe80::1%eth0", 80), ("fe80::1", 80, 0, 2)),
        (V6, ("fe80::1%eth0", 80, 0, 2), ("fe80::1", 80, 0, 2)),
        (V6, ("fe80::1%7", 80), ("fe80::1", 80, 0, 7)),
        (V6, ("ff02::fb%lo", 80), ("ff02::fb", 80, 0, 1)),
        (V6, ("ff11::1%lo", 80), ("ff11::1", 80, 0, 1)),
        (V6, ("fe80::1", 80), ("fe80::1", 80, 0, 0)),
    ],
)
def test_an_address_in_numbers_has_one_normal_form(family, address, normal):
    """The one in which the kernel tells it, with the zone as the scope; normal already, it stays so."""
    assert numeric(family, address, zone_index) == normal
    assert numeric(family, normal, zone_index) == normal


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (V4, ("localhost", 80)),
        (V4, ("127.0.0.1", 80, 0)),
        (V4, ("127.0.0.1", 65536)),
        (V4, ("127.0.0.1", "80")),
        (V4, ("127.0.0.1", True)),
        (V4, ("127.0.0.1",)),
        (V4, ("127.1", 80)),
        (V4, ("127.0.0.1%eth0", 80)),
        (V4, ("::1", 80)),
        (V4, ("127.0.0.1\0", 80)),
        (V4, (b"127.0.0.1", 80)),
        (V4, (None, 80)),
        (V4, ["127.0.0.1", 80]),
        (V4, "127.0.0.1"),
        (V6, ("::1", 80, 2**20)),
        (V6, ("fe80::1", 80, 0, 2**32)),
        (V6, ("::1", 80, 0, 0, 0)),
        # A zone, or a scope, that the kernel would ignore.
        (V6, ("::1%lo", 80)),
        (V6, ("2001:db8::1%eth0", 80)),
        (V6, ("2001:db8::1", 80, 0, 2)),
        (V6, ("ff05::1%eth0", 80)),
        (V6, ("fe80::1%eth0", 80, 0, 1)),
        (V6, ("fe80::1%", 80)),
        (V6, ("fe80::1%0", 80)),
        (V6, ("fe80::1%4294967296", 80)),
        (V6, ("fe80::1%eth0\0", 80)),
    ],
)
def test_what_is_no_address_in_numbers_has_none(family, address):
    """A name would have to be looked up, and that blocks; a zone is never dropped."""
    assert numeric(family, address, zone_index) is None


def test_a_zone_without_an_interface_is_the_systems_error():
    """It may come and go, so it is no misuse."""
    with pytest.raises(OSError) as caught:
        numeric(V6, ("fe80::1%eth9", 80), zone_index)
    assert caught.value.errno == errno.ENODEV


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("127.0.0.1", 80), ("127.0.0.1", 80), True),
        (("127.0.0.1", 80), ("127.0.0.1", 81), False),
        (("::1", 80, 0, 0), ("::1", 80, 7, 0), True),
        (("fe80::1", 80, 0, 1), ("fe80::1", 80, 0, 2), False),
        (("127.0.0.1", 80), ("::1", 80, 0, 0), False),
        ("/run/socket", "/run/socket", True),
        ("/run/socket", None, False),
    ],
)
def test_a_flow_label_is_no_part_of_a_place(one, other, same):
    """A scope is."""
    assert same_place(one, other) is same


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/run/socket", "/run/socket"),
        (b"/run/socket", "/run/socket"),
        (Path("/run/socket"), "/run/socket"),
        ("", ""),
        ("\0abstract", b"\0abstract"),
        (b"\0abstract", b"\0abstract"),
        (b"\0with\0nul", b"\0with\0nul"),
        (b"/run/\xff", os.fsdecode(b"/run/\xff")),
    ],
)
def test_a_unix_address_has_one_normal_form(path, name):
    """As the kernel tells it: a path in words, an abstract name, which may have NULs, in bytes."""
    assert unix_name("path", path) == name


@pytest.mark.parametrize("path", ["/run/a\0b", b"/run/a\0b", Path("/run/a\0b"), None, 7, ("127.0.0.1", 80)])
def test_what_is_no_path_is_refused_by_name(path):
    """A NUL in a path would cut off what is behind it."""
    with pytest.raises(ValueError, match="the path"):
        unix_name("the path", path)


@pytest.mark.parametrize("value", ["a\0b", "\0", b"bytes", None, 7])
def test_a_string_for_a_c_library_has_no_nul(value):
    """Everything behind it would be cut off."""
    with pytest.raises(ValueError, match="server_hostname"):
        check_string("server_hostname", value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "fe80::1%eth0", "fe80::1%9", ""])
def test_a_host_is_a_name_or_an_address(host):
    """Whether there is such a one is found out later."""
    assert check_host("host", host) == host


@pytest.mark.parametrize("host", ["a\0b", "localhost%lo", "127.0.0.1%lo", "2001:db8::1%lo", "::1%1", b"localhost", 7])
def test_what_is_no_host_is_refused_by_name(host):
    """A zone that would be dropped, too."""
    with pytest.raises(ValueError, match="the host"):
        check_host("the host", host)
