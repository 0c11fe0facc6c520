"""A cable in user space: two networks of their own, a TUN device in each, and a reactor that carries the packets.

What a kernel sends into its device is read, and written into the other device `LATENCY` seconds later. So each packet
passes through our hands twice, when it leaves and when it arrives: that is the whole capture. Nothing is left behind: a
device lives as long as its descriptor, and a network as long as something is in it, whatever becomes of the process.

Needs Linux and root (CAP_SYS_ADMIN, CAP_NET_ADMIN).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import attrs

from reactor import Reactor

LATENCY = 0.05
# How often it is looked at whether the loop keeps up, while there is a packet on the way.
PULSE = 0.004
# With 20 bytes of IP and 20 of TCP before them: segments of 2000 bytes.
MTU = 2040
OURS, THEIRS = "10.77.0.1", "10.77.0.2"
# Plain headers: without these options each is 20 bytes long, and a window is what it says.
PLAIN = ("tcp_timestamps", "tcp_window_scaling", "tcp_sack")

# <linux/sched.h>, <linux/if_tun.h>, <linux/sockios.h>, <linux/if.h>
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFMTU = 0x8914, 0x8916, 0x891C, 0x8922
IFF_UP = 0x1
DEVICE = b"cable"

# In the order of their bits, from the lowest.
FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK")


@attrs.frozen
class Segment:
    """What a TCP header says, and how many bytes follow it."""

    source: int
    target: int
    sequence: int
    acknowledged: int
    flags: frozenset[str]
    window: int
    size: int


class Watcher(Protocol):
    """Is shown each packet of one connection, twice."""

    def leaves(self, ours: bool, segment: Segment) -> str | None:
        """What to call it where it arrives; None: it does not even leave."""

    def arrives(self, ours: bool, words: str) -> bool:
        """False: it is lost."""
        ...


@contextmanager
def new_network() -> Iterator[None]:
    """Sockets and devices that are made inside belong to a network of their own, and stay in it."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _call("unshare", CLONE_NEWNET)
        try:
            for option in PLAIN:
                with open(f"/proc/sys/net/ipv4/{option}", "w") as switch:
                    switch.write("0")
            yield
        finally:
            _call("setns", before, CLONE_NEWNET)
    finally:
        os.close(before)


def _call(name: str, *arguments: int) -> None:
    # `os` has these from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


@contextmanager
def device(address: str) -> Iterator[int]:
    """This network's end of the cable: a descriptor, one IP packet for each read and write."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", DEVICE, IFF_TUN | IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for request, value in (
                (SIOCSIFADDR, _address(address)),
                (SIOCSIFNETMASK, _address("255.255.255.0")),
                (SIOCSIFMTU, struct.pack("i", MTU)),
                (SIOCSIFFLAGS, struct.pack("H", IFF_UP)),
            ):
                fcntl.ioctl(sock, request, struct.pack("16s24s", DEVICE, value))
        yield tun
    finally:
        os.close(tun)


def _address(address: str) -> bytes:
    return struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton(address))


class Cable:
    """Joins the two devices. `watchers`: for the peer's port, who is shown what crosses.

    `late` is the longest that a call was overdue while there were packets on the way: more than that no packet was.
    """

    def __init__(self, reactor: Reactor, ours: int, theirs: int, watchers: Mapping[int, Watcher]) -> None:
        self.late = 0.0
        self._reactor = reactor
        self._devices = (ours, theirs)
        self._watchers = watchers
        self._carried = 0
        self._beating = False
        reactor.add_reader(ours, self._carry, True, ours, theirs)
        reactor.add_reader(theirs, self._carry, False, theirs, ours)

    def remove(self) -> None:
        for tun in self._devices:
            self._reactor.remove_reader(tun)

    def _carry(self, ours: bool, source: int, target: int) -> None:
        """All that has left one side by now."""
        due = self._reactor.time() + LATENCY
        while True:
            try:
                packet = os.read(source, MTU)
            except BlockingIOError:
                break
            segment = parse(packet)
            if segment is not None:
                watcher = self._watchers[segment.target if ours else segment.source]
                words = watcher.leaves(ours, segment)
                if words is not None:
                    self._carried += 1
                    self._reactor.call_at(due, self._deliver, watcher, ours, words, packet, target)
        if self._carried and not self._beating:
            self._beating = True
            self._beat(self._reactor.time())

    def _deliver(self, watcher: Watcher, ours: bool, words: str, packet: bytes, target: int) -> None:
        self._carried -= 1
        if watcher.arrives(ours, words):
            os.write(target, packet)

    def _beat(self, due: float) -> None:
        now = self._reactor.time()
        self.late = max(self.late, now - due)
        self._beating = self._carried > 0
        if self._beating:
            self._reactor.call_at(now + PULSE, self._beat, now + PULSE)


def parse(packet: bytes) -> Segment | None:
    """None for what is not TCP over IPv4: a new device asks for IPv6 routers."""
    if packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
        return None
    start = 4 * (packet[0] & 15)
    (length,) = struct.unpack_from("!H", packet, 2)
    source, target, sequence, acknowledged, bits, window = struct.unpack_from("!HHIIHH", packet, start)
    flags = frozenset(flag for place, flag in enumerate(FLAGS) if bits >> place & 1)
    size = length - start - 4 * (bits >> 12)
    return Segment(source, target, sequence, acknowledged, flags, window, size)
