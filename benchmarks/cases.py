"""What is measured, as data: the cases, their variants, and the figures this reactor sets itself."""

from __future__ import annotations

import attrs

KiB = 1024

# Name -> the unit, whether more is better, and what it says.
METRICS = {
    "rate": ("/s", True, "operations per second"),
    "cpu_us": ("us", False, "the server's CPU time per operation"),
    "user_us": ("us", False, "of that, in user space"),
    "system_us": ("us", False, "of that, in the kernel"),
    "resident_mb": ("MB", False, "the server's resident memory at the end"),
    "idle_kib": ("KiB", False, "growth of the resident memory per idle connection"),
    "time_ms": ("ms", False, "CPU time beyond that of a bare interpreter"),
}


@attrs.frozen
class Load:
    """What `load.c` is told."""

    mode: str
    connections: int = 1
    size: int = 64
    depth: int = 1
    idle: int = 0


@attrs.frozen
class Variant:
    """One way to run a case. The first of a case is what the others are compared with."""

    name: str = ""
    # For the server: NAME=VALUE. A server takes part if it can do all the names.
    options: tuple[str, ...] = ()
    # Instead of the case's own.
    load: Load | None = None

    def needs(self) -> set[str]:
        return {option.split("=")[0] for option in self.options}


@attrs.frozen
class Target:
    """A figure for this reactor: at most or at least `figure`, or `figure` times what `than` has.

    `than` is a server, or, with `variant`, the case's first variant of this reactor itself.
    """

    metric: str
    at_least: bool
    figure: float
    than: str | None = None
    variant: str | None = None

    def __str__(self) -> str:
        unit = METRICS[self.metric][0]
        sign = "≥" if self.at_least else "≤"
        where = f"{self.variant}: " if self.variant else ""
        figure = f"{self.figure:g} x {self.than}" if self.than else f"{self.figure:g} {unit}"
        return f"{where}{self.metric} {sign} {figure}"


@attrs.frozen
class Case:
    """One measurement of every server that can do it."""

    name: str
    what: str
    behaviour: str
    # None: `timers` and `import` have no peer.
    load: Load | None = None
    variants: tuple[Variant, ...] = (Variant(),)
    targets: tuple[Target, ...] = ()
    # How many, for `timers`.
    count: int = 0

    def metrics(self) -> tuple[str, ...]:
        if self.behaviour == "timers":
            return ("rate", "cpu_us", "resident_mb")
        if self.behaviour == "import":
            return ("time_ms", "resident_mb")
        idle = any((variant.load or self.load or Load("wait")).idle for variant in self.variants)
        return ("rate", "cpu_us", "user_us", "system_us", "resident_mb", *(["idle_kib"] if idle else []))


def at_least(figure: float, than: str, metric: str = "rate", variant: str | None = None) -> Target:
    return Target(metric, True, figure, than, variant)


def at_most(figure: float, metric: str, than: str | None = None, variant: str | None = None) -> Target:
    return Target(metric, False, figure, than, variant)


SIZES = {"64": 64, "1k": KiB, "16k": 16 * KiB, "100k": 100 * KiB}
ECHO_TARGETS = {
    "echo-1k-50": (
        at_least(1.0, "uvloop"),
        at_least(1.2, "asyncio"),
        at_least(0.8, "c"),
        at_most(0.75, "user_us"),
        at_most(13, "resident_mb"),
    ),
    "echo-16k-16": (at_least(1.05, "uvloop"),),
    "echo-100k-16": (at_least(1.05, "uvloop"),),
}


def echo(size: str, connections: int, depth: int = 1) -> Case:
    name = f"echo-{size}-{connections}" + (f"-pipelined-{depth}" if depth > 1 else "")
    under_way = f", {depth} under way on each" if depth > 1 else ""
    what = f"messages of {SIZES[size]:,} bytes echoed, on {connections} connection{'s'[: connections > 1]}{under_way}"
    return Case(name, what, "echo", Load("echo", connections, SIZES[size], depth), targets=ECHO_TARGETS.get(name, ()))


def fanout(burst: int, *targets: Target) -> Case:
    what = f"lines of 64 bytes from one speaker delivered to 100 listeners, in bursts of {burst}"
    return Case(f"fanout-{burst}", what, "fanout", Load("fanout", 100, 64, burst), targets=targets)


# The busy ones stand beside so many silent ones.
IDLE = 15_000
BUSY = Load("echo", 50, KiB)
BESIDE_IDLE = attrs.evolve(BUSY, idle=IDLE)

CASES = (
    *(echo(size, connections) for size in ("64", "1k") for connections in (1, 50, 500)),
    *(echo(size, connections) for size in ("16k", "100k") for connections in (1, 16, 50, 500)),
    *(echo(size, 50, depth=16) for size in ("64", "1k")),
    echo("16k", 16, depth=4),
    echo("100k", 16, depth=4),
    fanout(1, at_least(1.0, "uvloop")),
    fanout(16, at_least(1.5, "twisted"), at_least(4.0, "uvloop")),
    Case(
        "churn",
        "connections that send 64 bytes, half-close, get their reply, and end; 50 at a time, none of them reset",
        "churn",
        Load("churn", 50, 64),
        targets=(at_most(1.2, "cpu_us", "uvloop"),),
    ),
    Case(
        "idle",
        f"messages of 1,024 bytes echoed on 50 connections: alone, and beside {IDLE:,} idle ones",
        "echo",
        BUSY,
        (Variant("alone"), Variant("beside idle ones", load=BESIDE_IDLE)),
        (
            at_least(0.95, "alone", variant="beside idle ones"),
            at_most(0.9, "idle_kib", variant="beside idle ones"),
        ),
    ),
    Case(
        "deadline",
        f"the same beside {IDLE:,} idle ones, without and with an idle deadline on each connection",
        "echo",
        BESIDE_IDLE,
        (Variant("without"), Variant("with", ("idle=60",))),
        (at_least(0.97, "without", variant="with"),),
    ),
    Case("timers", "a million timers set and cancelled, at most 1,000 of them at a time", "timers", count=1_000_000),
    Case("import", "importing the framework", "import", targets=(at_most(1.0, "time_ms", "asyncio"),)),
    Case(
        "bulk",
        "messages of 1 MiB relayed with backpressure: 4 connections, 16 under way on each, more than the kernel holds",
        "relay",
        Load("echo", 4, 1024 * KiB, 16),
    ),
    Case("upload", "KiB read and dropped, from 4 connections that send without a pause", "upload", Load("upload", 4)),
    Case(
        "trace",
        "messages of 1,024 bytes echoed on 50 connections: not traced, traced as text and as JSON lines, to /dev/null",
        "echo",
        BUSY,
        (Variant("off"), Variant("text", ("trace=text",)), Variant("json", ("trace=json",))),
    ),
)


def named(name: str) -> list[Case]:
    """The case of that name, else those whose names begin with it and a hyphen; `all` is every case."""
    exact = [case for case in CASES if case.name == name]
    return exact or [case for case in CASES if name == "all" or case.name.startswith(name + "-")]


def quick(case: Case) -> Case:
    """The same with fewer of everything, to see that it works."""

    def fewer(load: Load | None) -> Load | None:
        return None if load is None else attrs.evolve(load, idle=min(load.idle, 500))

    variants = tuple(attrs.evolve(variant, load=fewer(variant.load)) for variant in case.variants)
    count = min(case.count, 50_000)
    changed = count != case.count or variants != case.variants or fewer(case.load) != case.load
    what = f"{case.what} (fewer of them in a quick run)" if changed else case.what
    return attrs.evolve(case, what=what, load=fewer(case.load), variants=variants, count=count)
