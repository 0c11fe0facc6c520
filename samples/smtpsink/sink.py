"""What becomes of a message: it is printed in the form that people know, and kept as a file if there is a directory.

Both may block, so `deliver` is called in a thread. Only when it returns is the client told that its message was taken.

A file is written under a name that no reader of the directory looks at, brought to the disk, and then renamed: under
its own name it is whole, also after a crash.
"""

from __future__ import annotations

import os
import secrets
import sys
from datetime import datetime
from pathlib import Path
from threading import Condition

from samples.smtpsink.session import Message

_HEAD = "---------- MESSAGE FOLLOWS ----------"
_FOOT = "------------ END MESSAGE ------------"


class Sink:
    """Where messages end. `directory` keeps them as files, or None: they are only printed."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._under_way = 0
        self._settling = Condition()

    def deliver(self, message: Message) -> None:
        """Blocks until it is printed and kept. OSError when it cannot be; then no file of it is there."""
        with self._settling:
            self._under_way += 1
        try:
            if sys.stdout is not None:
                # In one call, so that no other thread's message comes into it.
                sys.stdout.buffer.write(shown(message).encode(sys.stdout.encoding, "backslashreplace"))
                sys.stdout.buffer.flush()
            if self._directory is not None:
                keep(message, self._directory)
        finally:
            with self._settling:
                self._under_way -= 1
                self._settling.notify_all()

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


def keep(message: Message, directory: Path) -> Path:
    """Writes it to a file of its own, the envelope first; returns the path."""
    name = f"{datetime.now():%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}.eml"  # sorted by name, they are in order
    hidden, path = directory / f".{name}.part", directory / name
    head = "".join(f"{line}\r\n" for line in envelope(message)).encode()
    try:
        with open(hidden, "xb") as file:
            file.write(head + message.content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(hidden, path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    _sync(directory)
    return path


def _sync(directory: Path) -> None:
    """The name, too, outlives a crash."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
