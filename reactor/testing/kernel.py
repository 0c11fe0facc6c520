"""A kernel that is only a data structure: time, descriptors, sockets, packets under way.

    system = SimulatedSystem(seed=1)
    with Reactor(system=system) as reactor:
        listener = reactor.listen(Echo, "127.0.0.1", 7000)
        peer = system.peer(listener.addresses[0])
        peer.send(b"hello")
        system.run(reactor, seconds=1)
        assert peer.data == b"hello"

The reactor above it is the real one; there is no test code in it. Time passes inside `poll` and nowhere else: if
something is ready it is returned; else the next event that is due happens, and the clock is set to it; else the clock
is set to the end of the wait. With nothing to wait for, `Stalled` says so, with the state of every socket; and likewise
when the loop turns for ever without time passing, which on a real machine is a spin at 100 % CPU.

Nothing here reads a clock, opens a descriptor, starts a thread or draws chance but from `seed`: the same seed is the
same run, to the byte. One system serves one reactor.
"""

from __future__ import annotations

import errno
import heapq
import math
import random
import selectors
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

from reactor import options as opt
from reactor import pollers
from reactor.addresses import Address, SocketAddress, UnixPath, address_text, check_port
from reactor.buffers import FileRange
from reactor.lookups import Answer, Lookup, Lookups
from reactor.syscalls import NO_SIGNAL
from reactor.system import DatagramSocket as SystemDatagramSocket
from reactor.system import ForkWatcher, Socket, System
from reactor.testing.datagrams import DatagramSocket
from reactor.testing.faults import Fault
from reactor.testing.links import Link
from reactor.testing.names import Names, family_of
from reactor.testing.peer import Acceptor, Peer
from reactor.testing.poller import SimulatedPoller, Stalled
from reactor.testing.sockets import Listening, SimulatedSocket, StreamSocket, os_error
from reactor.testing.tcp import SYN_PATIENCE, TcpSocket
from reactor.testing.unix import UNIX_BUFFER, UnixSocket

if TYPE_CHECKING:
    from reactor.reactor import Reactor

# When something happens, its order among what happens then, the function and its arguments.
Event = tuple[float, int, Callable[..., object], tuple[Any, ...]]

# The first three are a program's standard streams.
_FIRST_DESCRIPTOR = 3
# RFC 6335: the range from which kernels pick.
_FIRST_FREE_PORT = 49152
_FREE_PORTS = 65536 - _FIRST_FREE_PORT


class SimulatedSystem(System):
    """Everything the reactor asks of the operating system, answered by a model of one.

    `link` is the line of every TCP connection and UDP datagram. `faults` may be changed at any time: assign it anew.
    """

    def __init__(self, seed: int = 0, *, link: Link | None = None, faults: Iterable[Fault] = (), now: float = 0.0):
        super().__init__()
        self.now = now
        self.link = link or Link()
        # Names that resolve, and to what.
        self.hosts: dict[str, list[str]] = {"localhost": ["127.0.0.1"]}
        # How long each look-up takes; math.inf: no name server answers.
        self.lookup_seconds = 0.0
        # The network interfaces, by name, for zones (fe80::1%eth0).
        self.interfaces: dict[str, int] = {"lo": 1, "eth0": 2}
        self.faults = faults
        # The program's open descriptors; the numbers are given away as a kernel does, the lowest first.
        self.descriptors: dict[int, SimulatedSocket] = {}
        # Who is bound where.
        self.listening: Names[Listening] = Names()
        self.receiving: Names[DatagramSocket] = Names()
        # What a correct program never does: a call on a descriptor that it has released.
        self.bad_calls: list[str] = []
        self._random = random.Random(seed)
        self._free: list[int] = []
        self._next_descriptor = _FIRST_DESCRIPTOR
        self._ports_given = 0
        # What will happen, by time and order; and what happens before the present call returns.
        self._coming: list[Event] = []
        self._order = 0
        self._immediate: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._pumping = False
        self._poller: SimulatedPoller | None = None
        self._waking: tuple[SimulatedSocket, ...] = ()
        # What reactors on this system share; the handlers of signals, and where their numbers are written.
        self._shared = {}  # type: ignore[misc]  # of one process, which is this system
        self._handlers: dict[int, Callable[[int, Any], None]] = {}
        self._signal_fd = -1
        self._lookups = Lookups(self.resolve, self._while_it_waits)

    # For tests

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The rules in force."""
        return self._faults

    @faults.setter
    def faults(self, faults: Iterable[Fault]) -> None:
        self._faults = tuple(faults)
        # Asked at each call into the kernel: for each moment those that have a say in it.
        self._acting: dict[str, list[Fault]] = {}

    def acting(self, moment: str) -> list[Fault]:
        """The rules that have a say in a moment, and do not rest."""
        faults = self._acting.get(moment)
        if faults is None:
            faults = self._acting[moment] = [fault for fault in self._faults if _overrides(fault, moment)]
        return [fault for fault in faults if fault.enabled] if faults else faults

    def peer(self, address: SocketAddress, *, link: Link | None = None) -> Peer:
        """A scripted client that connects to what the reactor listens on."""
        return Peer(self, self.dial(address, link))

    def acceptor(self, address: SocketAddress, *, backlog: int = 128) -> Acceptor:
        """A scripted server for what the reactor connects to."""
        return Acceptor(self, address, backlog)

    def connected(self, *, unix: bool = False, link: Link | None = None) -> tuple[StreamSocket, Peer]:
        """A socket for `Reactor.connect(factory, sock=...)`, and the scripted peer at its other end."""
        ours, theirs = self._two_ends(unix, link or self.link)
        self.give_descriptor(ours)
        return ours, Peer(self, theirs)

    def stream_pair(self, *, unix: bool = False, link: Link | None = None) -> tuple[StreamSocket, StreamSocket]:
        """Two ends for `Reactor.connect(factory, sock=...)`, connected to each other."""
        ends = self._two_ends(unix, link or self.link)
        for end in ends:
            self.give_descriptor(end)
        return ends

    def _two_ends(self, unix: bool, link: Link) -> tuple[StreamSocket, StreamSocket]:
        ours: StreamSocket
        theirs: StreamSocket
        if unix:
            ours, theirs = (UnixSocket(self, "", "", link.send_buffer_bytes) for _ in range(2))
        else:
            names = [("127.0.0.1", self.free_port()) for _ in range(2)]
            ours = TcpSocket(self, socket.AF_INET, names[0], names[1], link)
            theirs = TcpSocket(self, socket.AF_INET, names[1], names[0], link)
        ours.peer, theirs.peer = theirs, ours
        return ours, theirs

    def datagram_socket(self, local: SocketAddress, remote: SocketAddress = None) -> DatagramSocket:
        """A scripted datagram socket for the other side: `sendto`, `recvfrom` (BlockingIOError: nothing came), `close`.

        `local` is as for `Reactor.datagram`, or a Unix socket's path.
        """
        return self._bind_datagram(local, remote, self.link)

    def after(self, delay: float, function: Callable[..., object], *args: Any) -> Event:
        """Something happens in the simulated world, whatever the reactor does: a peer sends, a signal comes."""
        self._order += 1
        event = (self.now + delay, self._order, function, args)
        heapq.heappush(self._coming, event)
        return event

    def cancel(self, event: Event) -> None:
        """What `after` has arranged does not happen."""
        self._coming.remove(event)
        heapq.heapify(self._coming)

    def icmp(self, peer: Peer, number: int = errno.EHOSTUNREACH) -> None:
        """A router tells the reactor's kernel that this TCP peer is unreachable, for a moment: a soft error."""
        self._ours(peer).unreachable(number)

    def give_up(self, peer: Peer) -> None:
        """The reactor's kernel has tried for long enough to send to this TCP peer, and gives the connection up.

        That is ETIMEDOUT, or nothing when the descriptor was closed before. What was not acknowledged never arrives.
        """
        self._ours(peer).timed_out()

    def _ours(self, peer: Peer) -> TcpSocket:
        """The reactor's end of a connection."""
        sock = peer.sock.peer
        assert isinstance(sock, TcpSocket), f"{peer!r} has no TCP connection"
        return sock

    def run(self, reactor: Reactor, seconds: float = 60.0, until: Callable[[], object] | None = None) -> None:
        """Turns the loop for so much virtual time; with `until`, until that holds, and AssertionError if it never does.

        `Stalled` names the reactor's connections as well.
        """
        end = self.now + seconds
        try:
            while until is None or not until():
                if self.now >= end:
                    assert until is None, f"waited {seconds} virtual seconds in vain\n{self.dump()}"
                    return
                reactor.run_once(end - self.now)
        except AssertionError as exc:
            exc.add_note("".join(f"{connection!r}: {connection.report}\n" for connection in reactor.connections))
            raise

    def dump(self) -> str:
        """The state of the world, for a human."""
        lines = [f"at {self.now:.6f} s, {len(self._coming)} events to come"]
        lines += [f"  {sock!r}" for sock in self.descriptors.values()]
        return "\n".join(lines)

    def chance(self, probability: float) -> bool:
        """True with that probability, from the seed."""
        return self._random.random() < probability

    def draw(self, below: int) -> int:
        """A number from 0 to `below` - 1, from the seed."""
        return int(self._random.random() * below)

    def send_signal(self, number: int) -> None:
        """A signal arrives. It is ignored if the reactor does not handle it."""
        handler = self._handlers.get(number)
        if handler is None:
            return
        # As the interpreter does it: the number is dropped when there is no room, and the handler is called anyway.
        waker = self.descriptors.get(self._signal_fd)
        if isinstance(waker, StreamSocket) and waker.room():
            waker.put(bytes((number,)))
            self.pump()
        handler(number, None)

    def ready(self) -> list[tuple[int, int]]:
        """What a poll would tell now."""
        return [] if self._poller is None else self._poller.ready()

    @property
    def quiet(self) -> bool:
        """Nothing is ready, and nothing is to come."""
        return not self._coming and not self.ready()

    @property
    def next_due(self) -> float | None:
        """When the next thing happens in the world."""
        return self._coming[0][0] if self._coming else None

    @property
    def coming(self) -> list[tuple[float, str]]:
        """What is under way: when it is due, and what it is."""
        return [(due, function.__name__) for due, _, function, _ in sorted(self._coming, key=lambda event: event[:2])]

    # Time and what happens in it

    def advance(self, until: float) -> bool:
        """The next event happens, with all others of its moment; False when the clock came to `until` before it."""
        coming = self._coming
        if coming and coming[0][0] <= until:
            self.now = max(self.now, coming[0][0])
            self.happen_now()
            return True
        if until == math.inf:
            raise Stalled(f"nothing is left that could wake the loop\n{self.dump()}")
        self.now = max(self.now, until)
        return False

    def happen_now(self) -> None:
        """Everything that is due by now, in its order."""
        coming, now = self._coming, self.now
        while coming and coming[0][0] <= now:
            _, _, function, args = heapq.heappop(coming)
            function(*args)
            self.pump()

    def post(self, sender: TcpSocket, function: Callable[..., object], *args: Any) -> None:
        """A packet leaves: it calls `function` where it arrives."""
        link, now = sender.link, self.now
        due = now + link.latency
        if link.jitter:
            due += link.jitter * self._random.random()
        for fault in self.acting("on_packet"):
            due = max(due, fault.on_packet(self, sender))
        if sender.last_due > due:
            due = sender.last_due
        if due <= now:
            self._immediate.append((function, args))
        elif due < math.inf:
            sender.last_due = due
            self._order += 1
            heapq.heappush(self._coming, (due, self._order, function, args))
        elif sender.last_due < math.inf:
            # Lost, and everything after it. Both ends try again for a while, and then give up.
            sender.last_due = math.inf
            if sender.connecting:
                self.after(SYN_PATIENCE, sender.timed_out)
            for end in (sender, sender.peer):
                if end is not None:
                    end.cut_off()

    def post_datagram(self, sender: DatagramSocket, function: Callable[..., object], *args: Any) -> None:
        """A datagram leaves: it calls `function` where it arrives, in no order kept; or it is lost."""
        link = sender.link
        if link.loss and self.chance(link.loss):
            return
        delay = link.latency + (link.jitter * self._random.random() if link.jitter else 0.0)
        if delay > 0:
            self.after(delay, function, *args)
        else:
            self._immediate.append((function, args))

    def at_once(self, function: Callable[..., object], *args: Any) -> None:
        """Calls it before the present call into the kernel returns to the program."""
        self._immediate.append((function, args))

    def pump(self) -> None:
        """Delivers what takes no time."""
        if self._pumping:
            return
        immediate = self._immediate
        self._pumping = True
        try:
            while immediate:
                function, args = immediate.popleft()
                function(*args)
        finally:
            self._pumping = False

    # Descriptors

    def check_descriptors(self) -> None:
        """OSError when the process may have no more."""
        for fault in self.acting("on_descriptor"):
            number = fault.on_descriptor(self)
            if number:
                raise os_error(number)

    def give_descriptor(self, sock: SimulatedSocket) -> None:
        """The lowest number that is free."""
        if self._free:
            sock.fd = heapq.heappop(self._free)
        else:
            sock.fd = self._next_descriptor
            self._next_descriptor += 1
        self.descriptors[sock.fd] = sock

    def free(self, sock: SimulatedSocket) -> None:
        """A descriptor was closed; a poller that still watches it forgets it."""
        if sock.fd < 0:
            return
        if self._poller is not None:
            self._poller.forget(sock.fd)
        if self.descriptors.pop(sock.fd, None) is not None:
            heapq.heappush(self._free, sock.fd)

    # What faults may change, of the program's own sockets

    def send_fault(self, sock: StreamSocket, count: int) -> int:
        """How many of `count` bytes a send takes; 0 is EAGAIN."""
        for fault in self.acting("on_send"):
            if count and sock.fd >= 0:
                count = fault.on_send(self, sock, count)
        return count

    def recv_fault(self, sock: StreamSocket, count: int) -> int:
        """How many of `count` bytes a recv gives; 0 is EAGAIN."""
        for fault in self.acting("on_recv"):
            if count and sock.fd >= 0:
                count = fault.on_recv(self, sock, count)
        return count

    def check_transfer(self, sock: SimulatedSocket) -> None:
        """OSError when a send or a recv fails, for what has nothing to do with the connection.

        The sockets by which the loop wakes itself are spared.
        """
        if sock.fd < 0 or sock in self._waking:
            return
        for fault in self.acting("on_transfer"):
            number = fault.on_transfer(self, sock)
            if number:
                raise os_error(number)

    def accept_fault(self, sock: Listening) -> int:
        """An errno for accept, or 0."""
        for fault in self.acting("on_accept"):
            number = fault.on_accept(self, sock)
            if number and sock.fd >= 0:
                return number
        return 0

    # Connections

    def free_port(self) -> int:
        """The next that nobody is bound to; after the last one the first again."""
        for _ in range(_FREE_PORTS):
            port = _FIRST_FREE_PORT + self._ports_given % _FREE_PORTS
            self._ports_given += 1
            if not (self.listening.has_port(port) or self.receiving.has_port(port)):
                return port
        raise os_error(errno.EADDRINUSE)

    def dial(self, sockaddr: SocketAddress, link: Link | None = None, source: Address | None = None) -> StreamSocket:
        """A socket without a descriptor that connects there. A Unix socket does so at once, or raises."""
        if not isinstance(sockaddr, tuple):
            return self._dial_unix(sockaddr)
        host, port = (sockaddr[0], 0) if source is None else source.sockaddr[:2]
        local = (host, port or self.free_port(), *sockaddr[2:])
        sock = TcpSocket(self, family_of(sockaddr), local, sockaddr, link or self.link)
        sock.connecting = True
        self.post(sock, sock.syn)
        self.pump()
        return sock

    def _dial_unix(self, path: str) -> UnixSocket:
        listener = self.listening.find(path)
        if listener is None:
            raise os_error(errno.ENOENT)
        if listener.full:
            raise os_error(errno.EAGAIN)
        ours = UnixSocket(self, "", path, UNIX_BUFFER)
        child = UnixSocket(self, path, "", UNIX_BUFFER)
        ours.peer, child.peer = child, ours
        if listener.options is not None:
            _size(child, listener.options)
        listener.admit(child)
        self.pump()
        return ours

    def child(self, client: TcpSocket, listener: Listening) -> TcpSocket:
        """The server's end of a connection that a SYN asks for."""
        here, there = client.remote, client.local
        if listener.family != client.family:
            # Dual stack: an IPv4 caller as IPv6 writes it (RFC 4291, 2.5.5.2).
            here, there = ((f"::ffff:{host}", port, 0, 0) for host, port in (here, there))
        sock = TcpSocket(self, listener.family, here, there, client.link)
        sock.listener = listener
        sock.peer = client
        if listener.options is not None:
            _size(sock, listener.options)
        return sock

    # Datagrams

    def _bind_datagram(self, local: SocketAddress, remote: SocketAddress, link: Link) -> DatagramSocket:
        where = remote if local is None else local
        if isinstance(where, tuple):
            family = family_of(where)
            port = 0 if local is None else local[1]
            none_given = (0, 0) if family == socket.AF_INET6 else ()
            name: SocketAddress = (where[0], port or self.free_port(), *(where[2:] or none_given))
            remote = None if remote is None else (*remote[:2], *(remote[2:] or none_given))
        else:
            family = socket.AF_UNIX
            # Without a path it has no name; with an empty one the kernel makes one up.
            name = b"\0%05x" % self.free_port() if local == "" else local or ""
        sock = DatagramSocket(self, family, name, link)
        if name:
            self.receiving.bind(name, sock)
        if family == socket.AF_UNIX and remote is not None and self.receiving.find(remote) is None:
            self.receiving.unbind(sock)
            raise os_error(errno.ENOENT)
        sock.remote = remote
        return sock

    def room_for_datagrams(self, receiver: DatagramSocket) -> None:
        """A Unix receiver has read: those connected to it may send again."""
        for sock in self.descriptors.values():
            if isinstance(sock, DatagramSocket) and sock.remote is not None and sock.remote == receiver.local:
                sock.touch()

    # The seam: time, pollers, wake-ups

    def time(self) -> float:
        return self.now

    def poller(self, kind: str | selectors.BaseSelector | None) -> pollers.Poller:
        """The same poller whatever is asked for."""
        self._poller = SimulatedPoller(self)
        return self._poller

    def pair(self) -> tuple[Socket, Socket]:
        self._waking = ends = UnixSocket(self, "", "", UNIX_BUFFER), UnixSocket(self, "", "", UNIX_BUFFER)
        for end, other in (ends, ends[::-1]):
            end.peer = other
            self.give_descriptor(end)
        return ends

    # The seam: processes. The whole system is one, and forks of the real one concern nothing in it.

    def process(self) -> int:
        return 1

    def watch_forks(self, watcher: ForkWatcher) -> None:
        """There are none."""

    def close_copy(self, sock: Socket, identity: object) -> None:
        """There are none."""

    def identity(self, fd: int) -> object:
        return self.descriptors.get(fd)

    # The seam: listening

    def listen_tcp(self, host: str | None, port: int, options: opt.Options) -> list[Socket]:
        check_port(port)
        addresses = self.resolve(host or "::", port)
        sockaddrs: list[SocketAddress] = [address.sockaddr for address in addresses]
        if port == 0:
            chosen = self.free_port()
            sockaddrs = [(name, chosen, *rest) for name, _, *rest in sockaddrs]
        sockets: list[Listening] = []
        try:
            for sockaddr in sockaddrs:
                sockets.append(self._listen(sockaddr, options, dual_stack=not host))
        except OSError:
            for sock in sockets:
                sock.close()
            raise
        return _as_sockets(sockets)

    def listen_unix(self, path: UnixPath, options: opt.Options) -> list[Socket]:
        return _as_sockets([self._listen(self.unix_address(path).sockaddr, options)])

    def _listen(self, sockaddr: SocketAddress, options: opt.Options, dual_stack: bool = False) -> Listening:
        sock = Listening(self, family_of(sockaddr), sockaddr, options.limits.backlog, options.sockets)
        try:
            self.check_descriptors()
            self.listening.bind(sockaddr, sock, dual_stack=dual_stack)
        except OSError as exc:
            raise type(exc)(exc.errno, f"cannot listen on {address_text(sockaddr)}: {exc.strerror}") from exc
        self.give_descriptor(sock)
        return sock

    def listen_given(self, sock: Any, options: opt.Options) -> list[Socket]:
        if not isinstance(sock, Listening):
            raise OSError(errno.EINVAL, f"cannot listen on {sock!r}: it is not of this system")
        return _as_sockets([sock])

    def listen_fds(self) -> list[tuple[str, socket.socket]]:
        return []

    def close_listening(self, sock: Socket) -> None:
        self.close(sock)

    def stop_listening(self, sock: Socket) -> None:
        self.close(sock)

    def accept(self, listening: Socket) -> tuple[Socket, SocketAddress]:
        assert isinstance(listening, Listening)
        return listening.accept()

    # The seam: connecting

    def resolve(self, host: str, port: int) -> list[Address]:
        numeric = self.resolve_numeric(host, port)
        if numeric is not None:
            return numeric
        names = self.hosts.get(host)
        if names is None:
            raise OSError(socket.EAI_NONAME, f"cannot resolve {host!r}: it is not among the system's hosts")
        return [address for name in names for address in self.resolve_numeric(name, port) or ()]

    def zone_index(self, name: str) -> int:
        if name not in self.interfaces:
            raise OSError(errno.ENODEV, f"there is no network interface {name!r}")
        return self.interfaces[name]

    def look_up(self, host: str, port: int, done: Callable[[Answer], object]) -> Lookup:
        """There are no threads: each look-up has its answer after `lookup_seconds` of virtual time."""
        return self._lookups.ask(host, port, done)

    def _while_it_waits(self, step: Callable[[], bool]) -> None:
        def look_up() -> None:
            if step():
                self._while_it_waits(step)

        if self.lookup_seconds < math.inf:
            self.after(self.lookup_seconds, look_up)

    def start_connect(self, address: Address, options: opt.Options, source: Address | None = None) -> Socket:
        self.check_descriptors()
        sock = self.dial(address.sockaddr, source=source)
        _size(sock, options.sockets)
        self.give_descriptor(sock)
        return sock

    def check_given(self, what: str, sock: object) -> None:
        """Each kind of end says by itself which simulated socket it takes."""

    def taking(self, sock: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def adopt(self, sock: Any, options: opt.Options) -> tuple[Socket, Address]:
        if not isinstance(sock, StreamSocket):
            raise ValueError(f"a simulated stream socket is needed, not {sock!r}")
        return sock, Address(sock.family, sock.getpeername())

    # The seam: bytes, and the end of a connection

    def send_file(self, sock: Socket, part: FileRange, limit_bytes: int) -> int:
        return sock.send(self.read_file(part, limit_bytes), NO_SIGNAL)

    def has_input(self, sock: Socket) -> bool:
        assert isinstance(sock, StreamSocket)
        return bool(sock.inbox)

    def shutdown_output(self, sock: Socket) -> None:
        assert isinstance(sock, (TcpSocket, UnixSocket))
        sock.shutdown_output()

    def outstanding(self, sock: Socket) -> int | None:
        assert isinstance(sock, (TcpSocket, UnixSocket))
        return None if sock.released else sock.outstanding()

    def tcp_state(self, sock: Socket) -> str | None:
        return sock.state() if isinstance(sock, TcpSocket) and not sock.released else None

    def reset(self, sock: Socket) -> None:
        if isinstance(sock, TcpSocket) and not sock.released:
            sock.disconnect()
        elif isinstance(sock, UnixSocket) and not sock.released:
            sock.shutdown()
        self.close(sock)

    def close(self, sock: Socket) -> None:
        sock.close()

    def forget(self, sock: Socket) -> None:
        assert isinstance(sock, SimulatedSocket)
        sock.detach()

    # The seam: datagrams

    def open_datagram(
        self, local: Address | None, remote: Address | None, options: opt.Options
    ) -> SystemDatagramSocket:
        where = f"at {local}" if local is not None else f"to {remote}"
        try:
            if options.datagrams.groups:
                raise OSError(errno.EOPNOTSUPP, "multicast is not simulated")
            self.check_descriptors()
            here, there = (None if one is None else one.sockaddr for one in (local, remote))
            sock = self._bind_datagram(here, there, self.link)
        except OSError as exc:
            raise type(exc)(exc.errno, f"cannot receive datagrams {where}: {exc.strerror}") from exc
        if options.sockets.send_buffer_bytes is not None:
            sock.capacity = options.sockets.send_buffer_bytes
        if options.sockets.receive_buffer_bytes is not None:
            sock.receive_capacity = options.sockets.receive_buffer_bytes
        self.give_descriptor(sock)
        return sock

    def datagram_peer(self, sock: SystemDatagramSocket) -> SocketAddress:
        assert isinstance(sock, DatagramSocket)
        return sock.remote

    def adopt_datagram(self, sock: Any, options: opt.Options) -> SystemDatagramSocket:
        if not isinstance(sock, DatagramSocket):
            raise ValueError(f"a simulated datagram socket is needed, not {sock!r}")
        if sock.fd < 0:
            self.give_descriptor(sock)
        return sock

    # The seam: threads and signals

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """There are no threads: it runs while the loop next waits, and takes no time."""
        future: Future[Any] = Future()
        self.after(0.0, _run_into, future, function, args)
        return future

    def close_threads(self) -> None:
        for _, _, function, args in self._coming:
            if function is _run_into:
                args[0].cancel()

    def in_main_thread(self) -> bool:
        return True

    def wake_on_signals(self, fd: int) -> int:
        before, self._signal_fd = self._signal_fd, fd
        return before

    def pass_signal_on(self, fd: int, number: int) -> None:
        """Nobody else is in this process."""

    def catch_signal(self, number: int, handler: Callable[[int, Any], None]) -> Any:
        before = self._handlers.get(number)
        self._handlers[number] = handler
        return before

    def catches_signal(self, number: int, handler: Callable[[int, Any], None]) -> bool:
        return self._handlers.get(number) == handler

    def restore_signal(self, number: int, before: Any) -> None:
        if before is None:
            del self._handlers[number]
        else:
            self._handlers[number] = before

    def raise_signal(self, number: int) -> None:
        self.send_signal(number)

    def service_manager(self) -> None:
        return None

    def stop_signals(self) -> tuple[int, ...]:
        return (signal.SIGTERM, signal.SIGINT)


def _overrides(fault: Fault, moment: str) -> bool:
    """Whether a rule has something of its own for a moment."""
    return getattr(getattr(fault, moment), "__func__", None) is not getattr(Fault, moment)


def _run_into(future: Future[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(*args)
    except Exception as exc:
        future.set_exception(exc)
    else:
        future.set_result(result)


def _as_sockets(sockets: list[Listening]) -> list[Socket]:
    """A listening socket neither sends nor receives, but the seam has one word for both kinds."""
    return cast("list[Socket]", sockets)


def _size(sock: StreamSocket, wanted: opt.Sockets) -> None:
    """The options' buffer sizes and patience."""
    if wanted.send_buffer_bytes is not None:
        sock.capacity = wanted.send_buffer_bytes
    if isinstance(sock, TcpSocket):
        if wanted.receive_buffer_bytes is not None:
            sock.receive_capacity = wanted.receive_buffer_bytes
        if wanted.user_timeout is not None:
            sock.patience = wanted.user_timeout
