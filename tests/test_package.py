"""The package and its papers: what is in it, and that CONTRIBUTING, SECURITY and the policy speak of what there is."""

from __future__ import annotations

import configparser
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path

import attrs
import pytest

import reactor
from reactor import options
from reactor.buffers import SendQueue
from tests import covered, test_house

ROOT = Path(__file__).parent.parent
PAPERS = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "SECURITY.md")}
POLICY = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")

# What can be changed by whoever has it.
MUTABLE = (dict, list, set, deque, bytearray, SendQueue)


# CONTRIBUTING

HABITS = re.findall(r"^\| [^|]+ \| `([^`]+)` \|$", PAPERS["CONTRIBUTING.md"], re.MULTILINE)
# Whether it is asked for its help, which shows that it is there; else it is looked at in some other way, below.
QUICKLY = {
    "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[test,docs]'": False,
    "python -m pytest": True,
    'python -m pytest -m "slow or not slow"': False,
    "REACTOR_POLLER=poll python -m pytest": False,
    "python -m tests.covered": True,
    "ruff check . && ruff format --check .": True,
    "mypy": True,
    "python -m sphinx -W -b html docs docs/_build": True,
    "python -m docs.drawn": True,
    "python -m docs.captured": True,
    "python -m tests.browser.screenshots": False,
    "python -m benchmarks.closing": True,
    "python -m benchmarks": True,
    "python -m reactor.testing explore": True,
    "python -m reactor.testing storm": True,
    "python -m tests.fuzz.framing -runs=1000000": False,
    "python -m tests.fuzz.tls -runs=100000": False,
    ".ci/unstable 3.14 3.15": False,
    ".ci/run": False,
}


def test_every_command_is_looked_at():
    """A command of the table is in the list above, and no other is."""
    assert list(QUICKLY) == HABITS


@pytest.mark.parametrize("command", [command for command, has_help in QUICKLY.items() if has_help])
def test_a_command_is_there_and_explains_itself(command):
    """Each starts, and says what it takes."""
    for part in command.split(" && "):
        words = shlex.split(part)
        program = Path(words[0]).name
        needed = words[2].partition(".")[0] if program == "python" else program
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
        # A program of an environment that is not activated is not on the PATH: it stands beside its Python.
        beside = Path(sys.executable).parent / program
        found = sys.executable if program == "python" else str(beside) if beside.exists() else shutil.which(program)
        assert found, program
        done = subprocess.run([found, *words[1:], "--help"], cwd=ROOT, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
        assert "usage" in (done.stdout + done.stderr).lower()


@pytest.mark.parametrize("command", [one for one in QUICKLY if one.startswith("python -m") and not QUICKLY[one]])
def test_a_command_that_has_no_help_is_there(command):
    """What takes a browser or a fuzzer is run elsewhere; the module is there."""
    assert importlib.util.find_spec(shlex.split(command)[2]) is not None


def test_the_rooms_whose_branches_are_counted_are_those_of_the_plan():
    """Words, pure rooms and the loop: a new one of them is counted, too, with tests that exist."""
    above_the_seam = test_house.ROOMS[: test_house.ROOMS.index("syscalls")]
    assert set(covered.ROOMS) == {*above_the_seam, "loop"} - {"version"}
    for name in covered.TESTS:
        assert (ROOT / "tests" / f"test_{name}.py").exists(), name


def test_ci_is_a_script_that_bash_can_read():
    """`.ci/run` can be started, and parses."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o100
    assert subprocess.run(["bash", "-n", script], timeout=20).returncode == 0


def test_the_extras_that_are_named_are_there():
    """`pip install -e '.[test,docs]'` and its like."""
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    for names in re.findall(r"\.\[([a-z,]+)\]", "".join(PAPERS.values())):
        assert set(names.split(",")) <= set(declared["options.extras_require"])


@pytest.mark.parametrize("paper", PAPERS)
def test_every_link_of_a_paper_leads_somewhere(paper):
    """No dead links."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", PAPERS[paper]):
        assert (ROOT / target).exists(), target


# SECURITY

BOUNDS = (options.Limits, options.Deadlines, options.Watermarks, options.Datagrams)
# Sizes and times that bound nothing which a peer can do.
NO_BOUND = {
    "Deadlines.linger_grace",
    "Watermarks.low",
    "Datagrams.broadcast",
    "Datagrams.reuse_port",
    "Datagrams.groups",
}


def test_the_bounds_that_are_promised_are_the_options_that_there_are():
    """Each option that is named exists, and each bound that exists is named."""
    named = set(re.findall(r"`((?:Limits|Deadlines|Watermarks|Datagrams)\.\w+)`", PAPERS["SECURITY.md"]))
    there = {f"{record.__name__}.{field.name}" for record in BOUNDS for field in attrs.fields(record)}
    assert named == there - NO_BOUND


def test_what_is_said_to_have_no_bound_has_none():
    """SECURITY says of these: set it, for there is none by default."""
    said = re.findall(r"`(\w+)\.(\w+)`[^|`]*: set it, for there is none by default", PAPERS["SECURITY.md"])
    assert said == [("Deadlines", "idle"), ("Limits", "connections")]
    for record, field in said:
        assert getattr(getattr(options, record)(), field) is None


# The policy


def test_what_the_policy_calls_public_is_there():
    """Each name of the table can be imported from where the table says."""
    rows = re.findall(r"^\| (`.*) \| `(reactor[.\w]*)` \|$", POLICY, re.MULTILINE)
    assert [where for _, where in rows] == ["reactor.embedding", "reactor.trace", "reactor.options"]
    for names, where in rows:
        module = importlib.import_module(where)
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(module, name), f"{where}.{name}"


def test_the_policy_the_package_and_the_readme_name_the_same_pythons():
    """The classifiers are what is tested in CI, and what is said."""
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    versions = re.findall(r"Python :: (3\.\d+)", declared["metadata"]["classifiers"])
    assert f"CPython {', '.join(versions[:-1])} and {versions[-1]} are tested" in POLICY
    assert declared["options"]["python_requires"] == f">={versions[0]}"
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert " ".join(re.findall(r"^(?:versions|newest)=\(([^)]+)\)$", script, re.MULTILINE)).split() == versions
    assert f"CPython {versions[0]} to {versions[-1]}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_two_reactors_share_what_the_policy_says():
    """No module holds anything else that can be changed: no container, no cache."""
    modules = [importlib.import_module(f"reactor.{path.stem}") for path in (ROOT / "reactor").glob("[!_]*.py")]
    modules += [reactor, importlib.import_module("reactor.lifecycle")]
    shared = {
        name
        for module in modules
        for name, value in vars(module).items()
        if not name.startswith("__") and (isinstance(value, MUTABLE) or hasattr(value, "cache_info"))
    }
    for_forks_and_resets = {"_caught", "_masks", "_c_connect", "_taken_from_us"}
    assert shared == {"_TLS_EXTRAS", "POLLERS", "EMPTY", "TABLE", "_free_a_large_block"} | for_forks_and_resets


# What is in it


def test_every_package_of_the_tree_is_in_the_wheel():
    """A new directory with code is declared, or an installed package would lack it."""
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    there = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in (ROOT / "reactor").rglob("__init__.py")}
    assert set(declared["options"]["packages"].split()) == there


def test_whatever_is_no_python_in_the_package_is_in_the_wheel():
    """Data files are declared: py.typed, without which no checker looks at the annotations."""
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    there = {path.name for path in (ROOT / "reactor").rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert there == set(declared["options.package_data"]["reactor"].split()) == {"py.typed"}


def test_the_version_is_told_by_the_package():
    """One place has it."""
    assert reactor.__version__ == importlib.import_module("reactor.version").__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", reactor.__version__)
