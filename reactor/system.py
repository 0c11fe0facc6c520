"""Everything the reactor asks of the operating system is asked here (or in `pollers` and `service`), and nowhere else.

Outside of the three no module imports socket, select, selectors, signal, threading or time; a test says so. A simulated
system with the same methods runs the same loop and connections.

What platforms do differently is decided here, once: what the kernel tells of acknowledged bytes, how a connection is
reset, which socket options exist.
"""

from __future__ import annotations

import errno
import functools
import os
import selectors
import signal
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

try:
    # Here, and not where it is used: in a famine of descriptors nothing more can be imported.
    import fcntl
except ImportError:  # pragma: no cover (Windows)
    fcntl = None  # type: ignore[assignment]

from reactor import options as opt
from reactor import pollers, service
from reactor.addresses import Address, SocketAddress, check_port
from reactor.buffers import FileRange
from reactor.errors import WAIT, FileUnusable, named

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

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
    def send(self, data: Any, /) -> int: ...
    def sendmsg(self, buffers: Iterable[Any], /) -> int: ...
    def getsockname(self) -> SocketAddress: ...
    def getpeername(self) -> SocketAddress: ...
    def close(self) -> None: ...


class DatagramSocket(Socket, Protocol):
    """What is asked of a datagram socket, besides. One call, one datagram."""

    def recvfrom(self, bufsize: int, /) -> tuple[bytes, SocketAddress]: ...
    def sendto(self, data: Any, address: SocketAddress, /) -> int: ...


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


class System:
    """The machine's own kernel."""

    def __init__(self) -> None:
        _free_a_large_block()
        self._executor: Executor | None = None
        # Path -> (device, inode) of the socket files made here.
        self._socket_files: dict[str, tuple[int, int]] = {}

    # Time, pollers, wake-ups

    # Seconds on a clock that never goes back.
    time = staticmethod(time.monotonic)

    def poller(self, kind: str | selectors.BaseSelector | None) -> pollers.Poller:
        """The poller asked for, else the one that REACTOR_POLLER names, else the best there is."""
        return pollers.make_poller(kind if kind is not None else os.environ.get("REACTOR_POLLER") or None)

    def pair(self) -> tuple[Socket, Socket]:
        """Two connected sockets, by which other threads and signal handlers wake the loop."""
        ours, theirs = socket.socketpair()
        ends = ours, _AnyThreadsSocket(fileno=theirs.detach())
        for end in ends:
            end.setblocking(False)
        return ends

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
            except OSError as exc:
                for sock in sockets:
                    sock.close()
                # The free port that one address got may be taken on the next; ask for another.
                again = port == 0 and sockets and exc.errno == errno.EADDRINUSE and attempt < _SAME_PORT_TRIES - 1
                if not again:
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

    def listen_unix(self, path: str | os.PathLike[str], options: opt.Options) -> list[Socket]:
        """A listening Unix socket. A file left behind by a dead server is replaced; a live one is EADDRINUSE."""
        path = os.fsdecode(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with self._or_closed(sock, f"cannot listen on {path!r}"):
            sock.setblocking(False)
            self._bind_unix(sock, path)
            sock.listen(options.limits.backlog)
        return [sock]

    def _bind_unix(self, sock: socket.socket, path: str) -> None:
        try:
            sock.bind(path)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or not _is_stale_socket(path):
                raise
            os.unlink(path)
            sock.bind(path)
        if path and not path.startswith("\0"):
            made = os.stat(path)
            self._socket_files[path] = (made.st_dev, made.st_ino)

    def listen_given(self, sock: socket.socket, options: opt.Options) -> list[Socket]:
        """A socket made elsewhere; it is bound already, and listens from now on if it did not."""
        try:
            if sock.type != socket.SOCK_STREAM:
                raise OSError(errno.EINVAL, "it is not a stream socket")
            sock.setblocking(False)
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                sock.listen(options.limits.backlog)
            self._set_options(sock, options.sockets)
        except OSError as exc:
            raise named(exc, f"cannot listen on {sock!r}") from exc
        return [sock]

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
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as exc:
            raise OSError(exc.errno, f"cannot resolve {host!r}: {exc.strerror}") from exc
        except UnicodeError as exc:
            raise OSError(errno.EINVAL, f"cannot resolve {host!r}: {exc}") from exc
        return list(dict.fromkeys(Address(family, sockaddr) for family, _, _, _, sockaddr in found))

    def resolve_numeric(self, host: str, port: int) -> list[Address] | None:
        """The same without asking anybody, for a host that is an address; None for a name."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            return None
        return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]

    def unix_address(self, path: str | os.PathLike[str]) -> Address:
        return Address(socket.AF_UNIX, os.fspath(path))

    def start_connect(self, address: Address, options: opt.Options, source: tuple[str, int] | None = None) -> Socket:
        """A socket whose connect is under way: it becomes writable when there is an answer, see `finish_connect`."""
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if address.family != socket.AF_UNIX:
                self._set_options(sock, options.sockets)
                if source is not None:
                    sock.bind(source)
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

    def finish_connect(self, sock: Socket) -> None:
        """Raises what became of the connect, if it did not succeed."""
        failed = self.error(sock)
        if failed is not None:
            raise failed
        if sock.family != socket.AF_UNIX and sock.getsockname() == sock.getpeername():
            # A simultaneous open with oneself (RFC 9293, 3.5): a free port picked as the source was the target's.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself: nobody listens there")

    def adopt(self, sock: socket.socket) -> Socket:
        """A connected stream socket made elsewhere."""
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"a stream socket is needed, not {sock!r}")
        sock.setblocking(False)
        return sock

    def _set_buffers(self, sock: socket.socket, wanted: opt.Sockets) -> None:
        if wanted.send_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wanted.send_buffer_bytes)
        if wanted.receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted.receive_buffer_bytes)

    def _set_options(self, sock: socket.socket, wanted: opt.Sockets) -> None:
        self._set_buffers(sock, wanted)
        if sock.family == socket.AF_UNIX:
            return
        if wanted.nodelay:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if wanted.keepalive is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
            if idle is not None:
                sock.setsockopt(socket.IPPROTO_TCP, idle, wanted.keepalive.idle)
            if hasattr(socket, "TCP_KEEPINTVL"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, wanted.keepalive.interval)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, wanted.keepalive.count)
        if wanted.user_timeout is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(wanted.user_timeout * 1000))

    # Datagrams

    def open_datagram(self, local: Address | None, remote: Address | None, options: opt.Options) -> DatagramSocket:
        """A datagram socket, bound to `local` and connected to `remote`, as far as they are given.

        Of a Unix socket `local` is a path, bound as `listen_unix` does. OSError names what could not be had.
        """
        family = next(address.family for address in (local, remote) if address is not None)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        doing = ""
        try:
            sock.setblocking(False)
            self._set_buffers(sock, options.sockets)
            self._set_datagram_options(sock, options.datagrams)
            if local is not None:
                doing = f"cannot receive datagrams at {local}"
                if family == socket.AF_UNIX:
                    self._bind_unix(sock, os.fsdecode(local.sockaddr))
                else:
                    sock.bind(local.sockaddr)
            for group in options.datagrams.groups:
                doing = f"cannot join {group}"
                self._join(sock, group)
            if remote is not None:
                doing = f"cannot send datagrams to {remote}"
                sock.connect(remote.sockaddr)
        except OSError as exc:
            self.close_listening(sock)
            raise named(exc, doing or "cannot make a datagram socket") from exc
        except BaseException:
            self.close_listening(sock)
            raise
        return sock

    def _set_datagram_options(self, sock: socket.socket, wanted: opt.Datagrams) -> None:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if wanted.broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if wanted.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if wanted.groups:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def _join(self, sock: socket.socket, group: opt.Group) -> None:
        """ip(7) and ipv6(7). The membership ends with the socket."""
        index = 0 if group.interface is None else socket.if_nametoindex(group.interface)
        member = socket.inet_pton(sock.family, group.address)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member + struct.pack("@I", index))
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("@4s4xi", member, index))

    def adopt_datagram(self, sock: socket.socket) -> DatagramSocket:
        """A datagram socket made elsewhere."""
        if sock.type != socket.SOCK_DGRAM:
            raise ValueError(f"a datagram socket is needed, not {sock!r}")
        sock.setblocking(False)
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
        except OSError:
            return False

    def clear_error_queue(self, sock: Socket) -> bool:
        """Takes what IP_RECVERR or a time stamp left there (ip(7)): the poller would tell of it for ever.

        Returns whether there was anything.
        """
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
        """Closes with RST instead of FIN. A Unix socket cannot: its peer reads what was sent, then the end."""
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)  # type: ignore[attr-defined]
        except OSError:
            pass  # already gone: close says no more than that
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
        return FileRange(os.dup(file.fileno()), offset, count, os.close)

    def send_file(self, sock: Socket, part: FileRange, limit_bytes: int) -> int:
        """Lets the kernel take up to so much of it; returns how much it took.

        The OSErrors of send(2); FileUnusable when there is less of the file than there was, or it cannot be read.
        """
        wanted = min(part.size, limit_bytes)
        try:
            sent = os.sendfile(sock.fileno(), part.fd, part.offset, wanted)
        except OSError as exc:
            if exc.errno in WAIT or exc.errno == errno.EPIPE:
                raise
            # A file system that cannot, a failing disk, or the socket's own error: this way tells which.
            return sock.send(self.read_file(part, wanted))
        if not sent:
            raise _shrunk(part)
        return sent

    def read_file(self, part: FileRange, limit_bytes: int) -> bytes:
        """The first bytes of it, at least one, into memory. FileUnusable, as above."""
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
        return self._executor.submit(function, *args)

    def close_threads(self) -> None:
        """What has not begun is cancelled; what runs is not waited for (the interpreter waits when it exits)."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    def wake_on_signals(self, fd: int) -> int:
        """Lets the interpreter write the number of each signal to `fd` (-1: to none). Returns the fd it had before."""
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("signals can be handled only in the main thread")
        try:
            return signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        except (OSError, ValueError):  # who had it before has closed it meanwhile
            return signal.set_wakeup_fd(-1)

    def catch_signal(self, number: int) -> Any:
        """From now on the signal only wakes the loop. Returns what handled it before, for `restore_signal`."""
        before = signal.signal(number, _only_wake)
        # Without this a system call of another library would fail with EINTR.
        signal.siginterrupt(number, False)
        return before

    def restore_signal(self, number: int, handler: Any) -> None:
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def stop_signals(self) -> tuple[int, ...]:
        """The signals that ask a server to end."""
        return (signal.SIGTERM, signal.SIGINT)

    # Who started this process

    service_manager = staticmethod(service.service_manager)
    listen_fds = staticmethod(service.listen_fds)


def _only_wake(number: int, frame: object) -> None:
    """The interpreter has written the number to the wake-up descriptor; the loop does the rest."""


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
