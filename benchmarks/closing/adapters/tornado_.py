"""Tornado: a `TCPServer` whose `handle_stream` is a coroutine, as its documentation shows.

Switched on: every write is awaited before the close, since `IOStream.close` drops what is queued; `gen.with_timeout`
around the reply where a scenario gives a deadline. No close callback: with one, a FIN during a reply would throw the
reply away. IOStream has no half-close; the adapter shuts its socket down instead. On SIGTERM `TCPServer.stop`.
"""

import asyncio
import datetime
import logging
import signal
import socket

from tornado import gen
from tornado.iostream import StreamClosedError
from tornado.tcpserver import TCPServer

from benchmarks.closing.adapters.job import (
    BACKLOG,
    DELAY,
    HOST,
    Job,
    tell,
    tell_late,
    tell_lost,
    wait_for_word,
)


async def receive(stream):
    return await stream.read_bytes(65536, partial=True)


async def reply(stream, job):
    await receive(stream)
    written = stream.write(job.payload)
    if job.deadline is not None:
        written = gen.with_timeout(datetime.timedelta(seconds=job.deadline), written)
    await written
    stream.close()


async def queue(stream, job):
    await receive(stream)
    await stream.write(job.payload)
    await stream.read_until_close()


async def echo(stream, job):
    while True:
        try:
            data = await receive(stream)
        except StreamClosedError as exc:
            if exc.real_error is not None:
                raise
            return  # the peer's end of file
        await stream.write(data)


async def half_close_reply(stream, job):
    await stream.read_until_close()
    await asyncio.sleep(DELAY)
    await stream.write(job.payload)
    stream.close()


async def early_half_close(stream, job):
    await receive(stream)
    stream.socket.shutdown(socket.SHUT_WR)
    tell(received=len(await stream.read_until_close()))


async def raising(stream, job):
    await receive(stream)
    stream.write(job.payload)
    await receive(stream)
    raise RuntimeError("the handler is meant to raise")


async def abort(stream, job):
    await receive(stream)
    stream.write(job.payload)
    await asyncio.sleep(DELAY)
    stream.close()


async def write_after_close(stream, job):
    await receive(stream)
    if job.payload:
        stream.write(job.payload)
    stream.close()
    try:
        stream.write(b"late")
    except Exception as exc:
        tell_late(exc)
    else:
        tell_late(None)


async def last_words(stream, job):
    await receive(stream)
    tell(waiting=True)
    wait_for_word()
    words = b""
    try:
        try:
            await stream.write(b"too late for the peer")
        finally:
            words = await stream.read_until_close()
    finally:
        tell(received=len(words))


async def idle(stream, job):
    await stream.read_until_close()
    if not stream.closed():
        tell(half_open=True)
        await asyncio.Event().wait()


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


class Server(TCPServer):
    def __init__(self, job):
        super().__init__()
        self.job = job

    async def handle_stream(self, stream, address):
        lost = None
        try:
            await BEHAVIOURS[self.job.behaviour](stream, self.job)
        except StreamClosedError as exc:
            lost = exc.real_error or exc
        except gen.TimeoutError as exc:
            stream.close()
            lost = exc
        tell_lost(lost)


async def main() -> None:
    logging.basicConfig()
    job = Job.from_command_line()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = Server(job)
    server.listen(0, HOST, backlog=BACKLOG)
    (listening,) = server._sockets.values()
    job.listening(listening.getsockname()[1])
    await stopped.wait()
    server.stop()


if __name__ == "__main__":
    asyncio.run(main())
