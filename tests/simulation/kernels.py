"""The two kernels against which one test body runs: the machine's own, and the simulated one."""

from __future__ import annotations

import time

from reactor.system import System
from reactor.testing import SimulatedSystem

PATIENCE = 10.0


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

    def close(self) -> None:
        for sock in self.opened:
            if sock.fileno() >= 0:
                self.system.close_listening(sock)
        self.poller.close()
