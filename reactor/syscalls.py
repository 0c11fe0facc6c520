"""System calls which Python's modules do not offer in the form that is needed here. Part of the seam.

- A send must not raise SIGPIPE, whatever the program does with that signal: `NO_SIGNAL` is for the calls that take
  flags, `no_broken_pipe_signal` for those that do not.
- `disconnect` sends a reset although somebody else has a copy of the descriptor.
- `identity` tells whether a descriptor's number still means the same file.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A send to a peer that has gone raises EPIPE, and not the signal, which ends a program that has SIGPIPE at its default.
# Every send in this package passes it; a test says so.
NO_SIGNAL = int(getattr(socket, "MSG_NOSIGNAL", 0))

# connect(2): an address of this family ends the association of the socket. As long as the longest address, so that the
# kernel finds it long enough for every family of socket.
_UNSPECIFIED = struct.pack("H", 0) + bytes(126)
_BROKEN_PIPE = frozenset({signal.SIGPIPE}) if hasattr(signal, "SIGPIPE") else frozenset()


class _AnyFile:
    """What a number means if the kernel could not be asked. It is equal to every file: what is ours must be closed."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def identity(fd: int) -> object:
    """What file the number means: equal as long as it means the same. None: no file at all. Raises nothing."""
    try:
        found = os.fstat(fd)
    except OSError as exc:
        return None if exc.errno == errno.EBADF else _AnyFile()
    except MemoryError:
        return _AnyFile()
    return found.st_dev, found.st_ino


def close_if(file: object, fd: int) -> None:
    """Closes a descriptor if it means that file: somebody else may have closed it, and have opened another there."""
    if file is not None and identity(fd) == file:
        os.close(fd)


@contextmanager
def no_broken_pipe_signal() -> Iterator[None]:
    """For the calls that write and take no flags: SIGPIPE is held back in this thread, and taken away if it came."""
    if not hasattr(signal, "sigtimedwait"):  # pragma: no cover (macOS, Windows)
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BROKEN_PIPE)
    try:
        yield
    except BrokenPipeError:
        signal.sigtimedwait(_BROKEN_PIPE, 0)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def disconnect(fd: int) -> bool:
    """Takes a TCP socket out of its connection; Linux sends RST. False where that cannot be done.

    Setting SO_LINGER to zero seconds and closing does the same only if nobody else has a copy of the descriptor. The
    socket module cannot make the address that is needed, so the C library is asked. It is loaded when first needed,
    which takes 3 ms; in a famine of descriptors it cannot be, and the next call tries again.
    """
    if sys.platform != "linux":  # pragma: no cover
        return False
    try:
        connect = _c_connect()
    except (ImportError, OSError, AttributeError):
        return False
    return connect(fd, _UNSPECIFIED, len(_UNSPECIFIED)) == 0


@functools.cache
def _c_connect() -> Callable[[int, bytes, int], int]:
    import ctypes

    connect = ctypes.CDLL(None).connect
    connect.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return connect
