"""The C programs, compiled when they are first needed, into a folder that is kept for the user."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = ["-O2", "-Wall", "-Wextra"]


def compiler() -> str | None:
    """The C compiler's path, if there is one. CC names another."""
    return shutil.which(os.environ.get("CC", "cc"))


@functools.cache
def program(name: str) -> Path | None:
    """The executable of `NAME.c`; None without a C compiler."""
    cc = compiler()
    if cc is None:
        return None
    source = SOURCES / f"{name}.c"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reactor-benchmarks"
    cache.mkdir(parents=True, exist_ok=True)
    executable = cache / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if not executable.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            built = Path(folder) / name
            subprocess.run([cc, *FLAGS, "-o", str(built), str(source)], check=True)
            built.replace(executable)  # at once, for whoever else compiles it now
    return executable
