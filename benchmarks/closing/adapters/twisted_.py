"""Twisted: the callback protocols under Twisted's names for the same things.

Switched on: `IHalfCloseableProtocol`, without which the peer's FIN throws the queue away; `loseWriteConnection`;
`abortConnection`. On SIGTERM `reactor.stop` (Twisted's default), with `stopListening` as a shutdown trigger. There is
no setting for how long `loseConnection` may take.
"""

import sys

from twisted.internet import protocol, reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.python import log
from zope.interface import implementer

from benchmarks.closing.adapters.job import BACKLOG, HOST, Job
from benchmarks.closing.adapters.protocols import factory


class Transport:
    """asyncio's names for a Twisted transport's methods."""

    def __init__(self, transport):
        self.write = transport.write
        self.write_eof = transport.loseWriteConnection
        self.close = transport.loseConnection
        self.abort = transport.abortConnection


@implementer(IHalfCloseableProtocol)
class Adapter(protocol.Protocol):
    # A half-open connection is referred to by nobody else (IHalfCloseableProtocol.readConnectionLost).
    kept = set()

    def __init__(self, inner):
        self.inner = inner

    def connectionMade(self):  # noqa: N802
        self.kept.add(self)
        self.inner.connection_made(Transport(self.transport))

    def dataReceived(self, data):  # noqa: N802
        self.inner.data_received(data)

    def readConnectionLost(self):  # noqa: N802
        if not self.inner.eof_received():
            self.transport.loseConnection()

    def writeConnectionLost(self):  # noqa: N802
        pass

    def connectionLost(self, reason):  # noqa: N802
        self.kept.discard(self)
        self.inner.connection_lost(None if reason.check(ConnectionDone) else reason.value)


def main() -> None:
    log.startLogging(sys.stderr, setStdout=False)
    job = Job.from_command_line()
    make = factory(job, reactor.callLater)
    served = protocol.Factory.forProtocol(lambda: Adapter(make()))
    port = reactor.listenTCP(0, served, backlog=BACKLOG, interface=HOST)
    reactor.addSystemEventTrigger("before", "shutdown", port.stopListening)
    reactor.callWhenRunning(job.listening, port.getHost().port)
    reactor.run()


if __name__ == "__main__":
    main()
