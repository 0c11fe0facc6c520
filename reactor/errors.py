"""Errors, sorted by whose fault they are, and what an errno means to a reactor.

1. *Yours*, raised at once where the call was made: `Misuse` and its kinds. Nothing else happens.
2. *This side's decision*, told once in `connection_lost`: `Aborted`, `FileUnusable`, `FlushTimeout`, `IdleTimeout`,
   `QueueOverflow`, `Unacknowledged`, `Unsent`.
3. *The network's or the peer's*, told once in `connection_lost` (or `connection_failed`): the kernel's own `OSError`
   (`ConnectionResetError`, `BrokenPipeError`, `TimeoutError` ...), `TLSTruncated`, OpenSSL's own `ssl.SSLError`, or
   `ConnectFailed`, which holds every cause.
4. *Ours*: a broken invariant is an `AssertionError`. It is a bug in this library.

A callback that raises ends its connection with that very exception: `connection_lost` is given it unchanged.
"""

from __future__ import annotations

import errno
import os
from types import FrameType


class ReactorError(Exception):
    """The root of what this library raises or tells by a type of its own."""


class Misuse(ReactorError, RuntimeError):
    """The call is not allowed in the object's present state. It had no effect."""


class WriteAfterEnd(Misuse):
    """`write` or `sendto` after your own `write_eof`, `close` or `abort`, or after `connection_lost`: refused."""


class ReactorClosed(Misuse):
    """The reactor was closed; it serves nothing any more."""


class Aborted(ReactorError, ConnectionAbortedError):
    """This side reset the connection: `abort()`, a drain's deadline, or the reactor's `close()`."""


class IdleTimeout(ReactorError, TimeoutError):
    """Nothing was received and nothing was sent for `Deadlines.idle` seconds; the connection was closed in order."""


class FlushTimeout(ReactorError, TimeoutError):
    """After the end of our output the peer took nothing for `Deadlines.flush` seconds; the connection was reset."""


class HandshakeTimeout(ReactorError, TimeoutError):
    """The TLS handshake was not complete after `Deadlines.handshake` seconds. Told to the listener or connector."""


class TLSTruncated(ReactorError, ConnectionError):
    """The peer's TCP ended without its close_notify: what came before may not be all that it sent (RFC 8446, 6.1)."""


class QueueOverflow(ReactorError, ConnectionError):
    """More than the limit waited for a peer that reads too slowly; the connection was reset (a datagram: dropped)."""


class Unacknowledged(ReactorError, ConnectionError):
    """Output was flushed and our FIN was sent, but the peer's TCP was not seen to acknowledge everything."""


class Unsent(ReactorError, ConnectionError):
    """The end was in order, but bytes written after the peer's FIN had ended both sides were never sent."""


class FileUnusable(ReactorError, OSError):
    """A file that `send_file` was sending became shorter, or could not be read; the connection was reset."""


class ConnectFailed(ReactorError, ConnectionError):
    """No address could be connected to. `causes` has one `(address, error)` for each that was tried, in order."""

    def __init__(self, message: str, causes: tuple[tuple[object, Exception], ...] = ()) -> None:
        super().__init__(message)
        self.causes = causes


def named(exc: OSError, what: str) -> OSError:
    """The same error, saying what was attempted."""
    exc = numbered(exc)
    return type(exc)(exc.errno, f"{what}: {exc.strerror}")


def numbered(exc: OSError) -> OSError:
    """The same error with an errno: Python refuses some calls itself (a Unix path that is too long) and gives none."""
    if exc.errno is not None:
        return exc
    return OSError(errno.EINVAL, str(exc) or os.strerror(errno.EINVAL))


# What a reactor does about an errno. Every other one ends the connection it was seen on.

# The call would have to wait: poll, and ask again.
TRY_AGAIN = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR})

# The number is no socket, or nothing, any more: somebody else closed our descriptor, and may have opened another there.
DISPLACED = frozenset({errno.EBADF, errno.ENOTSOCK})

# The machine has run out of something that comes back: wait for a descriptor to be freed, or for a while.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# On reading and writing neither is the connection's fault: it is asked again when the poller says so.
WAIT = TRY_AGAIN | EXHAUSTED

# What ICMP says of a path, perhaps only for a moment (RFC 1122, 4.2.3.9). TCP lives on (RFC 9293, MUST-56); whether the
# connection has ended all the same, its TCP state tells.
SOFT = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNREFUSED",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "EMSGSIZE",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "EPROTO",
    )
    if hasattr(errno, name)
)

# `accept` tells what became of one connection, not of the listener (accept(2), "Error handling"): take the next.
PEER_GONE = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "ECONNRESET",
        "EPROTO",
        "EPERM",
        "ENETDOWN",
        "ENOPROTOOPT",
        "EHOSTDOWN",
        "ENONET",
        "EHOSTUNREACH",
        "EOPNOTSUPP",
        "ENETUNREACH",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)
)


# inspect's CO_GENERATOR, CO_COROUTINE and CO_ASYNC_GENERATOR.
_CAN_BE_RESUMED = 0x20 | 0x80 | 0x200


def free_frames(*told: BaseException | None) -> None:
    """Frees what the frames of these exceptions' tracebacks hold; the tracebacks can still be printed.

    A frame of a method holds its `self`, and so does each caller's frame, which it holds in turn. An object that keeps
    an exception from one of its own methods is thus a cycle, with everything that these frames hold, until the garbage
    collector finds it. So when an exception was told, and its owner keeps it, this is called. Frames that are executing
    are left alone, and those that could be resumed.
    """
    exceptions, seen = [exc for exc in told if exc is not None], set[int]()
    while exceptions:
        exc = exceptions.pop()
        if id(exc) in seen:
            continue
        seen.add(id(exc))
        traceback = exc.__traceback__
        while traceback is not None:
            frame: FrameType | None = traceback.tb_frame
            while frame is not None and id(frame) not in seen:
                seen.add(id(frame))
                if not frame.f_code.co_flags & _CAN_BE_RESUMED:
                    try:
                        frame.clear()
                    except RuntimeError:
                        break  # it is executing, and so are its callers
                frame = frame.f_back
            traceback = traceback.tb_next
        exceptions += [one for one in (exc.__cause__, exc.__context__) if one is not None]
        if isinstance(exc, BaseExceptionGroup):
            exceptions += exc.exceptions
        elif isinstance(exc, ConnectFailed):
            exceptions += [cause for _, cause in exc.causes]
