"""The exchange of the Socket Programming HOWTO, section "Disconnecting": request, FIN, reply, FIN.

The client sends its request and then says, with `shutdown(1)`, that this was all of it: "the end of the request" is the
end of its stream, and no length or delimiter is needed. It still reads, and takes everything up to the server's end as
the reply. Here both sides are in one file:

- `Client.begin` writes the request, and `write_eof()` sends our FIN behind it; reading goes on.
- `Answer.eof_received` has the whole request now. It returns True, "I am not done", or our side would be closed as
  well; here the reply is ready at once, but one that takes its time may be written, and closed, any time later.

A request longer than `--request-limit` is refused as soon as that is known. The refusal arrives although the client is
still sending: after `close` the reactor reads on and discards, where a plain socket would reset the connection and
destroy its own reply.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from typing import Any

from reactor import Listener, Protocol, Reactor
from samples import common

EXAMPLES = """\
  python -m samples.exchange --port 7002                                  the server
  python -m samples.exchange --connect 127.0.0.1:7002 'one two three'    a request
  python -m samples.exchange --connect 127.0.0.1:7002 < README.md        another, from standard input
  printf 'one two three' | nc -N 127.0.0.1 7002                          any client that can half-close
  python -m samples.exchange --tls-cert chain.pem --tls-key key.pem      with TLS
  python -m samples.exchange --connect localhost:7002 --tls --tls-ca ca.pem 'one two three'"""

REQUEST_LIMIT = 16 * 1024 * 1024
# Seconds in which somebody who has just connected may still begin a request while the server drains.
_LAST_CALL = 0.5


def reply_to(request: bytes) -> bytes:
    """What the server knows of a request: counts, a checksum, and the request in capitals."""
    text = request.decode("utf-8", "replace")
    counts = {
        "lines": len(text.splitlines()),
        "words": len(text.split()),
        "bytes": len(request),
        "sha256": hashlib.sha256(request).hexdigest(),
    }
    head = "".join(f"{name:<7}{value}\n" for name, value in counts.items())
    return f"{head}\n{text.upper()}".encode()


class Answer(Protocol):
    """The server's side of one exchange."""

    def __init__(self, reactor: Reactor, request_limit: int) -> None:
        self._reactor = reactor
        self._request_limit = request_limit
        self._request = bytearray()

    def data_received(self, data: bytes) -> None:
        self._request += data
        if len(self._request) > self._request_limit:
            self._request.clear()
            self.connection.write(b"error: the request is longer than %d bytes\n" % self._request_limit)
            self.connection.close()

    def eof_received(self) -> bool:
        self.connection.write(reply_to(bytes(self._request)))
        self._request.clear()
        self.connection.close()
        return True

    def draining(self) -> None:
        """Who has begun a request may finish it; who has not begun gets a moment, and then an end in order."""
        if not self._request:
            self._reactor.call_later(_LAST_CALL, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if not self._request:
            self.connection.close()


def serve(reactor: Reactor, *where: Any, request_limit: int = REQUEST_LIMIT, **how: Any) -> Listener:
    """Takes what `Reactor.listen` takes, but for the factory."""
    return reactor.listen(lambda: Answer(reactor, request_limit), *where, **how)


class Client(common.Client):
    """The client's side: the request, our FIN, and then what comes until the server's."""

    def __init__(self, reactor: Reactor, request: bytes | None) -> None:
        super().__init__(reactor)
        self._request = request

    def begin(self) -> None:
        if self._request is None:
            super().begin()  # standard input; its end is our FIN
        else:
            self.connection.write(self._request)
            self.connection.write_eof()

    def draining(self) -> None:
        """The reply to a whole request may still come. A part is reset: a FIN would say that it is the whole."""
        if self.is_sending_input:
            self.connection.abort(InterruptedError("interrupted before the end of the request"))


def main(argv: Sequence[str] | None = None) -> int:
    what = "Answer a request that ends with the client's FIN."
    parser = common.parser("exchange", what, 7002, EXAMPLES, workers=True)
    common.add_connect(parser, "be the client of that server")
    parser.add_argument("request", nargs="?", help="the client's request (standard input)")
    parser.add_argument(
        "--request-limit", type=common.count, default=REQUEST_LIMIT, metavar="N", help=f"bytes ({REQUEST_LIMIT})"
    )
    args = parser.parse_args(argv)
    if args.connect is not None:
        request = None if args.request is None else args.request.encode("utf-8", "surrogateescape")
        return common.run_client(parser, args, lambda reactor: Client(reactor, request))
    if args.request is not None:
        parser.error("a request needs --connect")

    def serve_limited(reactor: Reactor, *where: Any, **how: Any) -> Listener:
        return serve(reactor, *where, request_limit=args.request_limit, **how)

    return common.run_server(parser, args, serve_limited)


if __name__ == "__main__":
    sys.exit(main())
