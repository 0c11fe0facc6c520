"""The two kernels against which one test body runs: the machine's own, and the simulated one."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from reactor.system import System
from reactor.testing import Fault, SimulatedSystem

PATIENCE = 10.0

# linux/tcp.h: how a privileged program reads a connection's sequence numbers.
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
REPAIR_ON, REPAIR_OFF, SEND_QUEUE = 1, -1, 2

# The numbers of the system calls by which Python accepts, sends and receives (asm/unistd.h).
SYSTEM_CALLS = {
    "x86_64": {"accept": (288,), "transfer": (44, 45, 46, 47)},
    "aarch64": {"accept": (242,), "transfer": (206, 207, 211, 212)},
}


class Kernel:
    """One of the two, a poller of it, and the sockets made with it."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.opened: list = []
        self.poller = system.poller(None if isinstance(system, SimulatedSystem) else "epoll")

    def events(self, sock, interest: int, timeout: float = 0.0) -> int:
        """What one poll tells of one socket."""
        self.poller.register(sock.fileno(), interest)
        try:
            return dict(self.poller.poll(timeout)).get(sock.fileno(), 0)
        finally:
            self.poller.unregister(sock.fileno())

    def eventually(self, condition) -> None:
        """The machine's kernel acknowledges, and tells of ICMP, in its own time."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            self.poller.poll(0.001)

    def so_error(self, sock) -> int:
        """What SO_ERROR answers, without anybody's judgement."""
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def failure(self, number: int, what: str, call: Callable[[], object]) -> OSError | None:
        """What `call` raises where every "accept", or every "transfer" of bytes, fails with `number`."""
        if not isinstance(self.system, SimulatedSystem):
            return _failure_in_a_filtered_thread(number, what, call)
        before = self.system.faults
        self.system.faults = [Refusal(number, what)]
        try:
            return _failure(call)
        finally:
            self.system.faults = before

    def close(self) -> None:
        for sock in self.opened:
            if sock.fileno() >= 0:
                self.system.close_listening(sock)
        self.poller.close()


class Refusal(Fault):
    """Every accept, or every send and recv, fails."""

    def __init__(self, number: int, what: str) -> None:
        self.numbers = {what: number}

    def on_accept(self, system, sock) -> int:
        return self.numbers.get("accept", 0)

    def on_transfer(self, system, sock) -> int:
        return self.numbers.get("transfer", 0)


def _failure(call: Callable[[], object]) -> OSError | None:
    try:
        call()
    except OSError as exc:
        return exc
    return None


def _failure_in_a_filtered_thread(number: int, what: str, call: Callable[[], object]) -> OSError | None:
    """A seccomp filter holds for the thread that installs it, and ends with it."""
    calls = SYSTEM_CALLS.get(platform.machine())
    if calls is None:
        pytest.skip(f"the numbers of the system calls on {platform.machine()} are not known")
    raised = []

    def body() -> None:
        _install_filter(number, calls[what])
        raised.append(_failure(call))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return raised[0]


def _install_filter(number: int, calls: tuple[int, ...]) -> None:
    """seccomp(2): these system calls fail with `number`, all others are allowed."""

    def instruction(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    program = instruction(0x20, 0, 0, 0)  # the number of the call
    for left, call in zip(reversed(range(len(calls))), calls, strict=True):
        program += instruction(0x15, left + 1, 0, call)
    program += instruction(0x06, 0, 0, 0x7FFF0000) + instruction(0x06, 0, 0, 0x00050000 | number)
    buffer = ctypes.create_string_buffer(program, len(program))
    description = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, description, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def tell_host_unreachable(sock: socket.socket) -> None:
    """Lets an ICMP "host unreachable" about an IPv4 TCP connection reach the machine's own kernel. Needs root."""
    with contextlib.ExitStack() as stack:
        try:
            raw = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
            sequence = _next_sequence_number(sock)
        except PermissionError:
            pytest.skip("an ICMP error can be sent only with the rights of root")
        (here, port), (there, peer_port) = sock.getsockname(), sock.getpeername()
        addresses = socket.inet_aton(here) + socket.inet_aton(there)
        # The header of the packet that is said not to have arrived, and its first eight bytes.
        quoted = struct.pack("!BBHHHBBH", 0x45, 0, 60, 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses
        quoted += struct.pack("!HHI", port, peer_port, sequence)
        message = struct.pack("!BBHI", 3, 1, 0, 0) + quoted
        total = sum(struct.unpack(f"!{len(message) // 2}H", message))
        checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        before = _icmp_received()
        raw.sendto(message[:2] + struct.pack("!H", checksum) + message[4:], (here, 0))
        deadline = time.monotonic() + PATIENCE
        while _icmp_received() == before:
            assert time.monotonic() < deadline, "the ICMP error was not received"


def _next_sequence_number(sock: socket.socket) -> int:
    for option, value in ((TCP_REPAIR, REPAIR_ON), (TCP_REPAIR_QUEUE, SEND_QUEUE)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    number = sock.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, REPAIR_OFF)
    return number % 2**32


def _icmp_received() -> int:
    """How many ICMP messages this network namespace has received."""
    with open("/proc/net/snmp", encoding="ascii") as file:
        names, values = (line.split() for line in file if line.startswith("Icmp:"))
    return int(values[names.index("InMsgs")])


def is_known_to_tcp(local, remote) -> bool:
    """Whether the machine's own kernel still has this IPv4 connection, with a program or as an orphan."""
    wanted = [_as_in_proc(local), _as_in_proc(remote)]
    with open("/proc/net/tcp", encoding="ascii") as file:
        return any(line.split()[1:3] == wanted for line in file)


def _as_in_proc(address) -> str:
    host, port = address
    (number,) = struct.unpack("=I", socket.inet_aton(host))
    return f"{number:08X}:{port:04X}"


# What a test may name in either kernel.
RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
SO_TIMESTAMPING = 37
# linux/net_tstamp.h: the software's times of what was sent, without the bytes.
TIMES_OF_SENDS = 1 << 1 | 1 << 4 | 1 << 11
