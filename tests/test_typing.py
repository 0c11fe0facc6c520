"""What a type checker tells a program that uses the package: nothing about one that is right, and each mistake.

The programs are `consumer/app.py` and `consumer/wrong.py`. They are checked from elsewhere, against a copy of exactly
the files that setup.cfg says are in the package, in an environment of its own: as a stranger's checker finds them.
"""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import attr
import attrs
import pytest

import reactor
import reactor.testing
from tests.consumer import app
from tests.test_tls import server_context

ROOT = Path(__file__).parent.parent
CONSUMER = ROOT / "tests" / "consumer"
PATIENCE = 240.0


def test_the_program_uses_every_public_name():
    """A name that no consumer's program uses is checked by nobody."""
    tree = ast.parse((CONSUMER / "app.py").read_text(encoding="utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {*reactor.__all__, *reactor.testing.__all__} - used == set()


def test_the_program_does_what_it_says():
    """What is checked also runs."""
    assert app.answer_of(b"hello") == b"hello"
    assert app.whose(reactor.WriteAfterEnd("too late")) == "mine"
    assert app.whose(reactor.ConnectFailed("nobody there")) == "the network's"
    with tempfile.TemporaryFile() as file:
        file.write(b"what is sent")
        file.flush()
        assert app.serve(server_context(), file).finished
    with reactor.Reactor(poller="epoll") as host, reactor.Reactor(poller="epoll") as guest:
        app.as_guest(guest, host)
        guest.call_soon(guest.drain, 1)
        host.run()
        assert guest.drained is not None
        assert guest.drained.finished


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """An environment with the package in it, and the programs beside it."""
    place = tmp_path_factory.mktemp("consumer")
    venv.create(place / "env", with_pip=False)
    (site,) = (place / "env").glob("lib/python3*/site-packages")
    for module in (attr, attrs):
        shutil.copytree(Path(module.__file__).parent, site / module.__name__)
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    for package in declared["options"]["packages"].split():
        name = package.replace(".", "/")
        patterns = ["*.py", *declared["options.package_data"].get(package, "").replace(",", " ").split()]
        (site / name).mkdir(parents=True)
        for pattern in patterns:
            for file in (ROOT / name).glob(pattern):
                shutil.copy(file, site / name)
    for program in CONSUMER.glob("*.py"):
        shutil.copy(program, place)
    (place / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    return place


def run(place: Path, *command: str) -> str:
    # Else pyright asks the network whether there is a newer one.
    quiet = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(command, cwd=place, env=quiet, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(place: Path, program: str) -> dict[int, str]:
    """Line and message of each complaint."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    python = str(place / "env" / "bin" / "python")
    said = run(place, sys.executable, "-m", "mypy", "--strict", "--python-executable", python, program)
    found = re.findall(r"^([^:\n]+):(\d+): error: (.*)$", said, re.MULTILINE)
    assert {file for file, _, _ in found} <= {program}, said
    assert found or "Success" in said, said
    return {int(line): message for _, line, message in found}


def pyright(place: Path, program: str) -> dict[int, str]:
    """Line and message of each complaint."""
    pytest.importorskip("pyright", reason="pyright is not installed")
    python = str(place / "env" / "bin" / "python")
    said = json.loads(run(place, sys.executable, "-m", "pyright", "--pythonpath", python, "--outputjson", program))
    assert said["summary"]["filesAnalyzed"] == 1
    return {
        one["range"]["start"]["line"] + 1: one["message"]
        for one in said["generalDiagnostics"]
        if one["severity"] == "error"
    }


CHECKERS = pytest.mark.parametrize("checker", [mypy, pyright])


@pytest.mark.slow
@CHECKERS
def test_a_program_that_is_right_has_nothing_to_complain_of(checker, environment):
    """Strictly checked, nothing is missing, unknown, or of another type than was said."""
    assert checker(environment, "app.py") == {}


@pytest.mark.slow
@CHECKERS
def test_each_mistake_is_found(checker, environment):
    """The annotations say enough for the usual mistakes to be seen before the program runs."""
    text = (environment / "wrong.py").read_text(encoding="utf-8")
    wrong = {number for number, line in enumerate(text.splitlines(), 1) if line.endswith("# wrong")}
    assert len(wrong) > 10
    assert set(checker(environment, "wrong.py")) == wrong


@pytest.mark.slow
@CHECKERS
def test_an_editable_install_is_followed(checker, tmp_path):
    """A program outside the clone is checked as well where the clone was installed with `pip install -e`."""
    installed = [one.read_text("direct_url.json") for one in importlib.metadata.distributions(name="selector-reactor")]
    if not any(
        text and json.loads(text) == {"dir_info": {"editable": True}, "url": ROOT.as_uri()} for text in installed
    ):
        pytest.skip("this clone is not installed with `pip install -e` here")
    (tmp_path / "env").symlink_to(sys.prefix)
    shutil.copy(CONSUMER / "app.py", tmp_path)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    assert checker(tmp_path, "app.py") == {}
