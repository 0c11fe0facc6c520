"""Look-ups of names: in threads of their own, shared by all callers of one name, and held up by nothing else.

The resolver of a C library blocks, for 30 s and more when name servers are dead, and cannot be stopped. Hence:

1. No look-up waits behind other work. It has a thread of its own, up to `MOST_THREADS` of them; a further name then
   waits until one of those has an answer.
2. Whoever asks for a name that is being looked up shares that look-up. So a dead name holds one thread, however often
   it is asked for.
3. A thread holds the name and nothing else. What a caller gave is let go when the answer has come, or at `cancel`. A
   look-up that waits for a thread and has no caller any more is not made.
4. The threads are daemons: the program's exit waits for none of them.

`ask` and `cancel` are called in the loop's thread; answers are given in the thread that looked up. Part of the seam.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from reactor.addresses import Address

# As many as asyncio's pool for look-ups has at most. A thread that waits costs some ten kilobytes, and one is held by
# each *name* that does not answer, so more would only help a program that asks for more than so many dead names.
MOST_THREADS = 32

# The addresses, or why there are none.
Answer: TypeAlias = list[Address] | Exception


class Lookup:
    """One caller's wait for the addresses of a name."""

    __slots__ = ("_done", "_lookups", "_shared")

    def __init__(self, lookups: Lookups, shared: _Shared, done: Callable[[Answer], object]) -> None:
        self._lookups = lookups
        self._shared = shared
        self._done: Callable[[Answer], object] | None = done

    def cancel(self) -> None:
        """The answer is not wanted any more, and `done` is let go."""
        self._done = None
        self._lookups.leave(self, self._shared)

    def waits_for_thread(self) -> bool:
        """Whether nobody has been asked yet, because all threads wait for other names."""
        return not self._shared.begun

    def answer(self, answer: Answer) -> None:
        """Tells the caller, unless it has cancelled."""
        done, self._done = self._done, None
        if done is not None:
            done(answer)


class _Shared:
    """A look-up that is made once, and those who wait for it."""

    __slots__ = ("begun", "callers", "host", "port")

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.begun = False
        self.callers: dict[Lookup, None] = {}


class Lookups:
    """All look-ups of one system."""

    def __init__(
        self, resolve: Callable[[str, int], list[Address]], start: Callable[[Callable[[], bool]], object]
    ) -> None:
        """`resolve` blocks. `start(step)` begins to call `step()`, elsewhere and again until it returns False."""
        self._resolve = resolve
        self._start = start
        # Guards what follows; nothing is called while it is held.
        self._lock = threading.Lock()
        self._shared: dict[tuple[str, int], _Shared] = {}
        self._waiting: deque[_Shared] = deque()
        self._threads = 0

    def ask(self, host: str, port: int, done: Callable[[Answer], object]) -> Lookup:
        """Looks up the addresses and calls `done(answer)`, in another thread. RuntimeError when no thread can be had.

        A thread that cannot be had is no failure while there are others: the name waits for one of them.
        """
        with self._lock:
            shared = self._shared.get((host, port))
            new = shared is None
            if shared is None:
                shared = self._shared[host, port] = _Shared(host, port)
            lookup = Lookup(self, shared, done)
            shared.callers[lookup] = None
            begin = new and self._threads < MOST_THREADS
            if begin:
                self._threads += 1
                shared.begun = True
            elif new:
                self._waiting.append(shared)
        if begin:
            try:
                self._start(_Worker(self, shared).step)
            except Exception:
                if not self._put_off(shared):
                    raise
        return lookup

    def _put_off(self, shared: _Shared) -> bool:
        """Its thread could not be started; False when there is no other that could look it up later."""
        with self._lock:
            self._threads -= 1
            shared.begun = False
            others = self._threads > 0
            if others:
                self._waiting.append(shared)
            else:
                del self._shared[shared.host, shared.port]
        return others

    def leave(self, lookup: Lookup, shared: _Shared) -> None:
        """The caller waits no more. What nobody waits for is not begun."""
        with self._lock:
            shared.callers.pop(lookup, None)
            if not shared.callers and shared in self._waiting:
                self._waiting.remove(shared)
                del self._shared[shared.host, shared.port]

    def answer(self, shared: _Shared) -> _Shared | None:
        """Asks, tells all who wait for it, and takes the next that waits for a thread. In the thread."""
        answer: Answer
        try:
            answer = self._resolve(shared.host, shared.port)
        except Exception as exc:
            answer = exc.with_traceback(None)
        with self._lock:
            del self._shared[shared.host, shared.port]
            callers = tuple(shared.callers)
            shared.callers.clear()
            following = self._waiting.popleft() if self._waiting else None
            if following is None:
                self._threads -= 1
            else:
                following.begun = True
        for caller in callers:
            caller.answer(answer)
        return following


class _Worker:
    """What a thread does: one look-up after another."""

    __slots__ = ("_lookups", "_shared")

    def __init__(self, lookups: Lookups, shared: _Shared) -> None:
        self._lookups = lookups
        self._shared: _Shared | None = shared

    def step(self) -> bool:
        """Makes one look-up; whether there is another."""
        assert self._shared is not None
        self._shared = self._lookups.answer(self._shared)
        return self._shared is not None
