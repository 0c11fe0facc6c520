"""The callbacks a user writes, and the grammar in which they come.

All come from the loop's thread, one at a time, never from inside a call that you make (`write`, `close` ... never call
back). Names and meanings are asyncio's, so an `asyncio.Protocol` works here unchanged; what it lacks
(`connection_failed`, `draining`) gets the defaults below.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reactor.connection import Connection
    from reactor.datagram import Datagram

logger = logging.getLogger("reactor")


class Protocol:
    """What becomes of one connection. Subclass it; override what you need.

        connection_made
        (data_received | pause_writing | resume_writing)*
        (eof_received (pause_writing | resume_writing)*)?
        connection_lost

    or `connection_failed` alone, when a connect never succeeded. `draining` may come between `connection_made` and
    `connection_lost`. None comes from inside a call that you make.

    An exception that leaves a callback is logged, and its connection is reset with it: the peer never takes a truncated
    reply for a whole one.
    """

    connection: Connection

    def connection_made(self, connection: Connection) -> None:
        """The connection is open. Called once, first. The default keeps it as `self.connection`."""
        self.connection = connection

    def data_received(self, data: bytes) -> None:
        """Some bytes came, at least one. Where a message ends is for you to tell: TCP keeps no boundaries."""

    def eof_received(self) -> bool | None:
        """The peer sent its FIN: no more data will come (RFC 9293, 3.6). Called at most once.

        Return something true to keep our side open, and `close()` when your reply is written. By default our side is
        closed too, once everything written has been sent.
        """
        return False

    def pause_writing(self) -> None:
        """More than the high watermark waits for the peer. Stop writing, or the queue grows to its limit.

        Like every callback it never comes from inside a call of yours, `write` included: it comes after the callback in
        which you wrote has returned. So do not write in a loop that waits for it.
        """

    def resume_writing(self) -> None:
        """No more than the low watermark waits. Always preceded by `pause_writing`.

        Neither comes once output has ended: there is nothing left to write.
        """

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over. Called once, last.

        `None` means that nothing was lost: our output was flushed and ended in order, and the peer's TCP has
        acknowledged all of it. (On a Unix socket, and where the kernel does not tell, the peer's FIN has to do.) Any
        exception tells by its type whose fault it was (`reactor.errors`); `connection.report` has the counts.
        """

    def connection_failed(self, exc: Exception) -> None:
        """A `connect` did not succeed; no other callback comes. The default logs a warning."""
        logger.warning("%s", exc)

    def draining(self) -> None:
        """The reactor drains: end soon, for at its deadline what is left is reset. The default closes in order."""
        self.connection.close()


class DatagramProtocol:
    """What becomes of one datagram endpoint. Subclass it; override what you need.

        connection_made
        (datagram_received | error_received | pause_writing | resume_writing)*
        connection_lost

    with `draining` anywhere in between. An exception in a callback is logged and counted, and the endpoint lives on;
    only one in `connection_made` ends it. An `asyncio.DatagramProtocol` works here unchanged.
    """

    endpoint: Datagram

    def connection_made(self, endpoint: Datagram) -> None:
        """The endpoint is open. Called once, first. The default keeps it as `self.endpoint`."""
        self.endpoint = endpoint

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """A whole datagram came, perhaps an empty one; `addr` is what `sendto` takes for an answer.

        From a Unix socket without a name it is None: nobody can answer that one.
        """

    def error_received(self, exc: Exception) -> None:
        """Something was lost, or an ICMP message told of a loss; the endpoint lives on. The default logs a warning.

        `ConnectionRefusedError`: nobody receives at the address it is connected to. `OSError` with EMSGSIZE: sent or
        received, it was too long. `QueueOverflow`: more waited than `Datagrams.queue_bytes`.
        """
        logger.warning("%s", exc)

    def pause_writing(self) -> None:
        """More than the high watermark waits here. Stop sending, or the queue overflows."""

    def resume_writing(self) -> None:
        """No more than the low watermark waits. Always preceded by `pause_writing`."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The endpoint is over. Called once, last. `None`: all that waited was given to the kernel."""

    def draining(self) -> None:
        """The reactor drains: end soon. The default closes, which sends what waits."""
        self.endpoint.close()
