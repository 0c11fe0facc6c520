"""A directory tree that nobody gets out of.

A request's path becomes a list of names, and each name is looked up in the directory that the one before it led to
(openat(2) with O_NOFOLLOW): the kernel is never given a path to interpret, so there is nothing to traverse with. What
a name may not be is refused before anything is looked up.

1. Names that begin with a dot do not exist here, but for `.well-known` (RFC 8615).
2. A symbolic link is followed step by step like everything else, and refused where it would leave the tree. It may
   lead to a hidden name: who made the link meant that. An absolute target is followed from "/", through whatever links
   lie on the way, until it arrives at the tree's own root directory; a target that never arrives is outside.
3. Only regular files and directories are opened. Anything else is told from its kind alone, for to open a FIFO, a
   device or a socket would have effects; should one take a file's place at the last moment, O_NONBLOCK keeps the open
   from waiting.
4. A name is the file system's bytes. They are not decoded to judge them: an overlong UTF-8 "." is only a strange name.

Looking up and opening wait for the disk; a tree on a network file system can hold up the loop.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from itertools import islice
from urllib.parse import unquote_to_bytes

import attrs

logger = logging.getLogger("samples.files")

# As many links as Linux follows in one path; as deep as any tree that people look at.
_LINKS = 40
_DEPTH = 64

_COMMON = os.O_NOFOLLOW | os.O_CLOEXEC
# Passing through a directory needs no permission to read it.
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | _COMMON
_LIST = os.O_RDONLY | os.O_DIRECTORY | _COMMON
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | _COMMON

_BROKEN_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_SHOWN_ALTHOUGH_HIDDEN = ".well-known"


class Refused(Exception):
    """The request is answered with this status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why


@attrs.frozen
class Path:
    """What a request asks for: names from the root down, and whether a slash ended them."""

    names: tuple[str, ...]
    slash: bool


def path_of(text: str) -> Path:
    """Takes a URL's path apart; Refused with 400 or 404 for one that leads nowhere."""
    if not text.startswith("/") or "#" in text or _BROKEN_ESCAPE.search(text):
        raise Refused(400, "that is no path")
    *names, last = [os.fsdecode(unquote_to_bytes(segment)) for segment in text[1:].split("/")]
    if last:
        names.append(last)
    for name in names:
        _check(name)
    return Path(tuple(names), slash=not last)


def _check(name: str) -> None:
    if name in (".", "..") or "/" in name or "\0" in name:
        raise Refused(400, "a path here has no dot segments, no encoded slashes and no NUL")
    if not name or hidden(name):
        raise Refused(404, "there is no such file")


def hidden(name: str) -> bool:
    """Whether a name is treated as if it did not exist."""
    return name.startswith(".") and name != _SHOWN_ALTHOUGH_HIDDEN


@attrs.define(eq=False)
class Found:
    """A regular file or a directory, open; a context manager that closes it, unless it was taken."""

    fd: int
    status: os.stat_result
    _taken: bool = False

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    def take(self) -> FileIO:
        """The file, which is the caller's to close from now on."""
        file = FileIO(self.fd)
        self._taken = True
        return file

    def __enter__(self) -> Found:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if not self._taken:
            os.close(self.fd)


@attrs.frozen
class Entry:
    """One line of a directory's listing."""

    name: str
    is_directory: bool
    size: int
    modified: float


class Tree:
    """What is served under one directory, which is held open: to rename it, or to mount over it, changes nothing."""

    def __init__(self, root: str) -> None:
        """OSError when it is no directory that can be read."""
        self._prefix = os.path.join(os.path.realpath(root), "")
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Nothing is found any more."""
        os.close(self._root)

    def find(self, names: Sequence[str]) -> Found:
        """Opens the regular file or the directory that the names lead to.

        Refused with 403 for what is neither, may not be read or lies outside of the tree; with 404 for what is not
        there, 503 when descriptors have run out, 500 when the disk fails.
        """
        with _told_as_status():
            fd = self._walk(names)
            try:
                status = os.fstat(fd)
                if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
                    raise _special()
                return Found(fd, status)
            except BaseException:
                os.close(fd)
                raise

    def _walk(self, names: Sequence[str]) -> int:
        way = [os.dup(self._root)]  # one descriptor for each directory from the root to where we are
        waiting = list(reversed(names))
        links = _Links()
        try:
            while waiting:
                name = waiting.pop()
                if name == "..":  # only a link can say so
                    os.close(way.pop())
                    if not way:
                        raise _outside()
                    continue
                kind = os.stat(name, dir_fd=way[-1], follow_symlinks=False).st_mode
                if stat.S_ISLNK(kind):
                    waiting += reversed(self._follow(links.read(name, way[-1]), way, links))
                elif stat.S_ISDIR(kind):
                    if len(way) > _DEPTH:
                        raise _os_error(errno.ENAMETOOLONG)
                    way.append(os.open(name, _PASS, dir_fd=way[-1]))
                elif not stat.S_ISREG(kind):
                    raise _special()
                elif waiting:
                    raise _os_error(errno.ENOTDIR)
                else:
                    return os.open(name, _READ, dir_fd=way[-1])
            return way.pop()
        finally:
            for fd in way:
                os.close(fd)

    def _follow(self, target: str, way: list[int], links: _Links) -> list[str]:
        """The names that a link's target stands for, from the directory in which `way` then ends."""
        if not target.startswith("/"):
            return _names(target)
        if os.path.join(target, "").startswith(self._prefix):
            behind = _names(target[len(self._prefix) :])
        else:
            behind = self._behind_root(target, links)
        while len(way) > 1:
            os.close(way.pop())
        return behind

    def _behind_root(self, target: str, links: _Links) -> list[str]:
        """The names of an absolute target behind the root. Refused with 403 when its way does not come to the root.

        Only the target's own names are looked up here, never a name of the request. Whatever fails on the way is told
        as "outside", so that nobody learns what is there.
        """
        waiting = list(reversed(_names(target)))
        here = os.open("/", _PASS)
        try:
            while not self._is_root(here):
                if not waiting:
                    raise _outside()
                name = waiting.pop()
                if stat.S_ISLNK(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
                    target = links.read(name, here)
                    waiting += reversed(_names(target))
                    if not target.startswith("/"):
                        continue
                    name = "/"
                there = os.open(name, _PASS, dir_fd=here)
                os.close(here)
                here = there
        except OSError as exc:
            if _STATUS.get(exc.errno or 0) == _NOT_NOW:
                raise
            raise _outside() from exc
        finally:
            os.close(here)
        return waiting[::-1]

    def _is_root(self, fd: int) -> bool:
        return os.path.samestat(os.fstat(fd), os.fstat(self._root))

    def entries(self, names: Sequence[str], most: int) -> tuple[list[Entry], bool]:
        """What would be served of that directory, directories first, by name; and whether it is all there is to see.

        Hidden names, special files and links that lead outside are left out, but count: after `most` names nobody looks
        further. Refused as with `find`.
        """
        with self.find(names) as found, _told_as_status():
            fd = os.open(".", _LIST, dir_fd=found.fd)
            try:
                with os.scandir(fd) as there:
                    entries = [entry for one in islice(there, most) if (entry := self._entry(names, one)) is not None]
                    complete = next(there, None) is None
            finally:
                os.close(fd)
        entries.sort(key=lambda entry: (not entry.is_directory, entry.name.casefold(), entry.name))
        return entries, complete

    def _entry(self, names: Sequence[str], one: os.DirEntry[str]) -> Entry | None:
        if hidden(one.name):
            return None
        try:
            if one.is_symlink():
                with self.find((*names, one.name)) as found:
                    status = found.status
            else:
                status = one.stat(follow_symlinks=False)
        except (OSError, Refused):
            return None  # it has gone meanwhile, or is not for us
        is_directory = stat.S_ISDIR(status.st_mode)
        if not is_directory and not stat.S_ISREG(status.st_mode):
            return None
        return Entry(one.name, is_directory, status.st_size, status.st_mtime)


class _Links:
    """The symbolic links on one way: their targets, and an end of them."""

    def __init__(self) -> None:
        self._left = _LINKS

    def read(self, name: str, directory: int) -> str:
        """The target of one more link; ELOOP when there were too many."""
        if not self._left:
            raise _os_error(errno.ELOOP)
        self._left -= 1
        return os.readlink(name, dir_fd=directory)


def _names(target: str) -> list[str]:
    return [name for name in target.split("/") if name not in ("", ".")]


def _outside() -> Refused:
    return Refused(403, "that link leads out of what is served here")


def _special() -> Refused:
    return Refused(403, "that is neither a file nor a directory")


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


# What an errno means to who asked; any other is a failure of the machine.
_NOT_THERE = (404, "there is no such file")
_NOT_ALLOWED = (403, "that may not be read")
_NOT_NOW = (503, "too much is open here at the moment")
_STATUS = {
    errno.ENOENT: _NOT_THERE,
    errno.ENOTDIR: _NOT_THERE,
    errno.ENAMETOOLONG: _NOT_THERE,
    errno.ELOOP: _NOT_THERE,
    errno.EILSEQ: _NOT_THERE,
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EMFILE: _NOT_NOW,
    errno.ENFILE: _NOT_NOW,
    errno.ENOMEM: _NOT_NOW,
    errno.EAGAIN: _NOT_NOW,
}


@contextmanager
def _told_as_status() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno not in _STATUS:
            logger.error("the disk failed: %s", exc)
        raise Refused(*_STATUS.get(exc.errno or 0, (500, "the disk failed"))) from exc
