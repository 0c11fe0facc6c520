"""A server on each transport and poller, on the machine's clock or on the test's own."""

from __future__ import annotations

import pytest

from reactor import Reactor
from tests.closing.support import Clock, Mute, server_on
from tests.helpers import Recorder


@pytest.fixture
def serve(reactor, transport, tmp_path):
    """`serve(factory, options)` makes a server."""

    def make(factory=Recorder, options=None):
        return server_on(reactor, transport, tmp_path, factory, options)

    return make


@pytest.fixture
def clock():
    """Time that passes only when the test says so."""
    return Clock()


@pytest.fixture
def mute():
    """The same on a platform that tells nothing of acknowledgements."""
    return Mute()


@pytest.fixture
def serve_by(poller, transport, tmp_path, no_descriptor_left):
    """`serve_by(clock, factory, options)` makes a server whose reactor goes by that clock."""
    reactors = []

    def make(system, factory=Recorder, options=None):
        reactors.append(Reactor(poller=poller, system=system))
        return server_on(reactors[-1], transport, tmp_path, factory, options)

    yield make
    for reactor in reactors:
        reactor.close()
