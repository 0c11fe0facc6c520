"""Tk lends its main loop: a window shows what is echoed, and closing it drains."""

from __future__ import annotations

import math
import sys
import tkinter
from collections.abc import Callable, Sequence
from functools import partial

from reactor import Reactor
from reactor.embedding import Guest
from samples.echo import Echo
from samples.embedding import DRAIN_TIMEOUT, listen, port_of, say_where, status_of

# Lines that the window keeps.
_MOST_LINES = 1000


def guest_of(root: tkinter.Tk, reactor: Reactor, drained: Callable[[], object] | None = None) -> Guest:
    """The whole of it: what a guest needs, in Tk's words."""

    def watch(fd: int, callback: Callable[[], None]) -> Callable[[], object]:
        root.tk.createfilehandler(fd, tkinter.READABLE, lambda _fd, _mask: callback())
        return partial(root.tk.deletefilehandler, fd)

    def call_later(delay: float, callback: Callable[[], None]) -> Callable[[], object]:
        # Whole milliseconds, rounded up: a timer must not be early.
        return partial(root.after_cancel, root.after(math.ceil(delay * 1000), callback))

    return Guest(reactor, watch, call_later, drained)


class Shown(Echo):
    """The echo, told to the window as well."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def data_received(self, data: bytes) -> None:
        self._show(data.decode("utf-8", "replace"))
        super().data_received(data)


def main(argv: Sequence[str] | None = None) -> int:
    port = port_of("tk_host", argv)
    root = tkinter.Tk()
    root.title("echo")
    said = tkinter.Text(root, width=60, height=20)
    said.pack(fill="both", expand=True)

    def show(text: str) -> None:
        said.insert("end", text)
        said.delete("1.0", f"end-{_MOST_LINES}lines")
        said.see("end")

    with Reactor() as reactor:
        listener = listen(reactor, port, lambda: Shown(show))
        guest_of(root, reactor, drained=root.destroy)
        # A signal's byte makes the reactor's descriptor readable, so it is served although Tk waits in C.
        reactor.drain_on_signals(DRAIN_TIMEOUT)
        root.protocol("WM_DELETE_WINDOW", lambda: reactor.call_soon(reactor.drain, DRAIN_TIMEOUT))
        say_where(listener)
        root.mainloop()
        return status_of(reactor)


if __name__ == "__main__":
    sys.exit(main())
