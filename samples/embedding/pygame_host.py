"""A game's loop waits for its next frame; here it lets the reactor do the waiting, which serves meanwhile.

So frames come on time, nobody waits for a frame to be served, and the host has nothing to watch and no timer to keep.
Every connection is a lamp, which lights up when it says something.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pygame

from reactor import Connection, Reactor
from samples.echo import Echo
from samples.embedding import DRAIN_TIMEOUT, listen, port_of, say_where, status_of

# Seconds.
FRAME = 1 / 60
# What is left of a lamp's light in the next frame: it is dark again after a second.
FADING = 0.92
COLUMNS, ROWS = 16, 12
PIXELS = 40


class Lamp(Echo):
    """A connection, and how brightly it shines: 1.0 when something has just been echoed."""

    def __init__(self, lamps: dict[Lamp, None]) -> None:
        self._lamps = lamps
        self.light = 0.0

    def connection_made(self, connection: Connection) -> None:
        super().connection_made(connection)
        self._lamps[self] = None

    def data_received(self, data: bytes) -> None:
        self.light = 1.0
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del self._lamps[self]


def wait_for_next_frame(reactor: Reactor, due: float) -> float:
    """Serves until the frame is due, and one turn at least; returns when the one after it is."""
    reactor.run_once(max(0.0, due - reactor.time()))
    while (left := due - reactor.time()) > 0:
        reactor.run_once(left)
    return max(due, reactor.time() - FRAME) + FRAME  # a game that was held up does not hurry after


def draw(screen: pygame.Surface, lamps: dict[Lamp, None]) -> None:
    screen.fill("black")
    for index, lamp in enumerate(lamps):
        row, column = divmod(index, COLUMNS)
        shine = 60 + int(195 * lamp.light)
        centre = (column + 0.5) * PIXELS, (row + 0.5) * PIXELS
        pygame.draw.circle(screen, (shine, shine, 0), centre, PIXELS * 0.4)
        lamp.light *= FADING
    pygame.display.flip()


def main(argv: Sequence[str] | None = None) -> int:
    port = port_of("pygame_host", argv)
    pygame.display.init()
    screen = pygame.display.set_mode((COLUMNS * PIXELS, ROWS * PIXELS))
    pygame.display.set_caption("echo")
    lamps: dict[Lamp, None] = {}
    with Reactor() as reactor:
        listener = listen(reactor, port, lambda: Lamp(lamps))
        reactor.drain_on_signals(DRAIN_TIMEOUT)
        say_where(listener)
        due = reactor.time()
        while reactor.drained is None or not reactor.drained.finished:
            for event in pygame.event.get():
                if event.type == pygame.QUIT:
                    reactor.call_soon(reactor.drain, DRAIN_TIMEOUT)
            draw(screen, lamps)
            due = wait_for_next_frame(reactor, due)
        pygame.quit()
        return status_of(reactor)


if __name__ == "__main__":
    sys.exit(main())
