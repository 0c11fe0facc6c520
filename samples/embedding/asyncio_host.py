"""asyncio lends its loop: the reactor's connections end as well as ever, beside coroutines that know nothing of it."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from reactor import Reactor
from reactor.embedding import Guest
from samples.embedding import DRAIN_TIMEOUT, listen, port_of, say_where, status_of


def guest_of(loop: asyncio.AbstractEventLoop, reactor: Reactor, drained: Callable[[], object] | None = None) -> Guest:
    """The whole of it: what a guest needs, in asyncio's words."""

    def watch(fd: int, callback: Callable[[], None]) -> Callable[[], object]:
        loop.add_reader(fd, callback)
        return partial(loop.remove_reader, fd)

    def call_later(delay: float, callback: Callable[[], None]) -> Callable[[], object]:
        return loop.call_later(delay, callback).cancel

    return Guest(reactor, watch, call_later, drained)


async def serve(port: int) -> int:
    loop, drained = asyncio.get_running_loop(), asyncio.Event()
    with Reactor() as reactor:
        listener = listen(reactor, port)
        guest_of(loop, reactor, drained.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not `reactor.drain(...)`: between two turns that would not return before the end.
            loop.add_signal_handler(number, reactor.call_soon, reactor.drain, DRAIN_TIMEOUT)
        say_where(listener)
        await drained.wait()
        return status_of(reactor)


def main(argv: Sequence[str] | None = None) -> int:
    return asyncio.run(serve(port_of("asyncio_host", argv)))


if __name__ == "__main__":
    sys.exit(main())
