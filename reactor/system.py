"""Everything the reactor asks of the operating system is asked here, or in `syscalls`, `pollers`, `lookups`, `given`
and `service`.

Outside of these no module imports socket, select, selectors, signal, threading or time; a test says so. A simulated
system with the same methods runs the same loop and connections.

What platforms do differently is decided here, once: what the kernel tells of acknowledged bytes, how a connection is
reset, which socket options exist.
"""

from __future__ import annotations

import errno
import functools
import math
import os
import selectors
import signal
import socket
import stat
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Protocol, TypeVar

try:
    # Here, and not where it is used: in a famine of descriptors nothing more can be imported.
    import fcntl
except ImportError:  # pragma: no cover (Windows)
    fcntl = None  # type: ignore[assignment]

from reactor import given, pollers, service, syscalls
from reactor import options as opt
from reactor.addresses import Address, SocketAddress, UnixPath, check_host, check_port, numeric, unix_name
from reactor.buffers import FileRange
from reactor.errors import EXHAUSTED, WAIT, FileUnusable, named
from reactor.lookups import Answer, Lookup, Lookups
from reactor.syscalls import NO_SIGNAL, no_broken_pipe_signal

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

T = TypeVar("T")

_LINUX = sys.platform == "linux"
# sockios.h: bytes in the send queue that the peer's TCP has not acknowledged, our FIN counted as one.
_SIOCOUTQ = 0x5411
# Not in every Python's socket module: tcp(7), the states of net/tcp_states.h.
_TCP_INFO = getattr(socket, "TCP_INFO", 11)
_TCP_STATES = (
    "?",
    "ESTABLISHED",
    "SYN-SENT",
    "SYN-RECEIVED",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "CLOSED",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
)
# The queue of errors that ip(7) describes; Linux alone has it.
_MSG_ERRQUEUE = getattr(socket, "MSG_ERRQUEUE", 0x2000)
_ERRORS_PER_TURN = 64
# SO_LINGER on, zero seconds: close sends RST (socket(7), RFC 9293 3.10.4 ABORT).
_RESET = struct.pack("ii", 1, 0)
# Ports tried so that every address of a name gets the same free one.
_SAME_PORT_TRIES = 16


class Socket(Protocol):
    """What is asked of a stream socket. It never blocks."""

    @property
    def family(self) -> int: ...
    def fileno(self) -> int: ...
    def recv(self, bufsize: int, /) -> bytes: ...
    def send(self, data: Any, flags: int, /) -> int: ...
    def sendmsg(self, buffers: Iterable[Any], ancillary: tuple[()], flags: int, /) -> int: ...
    def getsockname(self) -> SocketAddress: ...
    def getpeername(self) -> SocketAddress: ...
    def close(self) -> None: ...


class DatagramSocket(Socket, Protocol):
    """What is asked of a datagram socket, besides. One call, one datagram."""

    def recvfrom(self, bufsize: int, /) -> tuple[bytes, SocketAddress]: ...
    def sendto(self, data: Any, flags: int, address: SocketAddress, /) -> int: ...


class _Listening4(socket.socket):
    """A listening socket that knows what it is. `accept` asks it for each caller, and asking the kernel's word for it
    in Enums costs 1 us."""

    family = socket.AF_INET
    type = socket.SOCK_STREAM

    def __init__(self) -> None:
        super().__init__(self.family, self.type)


class _Listening6(_Listening4):
    family = socket.AF_INET6


@functools.cache
def _free_a_large_block() -> None:
    # glibc maps memory for each block of 128 KiB or more, 13 us for every read, until the first such block was freed;
    # then blocks up to that size come from the heap (mallopt(3), "M_MMAP_THRESHOLD"). So free one, once.
    bytearray(1 << 20)


class ForkWatcher(Protocol):
    """What has to know that it is in a forked child now."""

    def forked(self) -> None:
        """Called in the child, before anything else happens there."""


_fork_watchers: weakref.WeakSet[ForkWatcher] = weakref.WeakSet()


# The signals that handlers of ours are called for; and, while a thread forks, the mask that it had before.
_caught: set[int] = set()
_masks: dict[int, set[Any]] = {}


def _before_fork() -> None:
    # One that comes to the child before its handlers are as they should be would be lost: the interpreter forgets what
    # is pending there.
    if _caught:
        _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _caught)


def _after_fork() -> None:
    mask = _masks.pop(threading.get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forked() -> None:
    try:
        for watcher in tuple(_fork_watchers):
            watcher.forked()
    finally:
        _after_fork()
        _masks.clear()  # of other threads, which are not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forked)


class System:
    """The machine's own kernel."""

    # What all reactors of a process share, by its kind.
    _shared: ClassVar[dict[type, Any]] = {}

    def __init__(self) -> None:
        _free_a_large_block()
        self._executor: Executor | None = None
        self._lookups = Lookups(self.resolve, _in_thread)
        # Path -> (device, inode) of the socket files made here.
        self._socket_files: dict[str, tuple[int, int]] = {}
        # Listening sockets that were made elsewhere: other processes may listen with them as well.
        self._given: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    # Time, pollers, wake-ups

    # Seconds on a clock that never goes back.
    time = staticmethod(time.monotonic)

    def poller(self, kind: str | selectors.BaseSelector | None) -> pollers.Poller:
        """The poller asked for, else the one that REACTOR_POLLER names, else the best there is."""
        return pollers.make_poller(kind if kind is not None else os.environ.get("REACTOR_POLLER") or None)

    def pair(self) -> tuple[Socket, Socket]:
        """Two connected sockets, by which other threads and signal handlers wake the loop."""
        ours, theirs = socket.socketpair()
        with ExitStack() as undo:
            for end in (ours, theirs):
                undo.callback(end.close)
            for end in (ours, theirs):
                end.setblocking(False)
            number = theirs.detach()
            undo.callback(os.close, number)
            locked = _AnyThreadsSocket(number)
            undo.pop_all()
        return ours, locked

    # Processes

    def shared(self, kind: Callable[[System], T]) -> T:
        """The one thing of this kind in the process."""
        found = self._shared.get(kind)  # type: ignore[call-overload]
        if found is None:
            found = self._shared[kind] = kind(self)  # type: ignore[index]
        return found  # type: ignore[no-any-return]

    def process(self) -> int:
        """This process's number."""
        return os.getpid()

    def watch_forks(self, watcher: ForkWatcher) -> None:
        """Calls `watcher.forked()` in every child that is forked from now on, as long as `watcher` lives."""
        _fork_watchers.add(watcher)

    def close_copy(self, sock: Socket, identity: object) -> None:
        """In a forked child: closes the child's copy of the descriptor, unless its number is another file's by now.

        Nothing is sent, no file is removed: the socket is the parent's.
        """
        syscalls.close_if(identity, sock.detach())  # type: ignore[attr-defined]

    def identity(self, fd: int) -> object:
        """What file the number means: equal as long as it is the same. None: none."""
        return syscalls.identity(fd)

    # Listening

    def listen_tcp(self, host: str | None, port: int, options: opt.Options) -> list[Socket]:
        """A listening socket for each address of `host`, all on one port. No host: every address, v4 and v6.

        OSError, naming the address, when one cannot be had; none is left open then.
        """
        check_port(port)
        for attempt in range(_SAME_PORT_TRIES):
            sockets: list[Socket] = []
            try:
                for address in self._passive_addresses(host, port):
                    if sockets and port == 0:
                        address = address.with_port(sockets[0].getsockname()[1])
                    sockets.append(self._listen_at(address, options, dual_stack=not host))
            except BaseException as exc:
                for sock in sockets:
                    sock.close()
                # The free port that one address got may be taken on the next; ask for another.
                taken = isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE
                if not (taken and port == 0 and sockets and attempt < _SAME_PORT_TRIES - 1):
                    raise
            else:
                return sockets
        raise AssertionError("the last try either returns or raises")

    def _passive_addresses(self, host: str | None, port: int) -> list[Address]:
        if not host:
            if socket.has_dualstack_ipv6():
                return [Address(socket.AF_INET6, ("::", port, 0, 0))]
            return [Address(socket.AF_INET, ("0.0.0.0", port))]
        return self.resolve(host, port)

    def _listen_at(self, address: Address, options: opt.Options, dual_stack: bool) -> Socket:
        sock = _Listening6() if address.family == socket.AF_INET6 else _Listening4()
        with self._or_closed(sock, f"cannot listen on {address}"):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if options.sockets.reuse_port:
                if not hasattr(socket, "SO_REUSEPORT"):
                    raise OSError(errno.ENOPROTOOPT, "this platform cannot share a port")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if address.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
            self._set_options(sock, options.sockets)
            sock.bind(address.sockaddr)
            sock.listen(options.limits.backlog)
        return sock

    @contextmanager
    def _or_closed(self, sock: socket.socket, doing: str) -> Iterator[None]:
        """What cannot be had leaves nothing behind, and an OSError says what was attempted."""
        try:
            yield
        except OSError as exc:
            self.close_listening(sock)
            raise named(exc, doing) from exc
        except BaseException:
            self.close_listening(sock)
            raise

    def listen_unix(self, path: UnixPath, options: opt.Options) -> list[Socket]:
        """A listening Unix socket. A file left behind by a dead server is replaced; a live one is EADDRINUSE."""
        address = self.unix_address(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with self._or_closed(sock, f"cannot listen on {address}"):
            sock.setblocking(False)
            self._bind_unix(sock, address.sockaddr)
            sock.listen(options.limits.backlog)
        return [sock]

    def _bind_unix(self, sock: socket.socket, name: str | bytes) -> None:
        try:
            sock.bind(name)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or isinstance(name, bytes) or not _is_stale_socket(name):
                raise
            os.unlink(name)
            sock.bind(name)
        if name and isinstance(name, str):
            try:
                made = os.stat(name)
            except BaseException:
                os.unlink(name)  # made just now, and nobody would know that it is ours
                raise
            self._socket_files[name] = (made.st_dev, made.st_ino)

    def listen_given(self, sock: socket.socket, options: opt.Options) -> list[Socket]:
        """A socket made elsewhere; it is bound already, and listens from now on if it did not."""
        try:
            if sock.type != socket.SOCK_STREAM:
                raise OSError(errno.EINVAL, "it is not a stream socket")
            self._set_options(sock, options.sockets)
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                sock.listen(options.limits.backlog)
        except OSError as exc:
            raise named(exc, f"cannot listen on {sock!r}") from exc
        self._given.add(sock)
        return [sock]

    def stop_listening(self, sock: Socket) -> None:
        """Closes a listener's socket. Nobody listens there any more, also where a forked child has a copy of it.

        Else callers would wait in a queue that nobody asks. A given socket is only closed here: others may share it.
        """
        if sock not in self._given:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
                while sock.family == socket.AF_UNIX:
                    # Who waits in the queue of a TCP socket has been reset by that; here each must be let go.
                    sock.accept()[0].close()  # type: ignore[attr-defined]
            except OSError:
                pass  # there is nobody more, or it does not listen: closing it says the rest
        self.close_listening(sock)

    def close_listening(self, sock: Socket) -> None:
        """Closes what was bound (a datagram socket, too); removes the socket file if it is still the one made here."""
        path = None
        try:
            path = sock.getsockname() if sock.family == socket.AF_UNIX else None
        except OSError:
            pass  # not even a socket any more
        self.close(sock)
        made = self._socket_files.pop(path, None) if isinstance(path, str) else None
        if made is None or path is None:
            return
        try:
            there = os.stat(path)
            if (there.st_dev, there.st_ino) == made:
                os.unlink(path)
        except OSError:
            pass  # somebody else removed it: what we wanted

    def accept(self, listening: Socket) -> tuple[Socket, SocketAddress]:
        """The next connection; the OSErrors of accept(2). Options are inherited from the listening socket."""
        sock, address = listening.accept()  # type: ignore[attr-defined]
        sock.setblocking(False)
        return sock, address

    # Connecting

    def resolve(self, host: str, port: int) -> list[Address]:
        """The stream addresses of a name, in the order of RFC 6724. May block: call it from a thread."""
        check_port(port)
        numbers = self.resolve_numeric(check_host("a host", host), port)
        if numbers is not None:
            return numbers
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as exc:
            raise OSError(exc.errno, f"cannot resolve {host!r}: {exc.strerror}") from exc
        except UnicodeError as exc:
            raise OSError(errno.EINVAL, f"cannot resolve {host!r}: {exc}") from exc
        return list(dict.fromkeys(Address(family, sockaddr) for family, _, _, _, sockaddr in found))

    def look_up(self, host: str, port: int, done: Callable[[Answer], object]) -> Lookup:
        """`resolve` in a thread, shared by all who ask for the same; calls `done(addresses, or why there are none)`
        there. RuntimeError when no thread can be had."""
        return self._lookups.ask(host, port, done)

    def resolve_numeric(self, host: str, port: int) -> list[Address] | None:
        """The same without asking anybody, for a host that is an address; None for a name.

        OSError when there is no network interface of the zone's name.
        """
        address = self.numeric_address((host, port))
        return None if address is None else [address]

    def numeric_address(self, sockaddr: SocketAddress) -> Address | None:
        """An address in numbers, in its normal form. None for a name, or what is no address; OSError as above."""
        for family in (socket.AF_INET, socket.AF_INET6):
            found = numeric(family, sockaddr, self.zone_index)
            if found is not None:
                return Address(family, found)
        return None

    def zone_index(self, name: str) -> int:
        """The number of a network interface; OSError when there is none of that name."""
        try:
            return socket.if_nametoindex(name)
        except OSError as exc:
            number = errno.ENODEV if exc.errno is None else exc.errno
            raise OSError(number, f"there is no network interface {name!r}") from exc

    def unix_address(self, path: object, what: str = "path") -> Address:
        """A path, or an abstract name, in its normal form. ValueError, naming the argument, for what is neither."""
        return Address(socket.AF_UNIX, unix_name(what, path))

    def start_connect(self, address: Address, options: opt.Options, source: Address | None = None) -> Socket:
        """A socket whose connect is under way: it becomes writable when there is an answer, see `finish_connect`."""
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if address.family != socket.AF_UNIX:
                self._set_options(sock, options.sockets)
                if source is not None:
                    self._bind_source(sock, source)
            sock.connect(address.sockaddr)
        except BlockingIOError as exc:
            # A Unix socket with a full backlog says EAGAIN: no connect is under way, and none can be waited for.
            if exc.errno == errno.EAGAIN and address.family == socket.AF_UNIX:
                sock.close()
                raise
        except BaseException:
            sock.close()
            raise
        return sock

    def _bind_source(self, sock: socket.socket, source: Address) -> None:
        try:
            if source.family != sock.family:
                raise OSError(errno.EAFNOSUPPORT, "the target's address is of another family")
            sock.bind(source.sockaddr)
        except OSError as exc:
            raise named(exc, f"cannot connect from {source}") from exc

    def finish_connect(self, sock: Socket) -> None:
        """Raises what became of the connect, if it did not succeed."""
        failed = self.error(sock)
        if failed is not None:
            raise failed
        if sock.family != socket.AF_UNIX and sock.getsockname() == sock.getpeername():
            # A simultaneous open with oneself (RFC 9293, 3.5): a free port picked as the source was the target's.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself: nobody listens there")

    def adopt(self, sock: socket.socket, options: opt.Options) -> tuple[Socket, Address]:
        """A connected stream socket made elsewhere, and whom it is connected to. OSError when it is not connected."""
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"a stream socket is needed, not {sock!r}")
        try:
            peer = Address(sock.family, sock.getpeername())
            self._set_options(sock, options.sockets)
        except OSError as exc:
            raise named(exc, f"cannot use {sock!r}") from exc
        return sock, peer

    def check_given(self, what: str, sock: object) -> None:
        """TypeError for what is no socket, or one that does more than a socket."""
        given.check(what, sock)

    def taking(self, sock: socket.socket | None) -> AbstractContextManager[None]:
        """Inside, a socket made elsewhere becomes ours: non-blocking, with the options that we can bear. If what is
        done inside raises, it is its owner's as it was."""
        return nullcontext() if sock is None else given.taken(sock)

    def _set_options(self, sock: socket.socket, wanted: opt.Sockets) -> None:
        self._set_buffers(sock, wanted)
        if not self.is_tcp(sock):
            return
        if wanted.nodelay:
            _set(sock, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1, "Sockets.nodelay")
        if wanted.keepalive is not None:
            _set(sock, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1, "Sockets.keepalive")
            idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
            if idle is not None:
                _set(sock, socket.IPPROTO_TCP, idle, wanted.keepalive.idle, "Keepalive.idle")
            if hasattr(socket, "TCP_KEEPINTVL"):
                interval, count = wanted.keepalive.interval, wanted.keepalive.count
                _set(sock, socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval, "Keepalive.interval")
                _set(sock, socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count, "Keepalive.count")
        if wanted.user_timeout is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            # Rounded up: zero would mean the kernel's own.
            milliseconds = math.ceil(wanted.user_timeout * 1000)
            _set(sock, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds, "Sockets.user_timeout")

    def _set_buffers(self, sock: socket.socket, wanted: opt.Sockets) -> None:
        send, receive = wanted.send_buffer_bytes, wanted.receive_buffer_bytes
        if send is not None:
            _set(sock, socket.SOL_SOCKET, socket.SO_SNDBUF, send, "Sockets.send_buffer_bytes")
        if receive is not None:
            _set(sock, socket.SOL_SOCKET, socket.SO_RCVBUF, receive, "Sockets.receive_buffer_bytes")

    # Datagrams

    def open_datagram(self, local: Address | None, remote: Address | None, options: opt.Options) -> DatagramSocket:
        """A datagram socket, bound to `local` and connected to `remote`, as far as they are given.

        Of a Unix socket `local` is a path, bound as `listen_unix` does. OSError names what could not be had.
        """
        family = next(address.family for address in (local, remote) if address is not None)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        doing = "cannot make a datagram socket"
        try:
            sock.setblocking(False)
            self._set_buffers(sock, options.sockets)
            self._set_datagram_options(sock, options.datagrams)
            if local is not None:
                doing = f"cannot receive datagrams at {local}"
                if family == socket.AF_UNIX:
                    self._bind_unix(sock, local.sockaddr)
                else:
                    sock.bind(local.sockaddr)
            for group in options.datagrams.groups:
                doing = "cannot make a datagram socket"
                self._join(sock, group)
            if remote is not None:
                doing = f"cannot send datagrams to {remote}"
                sock.connect(remote.sockaddr)
        except OSError as exc:
            self.close_listening(sock)
            raise named(exc, doing) from exc
        except BaseException:
            self.close_listening(sock)
            raise
        return sock

    def _set_datagram_options(self, sock: socket.socket, wanted: opt.Datagrams) -> None:
        """Before it is bound: what cannot be changed afterwards, and the rest."""
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if wanted.reuse_port:
            if not hasattr(socket, "SO_REUSEPORT"):
                raise OSError(errno.ENOPROTOOPT, "this platform cannot share a port")
            _set(sock, socket.SOL_SOCKET, socket.SO_REUSEPORT, 1, "Datagrams.reuse_port")
        if wanted.groups:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._set_broadcast(sock, wanted)

    def _set_broadcast(self, sock: socket.socket, wanted: opt.Datagrams) -> None:
        if wanted.broadcast:
            _set(sock, socket.SOL_SOCKET, socket.SO_BROADCAST, 1, "Datagrams.broadcast")

    def _join(self, sock: socket.socket, group: opt.Group) -> None:
        """ip(7) and ipv6(7). The membership ends with the socket."""
        try:
            index = 0 if group.interface is None else self.zone_index(group.interface)
            member = socket.inet_pton(sock.family, group.address)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member + struct.pack("@I", index))
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("@4s4xi", member, index))
        except OSError as exc:
            raise named(exc, f"cannot join {group}") from exc

    def adopt_datagram(self, sock: socket.socket, options: opt.Options) -> DatagramSocket:
        """A datagram socket made elsewhere."""
        if sock.type != socket.SOCK_DGRAM:
            raise ValueError(f"a datagram socket is needed, not {sock!r}")
        try:
            self._set_buffers(sock, options.sockets)
            if sock.family != socket.AF_UNIX:
                self._set_broadcast(sock, options.datagrams)
            for group in options.datagrams.groups:
                self._join(sock, group)
        except OSError as exc:
            raise named(exc, f"cannot use {sock!r}") from exc
        return sock

    def datagram_peer(self, sock: DatagramSocket) -> SocketAddress:
        """Whom it is connected to; None when to nobody."""
        try:
            return sock.getpeername()
        except OSError:
            return None

    # The end of a connection

    def error(self, sock: Socket) -> OSError | None:
        """The error that has ended the socket, which the kernel tells exactly once (SO_ERROR, socket(7)).

        SO_ERROR also tells what ICMP says of a path for a moment. While TCP lives on, that is taken and dropped (RFC
        9293, MUST-56).
        """
        error = self.pending_error(sock)
        return None if error is None or self.tcp_lives(sock) else error

    def tcp_lives(self, sock: Socket) -> bool:
        """Whether it is a TCP connection that no error has ended; False where nobody tells."""
        return self.tcp_state(sock) not in (None, "CLOSED")

    def has_input(self, sock: Socket) -> bool:
        """Whether something that arrived was not read yet. For a socket that has failed: a pending error is dropped."""
        try:
            return bool(sock.recv(1, socket.MSG_PEEK))  # type: ignore[call-arg]
        except OSError as exc:
            return exc.errno in EXHAUSTED  # nobody knows: ask again

    def clear_error_queue(self, sock: Socket) -> bool:
        """Takes what IP_RECVERR or a time stamp left there (ip(7)): the poller would tell of it for ever.

        Returns whether there was anything. A Unix socket has no such queue, and gives its data to whoever asks for it.
        """
        if not self.is_tcp(sock):
            return False
        taken = 0
        try:
            while taken < _ERRORS_PER_TURN:
                sock.recvmsg(0, 0, _MSG_ERRQUEUE)  # type: ignore[attr-defined]
                taken += 1
        except OSError:
            pass  # empty; or nothing that has one
        return taken > 0

    def pending_error(self, sock: Socket) -> OSError | None:
        """What SO_ERROR tells, a soft error included: of a datagram socket, the fate of one datagram."""
        try:
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # type: ignore[attr-defined]
        except OSError as exc:
            return exc  # not even a socket any more
        return OSError(number, os.strerror(number)) if number else None

    def shutdown_output(self, sock: Socket) -> None:
        """Sends our FIN behind everything the kernel has accepted (shutdown(2))."""
        sock.shutdown(socket.SHUT_WR)  # type: ignore[attr-defined]

    def outstanding(self, sock: Socket) -> int | None:
        """What we sent and the peer's TCP has not acknowledged, our FIN counted as one; None where nobody knows.

        On a Unix socket 0 means that the peer's program has read everything, and no other number means a thing: the
        kernel counts its own book-keeping with the bytes.
        """
        if fcntl is None or not _LINUX or sock.fileno() < 0:
            return None
        try:
            answer = fcntl.ioctl(sock.fileno(), _SIOCOUTQ, b"\0\0\0\0")
        except OSError:
            return None
        count = int.from_bytes(answer, sys.byteorder)
        return None if count and sock.family == socket.AF_UNIX else count

    def is_tcp(self, sock: Socket) -> bool:
        return sock.family in (socket.AF_INET, socket.AF_INET6)

    def tcp_state(self, sock: Socket) -> str | None:
        """What the kernel calls the state of its side, in RFC 9293's words; None where it does not tell."""
        if not _LINUX or not self.is_tcp(sock):
            return None
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)  # type: ignore[attr-defined]
        except OSError:
            return None
        return _TCP_STATES[info[0]] if info[0] < len(_TCP_STATES) else "?"

    def reset(self, sock: Socket) -> None:
        """Closes with RST instead of FIN. A Unix socket cannot: its peer reads what was sent, then the end.

        The peer learns of it at once, also where a copy of the descriptor lives on in a forked child.
        """
        try:
            if sock.family == socket.AF_UNIX:
                sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
            elif not syscalls.disconnect(sock.fileno()):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)  # type: ignore[attr-defined]
        except OSError:
            pass  # already gone: close says no more than that
        self.close(sock)

    def finish(self, sock: Socket) -> None:
        """Sends our FIN, unless the connection is gone already, and closes.

        The close alone would send it only where nobody has a copy of the descriptor (a forked child, a duplicate).
        """
        try:
            self.shutdown_output(sock)
        except OSError:
            pass
        self.close(sock)

    def close(self, sock: Socket) -> None:
        """Releases the descriptor. An error of close(2) is told by nobody: the descriptor is gone all the same."""
        try:
            sock.close()
        except OSError:
            pass

    def forget(self, sock: Socket) -> None:
        """Lets go of a descriptor that somebody else closed: its number may be another's by now."""
        sock.detach()  # type: ignore[attr-defined]

    # Files

    def file_range(self, file: BinaryIO, offset: int, count: int | None) -> FileRange:
        """A part of a regular file under a descriptor of its own. ValueError for what is none, or not in it."""
        if type(offset) is not int or offset < 0 or not (count is None or (type(count) is int and count >= 0)):
            raise ValueError(f"a part of a file has a place and a length, zero or more, not {offset!r} and {count!r}")
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"only a regular file can be sent, not {file!r}")
        if count is None:
            count = max(0, found.st_size - offset)
        if offset + count > found.st_size:
            raise ValueError(f"{file!r} has {found.st_size} bytes, not {count} from {offset} on")
        fd = os.dup(file.fileno())
        identity = syscalls.identity(fd)
        return FileRange(fd, offset, count, functools.partial(syscalls.close_if, identity), identity)

    def send_file(self, sock: Socket, part: FileRange, limit_bytes: int) -> int:
        """Lets the kernel take up to so much of it; returns how much it took.

        The OSErrors of send(2); FileUnusable when there is less of the file than there was, or it cannot be read.
        """
        wanted = min(part.size, limit_bytes)
        # sendfile(2) writes to a file as well: to somebody else's, if somebody closed our descriptor.
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)  # type: ignore[attr-defined]
        _check_is_there(part)
        try:
            with no_broken_pipe_signal():
                sent = os.sendfile(sock.fileno(), part.fd, part.offset, wanted)
        except OSError as exc:
            if exc.errno in WAIT or exc.errno == errno.EPIPE:
                raise
            # A file system that cannot, a failing disk, or the socket's own error: this way tells which.
            return sock.send(self.read_file(part, wanted), NO_SIGNAL)
        if not sent:
            raise _shrunk(part)
        return sent

    def read_file(self, part: FileRange, limit_bytes: int) -> bytes:
        """The first bytes of it, at least one, into memory. FileUnusable, as above."""
        _check_is_there(part)
        try:
            data = os.pread(part.fd, min(part.size, limit_bytes), part.offset)
        except OSError as exc:
            raise FileUnusable(exc.errno, f"a file that was being sent cannot be read: {exc.strerror}") from exc
        if not data:
            raise _shrunk(part)
        return data

    # Threads and signals

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Runs it in a thread of a pool, made when first needed."""
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor

            self._executor = ThreadPoolExecutor(thread_name_prefix="reactor")
        call = _Call(function, args)
        try:
            return self._executor.submit(call)
        except BaseException:
            call.drop()  # the pool has it all the same, when it could not start a thread for it
            raise

    def close_threads(self) -> None:
        """What has not begun is cancelled; what runs is not waited for (the interpreter waits when it exits)."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    def in_main_thread(self) -> bool:
        """Whether this is the thread in which signals can be handled."""
        return threading.current_thread() is threading.main_thread()

    def wake_on_signals(self, fd: int) -> int:
        """Lets the interpreter write the number of each signal to `fd` (-1: to none). Returns the fd it had before.

        Main thread only. A descriptor that cannot be written to is none.
        """
        try:
            return signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        except (OSError, ValueError):  # closed, or something else, by now
            return signal.set_wakeup_fd(-1)

    def pass_signal_on(self, fd: int, number: int) -> None:
        """Does for another's wake-up descriptor what the interpreter does: writes the number, or drops it when full."""
        try:
            with no_broken_pipe_signal():
                os.write(fd, bytes((number,)))
        except OSError:
            pass

    def catch_signal(self, number: int, handler: Callable[[int, Any], None]) -> Any:
        """Calls `handler` for the signal from now on. Returns what handled it before, for `restore_signal`."""
        before = signal.signal(number, handler)
        try:
            # Without this a system call of another library would fail with EINTR.
            signal.siginterrupt(number, False)
        except BaseException:
            self.restore_signal(number, before)
            raise
        _caught.add(number)
        return before

    def catches_signal(self, number: int, handler: Callable[[int, Any], None]) -> bool:
        """Whether it is still that handler which is called."""
        return signal.getsignal(number) == handler

    def restore_signal(self, number: int, before: Any) -> None:
        """Handles the signal as before."""
        signal.signal(number, before if before is not None else signal.SIG_DFL)
        _caught.discard(number)

    def raise_signal(self, number: int) -> None:
        """Sends it to this process."""
        signal.raise_signal(number)

    def stop_signals(self) -> tuple[int, ...]:
        """The signals that ask a server to end."""
        return (signal.SIGTERM, signal.SIGINT)

    # Who started this process

    service_manager = staticmethod(service.service_manager)
    listen_fds = staticmethod(service.listen_fds)


class _Call:
    """A call for the pool, which can be taken back while the pool has it."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._made: tuple[Callable[..., Any], tuple[Any, ...]] | None = (function, args)

    def drop(self) -> None:
        self._made = None

    def __call__(self) -> Any:
        made, self._made = self._made, None
        return None if made is None else made[0](*made[1])


def _in_thread(step: Callable[[], bool]) -> None:
    """Steps until there is no more to do, in a thread which the program's exit does not wait for."""

    def run() -> None:
        while step():
            pass

    threading.Thread(target=run, name="reactor look-up", daemon=True).start()


def _set(sock: socket.socket, level: int, option: int, value: int, name: str) -> None:
    """One of `reactor.options`; an OSError says which, and the value."""
    try:
        sock.setsockopt(level, option, value)
    except OSError as exc:
        raise named(exc, f"{name} cannot be {value}") from exc


def _check_is_there(part: FileRange) -> None:
    """Another file may have the number by now, if somebody closed our descriptor."""
    if part.identity is not None and syscalls.identity(part.fd) != part.identity:
        raise FileUnusable(
            errno.EBADF, f"the descriptor {part.fd} of a file that was being sent was closed by somebody"
        )


def _shrunk(part: FileRange) -> FileUnusable:
    return FileUnusable(errno.EIO, f"a file that was being sent ends at {part.offset}, {part.size} bytes too early")


class _AnyThreadsSocket(socket.socket):
    """A socket that one thread may close while another sends.

    Otherwise a send that has let go of the interpreter, but is not yet in the kernel, could meet the number of a
    descriptor that was closed and opened anew: its byte would go to somebody else's connection.
    """

    def __init__(self, fileno: int) -> None:
        # Re-entrant: a signal handler may run between any two steps of the thread that holds it.
        self._lock = threading.RLock()
        super().__init__(fileno=fileno)

    def send(self, data: Any, flags: int = 0, /) -> int:
        with self._lock:
            return super().send(data, flags)

    def close(self) -> None:
        with self._lock:
            super().close()


def _is_stale_socket(path: str) -> bool:
    """A socket file at which nobody listens any more."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
