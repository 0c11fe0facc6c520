"""What must hold of TLS, whatever the other side sends: our end is a typed error or the truth, and the loop goes on.

    python -m tests.fuzz.tls -runs=100000

The other side is OpenSSL over the simulated kernel, so its handshake and its records are real ones; what it says is
changed on the way, record by record.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterable, Sequence
from functools import cache

import attrs

from reactor import Deadlines, Options, Protocol, Reactor, ReactorError
from reactor.testing import Link, SimulatedSystem
from reactor.testing.peer import Peer
from tests.test_tls import client_context, server_context

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
OPTIONS = Options(deadlines=Deadlines(handshake=5.0, idle=20.0, flush=5.0, linger_silence=1.0))
# Longer than all of these together.
LONG = 120.0
_HEADER_BYTES = 5

client_of, server_of = cache(client_context), cache(server_context)


@attrs.frozen
class Change:
    """What becomes of one record: the `number`th that is said."""

    number: int
    kind: str
    where: int = 0
    how: bytes = b"\x01"


def _flip(record: bytes, change: Change) -> bytes:
    where = change.where % len(record)
    return record[:where] + bytes([record[where] ^ (change.how[0] or 1)]) + record[where + 1 :]


KINDS = {
    "flip": _flip,
    "cut": lambda record, change: record[: change.where % len(record)],
    "drop": lambda record, change: b"",
    "twice": lambda record, change: record * 2,
    "before": lambda record, change: change.how + record,
    "instead": lambda record, change: change.how,
    "into": lambda record, change: (
        record[: change.where % len(record)] + change.how + record[change.where % len(record) :]
    ),
    "late": lambda record, change: b"",  # it comes behind the next one
}


class Line:
    """The line from the other side to ours, which changes some records."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._changes = {change.number: change for change in changes}
        self._count = 0
        self._late = b""

    def carry(self, data: bytes) -> bytes:
        carried = []
        for record in records(data):
            change = self._changes.get(self._count)
            self._count += 1
            changed = record if change is None else KINDS[change.kind](record, change)
            carried += [changed, self._late]
            self._late = record if change is not None and change.kind == "late" else b""
        return b"".join(carried)


def records(data: bytes) -> list[bytes]:
    """What OpenSSL says at a time is whole records."""
    found = []
    while data:
        size = _HEADER_BYTES + int.from_bytes(data[3:_HEADER_BYTES], "big")
        found.append(data[:size])
        data = data[size:]
    return found


class Other:
    """The other side: shakes hands, says what it has to say, and ends."""

    def __init__(self, peer: Peer, context: ssl.SSLContext, server: bool, line: Line, says: Sequence[bytes]) -> None:
        self.peer = peer
        self.line = line
        self.says = says
        self.heard = b""
        self.done = False
        self._taken = 0
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server else "localhost"
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=name)
        peer.on_change = lambda _: self.step()
        self.step()

    def step(self) -> None:
        new = bytes(self.peer.data[self._taken :])
        self._taken += len(new)
        self._incoming.write(new)
        try:
            if not self.done:
                self._tls.do_handshake()
                self.done = True
                for words in self.says:
                    self._tls.write(words)
            while data := self._tls.read(65536):
                self.heard += data
        except ssl.SSLError:
            pass
        self._say()

    def end(self) -> None:
        """close_notify, and a FIN."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass
        self._say()
        self.peer.fin()

    def _say(self) -> None:
        said = self._outgoing.read()
        if said:
            self.peer.send(self.line.carry(said))


class Echo(Protocol):
    """Ours: sends back what it hears, and remembers how it was told of its end."""

    def __init__(self) -> None:
        self.data = b""
        self.made = 0
        self.ends: list[Exception | None] = []

    def connection_made(self, connection) -> None:
        super().connection_made(connection)
        self.made += 1

    def data_received(self, data: bytes) -> None:
        assert data
        assert not self.ends
        self.data += data
        self.connection.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.append(exc)

    def connection_failed(self, exc: Exception) -> None:
        assert not self.made
        self.ends.append(exc)

    def check(self, truth: bytes) -> None:
        """Told its end once; nothing that was not said; and all of it, if the end was clean."""
        (exc,) = self.ends
        assert truth.startswith(self.data)
        if exc is None:
            assert self.data == truth
        else:
            assert isinstance(exc, (ssl.SSLError, ReactorError, OSError)), exc


class World:
    """A reactor on a simulated kernel, which has to be empty afterwards."""

    def __init__(self) -> None:
        # Small segments: a record comes in pieces.
        self.system = SimulatedSystem(link=Link(latency=0.01, segment_bytes=700))
        self.reactor = Reactor(system=self.system)
        self.made: list[Echo] = []

    def make(self) -> Echo:
        self.made.append(Echo())
        return self.made[-1]

    def run(self, seconds: float) -> None:
        self.system.run(self.reactor, seconds)

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: object, *exc_info: object) -> None:
        self.reactor.close()
        if kind is None:
            assert not self.system.descriptors
            assert not self.system.bad_calls


def finish(world: World, other: Other | None, peer: Peer, ending: str) -> None:
    world.run(2)
    if ending == "end" and other is not None:
        other.end()
    elif ending == "reset":
        peer.reset()
    elif ending == "fin":
        peer.fin()
    world.run(LONG)
    assert not world.reactor.connections
    assert not world.reactor.connectors


def check_server(version: ssl.TLSVersion, changes: Sequence[Change], says: Sequence[bytes], ending: str) -> None:
    """A client whose records are changed on the way to us."""
    with World() as world:
        listener = world.reactor.listen(world.make, "127.0.0.1", 0, tls=server_of(version), options=OPTIONS)
        peer = world.system.peer(listener.addresses[0])
        finish(world, Other(peer, client_of(version), False, Line(changes), says), peer, ending)
        assert len(world.made) + listener.handshakes_failed == 1
        for protocol in world.made:
            protocol.check(b"".join(says))
        check_alive(world, listener, version)


def check_garbage(version: ssl.TLSVersion, stream: bytes, ending: str) -> None:
    """Bytes that are no TLS, or only its beginning."""
    with World() as world:
        listener = world.reactor.listen(world.make, "127.0.0.1", 0, tls=server_of(version), options=OPTIONS)
        peer = world.system.peer(listener.addresses[0])
        peer.send(stream)
        finish(world, None, peer, ending)
        assert listener.handshakes_failed == 1
        assert not world.made
        assert peer.ending is not None or ending == "reset"
        check_alive(world, listener, version)


def check_alive(world: World, listener, version: ssl.TLSVersion) -> None:
    """An honest client is served as if nothing had been."""
    honest = Other(world.system.peer(listener.addresses[0]), client_of(version), False, Line([]), [b"hello"])
    world.run(1)
    honest.end()
    world.run(1)
    assert honest.heard == b"hello"
    assert world.made[-1].ends == [None]


def check_client(version: ssl.TLSVersion, changes: Sequence[Change], says: Sequence[bytes], ending: str) -> None:
    """A server whose records are changed on the way to us."""
    with World() as world:
        acceptor = world.system.acceptor(("127.0.0.1", 443))
        others: list[Other] = []
        acceptor.on_peer = lambda peer: others.append(Other(peer, server_of(version), True, Line(changes), says))
        world.reactor.connect(
            world.make, "127.0.0.1", 443, tls=client_of(version), server_hostname="localhost", options=OPTIONS
        )
        world.run(1)
        (other,) = others
        finish(world, other, other.peer, ending)
        (protocol,) = world.made
        protocol.check(b"".join(says))
        acceptor.close()


def main() -> None:
    import atheris

    from reactor.tls import Codec

    for function in (Codec.shake, Codec.read, Codec._read_all, Codec.encrypt, Codec.end):
        atheris.instrument_func(function)

    def one_input(data: bytes) -> None:
        given = atheris.FuzzedDataProvider(data)
        version = VERSIONS[given.ConsumeIntInRange(0, 1)]
        kinds = [*KINDS, "garbage"]
        kind = kinds[given.ConsumeIntInRange(0, len(kinds) - 1)]
        ending = ("end", "fin", "reset", "silence")[given.ConsumeIntInRange(0, 3)]
        check = (check_server, check_client)[given.ConsumeIntInRange(0, 1)]
        number, where = given.ConsumeIntInRange(0, 6), given.ConsumeIntInRange(0, 600)
        rest = given.ConsumeBytes(given.remaining_bytes()) or b"\0"
        if kind == "garbage":
            check_garbage(version, rest, ending)
        else:
            check(version, [Change(number, kind, where, rest)], [b"first", b"second"], ending)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
