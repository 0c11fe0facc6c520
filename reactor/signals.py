"""Signals, served in the loop's own time.

The interpreter's handler does nothing; the number arrives at the loop's waker as a byte, and its call is made like any
other, so it may do whatever a callback may. What handled a signal before handles it again afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reactor.loop import Loop


class Signals:
    """The signals a reactor has taken over. Python allows that only in the main thread: ValueError elsewhere."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._calls: dict[int, tuple[Callable[..., object], tuple[Any, ...], Any]] = {}
        self._descriptor_before = -1

    def add(self, number: int, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Calls it in the loop each time the signal arrives; replaces the call it had."""
        system, waker = self._loop.system, self._loop.waker
        if not self._calls:
            self._descriptor_before = system.wake_on_signals(waker.signal_fileno())
            waker.on_signal = self._arrived
        known = self._calls.get(number)
        try:
            before = system.catch_signal(number) if known is None else known[2]
        except BaseException:
            self._leave_if_none()
            raise
        self._calls[number] = (callback, args, before)

    def remove(self, number: int) -> bool:
        """Gives the signal back; False when it was not taken."""
        known = self._calls.pop(number, None)
        if known is None:
            return False
        self._loop.system.restore_signal(number, known[2])
        self._leave_if_none()
        return True

    def close(self) -> None:
        """Gives back all of them."""
        for number in tuple(self._calls):
            self.remove(number)

    def _leave_if_none(self) -> None:
        if not self._calls:
            system, waker = self._loop.system, self._loop.waker
            waker.on_signal = None
            now = system.wake_on_signals(self._descriptor_before)
            if now != waker.signal_fileno():
                system.wake_on_signals(now)  # another loop's by now, and not ours to take away

    def _arrived(self, number: int) -> None:
        known = self._calls.get(number)
        if known is not None:
            callback, args, _ = known
            self._loop.post(self._loop, callback, *args)
