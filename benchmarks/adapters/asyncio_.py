"""asyncio: the Protocol API, which is its fastest. An idle deadline is one timer per connection, re-armed lazily."""

import asyncio

from benchmarks.adapters.callbacks import BACKLOG, arguments, behaviours, listening, timers


def with_idle_deadline(base, seconds):
    class Bounded(base):
        def connection_made(self, transport):
            super().connection_made(transport)
            self.loop = asyncio.get_running_loop()
            self.active = self.loop.time()
            self.watch = self.loop.call_later(seconds, self.look)

        def data_received(self, data):
            self.active = self.loop.time()
            super().data_received(data)

        def look(self):
            deadline = self.active + seconds
            if deadline <= self.loop.time():
                self.transport.close()
            else:
                self.watch = self.loop.call_at(deadline, self.look)

        def connection_lost(self, exc):
            self.watch.cancel()

    return Bounded


async def serve():
    behaviour, options = arguments()
    loop = asyncio.get_running_loop()
    if behaviour == "timers":
        timers(loop.call_later, lambda handle: handle.cancel(), int(options["count"]))
        return
    factory = behaviours(asyncio.Protocol)[behaviour]
    if "idle" in options:
        factory = with_idle_deadline(factory, float(options["idle"]))
    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=BACKLOG)
    listening(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
