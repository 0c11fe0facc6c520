"""Errors: a name for what was attempted, and which errno means what."""

from __future__ import annotations

import errno
import os

import pytest

from reactor.errors import EXHAUSTED, PEER_GONE, TRY_AGAIN, WAIT, named


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
