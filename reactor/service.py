"""The service manager that started this process, systemd or one of its kind: sd_notify(3) and sd_listen_fds(3).

All of it is in the environment: where it wants to be told of us (NOTIFY_SOCKET), how often it must hear from us or take
us for dead (WATCHDOG_USEC), and how many listening sockets it has passed (LISTEN_FDS). Without these there is nobody,
and nothing to do. Part of the seam: only `System` asks here.
"""

from __future__ import annotations

import errno
import os
import socket

from reactor.errors import named
from reactor.syscalls import NO_SIGNAL

# sd_listen_fds(3): the first descriptor that is passed.
_LISTEN_FDS_START = 3
_LISTEN_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def service_manager() -> ServiceManager | None:
    """Who wants to be told how this process is; None: nobody. ValueError for a watchdog's interval that is none."""
    address = os.environ.get("NOTIFY_SOCKET")
    return ServiceManager(address, _watchdog_seconds()) if address else None


def _watchdog_seconds() -> float | None:
    """sd_watchdog_enabled(3): the interval, if it is this process that is watched."""
    interval, watched = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not interval or watched not in ("", str(os.getpid())):
        return None
    if not (interval.isascii() and interval.isdigit() and int(interval)):
        raise ValueError(f"WATCHDOG_USEC is a positive number of microseconds, not {interval!r}")
    return int(interval) / 1e6


class ServiceManager:
    """Who started this process and wants to hear from it (sd_notify(3)), at NOTIFY_SOCKET's path or abstract @name."""

    def __init__(self, address: str, watchdog: float | None) -> None:
        self._address = address
        # Seconds: without WATCHDOG=1 for so long it takes us for dead. None: it does not watch.
        self.watchdog = watchdog

    def notify(self, *assignments: str, patience: float = 0.0) -> None:
        """Tells it, for instance, "READY=1" and "STATUS=serving". Waits so many seconds at most, while it is busy.

        OSError, naming the socket, when it cannot be told; ValueError for what is no assignment.
        """
        for assignment in assignments:
            if "=" not in assignment or "\n" in assignment:
                raise ValueError(f"a notice is NAME=VALUE in one line, not {assignment!r}")
        try:
            if not self._address.startswith(("/", "@")):
                raise OSError(errno.EAFNOSUPPORT, "neither a path nor an abstract @name")
            address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(patience)
                sock.sendto("\n".join(assignments).encode(), NO_SIGNAL, address)
        except OSError as exc:
            raise named(exc, f"cannot notify NOTIFY_SOCKET={self._address}") from exc


def listen_fds() -> list[tuple[str, socket.socket]]:
    """The sockets a service manager passed to this process, with their names (sd_listen_fds(3)); often none.

    Once: the environment is cleared, so that no child takes them for its own. ValueError for a count that is none,
    OSError for a descriptor that is no socket; those before it are closed then.
    """
    passed_to, count, names = (os.environ.pop(name, "") for name in _LISTEN_VARIABLES)
    if passed_to != str(os.getpid()):
        return []
    if not (count.isascii() and count.isdigit()):
        raise ValueError(f"LISTEN_FDS is a number of descriptors, not {count!r}")
    labels = names.split(":")
    passed: list[tuple[str, socket.socket]] = []
    try:
        for index in range(int(count)):
            fd = _LISTEN_FDS_START + index
            os.set_inheritable(fd, False)
            name = labels[index] if index < len(labels) and labels[index] else "unknown"
            passed.append((name, socket.socket(fileno=fd)))
    except OSError as exc:
        for _, sock in passed:
            sock.close()
        raise named(exc, f"cannot use descriptor {fd} of LISTEN_FDS={count}") from exc
    return passed
