"""`Reactor`: the loop, and what is asked of it from outside: listen, connect, watch, signals, threads, drain."""

from __future__ import annotations

import logging
import math
import selectors
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from reactor.addresses import (
    Address,
    InetAddress,
    SocketAddress,
    UnixPath,
    address_text,
    check_host,
    check_port,
    check_string,
)
from reactor.connection import Connection
from reactor.connector import Connector
from reactor.datagram import Datagram
from reactor.descriptor import Descriptor
from reactor.errors import Aborted, Misuse
from reactor.lifecycle import STARTING
from reactor.listener import Door, Listener
from reactor.loop import Loop
from reactor.options import DEFAULTS, Options
from reactor.pollers import READ, WRITE
from reactor.report import DrainSummary, Statistics, Totals
from reactor.service import ServiceManager
from reactor.signals import Signals
from reactor.system import System
from reactor.timers import Handle, TimerHandle

if TYPE_CHECKING:
    import socket
    import ssl
    from concurrent.futures import Future

    from reactor.tls import Codec

logger = logging.getLogger("reactor")

# Seconds that a notice may wait for a service manager which is busy; sd_notify(3) would wait for ever. A lost READY=1
# means that the service is taken for one that never began, so it is worth a second; what comes later is not.
_NOTICE_PATIENCE = 1.0


class Reactor(Loop):
    """A single-threaded event loop whose connections end well. A context manager: leaving it closes everything.

    `poller` is `"epoll"`, `"kqueue"`, `"poll"` or `"select"`, or a `selectors.BaseSelector`; by default what the
    environment's REACTOR_POLLER names, else the platform's best. ValueError when there is none of that name.
    `system` is the operating system to run on: the machine's own, unless a simulated one is given.

    From another thread use `call_soon_threadsafe` and nothing else, for instance `call_soon_threadsafe(reactor.stop)`.
    """

    def __init__(self, *, poller: str | selectors.BaseSelector | None = None, system: System | None = None) -> None:
        super().__init__(poller=poller, system=system)
        self._signals = Signals(self)
        self._drain: DrainSummary | None = None
        self._drain_cuts: list[TimerHandle] = []
        self._cut = False
        self._before_drain: tuple[float, Totals] = (self.now, self.totals)
        # Who was told READY=1, and is to be told the rest.
        self._service_manager: ServiceManager | None = None

    def __enter__(self) -> Reactor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # Ends

    def listen(
        self,
        factory: Callable[[], Any],
        host: str | None = None,
        port: int | None = None,
        *,
        path: UnixPath | None = None,
        sock: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
        reuse_port: bool = False,
        options: Options = DEFAULTS,
    ) -> Listener:
        """Serves whoever connects: `factory()` makes a protocol for each. Exactly one of port, path, sock.

        A host name listens on each of its addresses, no host on all of the machine (v4 and v6); port 0 picks one free
        port for all of them, and `Listener.addresses` tells it. `path` is a Unix socket's; what a dead server left
        there is replaced. `sock` is a bound stream socket, which belongs to the reactor from now on, and some of whose
        options are changed (`reactor.given`). With `tls`, a protocol begins when its handshake is complete; one that
        fails is logged, and counted by the listener. With
        `reuse_port`, other listeners that ask for it, also in other processes, share the port, and Linux deals the
        callers out. To each its own queue: `close` serves who waits there, but a process that dies resets them.
        OSError, naming what was asked for, when it cannot be had; ValueError or TypeError for what cannot be meant. If
        it raises, nothing is left behind, and `sock` is as it was.
        """
        self._check_takes_ends("listen()")
        unix = self._check_target("listen()", factory, host, port, path, sock)
        _check_options(options)
        if reuse_port:
            if port is None:
                raise ValueError("listen() takes reuse_port only together with a port")
            options = attrs.evolve(options, sockets=attrs.evolve(options.sockets, reuse_port=True))
        codecs = None if tls is None else _codecs(tls, server_side=True)
        if sock is not None:
            with self.system.taking(sock):
                return Listener(self, self.system.listen_given(sock, options), factory, options, codecs)
        if unix is not None:
            sockets = self.system.listen_unix(unix.sockaddr, options)
        else:
            assert port is not None
            sockets = self.system.listen_tcp(host, port, options)
        try:
            return Listener(self, sockets, factory, options, codecs)
        except BaseException:
            for made in sockets:
                self.system.close_listening(made)
            raise

    def connect(
        self,
        factory: Callable[[], Any],
        host: str | None = None,
        port: int | None = None,
        *,
        path: UnixPath | None = None,
        sock: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        source: InetAddress | None = None,
        options: Options = DEFAULTS,
    ) -> Connector:
        """Connects, and calls `factory()` for the protocol when that is decided. Exactly one of port, path, sock.

        The protocol is told `connection_made`, or `connection_failed` with every address's error, within
        `Deadlines.connect` seconds (and, with TLS, `Deadlines.handshake` more); nothing comes after `cancel()` on what
        this returns. `sock` is connected already (a socketpair's end, say), and belongs to the reactor from now on, and
        some of its options are changed (`reactor.given`). `source` is the address to connect from, port 0 for any. A
        name is looked up in a thread that is shared by all who ask for it, and its addresses are raced as RFC 8305 has
        it. With `tls`, the certificate must be good for `server_hostname` (by default the host) unless the context was
        told otherwise, and a protocol begins only when the handshake is complete. ValueError or TypeError for what
        cannot be meant, OSError for a `sock` that is not connected; whatever else fails is told in `connection_failed`.
        If it raises, nothing is left behind, and `sock` is as it was.
        """
        self._check_takes_ends("connect()")
        unix = self._check_target("connect()", factory, host, port, path, sock)
        _check_options(options)
        codecs = None
        if tls is not None:
            if server_hostname is not None:
                check_string("connect()'s server_hostname", server_hostname)
            elif port is not None:
                server_hostname = (host or "localhost").partition("%")[0]  # a certificate knows no zones
            codecs = _codecs(tls, server_side=False, server_hostname=server_hostname or None)
        elif server_hostname is not None:
            raise ValueError("connect() takes a server_hostname only together with tls")
        whence = None if source is None else self._check_source(source, port)
        if sock is not None:
            connector = Connector(self, repr(sock), factory, options, None, codecs)
            with self.system.taking(sock):
                adopted, peer = self.system.adopt(sock, options)
                connector.start(lambda: connector.adopt(adopted, peer))
        elif unix is not None:
            connector = Connector(self, str(unix), factory, options, None, codecs)
            connector.start(lambda: connector.begin([unix]))
        else:
            host, port = host or "localhost", check_port(port)
            connector = Connector(self, address_text((host, port)), factory, options, whence, codecs)
            connector.start(lambda: connector.resolve(host, port))
        return connector

    def datagram(
        self,
        factory: Callable[[], Any],
        local: InetAddress | None = None,
        remote: InetAddress | None = None,
        *,
        path: UnixPath | None = None,
        remote_path: UnixPath | None = None,
        sock: socket.socket | None = None,
        options: Options = DEFAULTS,
    ) -> Datagram:
        """Sends and receives datagrams: UDP at `local`, or over a Unix socket at `path`, or by `sock`, bound already.

        With `remote` (or `remote_path`) it is connected: it sends there, hears nobody else, and is told when nobody
        receives there. Either alone will do; a Unix socket without a path can be sent no answer. Hosts are numeric
        ("0.0.0.0" and "::" are all of the machine, port 0 picks one): a name's look-up would block, so look it up with
        `run_in_thread` first. A link-local address needs its zone ("fe80::1%eth0"), or the scope number as
        `getsockname` gives it. `factory()` makes the protocol in this turn or the next. OSError, naming what was asked
        for, when it cannot be had; ValueError or TypeError for what cannot be meant. If it raises, nothing is left
        behind, and `sock` is as it was.
        """
        self._check_takes_ends("datagram()")
        if not callable(factory):
            raise TypeError(f"datagram() needs something that makes a protocol, not {factory!r}")
        _check_options(options)
        kinds = ((local, remote), (path, remote_path), (sock,))
        if sum(any(one is not None for one in kind) for kind in kinds) != 1:
            raise ValueError("datagram() takes local and remote, or path and remote_path, or sock: exactly one kind")
        if sock is not None:
            self._check_is_free("datagram()", sock)
            with self.system.taking(sock):
                return Datagram(self, self.system.adopt_datagram(sock, options), factory, options)
        if local is not None or remote is not None:
            here, peer = (None if one is None else self._numeric("datagram()", one) for one in (local, remote))
        else:
            what = (("path", path), ("remote_path", remote_path))
            here, peer = (
                None if one is None else self.system.unix_address(one, f"datagram()'s {name}") for name, one in what
            )
        if here is not None and peer is not None and here.family != peer.family:
            raise ValueError(f"datagram() cannot send from {here} to {peer}: they are of different families")
        opened = self.system.open_datagram(here, peer, options)
        try:
            return Datagram(self, opened, factory, options, peer)
        except BaseException:
            self.system.close_listening(opened)
            raise

    def _numeric(self, what: str, address: SocketAddress) -> Address:
        """An address in numbers, as `getsockname` gives it or shorter."""
        if not isinstance(address, (tuple, list)) or not 2 <= len(address) <= 4:
            raise ValueError(f"{what} takes a host in numbers and a port, not {address!r}")
        check_host(f"a host in {what}", address[0])
        check_port(address[1])
        found = self.system.numeric_address(tuple(address))
        if found is None:
            raise ValueError(f"{what} takes a numeric address, not {address!r}: resolve it first, with run_in_thread()")
        return found

    def _check_target(
        self, what: str, factory: object, host: object, port: object, path: object, sock: socket.socket | None
    ) -> Address | None:
        """What can be said at once; returns the Unix address, if it is one."""
        if not callable(factory):
            raise TypeError(f"{what} needs something that makes a protocol, not {factory!r}")
        given = [name for name, value in (("port", port), ("path", path), ("sock", sock)) if value is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"{what} takes exactly one of port, path and sock, not {found}")
        if host is not None and port is None:
            raise ValueError(f"{what} takes a host only together with a port")
        if host is not None:
            check_host(f"{what}'s host", host)
        if sock is not None:
            self._check_is_free(what, sock)
        return None if path is None else self.system.unix_address(path, f"{what}'s path")

    def _check_is_free(self, what: str, sock: socket.socket) -> None:
        """A socket of the system's, and Misuse for one that serves here already.

        (An end that only has its number has lost it to who closed it.)
        """
        self.system.check_given(what, sock)
        there = self.ends.get(sock.fileno())
        held = there.sock if isinstance(there, Door) else None
        if isinstance(there, (Connection, Datagram)):
            held = there.get_extra_info("socket")
        if held is sock:
            raise Misuse(f"{what} refused: {sock!r} belongs to {there!r} already")

    def _check_source(self, source: SocketAddress, port: object) -> Address:
        """What `bind` takes without asking anybody: a name would block, and a wrong type fail too late."""
        if port is None:
            raise ValueError("connect() takes a source only together with a port")
        return self._numeric("connect()'s source", source)

    # The service manager

    def listen_fds(self) -> list[tuple[str, socket.socket]]:
        """The sockets that a service manager (systemd) passed to this process, each with its name: sd_listen_fds(3).

        They are yours: give them to `listen(sock=...)` or `datagram(sock=...)`, or close them. Answered once; empty
        when nothing was passed, and afterwards. ValueError and OSError when what was passed cannot be used.
        """
        self.check_open("listen_fds()")
        return self.system.listen_fds()

    def notify(self, *assignments: str) -> bool:
        """Tells the service manager how we are (sd_notify(3)): `notify("READY=1", "STATUS=serving")`.

        After READY=1 the rest follows by itself: STOPPING=1 when a drain begins, and, if the manager watches,
        WATCHDOG=1 from a timer, twice as often as asked for; with that timer `run()` ends only by a drain or `stop()`.
        False when nobody wants to know (no NOTIFY_SOCKET). OSError when the manager cannot be told; ValueError for what
        is no NAME=VALUE, and for a WATCHDOG_USEC that is no number. It waits a second at most for a busy manager.
        """
        self.check_open("notify()")
        manager = self.system.service_manager()
        if manager is None:
            return False
        manager.notify(*assignments, patience=_NOTICE_PATIENCE)
        if "READY=1" in assignments and self._service_manager is None:
            self._service_manager = manager
            self._tell_watchdog()
        return True

    def _tell_watchdog(self) -> None:
        manager = self._service_manager
        if manager is None or manager.watchdog is None:
            return
        self.call_later(manager.watchdog / 2, self._tell_watchdog)
        self._tell(manager, "WATCHDOG=1")

    def _tell(self, manager: ServiceManager, notice: str) -> None:
        try:
            manager.notify(notice)
        except OSError as exc:
            logger.warning("%s was not told: %s", notice, exc.strerror)

    # Foreign descriptors

    def add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:
        """Calls it in each turn in which `fd` (a number, or something with `fileno()`) is readable or broken.

        Replaces the call it had. The descriptor stays yours: remove it before you close it. OSError for what cannot be
        polled (a regular file, with epoll); Misuse for one that belongs to the reactor.
        """
        self._watch_side(fd, READ, Handle(self, callback, args))

    def remove_reader(self, fd: Any) -> bool:
        """No more calls for reading; False when there were none."""
        return self._unwatch_side(fd, READ)

    def add_writer(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:
        """As `add_reader`, for when `fd` is writable."""
        self._watch_side(fd, WRITE, Handle(self, callback, args))

    def remove_writer(self, fd: Any) -> bool:
        """No more calls for writing; False when there were none."""
        return self._unwatch_side(fd, WRITE)

    def _watch_side(self, fd: Any, bit: int, handle: Handle) -> None:
        self.check_open("watching a descriptor")
        number = _descriptor_number(fd)
        there = self.ends.get(number)
        if not (there is None or isinstance(there, Descriptor)):
            raise Misuse(f"descriptor {number} cannot be watched: it belongs to {there!r}")
        end = Descriptor(self, number) if there is None else there
        try:
            end.watch(bit, handle)
        except BaseException:
            if there is None:
                end.abandon()
            raise

    def _unwatch_side(self, fd: Any, bit: int) -> bool:
        end = self.ends.get(_descriptor_number(fd))
        if not isinstance(end, Descriptor) or not end.watches(bit):
            return False
        end.watch(bit, None)
        return True

    # Signals and threads

    def add_signal_handler(self, number: int, callback: Callable[..., object], *args: Any) -> None:
        """Calls it in the loop when the signal arrives; replaces the call it had. ValueError but in the main thread.

        A signal that arrives again before the call is made does not lead to another call, as with the kernel's own
        pending signals. Of several reactors the last one that asked for a signal gets it. A forked child handles its
        signals as if there were no reactor.
        """
        self.check_open("add_signal_handler()")
        _check_callable("add_signal_handler()", callback)
        self._signals.add(number, callback, args)

    def remove_signal_handler(self, number: int) -> bool:
        """What handled the signal before handles it again; False when there was no call.

        If somebody else handles it by now (`signal.signal`, asyncio), that stays.
        """
        return self._signals.remove(number)

    def run_in_thread(
        self, function: Callable[..., Any], *args: Any, done: Callable[[Future[Any]], object] | None = None
    ) -> Future[Any]:
        """Runs what blocks in a thread; then calls `done(future)` in the loop, with its result or exception in it.

        Without `done`, an exception is logged. `run()` waits for it. `close()` cancels what has not begun, and calls no
        `done` any more; what has begun goes on, and the program ends only when it does.
        """
        self.check_open("run_in_thread()")
        _check_callable("run_in_thread()", function)
        if done is not None:
            _check_callable("run_in_thread()", done)
        future = self.system.submit(function, *args)
        self.outside[future] = None
        future.add_done_callback(lambda ended: self.call_from_thread(self._came_back, ended, done))
        return future

    def _came_back(self, future: Future[Any], done: Callable[[Future[Any]], object] | None) -> None:
        self.outside.pop(future, None)
        if done is not None:
            done(future)
        elif not future.cancelled() and future.exception() is not None:
            logger.error("a call in a thread failed", exc_info=future.exception())

    def _begin_waiting(self) -> None:
        self._signals.begin_waiting()

    def _end_waiting(self) -> None:
        if self._inherited is None:
            self._signals.end_waiting()

    # The end

    def drain(self, deadline: float) -> DrainSummary:
        """Ends in order, within `deadline` seconds: lets in who waits, closes the listeners, asks every protocol to end
        (`draining`), and at the deadline resets what is left. From the deadline on, and once drained, it takes no new
        connections, listeners or endpoints.

        `run()` returns when no connection is left. Called outside a turn, this runs the loop itself until then; called
        inside one (from any callback), it only begins. Either way it returns the summary, which is complete when it
        says `finished`. Again: the earlier deadline holds.
        """
        _check_drain_deadline(deadline)
        self.check_open("drain()")
        if self._drain is None:
            self._drain = DrainSummary()
            self._before_drain = (self.time(), self.totals.copy())
            self.draining = True
            if self._service_manager is not None:
                self._tell(self._service_manager, "STOPPING=1")
            for listener in self.listeners:
                listener.close()
            for connection in self.connections:
                if connection.state is not STARTING:  # those ask themselves, once they have begun
                    self.post(connection, connection.drain)
            for endpoint in self.datagrams:
                self.post(endpoint, endpoint.drain)
        if not self._drain.finished:
            self._drain_cuts.append(self.call_later(deadline, self._cut_drain))
        if not self._turning:
            self._check_drained()
            self.run()
            self.nudge()  # a host that lends its loop has still to learn of it
        return self._drain

    def _cut_drain(self) -> None:
        self._cut = True
        for listener in self.listeners:
            listener.abandon()
        late = Aborted("the drain's deadline had passed")
        for connection in self.connections:
            connection.cut(late)
        for endpoint in self.datagrams:
            endpoint.cut(late)
        for connector in self.connectors:
            connector.fail(late)

    def _bury(self) -> None:
        super()._bury()
        if self._drain is not None and not self._drain.finished:
            self._check_drained()

    def _check_drained(self) -> None:
        assert self._drain is not None
        if (
            self.dead
            or self.connectors
            or any(isinstance(end, (Connection, Datagram, Door)) for end in self.ends.values())
        ):
            return
        began, before = self._before_drain
        self._drain.ended = self.totals.since(before)
        self._drain.seconds = self.time() - began
        self._drain.finished = True
        for cut in self._drain_cuts:
            cut.cancel()

    def _has_work(self) -> bool:
        if self._drain is not None:
            return not self._drain.finished
        return super()._has_work() or self._signals.has_arrived()

    def _check_takes_ends(self, what: str) -> None:
        self.check_open(what)
        if self._cut or (self._drain is not None and self._drain.finished):
            raise Misuse(f"{what} refused: {self!r} was drained")

    @property
    def drained(self) -> DrainSummary | None:
        """What the drain has come to: None before there was one, complete once it says `finished`."""
        return self._drain

    def drain_on_signals(self, deadline: float) -> None:
        """SIGTERM and SIGINT drain; a second one ends it at once. ValueError outside the main thread."""
        _check_drain_deadline(deadline)
        added: list[int] = []
        try:
            for number in self.system.stop_signals():
                self.add_signal_handler(number, self._stop_signal, deadline)
                added.append(number)
        except BaseException:
            for number in added:
                self.remove_signal_handler(number)
            raise

    def _stop_signal(self, deadline: float) -> None:
        if self._drain is None:
            logger.info("a signal asks to end: draining, for %s s at most", deadline)
            self.drain(deadline)
        else:
            logger.warning("a second signal: ending at once")
            self._cut_drain()

    def close(self) -> None:
        """Ends everything now: connections are reset and told so, listeners closed, calls and timers dropped.

        For an end in order, `drain` first. May be called twice. Misuse inside a turn, and outside the main thread while
        there are signal handlers. In a forked child it closes the child's copies of the descriptors, and nothing else:
        the parent goes on.
        """
        if self._inherited is not None:
            super().close()
            return
        self.check_not_turning("close()")
        if not self._signals.can_close():
            raise Misuse(f"close() refused: {self!r} has signal handlers, which only the main thread can remove")
        for connector in self.connectors:
            connector.cancel()
        try:
            self._signals.close()
        finally:
            super().close()

    # Looking

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections that have not ended."""
        return tuple(end for end in self.ends.values() if isinstance(end, Connection))

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """The listeners that have not ended."""
        return tuple(dict.fromkeys(end.listener for end in self.ends.values() if isinstance(end, Door)))

    @property
    def datagrams(self) -> tuple[Datagram, ...]:
        """The datagram endpoints that have not ended."""
        return tuple(end for end in self.ends.values() if isinstance(end, Datagram))

    @property
    def connectors(self) -> tuple[Connector, ...]:
        """The connects that are under way."""
        return tuple(one for one in self.outside if isinstance(one, Connector))

    def statistics(self) -> Statistics:
        """Numbers, for logs and monitors."""
        return Statistics(
            turns=self.turns,
            connections=len(self.connections),
            listeners=len(self.listeners),
            timers=len(self.timers),
            watched=len(self.ends) - 1,  # the waker is nobody's business
            elsewhere=len(self.outside),
            ended=self.totals.copy(),
        )


def _codecs(context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None) -> Callable[[], Codec]:
    """Makes a codec for each connection. Imported only here: who uses no TLS does not pay for OpenSSL."""
    from reactor.tls import codecs

    return codecs(context, server_side=server_side, server_hostname=server_hostname)


def _check_options(options: object) -> None:
    if not isinstance(options, Options):
        raise TypeError(f"options must be a reactor.Options, not {options!r}")


def _check_callable(what: str, function: object) -> None:
    if not callable(function):
        raise TypeError(f"{what} calls a function, and {function!r} cannot be called")


def _descriptor_number(fd: Any) -> int:
    number = fd if isinstance(fd, int) else fd.fileno()
    if number < 0:
        raise ValueError(f"{fd!r} is closed: it has no descriptor")
    return int(number)


def _check_drain_deadline(deadline: object) -> None:
    if not isinstance(deadline, (int, float)) or isinstance(deadline, bool) or not 0 <= deadline < math.inf:
        raise ValueError(f"a drain's deadline is a number of seconds, zero or more, not {deadline!r}")
