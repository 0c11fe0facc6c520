"""Bare Python on select.epoll: what the interpreter costs without a framework. No half-close, no limits, no errors."""

import select
import socket

from benchmarks.adapters.callbacks import BACKLOG, arguments, listening

CHUNK = 65536


class Channel:
    """What asyncore called a dispatcher: a socket, its output, and the handlers."""

    __slots__ = ("output", "request", "sock")
    members = set()

    def __init__(self, sock):
        self.sock = sock
        self.output = b""
        self.request = b""
        self.members.add(self)

    def write(self, data):
        if self.output:
            self.output += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent != len(data):
            self.output = data[sent:]
            poller.modify(self.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def on_writable(self):
        self.output = self.output[self.sock.send(self.output) :]
        if not self.output:
            poller.modify(self.sock.fileno(), select.EPOLLIN)

    def close(self):
        self.members.discard(self)
        del channels[self.sock.fileno()]
        self.sock.close()

    def echo(self):
        if data := self.sock.recv(CHUNK):
            self.write(data)
        else:
            self.close()

    def upload(self):
        if not self.sock.recv(CHUNK):
            self.close()

    def fanout(self):
        data = self.sock.recv(CHUNK)
        if not data:
            self.close()
        self.members.discard(self)
        for line in data.splitlines(keepends=True):
            for member in self.members:
                member.write(line)

    def churn(self):
        if data := self.sock.recv(CHUNK):
            self.request += data
        else:
            self.write(self.request)
            self.close()


behaviour, _ = arguments()
serve = getattr(Channel, behaviour)
channels = {}
poller = select.epoll()
listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
listener.setblocking(False)
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
poller.register(listener, select.EPOLLIN)
listening(listener.getsockname()[1])


def accept():
    while True:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        channels[sock.fileno()] = Channel(sock)
        poller.register(sock.fileno(), select.EPOLLIN)


while True:
    for fd, ready in poller.poll(maxevents=512):
        if fd == listener.fileno():
            accept()
            continue
        channel = channels.get(fd)
        if channel is None:
            continue
        if ready & select.EPOLLOUT:
            channel.on_writable()
        if ready & ~select.EPOLLOUT:
            try:
                serve(channel)
            except ConnectionError:
                channel.close()
