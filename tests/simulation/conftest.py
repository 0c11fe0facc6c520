"""Each kernel in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from reactor.system import System
from reactor.testing import SimulatedSystem
from tests.simulation.kernels import Kernel


@pytest.fixture(params=[System, SimulatedSystem], ids=["real", "simulated"])
def keep(request, no_descriptor_left) -> Iterator[Callable[..., Kernel]]:
    """`keep(MyKernel, ...)` makes it with the system whose turn it is, and closes it when the test is over."""
    made = []

    def make(kind: type[Kernel], *arguments: object) -> Kernel:
        made.append(kind(request.param(), *arguments))
        return made[-1]

    yield make
    for kernel in made:
        kernel.close()
