"""The load in Python, for machines without a C compiler: `load.c` says what its arguments and its output are.

It is slower than most of the servers, so only their CPU time per operation can then be compared; the report says so.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
SOURCES = 200
BATCH = 500
PATIENCE = 20


def usage(process: int) -> dict[str, Any]:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    # What clock_getcpuclockid(3) computes: the clock of all the process's threads.
    return {
        "cpu": time.clock_gettime(~process << 3 | 2),
        "user_ticks": int(fields[11]),
        "system_ticks": int(fields[12]),
        "resident": int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024,
    }


class Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.owed = 0
        self.got = 0
        self.writing = False


class Load:
    def __init__(self, port: int, count: int, size: int, depth: int) -> None:
        self.port = port
        self.count = count
        self.size = size
        self.depth = depth
        self.poller = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.operations = 0
        self.opened = 0
        self.awaited = 0
        self.out = memoryview(b"x" * CHUNK)

    def connect(self) -> socket.socket:
        source = (f"127.0.0.{1 + self.opened % SOURCES}", 0)
        self.opened += 1
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
        sock.settimeout(PATIENCE)
        sock.bind(source)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def open_idle(self, count: int) -> list[socket.socket]:
        """Accepted in the order of connecting: when the last of a batch is answered, all of it is."""
        idle = []
        for number in range(1, count + 1):
            idle.append(self.connect())
            if number % BATCH == 0 or number == count:
                idle[-1].send(b"x")
                if not idle[-1].recv(1):
                    raise ConnectionError("the idle connections: the server ended one")
        return idle

    def open_one(self, interest: int = select.EPOLLIN) -> Connection:
        connection = Connection(self.connect())
        connection.sock.setblocking(False)
        self.connections[connection.sock.fileno()] = connection
        self.poller.register(connection.sock, interest)
        return connection

    def send_owed(self, connection: Connection) -> None:
        try:
            while connection.owed:
                connection.owed -= connection.sock.send(self.out[: connection.owed])
        except BlockingIOError:
            pass
        if connection.writing != (connection.owed > 0):
            connection.writing = connection.owed > 0
            self.poller.modify(connection.sock, select.EPOLLIN | (select.EPOLLOUT if connection.writing else 0))

    def receive(self, connection: Connection) -> int:
        try:
            got = len(connection.sock.recv(CHUNK))
        except BlockingIOError:
            return 0
        if not got:
            raise ConnectionError("the server ended a connection")
        return got

    def begin_echo(self) -> None:
        for _ in range(self.count):
            connection = self.open_one()
            connection.owed = self.size * self.depth
            self.send_owed(connection)

    def echo(self, connection: Connection, ready: int) -> None:
        if ready & ~select.EPOLLOUT:
            whole, connection.got = divmod(connection.got + self.receive(connection), self.size)
            connection.owed += whole * self.size
            self.operations += whole
        if connection.owed:
            self.send_owed(connection)

    def begin_upload(self) -> None:
        for _ in range(self.count):
            self.open_one(select.EPOLLOUT)

    def upload(self, connection: Connection, ready: int) -> None:
        try:
            connection.got += connection.sock.send(self.out)
        except BlockingIOError:
            return
        kibibytes, connection.got = divmod(connection.got, 1024)
        self.operations += kibibytes

    def begin_fanout(self) -> None:
        for _ in range(self.count):
            self.open_one()
        self.out = memoryview((b"x" * (self.size - 1) + b"\n") * (CHUNK // self.size))
        self.speaker = self.open_one()  # the last: when it is heard, the others are members
        self.speak()

    def speak(self) -> None:
        self.awaited = self.size * self.depth * self.count
        self.speaker.owed = self.size * self.depth
        self.send_owed(self.speaker)

    def fanout(self, connection: Connection, ready: int) -> None:
        got = self.receive(connection)
        lines, connection.got = divmod(connection.got + got, self.size)
        self.operations += lines
        self.awaited -= got
        if not self.awaited:
            self.speak()

    def begin_churn(self) -> None:
        for _ in range(self.count):
            self.visit()

    def visit(self) -> None:
        connection = self.open_one()
        connection.sock.send(self.out[: self.size])
        connection.sock.shutdown(socket.SHUT_WR)

    def churn(self, connection: Connection, ready: int) -> None:
        try:
            got = len(connection.sock.recv(CHUNK))
        except BlockingIOError:
            return
        connection.got += got
        if got:
            return
        if connection.got != self.size:
            raise ConnectionError("a reply was lost")
        del self.connections[connection.sock.fileno()]
        connection.sock.close()
        self.operations += 1
        self.visit()

    def serve_until(self, serve: Callable[[Connection, int], None], deadline: float) -> None:
        while time.monotonic() < deadline:
            for fd, ready in self.poller.poll(0.1, 512):
                serve(self.connections[fd], ready)


def main() -> None:
    mode = sys.argv[1]
    port, process, count, size, depth, idle = map(int, sys.argv[2:8])
    warmup, seconds = map(float, sys.argv[8:])
    load = Load(port, count, size, depth)
    before = usage(process)
    kept = load.open_idle(idle)
    loaded = usage(process)
    begin_mode, serve = {
        "echo": (load.begin_echo, load.echo),
        "upload": (load.begin_upload, load.upload),
        "fanout": (load.begin_fanout, load.fanout),
        "churn": (load.begin_churn, load.churn),
        "wait": (None, None),
    }[mode]
    if begin_mode is not None:
        begin_mode()
        load.serve_until(serve, time.monotonic() + warmup)
    begin = usage(process)
    began, operations = time.monotonic(), load.operations
    if serve is not None:
        load.serve_until(serve, began + seconds)
    passed = time.monotonic() - began
    end = usage(process)
    print(
        json.dumps(
            {
                "operations": load.operations - operations,
                "seconds": passed,
                **{name: end[name] - begin[name] for name in ("cpu", "user_ticks", "system_ticks")},
                "resident": end["resident"],
                "idle_growth": loaded["resident"] - before["resident"],
            }
        )
    )
    for sock in kept:
        sock.close()


if __name__ == "__main__":
    main()
