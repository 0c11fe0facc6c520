"""SIGPIPE at its default, as an embedding program may have it, does not end the process: sends do not raise it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.test_forks import run

PACKAGE = Path(__file__).parent.parent / "reactor"

SETUP = """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)

class Server(Protocol):
    def connection_made(self, connection):
        super().connection_made(connection)
        connections.append(connection)
    def eof_received(self):
        return True
    def connection_lost(self, exc):
        lost.append(exc)

def turn_until(condition):
    deadline = time.monotonic() + 15
    while not condition():
        check(time.monotonic() < deadline, "waited in vain")
        reactor.run_once(0.01)

connections, lost = [], []
reactor = Reactor()
path = tempfile.mktemp(suffix=".sock")
reactor.listen(Server, path=path)
client = socket.socket(socket.AF_UNIX)
client.connect(path)
turn_until(lambda: connections)
(connection,) = connections
connection.pause_reading()
"""


@pytest.mark.parametrize(
    "send",
    [
        "connection.write(b'hello')",
        "connection.writelines([b'hello'] * 3)",
        "for _ in range(3): connection.write(b'x' * 20_000)",
        "connection.send_file(file)",
        "connection.write(b'hello'); connection.send_file(file)",
    ],
)
def test_a_send_to_a_peer_that_has_gone_is_told_in_connection_lost(poller, send):
    """Each way in which a connection gives bytes to the kernel."""
    run(
        SETUP
        + f"""
file = tempfile.TemporaryFile()
file.write(bytes(1000)); file.flush()
client.close()
{send}
turn_until(lambda: lost)
check(isinstance(lost[0], BrokenPipeError), lost)
check(signal.sigpending() == set() and not signal.pthread_sigmask(signal.SIG_BLOCK, []), "a signal is held back")
reactor.close()
""",
        poller,
    )


def test_a_program_that_holds_the_signal_back_itself_does_not_get_one_from_us():
    """It would be ended when it lets signals come."""
    run(
        SETUP
        + """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
file = tempfile.TemporaryFile()
file.write(bytes(1000)); file.flush()
client.close()
connection.send_file(file)
turn_until(lambda: lost)
check(signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPIPE]) == {signal.SIGPIPE}, "the mask was changed")
reactor.close()
"""
    )


def test_nothing_else_that_is_sent_raises_it():
    """The waker, when its other end is gone; a datagram endpoint; a signal that is passed on."""
    run(
        SETUP
        + """
reactor.waker._ours.close()
reactor.waker.wake()
one, two = socket.socketpair()
two.close()
reactor.system.pass_signal_on(one.fileno(), 1)
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

class Quiet(DatagramProtocol):
    def error_received(self, exc):
        pass

with Reactor() as other:
    endpoint = other.datagram(Quiet, sock=ours)
    other.run_once(0)
    theirs.close()
    endpoint.sendto(b"hello")
os._exit(0)
"""
    )


# The calls of the socket and os modules that write to a descriptor.
SENDS = {"send", "sendto", "sendmsg", "sendall", "sendmsg_afalg", "write", "writev", "sendfile", "splice"}


def test_no_send_in_the_package_is_without_the_flag():
    """Every call that could write to a socket passes NO_SIGNAL, or stands where SIGPIPE is held back."""
    bare = []
    for path in PACKAGE.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        guarded = {
            inner
            for outer in ast.walk(tree)
            if isinstance(outer, ast.With) and "no_broken_pipe_signal" in ast.unparse(outer.items[0])
            for inner in ast.walk(outer)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SENDS):
                continue
            flagged = any(ast.unparse(argument) in ("NO_SIGNAL", "flags") for argument in node.args)
            on_a_socket = node.func.attr != "write" or ast.unparse(node.func.value) == "os"
            if on_a_socket and not flagged and node not in guarded:
                bare.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert bare == []
