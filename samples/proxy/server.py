"""The proxy's connections, until two of them are joined; from then on they are `reactor.relaying`'s.

*Unread until connected.* A caller is paused before its upstream is called. So what it sends waits in its own kernel,
the proxy holds nothing for it, and when the upstream cannot be had, nothing was taken that would be lost.

*The header, then TLS.* A PROXY header stands before the handshake, in the clear. So where there is one, TLS begins
here, and not in `listen` or `connect`; a ClientHello that came in one read with the header goes to the handshake.

*No upstream, no end in order.* A caller whose upstream cannot be had is reset, at once: a FIN would look like an empty
answer. The same goes for one that sends no PROXY header where one is demanded. Both are logged.

*Two descriptors each.* A caller that is let in needs a second descriptor. So no more are let in than can have one; the
others wait in the kernel's queue. Should there be none all the same (an upstream may outlive its caller, while it takes
the last bytes), the caller waits, within the connect deadline.

*Silence.* A connection's own idle deadline closes in order, so each peer would take what it has for all there is. Here
it is the relay that is watched, and when nothing has moved for so long, both are reset.

*Draining.* Who was let in is served to its end, or to the drain's deadline.
"""

from __future__ import annotations

import logging
import os
import ssl
from typing import Any

import attrs

from reactor import (
    Aborted,
    ConnectFailed,
    Connection,
    IdleTimeout,
    Keepalive,
    Listener,
    Options,
    Protocol,
    Reactor,
    TimerHandle,
)
from reactor.addresses import SocketAddress, address_text
from reactor.connector import Connector
from reactor.errors import EXHAUSTED
from reactor.relaying import Relay, relay
from reactor.tls import codecs
from samples.common import Room, patient, reason
from samples.proxy.header import Address, Header, Malformed, build, parse
from samples.proxy.health import Health

logger = logging.getLogger("samples.proxy")

# On a network that works a connect takes milliseconds; ten seconds outlive a SYN that was lost three times.
CONNECT_TIMEOUT = 10.0
# The specification's "a few seconds (at least 3 seconds to cover a TCP retransmit)".
HEADER_TIMEOUT = 5.0
# A caller and its upstream; the standard streams, the poller, the waker, listeners, a resolver's sockets.
ROOM = Room(each=2, reserve=32)
# Between two looks for a descriptor, doubling.
_BACK_OFF, _BACK_OFF_MOST = 0.010, 1.0
# Looks at a silent relay within its idle deadline, which so passes at most a quarter late.
_LOOKS = 4


@attrs.frozen(kw_only=True)
class Route:
    """Where callers are sent, and what is said about them there."""

    # What `Reactor.connect` takes: host and port, or path.
    to: dict[str, Any]
    tls: ssl.SSLContext | None = None
    server_hostname: str | None = None
    connect_timeout: float = CONNECT_TIMEOUT
    # The version of the PROXY header that the upstream is sent; None: it is sent none.
    send_header: int | None = None
    # Callers begin with a PROXY header, which is believed.
    accept_header: bool = False
    header_timeout: float = HEADER_TIMEOUT

    @property
    def name(self) -> str | None:
        """What the upstream's certificate must be for, as `Reactor.connect` has it."""
        return self.server_hostname or self.to.get("host") or ("localhost" if "port" in self.to else None)

    @property
    def at_once(self) -> dict[str, Any]:
        """What `Reactor.connect` is given for TLS: nothing, if a header goes before it."""
        return {} if self.tls is None or self.send_header else {"tls": self.tls, "server_hostname": self.name}


def serve(
    reactor: Reactor,
    *where: Any,
    route: Route,
    health: Health | None = None,
    tls: ssl.SSLContext | None = None,
    options: Options | None = None,
    **how: Any,
) -> Listener:
    """Takes what `Reactor.listen` takes, but for the factory. Its idle deadline is each relay's."""
    options = Options() if options is None else options
    counts = Health() if health is None else health
    at_once, later = (None, tls) if route.accept_header else (tls, None)
    # What cannot be used is refused now, and not to each caller.
    if later is not None:
        codecs(later, server_side=True)
    if route.tls is not None:
        codecs(route.tls, server_side=False, server_hostname=route.name)
    desk = _Desk(reactor, route, counts, later, _for_upstream(options, route), options.deadlines.idle)
    return reactor.listen(lambda: Caller(desk), *where, tls=at_once, options=_for_callers(options), **how)


def _for_callers(options: Options) -> Options:
    deadlines = options.deadlines
    return attrs.evolve(
        options,
        limits=attrs.evolve(options.limits, connections=ROOM.limit(options.limits.connections)),
        deadlines=attrs.evolve(patient(deadlines, deadlines.idle), idle=None),
        # Half of a conversation may rest for hours; that its peer has vanished is found all the same.
        sockets=attrs.evolve(options.sockets, keepalive=options.sockets.keepalive or Keepalive()),
    )


def _for_upstream(options: Options, route: Route) -> Options:
    patience = route.connect_timeout
    options = _for_callers(options)
    return attrs.evolve(options, deadlines=attrs.evolve(options.deadlines, connect=patience, handshake=patience))


@attrs.frozen(eq=False)
class _Desk:
    """What all callers of a listener share."""

    reactor: Reactor
    route: Route
    health: Health
    # What begins behind a caller's header.
    tls: ssl.SSLContext | None
    upstream: Options
    idle: float | None


class Caller(Protocol):
    """Who called, until there is somebody to talk to."""

    def __init__(self, desk: _Desk) -> None:
        self._desk = desk
        self._received = bytearray()
        self._early = 0
        self._header: Header | None = None
        self._shaking = False
        self._connector: Connector | None = None
        self._upstream: Connection | None = None
        self._timer: TimerHandle | None = None
        self._too_late = 0.0
        self._back_off = _BACK_OFF

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        desk = self._desk
        desk.health.callers += 1
        desk.health.waiting += 1
        if desk.route.accept_header:
            patience = desk.route.header_timeout
            self._timer = desk.reactor.call_later(patience, self._refuse, f"no PROXY header within {patience:g} s")
        else:
            self._call()

    # The header

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            self._header = parse(self._received)
        except Malformed as exc:
            self._refuse(f"no PROXY header: {exc}")
            return
        if self._header is not None:
            del self._received[: self._header.length]
            self._stop_waiting()
            if self._desk.tls is None:
                self._call()
            else:
                self._start_tls(self._desk.tls)

    def _start_tls(self, tls: ssl.SSLContext) -> None:
        """What came behind the header is not the caller's words, but its part of the handshake."""
        received = bytes(self._received)
        self._received.clear()
        self._shaking = True
        self.connection.start_tls(tls, server_side=True, received=received, done=self._secured)

    def _secured(self) -> None:
        self._shaking = False
        self._call()

    def eof_received(self) -> bool:
        self._refuse("ended before its PROXY header did")
        return True

    # The upstream

    def _call(self) -> None:
        self.connection.pause_reading()
        self._too_late = self._desk.reactor.time() + self._desk.route.connect_timeout
        self._try()

    def _try(self) -> None:
        desk = self._desk
        if self.connection.is_closing():
            return  # it left, or the drain's deadline came, since the last look
        route = desk.route
        self._connector = desk.reactor.connect(
            lambda: Upstream(self), **route.to, **route.at_once, options=desk.upstream
        )

    def connected(self, upstream: Connection) -> None:
        """There it is: it is told who called, and that may be all that it is told in the clear."""
        self._upstream = upstream
        route = self._desk.route
        if route.send_header is not None:
            upstream.write(build(route.send_header, *self._ends()))
        if route.tls is None or route.at_once:
            self._join(upstream)
        elif not upstream.is_closing():  # else it is gone, and `upstream_lost` follows
            upstream.start_tls(route.tls, server_hostname=route.name, done=lambda: self._join(upstream))

    def _join(self, upstream: Connection) -> None:
        desk = self._desk
        if self._received:  # it came with the header
            upstream.write(self._received)
            self._early = len(self._received)
            self._received.clear()
        joined = relay(self.connection, upstream, done=self._over)
        desk.health.waiting -= 1
        desk.health.relays.add(joined)
        desk.health.up += self._early
        if desk.idle is not None:
            self._watch(joined, desk.idle, joined.moved, desk.reactor.time())

    def _ends(self) -> tuple[Address | None, Address | None]:
        """Who called whom: as the header that came says, if it knows, or as the connection does."""
        if self._header is not None and self._header.source is not None:
            return self._header.source, self._header.destination
        source, destination = (_address(self.connection.get_extra_info(name)) for name in ("peername", "sockname"))
        return source, destination

    def not_connected(self, exc: Exception) -> None:
        """It cannot be had. Only for want of a descriptor it may be a little later."""
        reactor = self._desk.reactor
        if _starved(exc) and reactor.time() + self._back_off < self._too_late:
            self._timer = reactor.call_later(self._back_off, self._try)
            self._back_off = min(2 * self._back_off, _BACK_OFF_MOST)
        else:
            self._refuse(reason(exc))

    def upstream_lost(self, exc: Exception | None) -> None:
        """It was there, but did not come as far as to be joined."""
        if not self.connection.is_closing():
            self._refuse("the upstream ended" if exc is None else f"the upstream: {reason(exc)}")

    def _refuse(self, why: str) -> None:
        logger.warning("%s: reset: %s", self, why)
        self.connection.abort()

    # The end

    def _watch(self, joined: Relay, idle: float, moved: int, since: float) -> None:
        reactor = self._desk.reactor
        if joined.moved != moved:
            moved, since = joined.moved, reactor.time()
        if reactor.time() - since >= idle:
            joined.abort(IdleTimeout(f"nothing moved for {idle:g} s"))
        else:
            self._timer = reactor.call_later(idle / _LOOKS, self._watch, joined, idle, moved, since)

    def _over(self, joined: Relay) -> None:
        """The relay is: both connections are gone."""
        self._stop_waiting()
        self._desk.health.ended(joined)
        how = "in order"
        if joined.failure is not None:
            who = "the caller: " if joined.failed is joined.one else "the upstream: "
            ours = isinstance(joined.failure, (Aborted, IdleTimeout))
            how = f"reset: {'' if ours else who}{reason(joined.failure)}"
        up, down = self._early + joined.one_to_other, joined.other_to_one
        logger.info("%s: %d bytes up, %d down, %s", self, up, down, how)

    def draining(self) -> None:
        """It was let in, and is served."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Only before it was joined."""
        self._stop_waiting()
        if self._shaking and exc is not None:
            logger.warning("%s: the TLS handshake failed: %s", self, reason(exc))
        if self._connector is not None:
            self._connector.cancel()
        if self._upstream is not None:
            self._upstream.abort()
        self._desk.health.waiting -= 1
        self._desk.health.failed += 1

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __str__(self) -> str:
        called = f"#{self.connection.number} {address_text(self.connection.get_extra_info('peername'))}"
        if self._header is None or self._header.source is None:
            return called
        return f"{called} for {address_text(self._header.source)}"


class Upstream(Protocol):
    """The other side, until it is joined with its caller."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        self._caller.connected(connection)

    def connection_failed(self, exc: Exception) -> None:
        self._caller.not_connected(exc)

    def draining(self) -> None:
        """Its caller was let in, and is served."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._caller.upstream_lost(exc)


def _address(sockaddr: SocketAddress) -> Address | None:
    """A socket's address as a header names it: without scope and flow, a Unix socket's as text."""
    if isinstance(sockaddr, tuple):
        return sockaddr[0], sockaddr[1]
    return os.fsdecode(sockaddr) if isinstance(sockaddr, (str, bytes)) else None


def _starved(exc: Exception) -> bool:
    return isinstance(exc, ConnectFailed) and any(
        isinstance(cause, OSError) and cause.errno in EXHAUSTED for _, cause in exc.causes
    )
