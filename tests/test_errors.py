"""Errors: a name for what was attempted, and which errno means what."""

from __future__ import annotations

import errno
import gc
import os
import traceback
import weakref

import pytest

from reactor.errors import EXHAUSTED, PEER_GONE, TRY_AGAIN, WAIT, ConnectFailed, free_frames, named


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EADDRINUSE, "Address already in use"), "cannot listen on X: Address already in use"),
        (OSError("too long"), "cannot listen on X: too long"),
        (OSError(), f"cannot listen on X: {os.strerror(errno.EINVAL)}"),
    ],
)
def test_a_named_error_says_what_was_attempted_and_stays_what_it_was(error, text):
    """Its type and its errno are what programs look at; what Python refuses by itself has none, and gets EINVAL."""
    told = named(error, "cannot listen on X")
    assert (type(told), told.errno, told.strerror) == (type(error), error.errno or errno.EINVAL, text)


def test_an_errno_means_one_thing():
    """Waiting, running out and a caller who is gone are told apart."""
    assert not TRY_AGAIN & EXHAUSTED
    assert not WAIT & PEER_GONE
    assert WAIT == TRY_AGAIN | EXHAUSTED


class Owner:
    """Keeps the exceptions of its own methods."""

    def fail(self, cause: BaseException | None = None) -> Exception:
        try:
            raise ValueError("on purpose") from cause
        except ValueError as exc:
            self.kept = exc
        return self.kept


def one_that_failed() -> Owner:
    owner = Owner()
    owner.fail()
    return owner


@pytest.mark.parametrize(
    "wrap",
    [
        lambda exc: exc,
        lambda exc: ConnectFailed("nowhere", (("there", exc),)),
        lambda exc: ExceptionGroup("both", [exc, OSError()]),
        lambda exc: Owner().fail(exc),
    ],
    ids=["itself", "a cause of a connect", "one of a group", "its cause"],
)
def test_a_kept_exception_holds_nothing_once_its_frames_are_freed(wrap):
    """However it is told; nothing is left for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        owner = one_that_failed()
        held = weakref.ref(owner)
        free_frames(None, wrap(owner.kept))
        del owner
        assert held() is None
    finally:
        gc.enable()


def test_a_traceback_can_be_printed_when_its_frames_are_freed():
    """It says where it was, and not what was there."""
    owner = one_that_failed()
    free_frames(owner.kept)
    assert "in fail" in "".join(traceback.format_exception(owner.kept))
    assert not owner.kept.__traceback__.tb_frame.f_locals


def test_frames_that_still_run_or_may_go_on_are_left_alone():
    """A generator that has only been suspended is not closed, and an exception may be freed where it was caught."""

    def numbers():
        try:
            raise ValueError("on purpose")
        except ValueError as exc:
            yield exc
        yield 2

    generator = numbers()
    free_frames(next(generator))
    assert next(generator) == 2
    here = "here"
    try:
        raise ValueError("on purpose")
    except ValueError as exc:
        exc.__context__ = ValueError("a circle")
        exc.__context__.__context__ = exc
        free_frames(exc)
    assert here == "here"
