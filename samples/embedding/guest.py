"""One reactor as the guest of another: each has its own connections, limits and drain, and one thread turns both."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from reactor import Reactor
from reactor.embedding import Guest
from samples.embedding import DRAIN_TIMEOUT, listen, port_of, say_where, status_of


def guest_of(outer: Reactor, inner: Reactor, drained: Callable[[], object] | None = None) -> Guest:
    """The whole of it: what a guest needs, in the host's words."""

    def watch(fd: int, callback: Callable[[], None]) -> Callable[[], object]:
        outer.add_reader(fd, callback)
        return partial(outer.remove_reader, fd)

    def call_later(delay: float, callback: Callable[[], None]) -> Callable[[], object]:
        return outer.call_later(delay, callback).cancel

    return Guest(inner, watch, call_later, drained)


def main(argv: Sequence[str] | None = None) -> int:
    port = port_of("guest", argv)
    with Reactor() as outer, Reactor() as inner:
        listener = listen(inner, port)
        guest_of(outer, inner)
        for number in (signal.SIGTERM, signal.SIGINT):
            outer.add_signal_handler(number, inner.call_soon, inner.drain, DRAIN_TIMEOUT)
        say_where(listener)
        outer.run()  # ends when nothing is left that could wake it: the guest was all there was
        return status_of(inner)


if __name__ == "__main__":
    sys.exit(main())
