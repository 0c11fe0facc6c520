"""gevent: one greenlet per connection, with TCP_NODELAY."""

import socket

from gevent import Timeout
from gevent.server import StreamServer

from benchmarks.adapters.callbacks import BACKLOG, arguments, listening

CHUNK = 65536
members = set()


def echo(sock):
    while data := sock.recv(CHUNK):
        sock.sendall(data)


def upload(sock):
    while sock.recv(CHUNK):
        pass


def fanout(sock):
    members.add(sock)
    try:
        while data := sock.recv(CHUNK):
            members.discard(sock)
            for line in data.splitlines(keepends=True):
                for member in tuple(members):
                    member.sendall(line)
    finally:
        members.discard(sock)


def churn(sock):
    request = b""
    while data := sock.recv(CHUNK):
        request += data
    sock.sendall(request)


behaviour, options = arguments()
serve = {"echo": echo, "relay": echo, "upload": upload, "fanout": fanout, "churn": churn}[behaviour]


def handle(sock, address):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if "idle" in options:
        sock.settimeout(float(options["idle"]))
    try:
        serve(sock)
    except (ConnectionError, Timeout, TimeoutError):
        pass


server = StreamServer(("127.0.0.1", 0), handle, backlog=BACKLOG)
server.start()
listening(server.server_port)
server.serve_forever()
