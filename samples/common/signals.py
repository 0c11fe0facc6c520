"""SIGTERM and SIGINT of a program that ends once they have asked it to: on its way out, they change nothing any more.

A reactor gives a signal that it has taken over back when it closes. Were it given back to Python's defaults, a second
SIGTERM would kill a program that has drained, with another exit status, and a second SIGINT would print a traceback.
So it is given back to a handler that does nothing; and as the interpreter takes such handlers away when it ends, the
signals are ignored by the operating system from then on.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class LastSignals:
    """A context manager around the reactor. When it is left by an exception, the signals are what they were before."""

    def __enter__(self) -> LastSignals:
        self._before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        return self

    def hand_over(self, take: Callable[[], object]) -> None:
        """Calls `take`, from which on somebody else handles the signals. One that comes meanwhile waits for that."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            for number in STOP_SIGNALS:
                signal.signal(number, _do_nothing)
            take()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        for number, before in self._before.items():
            # None: something that is not Python's had it, and cannot be given it back.
            signal.signal(number, signal.SIG_IGN if exc_type is None else before or signal.SIG_DFL)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """The program is on its way out."""
