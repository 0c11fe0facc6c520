"""Backpressure in a room: who speaks fast is read no faster than the others in the room take it. No sockets.

What is said in a room is queued for each member. A member is *full* while more than the high watermark waits for them.

1. *The sender waits.* While a member of a room is full, a sender who has said much lately waits with the next line, and
   nothing more is read from that sender, whose program is then held up by TCP. A sender who has said little goes on:
   people who talk are not held up by one who pastes, nor by one who reads slowly.
2. *One line at a time.* This is decided before each line, so what one read brings cannot fill a queue at once.
3. *In turn.* Senders go on in the order in which they began to wait, when no member of the room is full any more.
4. *Bounded.* A member for whom a sender waits, and who takes less than `_LEAST_BYTES` within `patience` seconds, is
   dropped as too slow. So no sender waits for ever, and two members who flood each other and do not read are dropped.
5. *No more than the limit.* A member for whom more than the limit would wait is dropped at once. The part of the limit
   above the high watermark is for the senders who say little.

What is said on other machines comes through one stream, which is one sender here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, TypeVar

from reactor import Connection, Reactor, ReactorClosed, TimerHandle
from samples.chat.rooms import Lobby

PATIENCE = 5.0
_LEAST_BYTES = 2048
# A sender has said much after a burst of so many bytes, or with so many bytes a second: nobody types as much. Each line
# counts for more bytes than it has, for it is sent with a name and, to a browser, as JSON.
_BURST_BYTES, _BYTES_PER_SECOND, _LINE_BYTES = 4096, 512, 64

Item = TypeVar("Item")


class Outgoing:
    """What waits for one member. `drop(waiting)` is called once, in a call of its own, when they are too slow."""

    def __init__(
        self,
        reactor: Reactor,
        connection: Connection,
        limit: int,
        patience: float,
        drop: Callable[[int], None],
        *,
        changed: Callable[[bool], None],
        is_waited_for: Callable[[], bool],
    ) -> None:
        self.full = False
        self._reactor = reactor
        self._connection = connection
        self._limit = limit
        self._high = connection.get_write_buffer_limits()[1]
        self._patience = patience
        self._drop = drop
        self._changed = changed
        self._is_waited_for = is_waited_for
        # The kernel takes no more; nothing more is queued; what they had taken when last looked at.
        self._behind = self._over = False
        self._taken = 0
        self._next_look: TimerHandle | None = None

    def write(self, data: bytes) -> None:
        """Sends it, or queues it, or marks them as too slow. Never raises and never calls the lobby."""
        self._check_limit(len(data))
        if not self._over:
            self._connection.write(data)
            if not self.full and self._waiting > self._high:
                self._fill()

    def pause_writing(self) -> None:
        """The protocol's callback."""
        self._behind = True
        self._check_limit(0)  # too much may wait already

    def resume_writing(self) -> None:
        """The protocol's callback."""
        self._behind = False
        self._ease()

    def stop(self) -> None:
        """Nothing more is looked after: they have left."""
        self._over = True
        if self._next_look is not None:
            self._next_look.cancel()

    @property
    def taken(self) -> int:
        """How many bytes their machine has acknowledged or, where that is not known, ours has accepted."""
        report = self._connection.report
        return report.accepted if report.acknowledged is None else report.acknowledged

    @property
    def _waiting(self) -> int:
        return self._connection.get_write_buffer_size()

    def _check_limit(self, more: int) -> None:
        if self._behind and not self._over and self._waiting + more > self._limit:
            self._give_up()

    def _give_up(self) -> None:
        self.stop()
        with suppress(ReactorClosed):  # everybody is being ended
            self._reactor.call_soon(self._drop, self._waiting)

    def _fill(self) -> None:
        with suppress(ReactorClosed):  # everybody is being ended
            self._next_look = self._reactor.call_later(self._patience, self._look)
            self._connection.call_soon(self._ease)  # the kernel may take it at the end of this turn, and nobody tells
            self._taken = self.taken
            self.full = True
            self._changed(True)

    def _ease(self) -> None:
        if self.full and not self._behind and not self._over:
            if self._waiting > self._high:
                self._connection.call_soon(self._ease)
                return
            assert self._next_look is not None
            self._next_look.cancel()
            self.full = False
            self._changed(False)

    def _look(self) -> None:
        """They have been full all the time since the last look."""
        before, self._taken = self._taken, self.taken
        if self._is_waited_for() and self._taken - before < _LEAST_BYTES:
            self._give_up()
        else:
            self._next_look = self._reactor.call_later(self._patience, self._look)


class Turns(Generic[Item]):
    """What one sender has sent: each item is taken at once or, while it must wait, later, in order.

    `take(item)` returns False when nothing more is to be taken. `hold()` says that nothing more is to be read, and
    `go_on()` that reading may go on. They alternate, and `go_on` comes in a call of its own, by `soon`. An item is for
    one `room` and has a `length` in bytes. `is_blocked(item)` tells whether it must wait after much was said lately.
    """

    def __init__(
        self,
        lobby: Lobby,
        time: Callable[[], float],
        soon: Callable[[Callable[[], None]], object],
        *,
        room: Callable[[Item], str],
        length: Callable[[Item], int],
        is_blocked: Callable[[Item], bool],
        take: Callable[[Item], bool],
        hold: Callable[[], None],
        go_on: Callable[[], None],
    ) -> None:
        self.held = False
        self._lobby = lobby
        self._time = time
        self._soon = soon
        self._room = room
        self._length = length
        self._is_blocked = is_blocked
        self._take = take
        self._hold = hold
        self._go_on = go_on
        self._items: deque[Item] = deque()
        # Bytes said, less what one may say as time goes by.
        self._said, self._counted_at = 0.0, time()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._items)

    def add(self, items: Iterable[Item]) -> None:
        """These came."""
        self._items.extend(items)
        if not self.held and not self._take_all():
            self._hold()

    def stop(self) -> int:
        """Takes no more; how many were not taken."""
        self._lobby.wait_no_more(self._ready)
        self.held = False
        left = len(self._items)
        self._items.clear()
        return left

    def _ready(self) -> None:
        self._soon(self._try_again)

    def _try_again(self) -> None:
        if self.held:
            self._counted_at = self._time()  # waiting makes nobody's account better
            if self._take_all():
                self._go_on()

    def _take_all(self) -> bool:
        """Whether all were taken, or nothing more is to be; else the next one waits."""
        self.held = False
        while self._items:
            if self._must_wait(self._items[0]):
                self.held = True
                self._lobby.wait(self._room(self._items[0]), self._ready)
                return False
            if not self._take(self._items.popleft()):
                self._items.clear()
        return True

    def _must_wait(self, item: Item) -> bool:
        now = self._time()
        self._said = max(0.0, self._said - (now - self._counted_at) * _BYTES_PER_SECOND)
        self._counted_at = now
        if self._said > _BURST_BYTES and self._is_blocked(item):
            return True
        self._said += self._length(item) + _LINE_BYTES
        return False
