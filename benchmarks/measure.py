"""Running the cases: servers in turn (A B C A B C ...), so that a machine's moods meet all of them alike."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator

import attrs

from benchmarks.cases import Case, Load, Variant
from benchmarks.servers import Failed, Running, Server, environment, on_core_of, put_under_load

# Descriptors that a server and the load need beside their connections.
_SPARE = 700


@attrs.frozen
class Effort:
    """How long it may take."""

    repetitions: int = 5
    warmup: float = 0.3
    seconds: float = 1.0


QUICK = Effort(repetitions=1, warmup=0.05, seconds=0.2)

Values = dict[str, float]


@attrs.define
class Result:
    """What one server, in one variant of one case, came to: one dictionary of metrics per repetition."""

    case: str
    variant: str
    server: str
    values: list[Values] = attrs.Factory(list)
    failures: list[str] = attrs.Factory(list)


def raise_descriptor_limit() -> int:
    """As many as this user may have, for the subprocesses too; returns how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def takes_part(server: Server, case: Case, variant: Variant) -> bool:
    return case.behaviour in server.can and variant.needs() <= set(server.can)


def within_limits(load: Load, descriptors: int) -> Load:
    """No more idle connections than there can be."""
    return attrs.evolve(load, idle=min(load.idle, max(0, descriptors - _SPARE)))


def run(
    cases: list[Case], servers: list[Server], effort: Effort, descriptors: int, progress: Callable[[float, str], None]
) -> Iterator[tuple[Case, list[Result]]]:
    """Yields each case with its results, as soon as it is done."""
    plan = {
        case.name: [
            (server, variant)
            for server in servers
            for variant in case.variants
            if all(takes_part(server, case, each) for each in case.variants)
        ]
        for case in cases
    }
    steps = effort.repetitions * sum(map(len, plan.values()))
    done = 0
    for case in cases:
        results = [Result(case.name, variant.name, server.name) for server, variant in plan[case.name]]
        for repetition in range(effort.repetitions):
            for result, (server, variant) in zip(results, plan[case.name], strict=True):
                what = f"{case.name} {server.name} {variant.name}".strip()
                progress(done / steps, f"{what} {repetition + 1}/{effort.repetitions}")
                done += 1
                try:
                    result.values.append(measured(case, server, variant, effort, descriptors))
                except Failed as failure:
                    result.failures.append(str(failure))
        yield case, results
    progress(1, "")


def measured(case: Case, server: Server, variant: Variant, effort: Effort, descriptors: int) -> Values:
    """One repetition."""
    if case.behaviour == "import":
        return import_cost(server)
    if case.behaviour == "timers":
        return timers_cost(server, case.count)
    load = variant.load or case.load
    assert load is not None
    load = within_limits(load, descriptors)
    with Running(server, case.behaviour, *variant.options) as running:
        got = put_under_load(
            running, load.mode, load.connections, load.size, load.depth, load.idle, effort.warmup, effort.seconds
        )
    operations = got["operations"]
    if not operations:
        raise Failed("not one operation was completed")
    # The clock knows the sum to the microsecond, and the ticks how it divides.
    ticks = got["user_ticks"] + got["system_ticks"]
    cpu = got["cpu"] * 1e6 / operations
    user = cpu * got["user_ticks"] / ticks if ticks else 0.0
    values = {
        "rate": operations / got["seconds"],
        "cpu_us": cpu,
        "user_us": user,
        "system_us": cpu - user,
        "resident_mb": got["resident"] / 1024,
    }
    if load.idle:
        values["idle_kib"] = got["idle_growth"] / load.idle
        values["idle"] = load.idle
    return values


def spent(command: list[str]) -> tuple[float, str]:
    """Runs it on the servers' core: CPU seconds, and what it printed."""
    with on_core_of("server"):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
    with process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            output = process.stdout.read()
            words = process.stderr.read().strip().splitlines()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:
                process.kill()
    if process.returncode:
        raise Failed(words[-1] if words else f"exit status {process.returncode}")
    return used.ru_utime + used.ru_stime, output


def import_cost(server: Server) -> Values:
    # Each time beside a bare interpreter, with which it is compared.
    bare, _ = spent([sys.executable, "-c", "pass"])
    # Not wait4's peak: a child inherits that from who forked it.
    report = "import os; print(int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGESIZE'))"
    loaded, resident = spent([sys.executable, "-c", f"import {server.module}\n{report}"])
    return {"time_ms": 1000 * (loaded - bare), "resident_mb": int(resident) / 2**20}


def timers_cost(server: Server, count: int) -> Values:
    _, output = spent(server.command("timers", f"count={count}"))
    seconds, cpu, peak_kib = map(float, output.split())
    return {"rate": count / seconds, "cpu_us": 1e6 * cpu / count, "resident_mb": peak_kib / 1024}
