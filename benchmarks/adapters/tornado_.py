"""Tornado: TCPServer and its IOStream, which awaits every read."""

import asyncio

from tornado.ioloop import IOLoop
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.tcpserver import TCPServer

from benchmarks.adapters.callbacks import BACKLOG, arguments, listening, timers

CHUNK = 65536
members = set()


async def echo(stream):
    while True:
        stream.write(await stream.read_bytes(CHUNK, partial=True))


async def relay(stream):
    while True:
        await stream.write(await stream.read_bytes(CHUNK, partial=True))


async def upload(stream):
    while True:
        await stream.read_bytes(CHUNK, partial=True)


async def fanout(stream):
    members.add(stream)
    try:
        while True:
            data = await stream.read_bytes(CHUNK, partial=True)
            members.discard(stream)
            for line in data.splitlines(keepends=True):
                for member in tuple(members):
                    member.write(line)
    finally:
        members.discard(stream)


BEHAVIOURS = {"echo": echo, "relay": relay, "upload": upload, "fanout": fanout}


class Server(TCPServer):
    serve = staticmethod(echo)

    async def handle_stream(self, stream, address):
        stream.set_nodelay(True)
        try:
            await self.serve(stream)
        except StreamClosedError:
            pass


async def main():
    behaviour, options = arguments()
    if behaviour == "timers":
        loop = IOLoop.current()
        timers(loop.call_later, loop.remove_timeout, int(options["count"]))
        return
    server = Server()
    server.serve = BEHAVIOURS[behaviour]
    sockets = bind_sockets(0, "127.0.0.1", backlog=BACKLOG)
    server.add_sockets(sockets)
    listening(sockets[0].getsockname()[1])
    await asyncio.Event().wait()


asyncio.run(main())
