"""What holds in every test: the callback grammar, no descriptor left open, no error logged that was not expected."""

from __future__ import annotations

import gc
import logging
import os
import signal

import pytest

from reactor import Reactor
from reactor.loop import Loop
from reactor.pollers import POLLERS
from reactor.testing import Grammar


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "logs_errors: the reactor's log is meant to have errors in this test")
    # A shell without job control starts what it runs in the background with SIGINT ignored, and programs inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is slow may take five minutes: a machine may be several times slower than the one it was written on."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300))


def pytest_collection_finish() -> None:
    """What the whole session keeps is no longer looked at in each collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def grammar(monkeypatch: pytest.MonkeyPatch):
    """An observer that every reactor made in the test reports to."""
    observers = []
    make = Loop.__init__

    def observed(self: Loop, **arguments: object) -> None:
        make(self, **arguments)
        observers.append(Grammar())
        self.observe(observers[-1])

    monkeypatch.setattr(Loop, "__init__", observed)
    yield
    for observer in observers:
        observer.check()


@pytest.fixture(autouse=True)
def no_descriptor_left():
    """As many descriptors after the test as before it."""

    def count() -> int:
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    before = count()
    yield
    if count() > before:
        gc.collect()  # a failing test's traceback keeps its sockets; only what nobody holds counts
    assert count() <= before, "descriptors were left open"


@pytest.fixture(autouse=True)
def no_unexpected_error(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture):
    """An error in the reactor's log fails the test, unless it is marked `logs_errors`."""
    yield
    if request.node.get_closest_marker("logs_errors"):
        return
    errors = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name == "reactor" and record.levelno >= logging.ERROR
    ]
    assert not errors, f"unexpected errors were logged: {errors}"


@pytest.fixture(params=list(POLLERS))
def poller(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def reactor(poller: str, no_descriptor_left: None):
    """A reactor on each poller of the platform; closed afterwards."""
    with Reactor(poller=poller) as made:
        yield made


@pytest.fixture(params=["tcp4", "tcp6", "unix"])
def transport(request: pytest.FixtureRequest) -> str:
    return request.param
