"""Everything that the package and its extras need installs without a compiler: pip asks the package registry.

`.ci/run` installs the extra `test` on every supported Python. Here the other extras are asked about too, and another
machine. The markers in setup.cfg are evaluated for the Python and the machine in question, those in the metadata of
other packages for the Python that runs pip.
"""

from __future__ import annotations

import configparser
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="there is no pip in this environment"),
]

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
VERSIONS = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", SETUP["metadata"]["classifiers"], re.MULTILINE)
EXTRAS = SETUP["options.extras_require"]
BUILT_WITH = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
# Of the other machine only the newest version is asked about: that is where wheels are still missing.
CASES = [(version, "x86_64") for version in VERSIONS] + [(VERSIONS[-1], "aarch64")]
# The C library of the oldest Linux that is asked about: 2.28 is that of Debian 10 and RHEL 8.
GLIBC = 28
# What pip warns of for each attempt that met no registry.
UNREACHED = "after connection broken by"


def needed(wanted: list[str], version: str, machine: str) -> list[str]:
    """The requirements that hold for a CPython on Linux."""
    environment = {
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
        "python_version": version,
        "python_full_version": f"{version}.0",
        "implementation_version": f"{version}.0",
    }
    holding = [one for one in map(Requirement, wanted) if one.marker is None or one.marker.evaluate(environment)]
    for one in holding:
        one.marker = None
    return [str(one) for one in holding]


def pip_finds(requirements: list[str], target: Path, *options: str) -> tuple[bool, str]:
    """Whether pip would install these, and all that they need; and what it said. Nothing is installed."""
    quietly = ["--disable-pip-version-check", "--quiet", "--no-input", "--retries", "2"]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", *quietly, *options]
    done = subprocess.run([*command, "--target", str(target), *requirements], capture_output=True, text=True)
    return done.returncode == 0, done.stderr


@pytest.mark.parametrize(("version", "machine"), CASES)
def test_each_package_has_a_wheel(version, machine, tmp_path):
    """For each supported Python, on Linux: of the package, of what it is built with, and of each extra."""
    wanted = [*BUILT_WITH, *SETUP["options"]["install_requires"].split("\n")[1:]]
    for extra in EXTRAS.values():
        wanted += extra.split("\n")[1:]
    asked = needed(wanted, version, machine)
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 4, -1)]
    platforms += [f"manylinux{year}_{machine}" for year in ("2014", "2010", "1")]
    tags = [option for platform in platforms for option in ("--platform", platform)]
    for abi in (f"cp{version.replace('.', '')}", "abi3", "none"):
        tags += ["--abi", abi]
    only_wheels = ["--only-binary", ":all:", "--python-version", version, "--implementation", "cp"]
    found, said = pip_finds(asked, tmp_path, *only_wheels, *tags)
    if not found and UNREACHED in said:
        pytest.skip("pip reaches no package registry from here")
    assert found, said
