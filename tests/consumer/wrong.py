"""Mistakes that a type checker must find: each line that ends in `# wrong`, and no other."""

from __future__ import annotations

from reactor import Connection, Deadlines, FramedProtocol, Options, Protocol, Reactor, Report
from reactor.testing import SimulatedSystem


class Wordy(Protocol):
    def data_received(self, data: str) -> None:  # wrong
        self.connection.write(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        exc.add_note("perhaps there is none")  # wrong


class Framed(FramedProtocol):
    reader = b"\n"  # wrong

    def data_received(self, data: bytes) -> None:  # wrong
        self.connection.write(data)


def mistakes(reactor: Reactor, connection: Connection, report: Report, system: SimulatedSystem) -> None:
    connection.write("text")  # wrong
    connection.wrote(b"")  # wrong
    connection.send_file("a path")  # wrong
    connection.report = report  # wrong
    reactor.listen(Wordy, "127.0.0.1", "7000")  # wrong
    reactor.connect(Wordy, "127.0.0.1", 7000, tls=True)  # wrong
    reactor.connect(Wordy, "127.0.0.1", 7000, timeout=3)  # wrong
    reactor.call_later("soon", print)  # wrong
    reactor.drain()  # wrong
    Deadlines(flush="30")  # wrong
    Options().linger = False  # wrong
    len(report.acknowledged)  # wrong
    system.run(Reactor)  # wrong
