"""gevent: a `StreamServer` with a greenlet per connection, whose handler has a socket.

Switched on: a pool, so that `stop` waits for the handlers on SIGTERM; `stop_timeout` raised; `gevent.Timeout` around
the reply where a scenario gives a deadline; `shutdown(SHUT_WR)` for the half-close. To abort there is `close`.
"""

import contextlib
import signal
import socket

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer

from benchmarks.closing.adapters.job import (
    BACKLOG,
    DELAY,
    HOST,
    PATIENCE,
    Job,
    tell,
    tell_late,
    tell_lost,
    wait_for_word,
)


def receive(sock):
    return sock.recv(65536)


def receive_all(sock):
    count = 0
    while data := receive(sock):
        count += len(data)
    return count


def send_quietly(sock, payload):
    """For a greenlet of its own, whose connection is ended by another."""
    with contextlib.suppress(OSError):
        sock.sendall(payload)


def reply(sock, job):
    receive(sock)
    with gevent.Timeout(job.deadline):
        sock.sendall(job.payload)


def queue(sock, job):
    receive(sock)
    sock.sendall(job.payload)
    receive_all(sock)


def echo(sock, job):
    while data := receive(sock):
        sock.sendall(data)


def half_close_reply(sock, job):
    receive_all(sock)
    gevent.sleep(DELAY)
    sock.sendall(job.payload)


def early_half_close(sock, job):
    receive(sock)
    sock.shutdown(socket.SHUT_WR)
    tell(received=receive_all(sock))


def raising(sock, job):
    receive(sock)
    gevent.spawn(send_quietly, sock, job.payload)
    receive(sock)
    raise RuntimeError("the handler is meant to raise")


def abort(sock, job):
    receive(sock)
    gevent.spawn(send_quietly, sock, job.payload)
    gevent.sleep(DELAY)
    sock.close()


def write_after_close(sock, job):
    receive(sock)
    if job.payload:
        gevent.spawn(send_quietly, sock, job.payload)
        gevent.sleep(0)
    sock.close()
    try:
        sock.sendall(b"late")
    except Exception as exc:
        tell_late(exc)
    else:
        tell_late(None)


def last_words(sock, job):
    receive(sock)
    tell(waiting=True)
    wait_for_word()
    received = 0
    try:
        try:
            sock.sendall(b"too late for the peer")
        finally:
            received = receive_all(sock)
    finally:
        tell(received=received)


def idle(sock, job):
    receive_all(sock)
    tell(half_open=True)
    Event().wait()


BEHAVIOURS = {
    "reply": reply,
    "queue": queue,
    "echo": echo,
    "half-close-reply": half_close_reply,
    "early-half-close": early_half_close,
    "raise": raising,
    "abort": abort,
    "write-after-close": write_after_close,
    "last-words": last_words,
    "idle": idle,
}


def main() -> None:
    job = Job.from_command_line()

    def handle(sock, address):
        try:
            BEHAVIOURS[job.behaviour](sock, job)
        except (OSError, gevent.Timeout) as exc:
            tell_lost(exc)
        else:
            tell_lost(None)

    server = StreamServer((HOST, 0), handle, backlog=BACKLOG, spawn=Pool())
    server.stop_timeout = PATIENCE
    server.start()
    gevent.signal_handler(signal.SIGTERM, server.stop)
    job.listening(server.server_port)
    server.serve_forever(stop_timeout=PATIENCE)


if __name__ == "__main__":
    main()
