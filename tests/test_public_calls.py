"""A call that raises leaves nothing behind: every public call, with a failure at each call of the system that it makes.

The failure is made where Python calls into C: the n-th such call of a socket, a poller, a file or a thread raises
instead of being made, for n = 1, 2, ... until the public call succeeds.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import ssl
import sys
import tempfile
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trustme

from reactor import (
    Connection,
    Connector,
    Datagram,
    DatagramProtocol,
    Delimited,
    FramedProtocol,
    Listener,
    Options,
    Protocol,
    Reactor,
    Relay,
    Sockets,
    relay,
)
from reactor.descriptor import Descriptor
from reactor.embedding import Guest
from reactor.options import Datagrams, Keepalive
from tests.helpers import turn_until

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fdinfo"), reason="/proc tells what is open and polled")

# A call of these modules asks the system; and a method of these types.
_MODULES = ("_socket", "posix", "select", "fcntl", "_signal")
_TYPES = ("socket", "epoll", "poll", "_AnyThreadsSocket", "_Listening4", "_Listening6")
_THREADS = ("start_new_thread", "start_joinable_thread")
# They cannot fail, or what fails with them cannot be undone: a descriptor that cannot be closed.
_LEFT_ALONE = {"close", "detach", "fileno", "gettimeout", "fspath", "getpid", "fsencode", "inet_pton", "inet_ntop"}


class Failing:
    """Inside `with`, the n-th call into the system raises. `fired`: there were so many calls."""

    def __init__(self, number: int, failure: type[Exception]) -> None:
        self.number = number
        self.failure = failure
        self.fired = ""

    def __enter__(self) -> Failing:
        sys.setprofile(self._look)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(None)

    def _look(self, frame, event, called) -> None:
        if event == "call":
            if frame.f_code is socket.socket.__init__.__code__ and frame.f_locals["fileno"] is None:
                self._count("socket()")
        elif event == "c_call":
            name, owner = called.__name__, called.__self__
            if type(owner).__name__ == "module":
                asks = owner.__name__ in _MODULES or name in _THREADS
            else:
                asks = type(owner).__name__ in _TYPES
            if asks and name not in _LEFT_ALONE:
                self._count(name)

    def _count(self, name: str) -> None:
        self.number -= 1
        if not self.number:
            self.fired = name
            if name in _THREADS:
                raise RuntimeError("can't start new thread")
            raise self.failure(errno.EIO, f"on purpose, in {name}")


class Stage:
    """A reactor, what the calls need, and what was told."""

    def __init__(self, resources: ExitStack, directory: Path) -> None:
        self.resources = resources
        self.directory = directory
        self.reactor = resources.enter_context(Reactor(poller="epoll"))
        self.told: list[str] = []

    def protocol(self) -> Protocol:
        told = self.told

        class Told(Protocol):
            def connection_made(self, connection):
                super().connection_made(connection)
                told.append("made")

            def connection_failed(self, exc):
                told.append("failed")

            def connection_lost(self, exc):
                told.append("lost")

        return Told()

    def framed(self) -> FramedProtocol:
        class Framed(FramedProtocol):
            reader = Delimited(b"\n")

        return Framed()

    def endpoint(self) -> DatagramProtocol:
        told = self.told

        class Told(DatagramProtocol):
            def connection_made(self, endpoint):
                told.append("made")

            def connection_lost(self, exc):
                told.append("lost")

        return Told()

    def path(self, name: str = "socket") -> str:
        return str(self.directory / name)

    def bound(self, kind: int = socket.SOCK_STREAM, listening: bool = False) -> socket.socket:
        sock = self.resources.enter_context(socket.socket(socket.AF_INET, kind))
        sock.bind(("127.0.0.1", 0))
        if listening:
            sock.listen()
        return sock

    def pair(self) -> tuple[socket.socket, socket.socket]:
        one, other = socket.socketpair()
        self.resources.enter_context(one)
        return one, self.resources.enter_context(other)

    def connection(self, make=None):
        """One that is open."""
        ours, self.other = self.pair()
        protocol = (make or self.protocol)()
        self.reactor.connect(lambda: protocol, sock=ours)
        turn_until(self.reactor, lambda: getattr(protocol, "connection", None))
        self.told.clear()
        return protocol.connection

    def datagram(self):
        endpoint = self.reactor.datagram(self.endpoint, ("127.0.0.1", 0))
        turn_until(self.reactor, lambda: self.told)
        self.told.clear()
        return endpoint

    def listener(self):
        return self.reactor.listen(self.protocol, "127.0.0.1", 0)

    def state(self) -> dict[str, object]:
        """Everything that a call could leave behind."""
        reactor = self.reactor
        polled = Path(f"/proc/self/fdinfo/{reactor.poller.fileno()}").read_text()
        wakeup = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        return {
            "ends": dict(reactor.ends),
            "watched": [repr(end) for end in reactor.ends.values() if isinstance(end, Descriptor)],
            "polled": {line.split()[1]: line.split()[3] for line in polled.splitlines() if line.startswith("tfd")},
            "timers": len(reactor.timers),
            "posted": sum(not handle.cancelled() for handle in reactor._posted),
            "outside": dict(reactor.outside),
            "gathered": list(reactor.gathered),
            "dead": list(reactor.dead),
            "starved": dict(reactor.starved),
            "drain": (reactor.drained, reactor.draining),
            "signals": {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)},
            "wakeup descriptor": wakeup,
            "threads": set(threading.enumerate()),
            "files": sorted(os.listdir(self.directory)),
            "descriptors": {number: _what(number) for number in os.listdir("/proc/self/fd")},
            "told": list(self.told),
        }


def _what(number: str) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except FileNotFoundError:
        return None  # the directory's own


def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client


SERVER, CLIENT = tls()
CAREFUL = Options(
    sockets=Sockets(keepalive=Keepalive(), user_timeout=5, send_buffer_bytes=65536, receive_buffer_bytes=65536),
    datagrams=Datagrams(broadcast=True, reuse_port=True),
)


# What each public call is, given a stage; the second is called with the failure.
ENDS = {
    "Reactor.listen": lambda s: lambda: s.reactor.listen(s.protocol, "127.0.0.1", 0, options=CAREFUL, reuse_port=True),
    "Reactor.listen, everywhere": lambda s: lambda: s.reactor.listen(s.protocol, port=0),
    "Reactor.listen, at a name": lambda s: lambda: s.reactor.listen(s.protocol, "localhost", 0),
    "Reactor.listen, with TLS": lambda s: lambda: s.reactor.listen(s.protocol, "127.0.0.1", 0, tls=SERVER),
    "Reactor.listen, at a path": lambda s: lambda: s.reactor.listen(s.protocol, path=s.path()),
    "Reactor.datagram": lambda s: lambda: s.reactor.datagram(s.endpoint, ("127.0.0.1", 0), options=CAREFUL),
    "Reactor.datagram, both": lambda s: lambda: s.reactor.datagram(s.endpoint, ("::1", 0), ("::1", 9)),
    "Reactor.datagram, at a path": lambda s: lambda: s.reactor.datagram(s.endpoint, path=s.path()),
}
GIVEN = {
    "Reactor.listen, on a socket": lambda s, given: lambda: s.reactor.listen(s.protocol, sock=given),
    "Reactor.connect, by a socket": lambda s, given: lambda: s.reactor.connect(s.protocol, sock=given),
    "Reactor.datagram, by a socket": lambda s, given: (
        lambda: s.reactor.datagram(s.endpoint, sock=given, options=CAREFUL)
    ),
}
CONNECTS = {
    "Reactor.connect": lambda s: {"host": "127.0.0.1", "port": s.listener().addresses[0][1]},
    "Reactor.connect, to a name": lambda s: {"host": "localhost", "port": s.listener().addresses[0][1]},
    "Reactor.connect, with TLS": lambda s: {"host": "127.0.0.1", "port": _secure(s), "tls": CLIENT},
    "Reactor.connect, to a path": lambda s: {"path": s.path()},
    "Reactor.connect, from an address": lambda s: {
        "host": "127.0.0.1",
        "port": s.listener().addresses[0][1],
        "source": ("127.0.0.1", 0),
    },
}
OTHERS = {
    "Reactor": lambda s: lambda: Reactor().close(),
    "Guest": lambda s: lambda: _host(s, Guest),
    "Reactor.add_reader": lambda s: _for(s.pair()[0], lambda sock: s.reactor.add_reader(sock, s.told.append, "called")),
    "Reactor.add_writer": lambda s: _for(s.pair()[0], lambda sock: s.reactor.add_writer(sock, s.told.append, "called")),
    "Reactor.add_writer, beside a reader": lambda s: _for(
        _watched(s), lambda sock: s.reactor.add_writer(sock, s.told.append, "called")
    ),
    "Reactor.add_signal_handler": lambda s: (
        lambda: s.reactor.add_signal_handler(signal.SIGUSR1, s.told.append, "called")
    ),
    "Reactor.drain_on_signals": lambda s: lambda: s.reactor.drain_on_signals(1),
    "Reactor.run_in_thread": lambda s: lambda: s.reactor.run_in_thread(s.told.append, "called"),
    "Reactor.call_soon": lambda s: lambda: s.reactor.call_soon(s.told.append, "called"),
    "Reactor.call_later": lambda s: lambda: s.reactor.call_later(0, s.told.append, "called"),
    "Reactor.call_at": lambda s: lambda: s.reactor.call_at(0, s.told.append, "called"),
    "Reactor.call_soon_threadsafe": lambda s: lambda: s.reactor.call_soon_threadsafe(s.told.append, "called"),
    "Reactor.notify": lambda s: lambda: s.reactor.notify("READY=1"),
    "Reactor.listen_fds": lambda s: lambda: s.reactor.listen_fds(),
    "Reactor.statistics": lambda s: lambda: s.reactor.statistics(),
    "Reactor.remove_reader": lambda s: _for(_watched(s, both=True), s.reactor.remove_reader),
    "Reactor.remove_writer": lambda s: _for(_watched(s, both=True), s.reactor.remove_writer),
    "Reactor.remove_signal_handler": lambda s: _for(_handled(s), s.reactor.remove_signal_handler),
    "Reactor.stop": lambda s: s.reactor.stop,
    "Reactor.fileno": lambda s: s.reactor.fileno,
    "Reactor.observe": lambda s: lambda: s.reactor.observe(lambda record: None),
    "Reactor.observe_turns": lambda s: lambda: s.reactor.observe_turns(lambda turn: None),
    "Listener.close": lambda s: s.listener().close,
    "Connector.cancel": lambda s: s.reactor.connect(s.protocol, "127.0.0.1", 9).cancel,
    "Connection.write": lambda s: _for(s.connection(), lambda c: c.write(b"some")),
    "Connection.writelines": lambda s: _for(s.connection(), lambda c: c.writelines([b"some", b"more"])),
    "Connection.send_file": lambda s: _for((s.connection(), _file(s)), lambda both: both[0].send_file(both[1])),
    "Connection.write_eof": lambda s: s.connection().write_eof,
    "Connection.close": lambda s: s.connection().close,
    "Connection.abort": lambda s: s.connection().abort,
    "Connection.resume_reading": lambda s: _for(_paused(s), lambda c: c.resume_reading()),
    "Connection.pause_reading": lambda s: s.connection().pause_reading,
    "Connection.start_tls": lambda s: _for(
        s.connection(), lambda c: c.start_tls(CLIENT, server_hostname="127.0.0.1", received=b"")
    ),
    "Connection.set_write_buffer_limits": lambda s: _for(s.connection(), lambda c: c.set_write_buffer_limits(9)),
    "Connection.set_protocol": lambda s: _for(s.connection(), lambda c: c.set_protocol(s.protocol())),
    "Connection.call_soon": lambda s: _for(s.connection(), lambda c: c.call_soon(s.told.append, "called")),
    "Connection.get_extra_info": lambda s: _for(s.connection(), lambda c: c.get_extra_info("tcp_state")),
    "FramedProtocol.write_frame": lambda s: _for(
        s.connection(s.framed), lambda c: c.get_protocol().write_frame(b"some")
    ),
    "FramedProtocol.resume_reading": lambda s: _for(_paused(s, s.framed), lambda c: c.get_protocol().resume_reading()),
    "FramedProtocol.pause_reading": lambda s: _for(s.connection(s.framed), lambda c: c.get_protocol().pause_reading()),
    "Datagram.sendto": lambda s: _for(s.datagram(), lambda e: e.sendto(b"x", e.get_extra_info("sockname"))),
    "Datagram.close": lambda s: s.datagram().close,
    "Datagram.abort": lambda s: s.datagram().abort,
    "Datagram.set_protocol": lambda s: _for(s.datagram(), lambda e: e.set_protocol(s.endpoint())),
    "Datagram.set_write_buffer_limits": lambda s: _for(s.datagram(), lambda e: e.set_write_buffer_limits(9)),
    "Datagram.get_extra_info": lambda s: _for(s.datagram(), lambda e: e.get_extra_info("sockname")),
    "relay": lambda s: _for((s.connection(), s.connection()), lambda both: relay(*both)),
    "Relay.abort": lambda s: relay(s.connection(), s.connection()).abort,
}
# They ask the system nothing, or, the first row, run the loop: whatever fails there is told to somebody.
ASK_NOTHING = {
    "Reactor": {"run", "run_once", "drain", "close", "time", "timeout"},
    "Connection": {"can_write_eof", "get_protocol", "get_write_buffer_limits", "get_write_buffer_size", "is_closing"}
    | {"is_reading", "is_writing_paused"},
    "Datagram": {"get_protocol", "get_write_buffer_limits", "get_write_buffer_size", "is_closing"},
    "Listener": {"is_closing"},
    "Connector": {"done"},
    "FramedProtocol": {"take_unread"},
}
# What one room asks of another, and no user.
WITHIN = {
    "Reactor": {
        "admit",
        "call",
        "call_from_thread",
        "came_to_nothing",
        "callback_failed",
        "check_not_turning",
        "check_open",
        "dismiss",
    }
    | {"doom", "forked", "gather", "is_inherited", "is_still_ours", "look_at_clock", "nudge", "pass_by", "post"}
    | {"post_handle", "rest", "set_timer", "watch"},
    "Connection": {"abandon", "begin", "bury", "callback_failed", "cut", "deliver", "displaced", "drain", "drop"}
    | {"end_linger", "fail", "flush", "handshake_failed", "handshake_late", "hidden_error", "is_broken", "on_events"}
    | {"on_readable", "peer_ended", "post", "receive", "secured", "send_or_gather", "choose_reader", "count_discarded"}
    | {"forked", "go_on", "input_ended", "is_lingering", "rest"},
    "Datagram": {
        "abandon",
        "bury",
        "callback_failed",
        "cut",
        "displaced",
        "drain",
        "flush",
        "forked",
        "go_on",
        "on_events",
        "on_readable",
        "rest",
    },
    "Listener": {"abandon", "accept", "callback_failed", "descriptor_freed", "lose", "release"},
    "Connector": {
        "adopt",
        "attempt_connected",
        "attempt_failed",
        "begin",
        "callback_failed",
        "fail",
        "resolve",
        "start",
    },
    "FramedProtocol": {name for name in vars(Protocol) if not name.startswith("_")}
    | {"end_received", "frame_received", "framing_failed"},
}


def _host(stage: Stage, guest: type[Guest]) -> None:
    """A guest of a host whose watching and whose timers are calls of the system that may fail."""
    watched: set[int] = set()

    def watch(fd, callback):
        os.stat(".")
        watched.add(fd)
        return lambda: watched.remove(fd)

    def call_later(seconds, callback):
        os.stat(".")
        return lambda: None

    stage.reactor.call_later(9, print)
    try:
        guest(stage.reactor, watch, call_later).leave()
    finally:
        stage.told.extend("still watched" for _ in watched)
        stage.reactor.timers = type(stage.reactor.timers)()


def _for(thing, call):
    return lambda: call(thing)


def _secure(stage: Stage) -> int:
    return stage.reactor.listen(stage.protocol, "127.0.0.1", 0, tls=SERVER).addresses[0][1]


def _watched(stage: Stage, both: bool = False) -> socket.socket:
    sock = stage.pair()[0]
    stage.reactor.add_reader(sock, print)
    if both:
        stage.reactor.add_writer(sock, len, "")
    return sock


def _paused(stage: Stage, make=None):
    connection = stage.connection(make)
    connection.get_protocol().connection.pause_reading()
    return connection


def _handled(stage: Stage) -> int:
    stage.reactor.add_signal_handler(signal.SIGUSR1, print)
    return signal.SIGUSR1


def _file(stage: Stage):
    Path(stage.path("file")).write_bytes(b"some")
    return stage.resources.enter_context(Path(stage.path("file")).open("rb"))


def each_failure(directory: Path, failure: type[Exception]):
    """A new stage for each n, until the call was made without a failure."""
    for number in range(1, 200):
        with ExitStack() as resources, tempfile.TemporaryDirectory(dir=directory) as name:
            failing = Failing(number, failure)
            yield Stage(resources, Path(name)), failing
            if not failing.fired:
                return
    raise AssertionError("a call that asks the system so often?")


def check(stage: Stage, failing: Failing, call) -> bool:
    """Makes the call; if it raises, everything is as it was, and nothing comes later. Whether it raised."""
    before = stage.state()
    try:
        with failing:
            call()
    except (OSError, MemoryError, RuntimeError):
        if not failing.fired:
            raise
    else:
        return False
    after = stage.state()
    assert {name: after[name] for name in after if after[name] != before[name]} == {
        name: before[name] for name in after if after[name] != before[name]
    }, f"a failing {failing.fired} left something behind"
    for _ in range(3):
        stage.reactor.run_once(0)
    assert stage.told == before["told"], f"after a failing {failing.fired} something was told"
    return True


FAILURES = pytest.mark.parametrize("failure", [OSError, MemoryError], ids=["OSError", "MemoryError"])


@FAILURES
@pytest.mark.parametrize("name", ENDS)
def test_an_end_that_cannot_be_made_leaves_nothing_behind(tmp_path, name, failure):
    """It raises for whatever failed, and is made when nothing does."""
    for stage, failing in each_failure(tmp_path, failure):
        raised = check(stage, failing, ENDS[name](stage))
        if not raised:
            assert stage.reactor.listeners or stage.reactor.datagrams


@FAILURES
@pytest.mark.parametrize("name", GIVEN)
def test_a_given_socket_stays_its_owners_when_the_call_raises(tmp_path, name, failure):
    """Open, in the mode in which it was, and not served."""
    for stage, failing in each_failure(tmp_path, failure):
        if name == "Reactor.connect, by a socket":
            given = stage.pair()[0]
        else:
            given = stage.bound(socket.SOCK_DGRAM if "datagram" in name else socket.SOCK_STREAM)
        given.settimeout(7)
        if check(stage, failing, GIVEN[name](stage, given)):
            assert given.gettimeout() == 7
            assert given.fileno() not in stage.reactor.ends
        else:
            assert given.gettimeout() == 0
            assert given.fileno() in stage.reactor.ends


@FAILURES
@pytest.mark.parametrize("name", CONNECTS)
def test_a_connect_raises_or_is_told_but_never_both(tmp_path, name, failure):
    """A failure at any call tells one end at most; without one, the connect succeeds."""
    for stage, failing in each_failure(tmp_path, failure):
        if name == "Reactor.connect, to a path":
            stage.reactor.listen(stage.protocol, path=stage.path())
        client = Client()
        if check(stage, failing, partial(stage.reactor.connect, lambda c=client: c, **CONNECTS[name](stage))):
            assert client.ends == []
            continue
        turn_until(stage.reactor, lambda c=client: c.ends)
        assert len(client.ends) == 1
        assert failing.fired or client.ends == ["made"]
        assert stage.reactor.connectors == ()


class Client(Protocol):
    """Counts how its connect ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def connection_made(self, connection):
        self.ends.append("made")
        connection.abort()

    def connection_failed(self, exc):
        self.ends.append("failed")


@pytest.mark.parametrize(
    ("name", "failure"),
    [pytest.param(name, OSError, marks=[pytest.mark.logs_errors] if "remove_" in name else []) for name in OTHERS]
    # What fails on a connection or an endpoint is the end's, and told in its connection_lost.
    + [(name, MemoryError) for name in OTHERS if name.startswith(("Reactor", "Guest", "Listener", "Connector"))],
)
def test_any_other_call_that_raises_leaves_nothing_behind(tmp_path, name, failure):
    """Whether it may raise at all is its own contract; what writes and ends never does."""
    for stage, failing in each_failure(tmp_path, failure):
        raised = check(stage, failing, OTHERS[name](stage))
        assert not (raised and name.startswith(("Connection.write", "Connection.close", "Datagram.", "Relay.")))


@pytest.mark.parametrize("kind", [Reactor, Connection, Datagram, Listener, Connector, Relay, FramedProtocol])
def test_every_public_call_is_in_the_table(kind):
    """A new one must be tried, too, or be said to ask the system nothing."""
    name = kind.__name__
    public = {
        attribute for attribute in dir(kind) if not attribute.startswith("_") and callable(getattr(kind, attribute))
    }
    tried = {key.partition(",")[0].removeprefix(f"{name}.") for key in (*ENDS, *GIVEN, *CONNECTS, *OTHERS)}
    assert public - WITHIN.get(name, set()) - ASK_NOTHING.get(name, set()) - tried == set()


@pytest.mark.parametrize(
    "call",
    [
        lambda r: r.call_soon(7),
        lambda r: r.call_later(0, 7),
        lambda r: r.call_soon_threadsafe(7),
        lambda r: r.run_in_thread(7),
        lambda r: r.run_in_thread(len, done=7),
        lambda r: r.add_signal_handler(signal.SIGUSR1, 7),
        lambda r: r.add_reader(0, 7),
        lambda r: r.listen(7, "127.0.0.1", 0),
        lambda r: r.connect(7, "127.0.0.1", 9),
        lambda r: r.datagram(7, ("127.0.0.1", 0)),
        lambda r: r.observe_turns(7),
    ],
)
def test_what_cannot_be_called_is_refused_where_it_is_given(tmp_path, call):
    """Not when its time comes, when nobody could say who gave it."""
    with ExitStack() as resources:
        stage = Stage(resources, tmp_path)
        before = stage.state()
        with pytest.raises(TypeError, match="7"):
            call(stage.reactor)
        assert stage.state() == before


def test_close_ends_everything_whatever_fails(tmp_path):
    """No descriptor, no thread and no signal handler stays, at whichever call of the system something fails."""
    for stage, failing in each_failure(tmp_path, OSError):
        before = set(os.listdir("/proc/self/fd"))
        with ExitStack() as resources, tempfile.TemporaryDirectory(dir=tmp_path) as directory:
            other = Stage(resources, Path(directory))
            other.connection()
            other.listener()
            other.datagram()
            other.reactor.add_signal_handler(signal.SIGUSR1, print)
            _watched(other)
            try:
                with failing:
                    other.reactor.close()
            except OSError:
                pass
        assert set(os.listdir("/proc/self/fd")) == before, f"after a failing {failing.fired}"
        assert stage.reactor.listeners == ()
