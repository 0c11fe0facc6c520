"""Twisted on its epoll reactor, the default on Linux, with TCP_NODELAY."""

from twisted.internet import reactor
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import TimeoutMixin
from zope.interface import implementer

from benchmarks.adapters.callbacks import BACKLOG, arguments, listening, timers

members = set()


class Echo(Protocol):
    def connectionMade(self):  # noqa: N802
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data):  # noqa: N802
        self.transport.write(data)


class Relay(Echo):
    """Twisted's transport is itself the producer of what is read, and pauses it when its peer is too slow."""

    def connectionMade(self):  # noqa: N802
        super().connectionMade()
        self.transport.registerProducer(self.transport, streaming=True)


class Bounded(Echo, TimeoutMixin):
    def connectionMade(self):  # noqa: N802
        super().connectionMade()
        self.setTimeout(float(options["idle"]))

    def dataReceived(self, data):  # noqa: N802
        self.resetTimeout()
        super().dataReceived(data)

    def connectionLost(self, reason=None):  # noqa: N802
        self.setTimeout(None)


class Upload(Echo):
    def dataReceived(self, data):  # noqa: N802
        pass


class Fanout(Echo):
    def connectionMade(self):  # noqa: N802
        super().connectionMade()
        members.add(self.transport)

    def dataReceived(self, data):  # noqa: N802
        members.discard(self.transport)
        for line in data.splitlines(keepends=True):
            for member in members:
                member.write(line)

    def connectionLost(self, reason=None):  # noqa: N802
        members.discard(self.transport)


@implementer(IHalfCloseableProtocol)
class Churn(Echo):
    request = b""

    def dataReceived(self, data):  # noqa: N802
        self.request += data

    def readConnectionLost(self):  # noqa: N802
        self.transport.write(self.request)
        self.transport.loseConnection()

    def writeConnectionLost(self):  # noqa: N802
        pass


behaviour, options = arguments()
if behaviour == "timers":
    timers(reactor.callLater, lambda call: call.cancel(), int(options["count"]))
else:
    protocols = {"echo": Echo, "relay": Relay, "upload": Upload, "fanout": Fanout, "churn": Churn}
    protocol = Bounded if "idle" in options else protocols[behaviour]
    port = reactor.listenTCP(0, Factory.forProtocol(protocol), backlog=BACKLOG, interface="127.0.0.1")
    listening(port.getHost().port)
    reactor.run()
