"""The real stage: real sockets on the machine's kernel, all endings at the same time, and everything written down.

One reactor does everything, one thing after another: it is the one under test, it carries the packets, and the peers'
scripts are its timers. So what is written down stands in the order in which it happened. The kernels do not wait for
us, though, and a stall of the machine would look like TCP's doing. The cable notices, and then all is played again.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import attrs

from docs.captured.cable import LATENCY, OURS, THEIRS, Cable, Segment, device, new_network
from docs.captured.flow import Flow
from docs.captured.transcript import OUR_KERNEL, OUR_PROGRAM, THEIR_KERNEL, THEIR_PROGRAM, Event, rounded
from docs.drawn.endings import ENDINGS, Ending
from docs.drawn.recording import LINK, PEER_ACTS, PEER_READS, unlogged
from reactor import Reactor
from reactor.timers import TimerHandle
from reactor.trace import WIRE, Record

# What Linux has to be asked for, to hold as much as `LINK`: it counts what a packet occupies, not only its bytes.
SEND_BUFFER = LINK.send_buffer_bytes // 2
RECEIVE_BUFFER = LINK.receive_buffer_bytes * 3 // 2
# Between the beginnings, so that the packets of one do not wait for those of the others.
APART = 0.008
# After the last word of both programs: what the kernels still have to say, in seconds.
EPILOGUE = 0.5
# Far more than the longest takes, which is 6 s.
PATIENCE = 20.0
# So late a packet may be: a third of the shortest time between two things whose order matters.
STALL = 0.010
# Nearly all happens in the first second, so most tries that fail are short.
TRIES = 20


class Disturbed(Exception):
    """What was captured is not only TCP's doing."""


def capture() -> dict[str, list[Event]]:
    """Plays the endings. OSError where that is not allowed; Disturbed when the machine is too busy, each time."""
    for left in reversed(range(TRIES)):
        try:
            return _play()
        except Disturbed:
            if not left:
                raise
    raise AssertionError("not reached")


def _play() -> dict[str, list[Event]]:
    with unlogged(), ExitStack() as owned:
        reactor = owned.enter_context(Reactor())
        stages = {name: Stage(reactor, ending) for name, ending in ENDINGS.items()}
        with new_network():
            ours = owned.enter_context(device(OURS))
            for stage in stages.values():
                stage.listen()
        with new_network():
            theirs = owned.enter_context(device(THEIRS))
            for stage in stages.values():
                owned.callback(stage.open_peer().leave)
        by_port = {stage.peer.port: stage for stage in stages.values()}
        reactor.observe(_told(by_port))
        cable = Cable(reactor, ours, theirs, by_port)
        owned.callback(cable.remove)
        for number, stage in enumerate(stages.values()):
            reactor.call_later(number * APART, stage.begin)
        latest = reactor.time() + PATIENCE
        while not all(stage.over for stage in stages.values()):
            reactor.run_once()
            assert reactor.time() < latest, f"no end: {[name for name, stage in stages.items() if not stage.over]}"
            if cable.late > STALL:
                raise Disturbed(f"a packet may have been {1000 * cable.late:.0f} ms late")
        return {name: stage.story() for name, stage in stages.items()}


def _told(by_port: dict[int, Stage]) -> Callable[[Record], None]:
    """An observer that tells each stage of its own connection."""
    by_name: dict[str, Stage] = {}

    def tell(record: Record) -> None:
        if record.what == "accepted":
            by_name[record.connection] = by_port[int(record.detail.rpartition(":")[2])]
        if record.what in WIRE:
            by_name[record.connection].told(record)

    return tell


class Stage:
    """Where one ending is played; for its script as `docs.drawn.recording.Stage`. Time 0 is when we accept."""

    def __init__(self, reactor: Reactor, ending: Ending) -> None:
        self.over = False
        self._reactor = reactor
        self._ending = ending
        self._events: list[Event] = []
        self._zero = 0.0
        self._acts_left = 0
        self._closed = self._vanished = False
        self._error = ""
        self._epilogue: TimerHandle | None = None
        self._out, self._back = Flow(), Flow()

    def listen(self) -> None:
        """In our network."""
        sockets = attrs.evolve(self._ending.options.sockets, send_buffer_bytes=SEND_BUFFER)
        options = attrs.evolve(self._ending.options, sockets=sockets)
        self._address = self._reactor.listen(self._ending.protocol, OURS, 0, options=options).addresses[0]

    def open_peer(self) -> Peer:
        """In its network."""
        self.peer = Peer(self._reactor, lambda words: self.note(THEIR_PROGRAM, words))
        return self.peer

    def begin(self) -> None:
        """The handshake is three packets."""
        self._zero = self._reactor.time() + 3 * LATENCY
        self.peer.connect(self._address)
        self._ending.script(self, self.peer)

    def story(self) -> list[Event]:
        """What happened, from the peer's SYN on."""
        return [Event(rounded(event.time - self._zero), event.place, event.words) for event in self._events]

    # For the script

    def at(self, time: float, act: Callable[..., object], *args: Any) -> None:
        """The peer's program does something then: a method of `Peer`."""
        self._acts_left += 1
        self._reactor.call_at(self._zero + time, self._act, act, args)

    def _act(self, act: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._acts_left -= 1
        words = PEER_ACTS[act.__name__](*args)
        try:
            act(*args)
        except OSError as exc:
            words += f": {errno.errorcode[exc.errno or 0]}"
        self.note(THEIR_PROGRAM, words)

    def vanish(self, time: float) -> None:
        """The peer's machine is gone."""
        self._reactor.call_at(self._zero + time, self._vanish)

    def _vanish(self) -> None:
        self._vanished = True
        self.note(THEIR_PROGRAM, "the machine loses its power")

    # What is written down

    def note(self, place: str, words: str) -> None:
        if self.over:
            return
        self._events.append(Event(self._reactor.time(), place, words))
        both_ended = self._closed and (self._vanished or self.peer.gone)
        if both_ended and not self._acts_left and self._epilogue is None:
            self._epilogue = self._reactor.call_later(EPILOGUE, self._end)

    def _end(self) -> None:
        self.over = True

    def told(self, record: Record) -> None:
        """As `reactor.trace.text` has it, less what is told twice: whose connection, and again why it ended."""
        words = record.what if record.count is None else f"{record.what} {record.count}"
        if record.what == "error":
            self._error = record.detail
            kind, _, why = record.detail.partition(": ")
            words += f" {kind}: {why.rpartition('>: ')[2]}"
        elif record.what == "closed":
            self._closed = True
            words += f" {record.detail.replace(self._error, self._error.partition(':')[0])}"
        self.note(OUR_PROGRAM, words)

    def leaves(self, ours: bool, segment: Segment) -> str | None:
        """A packet, at its sender's edge of the wire."""
        if self._vanished and not ours:
            return None
        flow, back = (self._out, self._back) if ours else (self._back, self._out)
        words = flow.leaves(segment, back)
        words = f"{words} -->" if ours else f"<-- {words}"
        self.note(OUR_KERNEL if ours else THEIR_KERNEL, words)
        return words

    def arrives(self, ours: bool, words: str) -> bool:
        """And at the other edge."""
        lost = self._vanished and ours
        self.note(THEIR_KERNEL if ours else OUR_KERNEL, words + " lost" * lost)
        return not lost


class Peer:
    """The peer's program on a raw socket; for its script as `reactor.testing.Peer`."""

    def __init__(self, reactor: Reactor, note: Callable[[str], None]) -> None:
        self.gone = False
        self._reactor = reactor
        self._note = note
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, LINK.receive_buffer_bytes)
        self._sock.bind((THEIRS, 0))
        self.port: int = self._sock.getsockname()[1]

    def connect(self, address: object) -> None:
        try:
            self._sock.connect(address)  # type: ignore[arg-type]
        except BlockingIOError:
            pass
        self._note("connect()")
        self._reactor.add_writer(self._sock, self._connected)

    def _connected(self) -> None:
        self._reactor.remove_writer(self._sock)
        self._note("connected")
        self.resume_reading()

    def send(self, data: bytes) -> None:
        self._sock.send(data)

    def fin(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.leave()

    def stop_reading(self) -> None:
        self._reactor.remove_reader(self._sock)

    def resume_reading(self) -> None:
        self._reactor.add_reader(self._sock, self._read)

    def _read(self) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self._end("reset")
            return
        if data:
            self._note(f"recv: {len(data)} bytes")
        else:
            self._end("EOF")

    def _end(self, ending: str) -> None:
        self.stop_reading()
        self.gone = True
        self._note(PEER_READS[ending])

    def leave(self) -> None:
        """The program is no more."""
        self.gone = True
        if self._sock.fileno() >= 0:
            self._reactor.remove_reader(self._sock)
            self._reactor.remove_writer(self._sock)
            self._sock.close()
