"""trio: one task per connection."""

import functools

import trio

from benchmarks.adapters.callbacks import BACKLOG, arguments, listening

CHUNK = 65536
members = set()


async def echo(stream):
    while data := await stream.receive_some(CHUNK):
        await stream.send_all(data)


async def echo_with_idle_deadline(seconds, stream):
    with trio.move_on_after(seconds) as idle:
        while data := await stream.receive_some(CHUNK):
            idle.deadline = trio.current_time() + seconds
            await stream.send_all(data)


async def upload(stream):
    while await stream.receive_some(CHUNK):
        pass


async def fanout(stream):
    members.add(stream)
    try:
        while data := await stream.receive_some(CHUNK):
            members.discard(stream)
            for line in data.splitlines(keepends=True):
                for member in tuple(members):
                    await member.send_all(line)
    finally:
        members.discard(stream)


async def churn(stream):
    request = b""
    while data := await stream.receive_some(CHUNK):
        request += data
    await stream.send_all(request)


async def main():
    behaviour, options = arguments()
    serve = {"echo": echo, "relay": echo, "upload": upload, "fanout": fanout, "churn": churn}[behaviour]
    if "idle" in options:
        serve = functools.partial(echo_with_idle_deadline, float(options["idle"]))

    async def handle(stream):
        async with stream:
            try:
                await serve(stream)
            except trio.BrokenResourceError:
                pass

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=BACKLOG)
    listening(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(handle, listeners)


trio.run(main)
