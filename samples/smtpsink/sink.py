"""What becomes of a message: it is kept as a file, if there is a directory, and printed in the form that people know.

Both may block, so `deliver` is called in a thread. Only when it returns is the client told that its message was taken.

*Nothing is shown of what is refused.* A file can be removed and a printed line cannot, so the message is kept first and
printed last; if it cannot be printed, its file is removed. It is printed without a buffer, which would print the rest
of it together with a later message. What was printed of it to a file is cut off again; what the reader of a pipe has
already read cannot be taken back.

A file is written under a name that no reader of the directory looks at, brought to the disk, and then renamed: under
its own name it is whole, also after a crash.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import select
import stat
import sys
from datetime import datetime
from pathlib import Path
from threading import BoundedSemaphore, Condition, Lock

from samples.smtpsink.session import Message

# Messages that are written to files at a time, however many threads there are. Each needs two descriptors: the file's
# and the directory's.
_AT_A_TIME = 8
DESCRIPTORS = 2 * _AT_A_TIME

_HEAD = "---------- MESSAGE FOLLOWS ----------"
_FOOT = "------------ END MESSAGE ------------"


class Sink:
    """Where messages end. `directory` keeps them as files, or None: they are only printed."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._under_way = 0
        self._settling = Condition()
        self._keeping = BoundedSemaphore(_AT_A_TIME)
        # So that no other thread's message comes into one.
        self._printing = Lock()

    def deliver(self, message: Message) -> None:
        """Blocks until it is kept and printed. OSError when it cannot be; then nothing of it is there."""
        with self._settling:
            self._under_way += 1
        try:
            kept = self._keep(message)
            try:
                self._print(message)
            except BaseException:
                if kept is not None:
                    kept.unlink(missing_ok=True)
                raise
        finally:
            with self._settling:
                self._under_way -= 1
                self._settling.notify_all()

    def _keep(self, message: Message) -> Path | None:
        if self._directory is None:
            return None
        with self._keeping:
            return keep(message, self._directory)

    def _print(self, message: Message) -> None:
        if sys.stdout is None:
            return
        text = shown(message).encode(sys.stdout.encoding, "backslashreplace")
        with self._printing:
            sys.stdout.flush()
            write_all(sys.stdout.fileno(), text)

    def settle(self, patience: float) -> bool:
        """Waits until no message is under way any more, at most so many seconds; whether that is so."""
        with self._settling:
            return self._settling.wait_for(lambda: not self._under_way, patience)


def envelope(message: Message) -> list[str]:
    """What stands in no header of a message: lines of the form of one, each certainly one line."""
    recipients = [f"X-RcptTo: {recipient}" for recipient in message.recipients]
    return [_clean(line) for line in (f"X-Peer: {message.peer}", f"X-MailFrom: {message.sender}", *recipients)]


def shown(message: Message) -> str:
    """A message as it is printed. What could drive a terminal is escaped, and so is a bare CR or LF."""
    lines = message.content.removesuffix(b"\r\n").split(b"\r\n")
    # Behind the headers, or at the end where there is no body.
    at = lines.index(b"") if b"" in lines else len(lines)
    text = [_clean(line.decode("utf-8", "backslashreplace")) for line in lines]
    text[at:at] = envelope(message)
    if message.options:
        text[:0] = [f"mail options: {list(message.options)}", ""]
    return "\n".join([_HEAD, *text, _FOOT, ""])


def _clean(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)


def write_all(fd: int, data: bytes) -> None:
    """Writes all of it, or raises OSError; what a regular file has got of it by then is cut off again."""
    begin, written = _end_of(fd), 0
    try:
        while written < len(data):
            try:
                written += os.write(fd, memoryview(data)[written:])
            except BlockingIOError:
                waiting = select.poll()  # somebody who shares it has made it non-blocking
                waiting.register(fd, select.POLLOUT)
                waiting.poll()
    except OSError:
        if begin is not None and written and os.fstat(fd).st_size == begin + written:
            os.ftruncate(fd, begin)
            os.lseek(fd, begin, os.SEEK_SET)
        raise


def _end_of(fd: int) -> int | None:
    """Where a regular file ends that is written at its end; None for all else."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return None
    appends = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
    return status.st_size if appends or os.lseek(fd, 0, os.SEEK_CUR) == status.st_size else None


def keep(message: Message, directory: Path) -> Path:
    """Writes it to a file of its own, the envelope first; returns the path. Whatever fails, no file of it is left."""
    name = f"{datetime.now():%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}.eml"  # sorted by name, they are in order
    hidden, path = directory / f".{name}.part", directory / name
    head = "".join(f"{line}\r\n" for line in envelope(message)).encode()
    # Opened first: what cannot be had must not be found out when the file has its name.
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open(hidden, "xb") as file:
            file.write(head + message.content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(hidden, path)
        os.fsync(place)  # the name, too, outlives a crash
    except BaseException:
        for one in (hidden, path):
            one.unlink(missing_ok=True)
        raise
    finally:
        os.close(place)
    return path
