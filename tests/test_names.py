"""Hosts, paths and zones in every role: kept as they are meant, or refused by the argument's name, never cut off."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys

import pytest

from reactor import DatagramProtocol, Datagrams, Deadlines, Group, Options, Protocol, Reactor
from reactor.testing import SimulatedSystem
from tests.helpers import Recorder, turn_until

CLIENT = ssl.create_default_context()

# Every argument that names something, with something that C would cut off.
CUT_OFF = {
    "listen host": lambda r: r.listen(Protocol, "127.0.0.1\0evil", 0),
    "listen path": lambda r: r.listen(Protocol, path="/tmp/a\0b"),
    "listen path in bytes": lambda r: r.listen(Protocol, path=b"/tmp/a\0b"),
    "connect host": lambda r: r.connect(Protocol, "127.0.0.1\0evil", 9),
    "connect name": lambda r: r.connect(Protocol, "localhost\0.evil", 9),
    "connect path": lambda r: r.connect(Protocol, path=pathlib.Path("/tmp/a\0b")),
    "connect source": lambda r: r.connect(Protocol, "127.0.0.1", 9, source=("127.0.0.1\0", 0)),
    "connect server_hostname": lambda r: r.connect(Protocol, "127.0.0.1", 9, tls=CLIENT, server_hostname="good\0.evil"),
    "connect zone": lambda r: r.connect(Protocol, "fe80::1%lo\0", 9),
    "datagram local": lambda r: r.datagram(DatagramProtocol, ("127.0.0.1\0", 0)),
    "datagram remote": lambda r: r.datagram(DatagramProtocol, None, ("127.0.0.1\0", 9)),
    "datagram path": lambda r: r.datagram(DatagramProtocol, path="/tmp/a\0b"),
    "datagram remote_path": lambda r: r.datagram(DatagramProtocol, remote_path="/tmp/a\0b"),
    "sendto": lambda r: r.datagram(DatagramProtocol, ("127.0.0.1", 0)).sendto(b"x", ("127.0.0.1\0", 9)),
    "group": lambda r: Group(address="224.0.0.1\0"),
    "interface": lambda r: Group(address="224.0.0.1", interface="lo\0x"),
    # And zones that the kernel would ignore.
    "listen zone": lambda r: r.listen(Protocol, "::1%lo", 0),
    "connect name with a zone": lambda r: r.connect(Protocol, "localhost%lo", 9),
    "datagram zone": lambda r: r.datagram(DatagramProtocol, ("::1%lo", 0)),
    "datagram scope": lambda r: r.datagram(DatagramProtocol, ("::1", 0, 0, 1)),
    "source zone": lambda r: r.connect(Protocol, "::1", 9, source=("::1%lo", 0)),
    "group zone": lambda r: Group(address="ff02::1%lo"),
}


@pytest.mark.parametrize("simulated", [False, True], ids=["real", "simulated"])
@pytest.mark.parametrize("role", CUT_OFF)
def test_what_would_be_cut_off_is_refused_in_every_role(role, simulated):
    """At once, with the value; nothing is left behind."""
    with Reactor(system=SimulatedSystem() if simulated else None) as reactor:
        with pytest.raises(ValueError, match=r"\\x00|%lo|::1', 0, 0, 1"):
            CUT_OFF[role](reactor)
        assert reactor.listeners == reactor.connectors == ()


def test_a_unix_path_that_is_too_long_is_an_error_with_a_number(reactor, tmp_path):
    """Python itself refuses it, without an errno; each role tells it where its errors are told."""
    long = str(tmp_path / ("x" * 200))
    for call in (lambda: reactor.listen(Protocol, path=long), lambda: reactor.datagram(DatagramProtocol, path=long)):
        with pytest.raises(OSError, match="x" * 200) as caught:
            call()
        assert caught.value.errno == errno.EINVAL
    client = Recorder()
    reactor.connect(lambda: client, path=long)
    turn_until(reactor, lambda: client.failed)
    assert "x" * 200 in str(client.failed)


class Sender(DatagramProtocol):
    def __init__(self):
        self.told = []

    def error_received(self, exc):
        self.told.append(exc)


def test_every_refused_datagram_is_told(reactor, tmp_path):
    """One whose error has no number, too; and to where it was."""
    sender = Sender()
    endpoint = reactor.datagram(lambda: sender, path=tmp_path / "socket")
    turn_until(reactor, lambda: hasattr(sender, "endpoint"))
    for path in ("/tmp/" + "a" * 200, str(tmp_path / "nobody")):
        endpoint.sendto(b"x", path)
    turn_until(reactor, lambda: len(sender.told) == 2)
    assert [exc.errno for exc in sender.told] == [errno.EINVAL, errno.ENOENT]
    assert [("a" * 200 in str(exc), "nobody" in str(exc)) for exc in sender.told] == [(True, False), (False, True)]
    assert (endpoint.report.taken, endpoint.report.refused) == (2, 2)


@pytest.mark.parametrize("name", ["\0in use", b"\0in use", b"\0with\0nul"])
def test_an_abstract_name_is_served_and_in_use_as_any_address(reactor, name):
    """It begins with NUL and is counted, so that a NUL inside it is a part of it; the error shows it as people do."""
    listener = reactor.listen(Protocol, path=name)
    reactor.datagram(DatagramProtocol, path=name)  # stream and datagram names are apart
    assert listener.addresses == (os.fsencode(name),)
    for call in (reactor.listen, reactor.datagram):
        with pytest.raises(OSError, match=r"(at|on) @") as caught:
            call(Protocol, path=name)
        assert caught.value.errno == errno.EADDRINUSE
    client = Recorder()
    reactor.connect(lambda: client, path=name)
    turn_until(reactor, lambda: client.calls)
    assert client.calls == ["connection_made"]
    client.connection.abort()


@pytest.mark.parametrize("make", [str, os.fsencode, lambda path: path], ids=["str", "bytes", "PathLike"])
def test_a_path_may_be_written_in_each_way(reactor, tmp_path, make):
    """In each role; and reads as a path in messages."""
    streams, datagrams = tmp_path / "streams", tmp_path / "datagrams"
    listener = reactor.listen(Protocol, path=make(streams))
    assert listener.addresses == (str(streams),)
    with pytest.raises(OSError, match=f"cannot listen on {streams}: "):
        reactor.listen(Protocol, path=make(streams))
    client = Recorder()
    assert str(streams) in repr(reactor.connect(lambda: client, path=make(streams)))
    turn_until(reactor, lambda: client.calls)
    receiver = reactor.datagram(DatagramProtocol, path=make(datagrams))
    sender = reactor.datagram(DatagramProtocol, remote_path=make(datagrams))
    sender.sendto(b"x", make(datagrams))
    unbound = reactor.datagram(DatagramProtocol, path=make(tmp_path / "third"))
    unbound.sendto(b"y", make(datagrams))
    turn_until(reactor, lambda: receiver.report.received == 2)
    client.connection.abort()


@pytest.mark.parametrize("written", [("::1",), ("0:0:0:0:0:0:0:1",), ("::1", 0), ("::1", 0, 0), ("::1", 7, 0)])
def test_a_remote_address_is_the_same_however_it_is_written(reactor, written):
    """Shortened, with the flow label and the scope or without; another one is refused."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.bind(("::1", 0))
        host, *rest = written
        port = peer.getsockname()[1]
        endpoint = reactor.datagram(DatagramProtocol, None, ("::1", port))
        endpoint.sendto(b"x", (host, port, *rest))
        assert peer.recv(10) == b"x"
        with pytest.raises(ValueError, match="remote address only"):
            endpoint.sendto(b"x", ("::1", port % 65535 + 1))
        with pytest.raises(ValueError, match="remote address only"):
            endpoint.sendto(b"x", ("fe80::1%no-such", port))


def test_the_remote_address_as_it_was_asked_for_is_the_remote_address(reactor):
    """Linux connects 0.0.0.0 to 127.0.0.1, and says so."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        asked = ("0.0.0.0", peer.getsockname()[1])
        endpoint = reactor.datagram(DatagramProtocol, None, asked)
        endpoint.sendto(b"x", asked)
        endpoint.sendto(b"y", endpoint.get_extra_info("peername"))
        assert peer.recv(10) + peer.recv(10) == b"xy"


def test_an_address_is_taken_as_the_kernel_gives_it(reactor):
    """All four parts of an IPv6 address, as local, remote, source and target."""
    first = reactor.datagram(DatagramProtocol, ("::1", 0))
    name = first.get_extra_info("sockname")
    assert len(name) == 4
    second = reactor.datagram(DatagramProtocol, ("::1", 0, 0, 0), name)
    second.sendto(b"x")
    third = reactor.datagram(DatagramProtocol, ("::1", 0))
    third.sendto(b"y", name)
    turn_until(reactor, lambda: first.report.received == 2)
    listener = reactor.listen(Protocol, "::1", 0)
    with socket.socket(socket.AF_INET6) as free:
        free.bind(("::1", 0))
        source = free.getsockname()
    client = Recorder()
    reactor.connect(lambda: client, *listener.addresses[0][:2], source=source)
    turn_until(reactor, lambda: client.calls)
    assert client.connection.get_extra_info("sockname") == source
    client.connection.abort()


def test_a_source_of_another_family_is_the_cause(reactor):
    """Of each address that it cannot be used for."""
    listener = reactor.listen(Protocol, "127.0.0.1", 0)
    client = Recorder()
    reactor.connect(lambda: client, *listener.addresses[0], source=("::1", 0))
    turn_until(reactor, lambda: client.failed)
    assert [cause.errno for _, cause in client.failed.causes] == [errno.EAFNOSUPPORT]
    assert "cannot connect from [::1]:0" in str(client.failed)


def test_a_zone_without_an_interface_is_told_where_the_role_tells_its_errors(reactor):
    """It may come and go, so it is no misuse."""
    for call in (
        lambda: reactor.listen(Protocol, "fe80::1%no-such", 0),
        lambda: reactor.datagram(DatagramProtocol, ("fe80::1%no-such", 0)),
        lambda: reactor.datagram(
            DatagramProtocol,
            ("127.0.0.1", 0),
            options=Options(datagrams=Datagrams(groups=(Group(address="224.0.0.1", interface="no-such"),))),
        ),
    ):
        with pytest.raises(OSError, match="there is no network interface 'no-such'") as caught:
            call()
        assert caught.value.errno == errno.ENODEV
    client, sender = Recorder(), Sender()
    reactor.connect(lambda: client, "fe80::1%no-such", 9)
    endpoint = reactor.datagram(lambda: sender, ("::1", 0))
    endpoint.sendto(b"x", ("fe80::1%no-such", 9))
    turn_until(reactor, lambda: client.failed and sender.told)
    assert str(client.failed) == "cannot connect to [fe80::1%no-such]:9: there is no network interface 'no-such'"
    assert [exc.errno for exc in sender.told] == [errno.ENODEV]
    assert endpoint.report.refused == 1


def test_the_simulated_system_has_zones_too():
    """As a scope in every address."""
    system = SimulatedSystem()
    with Reactor(system=system) as reactor:
        listener = reactor.listen(Protocol, "fe80::1%eth0", 7)
        assert listener.addresses == (("fe80::1", 7, 0, 2),)
        client = Recorder()
        reactor.connect(lambda: client, "FE80::1%2", 7, options=Options(deadlines=Deadlines(connect=1)))
        system.run(reactor, until=lambda: client.calls)
        assert client.calls == ["connection_made"]
        assert client.connection.get_extra_info("peername") == ("fe80::1", 7, 0, 2)
        client.connection.abort()
        lost = Recorder()
        reactor.connect(lambda: lost, "fe80::1%lo", 7, options=Options(deadlines=Deadlines(connect=1)))
        system.run(reactor, until=lambda: lost.failed)
        there = reactor.datagram(DatagramProtocol, ("fe80::1%eth0", 7))
        anywhere = reactor.datagram(DatagramProtocol, ("::", 0))
        for zone in ("eth0", "lo"):
            anywhere.sendto(b"x", (f"fe80::1%{zone}", 7))
        system.run(reactor, 1.0)
        assert there.report.received == 1


_ZONES = """
import json, socket
from reactor import DatagramProtocol, Protocol, Reactor

WRONG, RIGHT = (socket.if_nametoindex(name) for name in ("d0", "d1"))
told = {}

class Client(Protocol):
    def connection_made(self, connection):
        told["connect"] = connection.get_extra_info("peername")[3]
        told["source"] = connection.get_extra_info("sockname")[3]
        connection.abort()
    def connection_failed(self, exc):
        told["connect"] = str(exc)

class Server(Protocol):
    def connection_made(self, connection):
        told["accepted"] = connection.get_extra_info("sockname")[3]

class Endpoint(DatagramProtocol):
    def datagram_received(self, data, addr):
        told[data.decode()] = addr[3]
        if len(told) >= 9:
            reactor.stop()

with Reactor() as reactor:
    listener = reactor.listen(Server, "fe80::a%d1", 0)
    told["listen"] = listener.addresses[0][3]
    port = listener.addresses[0][1]
    reactor.connect(Client, "fe80::a%d1", port, source=("fe80::a%d1", 0))
    local = reactor.datagram(Endpoint, ("fe80::a%d1", 0))
    told["local"] = local.get_extra_info("sockname")[3]
    at = local.get_extra_info("sockname")[1]
    remote = reactor.datagram(Endpoint, ("fe80::a%d1", 0), ("fe80::a%d1", at))
    told["remote"] = remote.get_extra_info("peername")[3]
    remote.sendto(b"by remote", ("fe80::a%d1", at))
    anywhere = reactor.datagram(Endpoint, ("::", 0))
    anywhere.sendto(b"by zone", ("fe80::a%d1", at))
    anywhere.sendto(b"by scope", ("fe80::a", at, 0, RIGHT))
    reactor.call_later(10, reactor.stop)
    reactor.run()
print(json.dumps({name: scope == RIGHT or scope for name, scope in told.items()}))
"""


def test_a_zone_is_kept_in_every_role(tmp_path):
    """Two interfaces with the same address: what is meant for the second never has to do with the first."""
    if sys.platform != "linux" or not shutil.which("ip"):
        pytest.skip("needs Linux with ip")
    namespace = f"rz{os.getpid()}"

    def ip(*words: str) -> None:
        subprocess.run(("ip", *words), check=True, capture_output=True, timeout=20)

    try:
        try:
            ip("netns", "add", namespace)
        except (subprocess.CalledProcessError, OSError) as exc:
            pytest.skip(f"network namespaces are not allowed here: {getattr(exc, 'stderr', exc)!r}")
        ip("-n", namespace, "link", "set", "lo", "up")
        for name in ("d0", "d1"):
            ip("-n", namespace, "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
            for end in (name, f"{name}p"):
                ip("-n", namespace, "link", "set", end, "addrgenmode", "none", "up")
            ip("-n", namespace, "address", "add", "fe80::a/64", "dev", name, "nodad")
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", _ZONES]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    finally:
        subprocess.run(("ip", "netns", "delete", namespace), capture_output=True, timeout=20, check=False)
    assert ended.stderr == ""
    told = json.loads(ended.stdout)
    roles = ("listen", "accepted", "connect", "source", "local", "remote", "by remote", "by zone", "by scope")
    assert told == dict.fromkeys(roles, True)
