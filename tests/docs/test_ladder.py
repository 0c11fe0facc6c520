"""The ladder: each cell of the table in docs/ladder.md is asked of the server that it speaks of."""

from __future__ import annotations

import re
import resource
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.samples.processes import PATIENCE, ROOT, Sample, read_to_end, wait_for

STEPS = ["blocking", "with_select", "with_selectors", "with_reactor"]
PAGE = ROOT / "docs" / "ladder.md"
# How long something is waited for that the table says does not happen.
IN_VAIN = 0.15
MEGABYTES_16 = 16 * 2**20
LIMIT = 200_000


def promises() -> Iterator[tuple[str, str, bool]]:
    """(sentence, step, whether it holds) for each cell of the table."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in QUESTIONS:
            for step, cell in zip(STEPS, cells[1:], strict=True):
                assert cell in ("yes", "**no**"), cell
                yield cells[0], step, cell == "yes"


def start(step: str, *arguments: str, descriptors: int | None = None) -> Sample:
    """One of the servers, as people run it."""
    command = [sys.executable, "-W", "error", "-m", f"samples.ladder.{step}", "--port", "0", *arguments]
    if descriptors is not None:
        command = ["/bin/sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh", *command]
    return Sample(command, subprocess.DEVNULL, subprocess.PIPE)


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], Sample]]:
    """One process for each step; a new one when somebody has ended it."""
    # At once, before any test counts its descriptors.
    running = {step: start(step) for step in STEPS}

    def get(step: str) -> Sample:
        if running[step].process.poll() is not None:
            running[step].kill()
            running[step] = start(step)
        return running[step]

    yield get
    for server in running.values():
        server.kill()


@contextmanager
def caller(server: Sample, window: int | None = None) -> Iterator[socket.socket]:
    """A raw client; with `window`, one whose kernel holds little."""
    with socket.socket() as sock:
        if window is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", server.port()))
        yield sock


def answers(server: Sample, patience: float) -> bool:
    """Whether a new caller is served."""
    try:
        with caller(server) as sock:
            sock.settimeout(patience)
            sock.sendall(b"hello")
            return sock.recv(5) == b"hello"
    except OSError:  # TimeoutError, too
        return False


def send_without_reading(sock: socket.socket, size: int, quiet: float = IN_VAIN) -> int:
    """Sends until nothing is taken for so long; how much was."""
    sock.settimeout(quiet)
    sent = 0
    try:
        while sent < size:
            sent += sock.send(b"x" * min(262144, size - sent))
    except TimeoutError:
        pass
    sock.settimeout(PATIENCE)
    return sent


# The questions. Each is given the server (or what starts it), and how long to wait for what should happen.


def silent(server: Sample, patience: float) -> bool:
    with caller(server) as quiet:
        quiet.sendall(b"x")
        assert quiet.recv(1) == b"x"
        return answers(server, patience)


def not_reading(server: Sample, patience: float) -> bool:
    with caller(server, window=4096) as stuck:
        send_without_reading(stuck, MEGABYTES_16)
        return answers(server, patience)


def slowed(server: Sample, patience: float) -> bool:
    with caller(server, window=4096) as eager:
        # What the table says is not waited for: whoever is said to take everything may take its time.
        quiet = IN_VAIN if patience == PATIENCE else PATIENCE
        return send_without_reading(eager, MEGABYTES_16, quiet) < MEGABYTES_16


def reset(server: Sample, patience: float) -> bool:
    with caller(server) as broken:
        broken.sendall(b"x")
        assert broken.recv(1) == b"x"
        broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if patience == IN_VAIN:
        server.process.wait(PATIENCE)
    return answers(server, patience)


def half_close(server: Sample, patience: float) -> bool:
    """Everything comes back to who has said that there is no more, though little of it was read by then."""
    data = bytes(range(256)) * (8 * 4096)  # more than the kernels hold
    dropped = patience == IN_VAIN
    with caller(server, window=65536) as sock:
        sock.setblocking(False)
        view, echoed = memoryview(data), bytearray()
        while view:
            # Whoever is said to drop it takes everything before we read.
            if select.select([], [sock], [], PATIENCE if dropped else 0.03)[1]:
                view = view[sock.send(view) :]
            else:
                enough = len(echoed) + 2**20
                while len(echoed) < enough and select.select([sock], [], [], 0.03)[0]:
                    echoed += sock.recv(65536)
        sock.settimeout(PATIENCE)
        sock.shutdown(socket.SHUT_WR)
        if dropped:  # nothing is read before the server has seen that end, and made up its mind
            wait_for(lambda: state_there(sock) != CLOSE_WAIT, "the server has not closed")
        try:
            echoed += read_to_end(sock)
        except ConnectionResetError:
            return False
        return echoed == data


# proc(5), net/tcp; the kernel's tcp_states.h.
ESTABLISHED, CLOSE_WAIT = "01", "08"


def state_there(sock: socket.socket) -> str | None:
    """The state of the other end, as if our FIN had arrived there: it may wait behind what is not taken yet."""
    here, there = (f":{name[1]:04X}" for name in (sock.getsockname(), sock.getpeername()))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        if local.endswith(there) and remote.endswith(here):
            return CLOSE_WAIT if state == ESTABLISHED else state
    return None


def beyond_the_limit(step: str, patience: float) -> bool:
    """Who sends more than is taken gets back what was taken, and an end."""
    server = start(step, "--limit", str(LIMIT))
    try:
        with caller(server, window=4096) as sock:
            try:
                sock.sendall(b"x" * (LIMIT + 1000))
                return read_to_end(sock) == b"x" * LIMIT
            except ConnectionError:
                return False
    finally:
        server.kill()


def a_thousand(server: Sample, patience: float) -> bool:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1030):
            stack.enter_context(caller(server))
        return answers(server, patience)


def famine(step: str, patience: float) -> bool:
    """It runs out of descriptors, they come back, and it serves again."""
    server = start(step, descriptors=16)
    try:
        with ExitStack() as stack:
            try:
                for _ in range(30):
                    stack.enter_context(caller(server))
            except ConnectionError:
                pass  # it is gone already
            answers(server, IN_VAIN)
        return answers(server, patience)
    finally:
        server.kill()


def told_to_end(step: str, patience: float) -> bool:
    """Whom SIGTERM finds in the middle sees an end, not a reset."""
    server = start(step)
    try:
        with caller(server, window=4096) as sock:
            sent = send_without_reading(sock, MEGABYTES_16)
            server.process.terminate()
            if step != "with_reactor":
                server.process.wait(PATIENCE)
            try:
                return 0 < len(read_to_end(sock)) <= sent
            except ConnectionResetError:
                return False
    finally:
        server.kill()


QUESTIONS: dict[str, Callable[..., bool]] = {
    "a caller that says nothing keeps nobody waiting": silent,
    "a caller that does not read keeps nobody waiting": not_reading,
    "a caller that is reset does not end the server": reset,
    "a caller that half-closes gets everything back": half_close,
    "a caller that sends and does not read is slowed down": slowed,
    "more than a thousand at once are served": a_thousand,
    "running out of descriptors does not end the server": famine,
    "a caller that sends more than the limit gets back what was taken": beyond_the_limit,
    "SIGTERM in the middle is an end, not a reset": told_to_end,
}
ALONE = {beyond_the_limit, famine, told_to_end}
SLOW = {a_thousand, famine}
# Says the same of each of the first three: one of them is enough each time.
SAME = {(told_to_end, "blocking"), (told_to_end, "with_select")}


def cell(sentence: str, step: str, holds: bool):
    """One cell as a test's parameters."""
    ask = QUESTIONS[sentence]
    marks = [pytest.mark.slow] if ask in SLOW or (ask, step) in SAME else []
    return pytest.param(sentence, step, holds, id=f"{ask.__name__}-{step}", marks=marks)


def test_the_table_has_every_question():
    """Nothing that is asked here is missing there."""
    assert {sentence for sentence, _, _ in promises()} == set(QUESTIONS)


@pytest.mark.parametrize(
    ("sentence", "step", "holds"),
    [cell(*promise) for promise in promises()],
)
def test_a_cell_of_the_table_is_what_happens(servers, sentence, step, holds):
    """The server does, or does not, what the page says."""
    ask = QUESTIONS[sentence]
    if ask is a_thousand and resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1200:
        pytest.skip("this process may not have so many descriptors")
    patience = PATIENCE if holds else IN_VAIN
    assert ask(step if ask in ALONE else servers(step), patience) == holds


def test_the_arguments_explain_themselves():
    """`--help` works, and a port that cannot be is refused with status 2."""
    command = [sys.executable, "-m", "samples.ladder.blocking"]
    helped = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (helped.returncode, "--port" in helped.stdout) == (0, True)
    refused = subprocess.run([*command, "--port", "http"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert refused.returncode == 2
    assert refused.stderr.endswith("a port is a whole number from 0 to 65535, not 'http'\n")


@pytest.mark.parametrize("step", ["blocking", "with_reactor"])
def test_a_port_that_is_taken_is_told_in_one_line(step):
    """Exit status 2, and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", f"samples.ladder.{step}", "--port", str(port)]
        refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert re.fullmatch(rf"127.0.0.1:{port}: .*[Aa]ddress.* in use.*\n", refused.stderr)
