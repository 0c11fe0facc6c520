"""A selector-based, non-blocking, single-threaded reactor whose connections end well.

from reactor import Protocol, Reactor

class Echo(Protocol):
    def data_received(self, data):
        self.connection.write(data)

with Reactor() as reactor:
    reactor.listen(Echo, "127.0.0.1", 7000)
    reactor.drain_on_signals(deadline=30)
    reactor.run()
"""

from reactor.connection import Connection
from reactor.connector import Connector
from reactor.datagram import Datagram, DatagramReport
from reactor.errors import (
    Aborted,
    ConnectFailed,
    FileUnusable,
    FlushTimeout,
    HandshakeTimeout,
    IdleTimeout,
    Misuse,
    QueueOverflow,
    ReactorClosed,
    ReactorError,
    TLSTruncated,
    Unacknowledged,
    Unsent,
    WriteAfterEnd,
)
from reactor.framing import (
    Delimited,
    FixedLength,
    FramedProtocol,
    FrameTooLong,
    FramingError,
    LengthPrefixed,
    Reader,
    ReceiveBuffer,
    SkipTo,
    TruncatedFrame,
    Unframeable,
    UntilEOF,
)
from reactor.listener import Listener
from reactor.options import Datagrams, Deadlines, Group, Keepalive, Limits, Options, Sockets, Watermarks
from reactor.protocol import DatagramProtocol, Protocol
from reactor.reactor import Reactor
from reactor.relaying import Relay, relay
from reactor.report import DrainSummary, Report, Statistics, Totals
from reactor.timers import Handle, TimerHandle
from reactor.version import __version__

__all__ = [
    "Aborted",
    "ConnectFailed",
    "Connection",
    "Connector",
    "Datagram",
    "DatagramProtocol",
    "DatagramReport",
    "Datagrams",
    "Deadlines",
    "Delimited",
    "DrainSummary",
    "FileUnusable",
    "FixedLength",
    "FlushTimeout",
    "FrameTooLong",
    "FramedProtocol",
    "FramingError",
    "Group",
    "Handle",
    "HandshakeTimeout",
    "IdleTimeout",
    "Keepalive",
    "LengthPrefixed",
    "Limits",
    "Listener",
    "Misuse",
    "Options",
    "Protocol",
    "QueueOverflow",
    "Reactor",
    "ReactorClosed",
    "ReactorError",
    "Reader",
    "ReceiveBuffer",
    "Relay",
    "Report",
    "SkipTo",
    "Sockets",
    "Statistics",
    "TLSTruncated",
    "TimerHandle",
    "Totals",
    "TruncatedFrame",
    "Unacknowledged",
    "Unframeable",
    "Unsent",
    "UntilEOF",
    "Watermarks",
    "WriteAfterEnd",
    "__version__",
    "relay",
]
