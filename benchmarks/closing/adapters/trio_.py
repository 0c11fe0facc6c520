"""trio: `serve_listeners` with a handler per stream.

Switched on: a handler nursery of its own, so that SIGTERM ends the accepting and lets the handlers finish (the way
`serve_listeners` documents); a handler's exception is caught and logged, since otherwise it ends the server;
`fail_after` around the reply where a scenario gives a deadline; `send_eof` for the half-close; `aclose_forcefully` to
abort.
"""

import contextlib
import logging
import math
import signal

import trio
import trio.testing

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


async def send_quietly(stream, payload):
    """For a task of its own, whose connection is ended by another."""
    with contextlib.suppress(trio.ClosedResourceError, trio.BrokenResourceError):
        await stream.send_all(payload)


async def reply(stream, job):
    await stream.receive_some()
    with trio.fail_after(math.inf if job.deadline is None else job.deadline):
        await stream.send_all(job.payload)
    await stream.aclose()


async def queue(stream, job):
    await stream.receive_some()
    await stream.send_all(job.payload)
    async for _ in stream:
        pass


async def echo(stream, job):
    async for data in stream:
        await stream.send_all(data)


async def half_close_reply(stream, job):
    async for _ in stream:
        pass
    await trio.sleep(DELAY)
    await stream.send_all(job.payload)
    await stream.aclose()


async def early_half_close(stream, job):
    await stream.receive_some()
    await stream.send_eof()
    tell(received=sum([len(data) async for data in stream]))


async def raising(stream, job):
    async with trio.open_nursery() as nursery:
        await stream.receive_some()
        nursery.start_soon(send_quietly, stream, job.payload)
        await stream.receive_some()
        raise RuntimeError("the handler is meant to raise")


async def abort(stream, job):
    async with trio.open_nursery() as nursery:
        await stream.receive_some()
        nursery.start_soon(send_quietly, stream, job.payload)
        await trio.sleep(DELAY)
        await trio.aclose_forcefully(stream)


async def write_after_close(stream, job):
    async with trio.open_nursery() as nursery:
        await stream.receive_some()
        if job.payload:
            nursery.start_soon(send_quietly, stream, job.payload)
            await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
        try:
            await stream.send_all(b"late")
        except Exception as exc:
            tell_late(exc)
        else:
            tell_late(None)


async def last_words(stream, job):
    await stream.receive_some()
    tell(waiting=True)
    wait_for_word()
    received = 0
    try:
        try:
            await stream.send_all(b"too late for the peer")
        finally:
            async for data in stream:
                received += len(data)
    finally:
        tell(received=received)


async def idle(stream, job):
    async for _ in stream:
        pass
    tell(half_open=True)
    await trio.sleep_forever()


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


async def main() -> None:
    job = Job.from_command_line()

    async def handle(stream):
        try:
            async with stream:
                await BEHAVIOURS[job.behaviour](stream, job)
        except Exception as exc:
            logging.exception("a handler failed")
            tell_lost(exc)
        else:
            tell_lost(None)

    listeners = await trio.open_tcp_listeners(0, host=HOST, backlog=BACKLOG)
    async with trio.open_nursery() as handlers, trio.open_nursery() as accepting:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            accepting.start_soon(lambda: trio.serve_listeners(handle, listeners, handler_nursery=handlers))
            job.listening(listeners[0].socket.getsockname()[1])
            async for _ in signals:
                break
            accepting.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig()
    trio.run(main)
