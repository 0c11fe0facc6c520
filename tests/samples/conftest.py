"""The samples as people run them: in processes of their own, which never outlive a test."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.samples.processes import Sample


@pytest.fixture
def run(no_descriptor_left):
    """Starts samples (`run("echo", "--port", "0")`), or with `command` anything; kills what is left of them."""
    started: list[Sample] = []

    def start(name: str, *arguments: str, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, command=None, **more):
        python = [sys.executable, "-W", "error", "-m", f"samples.{name}", *arguments]
        started.append(Sample(command or python, stdin, stdout, **more))
        return started[-1]

    yield start
    for sample in started:
        sample.kill()
