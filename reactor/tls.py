"""TLS as a codec: bytes in, bytes out, and no socket.

What the peer sent goes into `read`, which gives the plaintext; what we write goes into `encrypt`; whatever TLS itself
wants to send (handshake, alerts, key updates) is taken with `take`, and is sent in that order. `ssl.SSLObject` over two
memory BIOs does the work.

Both directions end by themselves, as in TCP (RFC 8446, 6.1): after the peer's close_notify we may still encrypt, and
after our own we may still read. OpenSSL allows that only in one way (docs/endings.md, K16): always read until it wants
more, call `unwrap` once, and from then on only read. A second `unwrap`, or one with data pending, spoils the object. So
`end` is called once, and reads what is pending first.

A TCP end before the peer's close_notify may be an attacker's: whoever reads it asks `peer_ended` (RFC 8446, 6.1). After
close_notify nothing may come from the peer (6.1 again), so nothing is read: who sends on may cost itself our reply.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial

# One record's plaintext at most (RFC 8446, 5.1).
_RECORD_BYTES = 16384


class Codec:
    """One connection's TLS. `ssl_object` is for looking (`getpeercert`, `cipher`), not for calling."""

    __slots__ = (
        "_established",
        "_held",
        "_incoming",
        "_outgoing",
        "peer_ended",
        "spoiled",
        "ssl_object",
        "wants_input",
    )

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl_object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        # The first handshake is complete; another one, then, is a renegotiation.
        self._established = False
        # Plaintext that had to be read before our end, and was not asked for yet.
        self._held = b""
        # The peer's close_notify was read: no more plaintext will come.
        self.peer_ended = False
        # What came is not TLS, or was tampered with: once all that came before is read, `read` raises this.
        self.spoiled: ssl.SSLError | None = None
        # A renegotiation (TLS 1.2) is under way: nothing can be encrypted or ended before more has come (K23).
        self.wants_input = False

    def shake(self, data: bytes = b"") -> bool:
        """Goes on with the handshake; whether it is complete. Raises ssl.SSLError when it cannot be."""
        self._incoming.write(data)
        try:
            self.ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self._established = True
        return True

    def hold(self, data: bytes) -> None:
        """Keeps what came, for the next `shake` or `read`."""
        self._incoming.write(data)

    def read(self, data: bytes = b"") -> bytes:
        """All the plaintext that has become complete. Raises ssl.SSLError when there is none, and never will be."""
        self._incoming.write(data)
        plaintext, self._held = self._held + self._read_all(), b""
        if not plaintext and self.spoiled is not None:
            raise self.spoiled
        return plaintext

    def has_input(self) -> bool:
        """Whether `read` would give anything, or has something to say of the end."""
        self._held += self._read_all()
        return bool(self._held or self.peer_ended or self.spoiled)

    def _read_all(self) -> bytes:
        plaintext = []
        self.wants_input = False
        while not self.peer_ended and self.spoiled is None:
            try:
                chunk = self.ssl_object.read(_RECORD_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                chunk = b""
            except ssl.SSLError as exc:
                self.spoiled = exc
                break
            if chunk:
                plaintext.append(chunk)
            else:
                self.peer_ended = True
        return b"".join(plaintext)

    def encrypt(self, data: bytes | memoryview) -> int:
        """Makes records of some plaintext, to be taken with `take`; returns how much of it.

        Less than all, with `wants_input` true, while OpenSSL has to read first: offer the rest again after a `read`.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self.ssl_object.write(view) :]
            except ssl.SSLWantReadError:
                self.wants_input = True
                break
        return len(data) - len(view)

    def end(self) -> bool:
        """Makes our close_notify, to be taken with `take`. Once it has returned true, never again.

        False, with `wants_input` true, while OpenSSL has to read first: ask again after a `read`.
        """
        self._held += self._read_all()
        try:
            self.ssl_object.unwrap()
        except ssl.SSLWantReadError:
            pass  # it wants to read the peer's close_notify, which may come or not; ours is out
        except ssl.SSLError as exc:
            # Any other error: there was no handshake, or it or the stream had failed, and an alert is out.
            lives = self._established and self.spoiled is None and not self.peer_ended
            self.wants_input = lives and exc.reason == "SHUTDOWN_WHILE_IN_INIT"
        return not self.wants_input

    def take(self) -> bytes:
        """What is to be sent by now."""
        return self._outgoing.read()


def codecs(context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None) -> Callable[[], Codec]:
    """What makes a codec for each connection. TypeError or ValueError, at once, for a context that cannot be used."""
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"tls must be an ssl.SSLContext, not {context!r}")
    # Asked here, and not of OpenSSL, whose own checks come in another order with another version.
    others, ours = ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT
    if server_side:
        others, ours = ours, others
    if context.protocol == others:
        raise ValueError(f"tls: {context!r} is for the other side: it has {others.name}, and {ours.name} is needed")
    if not server_side and context.check_hostname and not server_hostname:
        raise ValueError("without a host, tls needs a server_hostname to check the certificate against")
    make = partial(Codec, context, server_side=server_side, server_hostname=server_hostname)
    try:
        make()
    except ssl.SSLError as exc:
        raise ValueError(f"tls: {context!r} cannot be used with server_hostname {server_hostname!r}: {exc}") from exc
    return make
