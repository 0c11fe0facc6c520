"""A stage: one connection of the real reactor on the simulated kernel, its peer a script, and everything written down.

What is written down, in the order in which it happened: packets as they leave and as they arrive, what our program is
told and what it calls, what the peer's program does and reads; and, after each, the states of our connection and of
both kernels. `docs.drawn.sequence` draws it.
"""

from __future__ import annotations

import io
import logging
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from reactor import Connection, Options, Protocol, Reactor
from reactor.testing import Fault, Link, Peer, SimulatedSystem
from reactor.testing.tcp import TcpSocket
from reactor.trace import CALLBACKS, Record, text

# 50 ms each way, and buffers so small that a few packets fill them.
LINK = Link(latency=0.05, segment_bytes=2000, receive_buffer_bytes=4000, send_buffer_bytes=16000)

# What a packet is, by the function that it calls where it arrives.
PACKETS = {
    "data_arrived": "data",
    "fin_arrived": "FIN",
    "acknowledged": "ACK",
    "fin_acknowledged": "ACK",
    "window_opened": "window",
    "reset_arrived": "RST",
}
# What the peer's program does, in a socket's words.
PEER_ACTS: dict[str, Callable[..., str]] = {
    "send": lambda data: f"send({len(data)} bytes)",
    "fin": lambda: "shutdown(SHUT_WR)",
    "reset": lambda: "SO_LINGER 0, close()",
    "close": lambda: "close()",
    "stop_reading": lambda: "reads no more",
    "resume_reading": lambda: "reads on",
}
# And how it learns of the end.
PEER_READS = {"EOF": 'recv: b"" (EOF)', "reset": "recv: ECONNRESET", "timeout": "recv: ETIMEDOUT"}


class Scene(typing.Protocol):
    """What a script asks of a stage: this one, or that of `docs.captured`."""

    def at(self, time: float, act: Callable[..., object], *args: Any) -> None: ...
    def vanish(self, time: float) -> None: ...


class Actor(typing.Protocol):
    """What a script has its peer do."""

    def send(self, data: bytes) -> None: ...
    def fin(self) -> None: ...
    def reset(self) -> None: ...
    def stop_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


Script: typing.TypeAlias = Callable[[Scene, Actor], None]


@attrs.define(eq=False)
class Packet:
    """One packet: when and from which side it left, and when it arrived (None: never)."""

    ours: bool
    what: str
    size: int
    left: float
    arrived: float | None = None


@attrs.frozen
class Moment:
    """One thing that happened. `side` is "ours" or "theirs"; the states are those just after it."""

    time: float
    side: str
    what: str
    state: str
    our_kernel: str
    their_kernel: str


@attrs.frozen
class Story:
    """A whole ending."""

    moments: list[Moment]
    packets: list[Packet]
    # What `--trace` would have printed.
    transcript: str
    # How it ended, for either side.
    peer_bytes: int
    peer_ending: str | None
    told: str
    report: str


class RecordedSystem(SimulatedSystem):
    """A simulated kernel that tells of each packet."""

    def __init__(self, stage: Stage, faults: tuple[Fault, ...]) -> None:
        super().__init__(link=LINK, faults=faults)
        self._stage = stage

    def post(self, sender: TcpSocket, function: Callable[..., object], *args: Any) -> None:
        size = len(args[0]) if function.__name__ == "data_arrived" else 0
        packet = Packet(sender is self._stage.sock, PACKETS[function.__name__], size, self.now)
        self._stage.packets.append(packet)

        def arrive(*args: Any) -> None:
            packet.arrived = self.now
            function(*args)
            self._stage.note("theirs" if packet.ours else "ours", "")

        super().post(sender, arrive, *args)


class Told:
    """A connection whose calls are written down."""

    def __init__(self, connection: Connection, note: Callable[[str], None]) -> None:
        self._connection = connection
        self._note = note

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._connection, name)
        if name not in ("write", "write_eof", "close", "abort"):
            return value

        def call(*args: Any) -> None:
            self._note(f"{name}({', '.join(f'{len(data)} bytes' for data in args)})")
            value(*args)
            self._note("")

        return call


class Onlooker(Protocol):
    """Passes everything on to a protocol, whose calls are then seen."""

    def __init__(self, stage: Stage, protocol: Protocol) -> None:
        self._stage = stage
        self._protocol = protocol
        self.ended = False

    def connection_made(self, connection: Connection) -> None:
        self._stage.introduce(connection)
        told: Any = Told(connection, lambda what: self._stage.note("ours", what))
        self._protocol.connection_made(told)

    def data_received(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._protocol.connection_lost(exc)


class Stage:
    """Where an ending is played."""

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        self.moments: list[Moment] = []
        self.packets: list[Packet] = []
        self.sock: TcpSocket | None = None
        self.system = RecordedSystem(self, faults)
        self.reactor = Reactor(system=self.system)
        self._lines = io.StringIO()
        self.reactor.observe(text(self._lines))
        self.reactor.observe(self._observe)
        self._read = 0
        self._ending: str | None = None

    def play(self, protocol: Protocol, script: Script, options: Options, seconds: float) -> Story:
        """Connects, lets the script be done, and tells what happened."""
        sock, self.peer = self.system.connected()
        assert isinstance(sock, TcpSocket)
        self.sock = sock
        onlooker = Onlooker(self, protocol)
        self.peer.on_change = self._peer_read
        with self.reactor, unlogged():
            self.reactor.connect(lambda: onlooker, sock=sock, options=options)  # type: ignore[arg-type]
            script(self, self.peer)
            self.system.run(self.reactor, seconds)
            assert onlooker.ended, f"it has not ended after {seconds} s"
            self.note("ours", "")
            return Story(
                moments=self.moments,
                packets=self.packets,
                transcript=self._lines.getvalue(),
                peer_bytes=len(self.peer.data),
                peer_ending=self.peer.ending,
                told=self._reason(),
                report=str(self._connection.report),
            )

    def at(self, time: float, act: Callable[..., object], *args: Any) -> None:
        """The peer's program does something then: a method of `Peer`."""

        def do() -> None:
            self.note("theirs", PEER_ACTS[act.__name__](*args))
            act(*args)
            self.note("theirs", "")

        self.system.after(time, do)

    def vanish(self, time: float) -> None:
        """The peer's machine is gone."""
        self.system.after(time, self.note, "theirs", "the machine loses its power")

    def note(self, side: str, what: str) -> None:
        """Writes it down, with the states as they are now."""
        if self.sock is None or not hasattr(self, "_connection"):
            return
        state, ours, theirs = self._connection.state.name, kernel_state(self.sock), kernel_state(self.peer.sock)
        self.moments.append(Moment(self.system.now, side, what, state, ours, theirs))

    def introduce(self, connection: Connection) -> None:
        """Whose states are written down."""
        self._connection = connection
        self.note("ours", "connection_made")

    def _observe(self, record: Record) -> None:
        if record.what == "connection_lost":
            self.note("ours", f"connection_lost({record.detail or self._reason()})")
        elif record.what in CALLBACKS and record.what != "connection_made":
            self.note("ours", record.what + (f" ({record.count} bytes)" if record.count else ""))
        elif record.what == "discarded":
            self.note("ours", f"discards {record.count} bytes")
        elif record.what in ("error", "lingering"):
            self.note("ours", "")

    def _reason(self) -> str:
        reason = self._connection.report.reason
        return "None" if reason is None else type(reason).__name__

    def _peer_read(self, peer: Peer) -> None:
        if len(peer.data) > self._read:
            self.note("theirs", f"recv: {len(peer.data) - self._read} bytes")
            self._read = len(peer.data)
        if peer.ending != self._ending:
            self._ending = peer.ending
            self.note("theirs", PEER_READS[peer.ending or ""])


@contextmanager
def unlogged() -> Iterator[None]:
    """What the endings provoke is no news."""
    logger = logging.getLogger("reactor")

    def nothing(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)


def kernel_state(sock: Any) -> str:
    """RFC 9293's name; the model itself does not tell TIME-WAIT from CLOSED."""
    if sock.over and not sock.dead:
        return "CLOSED" if sock.fin_came_first else "TIME-WAIT"
    return str(sock.state())
