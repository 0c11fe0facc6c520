"""The fourth step: this reactor keeps the queue, the interest and the endings; what is left is the service.

`close` sends what waits, then our FIN, and reads on until the caller's, so that bytes which come too late do not
destroy the echo. SIGTERM ends everybody in order. Every wait after an end has a deadline.
"""

from __future__ import annotations

from reactor import Protocol, Reactor
from samples.ladder.arguments import arguments, leave, refuse, say


class Echo(Protocol):
    def __init__(self, limit: int) -> None:
        self.left = limit

    def data_received(self, data: bytes) -> None:
        data = data[: self.left]
        self.left -= len(data)
        self.connection.write(data)
        if not self.left:
            self.connection.close()

    def pause_writing(self) -> None:
        self.connection.pause_reading()

    def resume_writing(self) -> None:
        self.connection.resume_reading()


if __name__ == "__main__":
    args = arguments("with_reactor")
    with Reactor() as reactor:
        try:
            listener = reactor.listen(lambda: Echo(args.limit), "127.0.0.1", args.port)
        except OSError as exc:
            refuse(args.port, exc)
        reactor.drain_on_signals(deadline=30)
        say(listener.addresses[0])
        reactor.run()
        leave()
