"""The speed suite runs, and says what it promises to say. How fast anything is, no test can tell."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import attrs
import pytest

from benchmarks import native, servers
from benchmarks.cases import CASES, METRICS, Target, named, quick
from benchmarks.measure import QUICK, Effort, Result, measured, run
from benchmarks.servers import ROOT, SERVERS
from benchmarks.show import Run, as_markdown, as_svg, as_text, verdicts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the servers are measured through Linux's /proc")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def server(name: str) -> servers.Server:
    return next(each for each in SERVERS if each.name == name)


def run_of(case_name: str, *values: tuple[str, str, dict[str, float]]) -> Run:
    """A run with given figures: (server, variant, metrics)."""
    (case,) = named(case_name)
    results = [Result(case_name, variant, name, [metrics]) for name, variant, metrics in values]
    return Run("a day", "a command", "a machine", {"reactor": "1"}, ["a note"], Effort(), [case], results)


def test_the_list_names_every_case_and_every_server():
    """`--list` names all there is to run, and runs nothing."""
    done = command("--list")
    assert done.returncode == 0, done.stderr
    first_words = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert first_words == [case.name for case in CASES] + [each.name for each in SERVERS]


def test_a_quick_run_measures_the_servers_and_writes_every_format(tmp_path: Path):
    """One command measures two servers and leaves a table, JSON, a chart and a page."""
    files = [f"--{kind}={tmp_path / kind}" for kind in ("json", "svg", "markdown")]
    done = command("echo-64-1", "fanout-16", "--servers", "reactor,asyncio", "--quick", "--repetitions", "2", *files)
    assert done.returncode == 0, done.stderr
    assert "echo-64-1: " in done.stdout
    told = json.loads((tmp_path / "json").read_text(encoding="utf-8"))
    assert set(told) == {"date", "command", "machine", "versions", "notes", "effort", "cases"}
    assert [case["name"] for case in told["cases"]] == ["echo-64-1", "fanout-16"]
    for case in told["cases"]:
        assert [result["server"] for result in case["results"]] == ["reactor", "asyncio"]
        for result in case["results"]:
            assert result["failures"] == []
            assert len(result["repetitions"]) == 2
            medians = result["medians"]
            assert set(medians) == {"rate", "cpu_us", "user_us", "system_us", "resident_mb"}
            assert medians["rate"] > 0
            assert medians["cpu_us"] > 0
            assert medians["resident_mb"] > 1
            assert medians["user_us"] + medians["system_us"] == pytest.approx(medians["cpu_us"], rel=0.5)
    ElementTree.fromstring((tmp_path / "svg").read_text(encoding="utf-8"))
    assert "## fanout-16" in (tmp_path / "markdown").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "wrong", [["no-such-case"], ["echo", "--servers", "nobody"], []], ids=["case", "server", "none"]
)
def test_a_name_that_is_not_known_is_refused(wrong: list[str]):
    """A wrong name ends the command at once, and says where the right ones are."""
    done = command(*wrong)
    assert done.returncode == 2
    assert "--list names them" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["echo-1k-50-pipelined-16", "fanout-16", "churn", "bulk", "upload", "idle"])
@pytest.mark.parametrize("load", ["c", "python"])
def test_both_loads_measure_every_behaviour(behaviour: str, load: str, monkeypatch: pytest.MonkeyPatch):
    """The load in C and the one in Python ask the same of this reactor, and both are served."""
    if load == "c" and native.compiler() is None:
        pytest.skip("no C compiler")
    if load == "python":
        monkeypatch.setattr(native, "program", lambda name: None)
    (case,) = map(quick, named(behaviour))
    variant = case.variants[-1]
    values = measured(case, server("reactor"), variant, QUICK, descriptors=2000)
    assert values["rate"] > 0
    assert ("idle_kib" in values) == (behaviour == "idle")


# This reactor is measured by the tests above in any case; the whole matrix is for who changes an adapter.
IN_SHORT = ("asyncio",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(each.name, marks=[pytest.mark.slow] * (each.name not in IN_SHORT)) for each in SERVERS]
)
@pytest.mark.parametrize("case_name", ["echo-1k-1", "bulk", "fanout-1", "churn", "deadline", "timers", "import"])
def test_every_server_does_what_it_is_said_to_do(case_name: str, name: str):
    """Whoever takes part in a case completes it."""
    chosen = server(name)
    if not chosen.is_installed():
        pytest.skip(f"{name} is not installed")
    (case,) = map(quick, named(case_name))
    done = list(run([case], [chosen], QUICK, 2000, lambda share, what: None))
    for _, results in done:
        for result in results:
            assert not result.failures
            assert set(case.metrics()) <= set(result.values[0])


def test_a_server_that_does_not_start_is_a_failure_and_not_the_end():
    """What cannot be measured is told as such, with the server's own words, and the run goes on."""
    (case,) = map(quick, named("echo-1k-1"))
    broken = attrs.evolve(server("reactor"), name="nobody")
    ((_, results),) = run([case], [broken], QUICK, 2000, lambda share, what: None)
    assert results[0].values == []
    assert "it did not start" in results[0].failures[0]


def test_a_target_is_judged_by_the_medians():
    """A ratio to a peer, and an absolute figure, are reached or not; without a measurement, neither."""
    metrics = {"rate": 110.0, "user_us": 0.8}
    told = run_of("echo-1k-50", ("reactor", "", metrics), ("uvloop", "", {"rate": 100.0}), ("c", "", {"rate": 150.0}))
    (case,) = told.cases
    assert [(str(verdict.target), verdict.reached) for verdict in verdicts(told, case)] == [
        ("rate ≥ 1 x uvloop", True),
        ("rate ≥ 1.2 x asyncio", None),
        ("rate ≥ 0.8 x c", False),
        ("user_us ≤ 0.75 us", False),
        ("resident_mb ≤ 13 MB", None),
    ]
    page = as_markdown(told)
    assert "| echo-1k-50 | rate ≥ 1 x uvloop | 1.10 | reached |" in page
    assert "| echo-1k-50 | rate ≥ 0.8 x c | 0.73 | not reached |" in page
    assert "![" not in page
    assert as_markdown(told, "pictures/chart.svg").endswith("](pictures/chart.svg)\n")


def test_a_variant_is_judged_against_the_first_of_its_case():
    """The cost of an idle deadline is what the same server loses by it."""
    told = run_of("deadline", ("reactor", "without", {"rate": 100.0}), ("reactor", "with", {"rate": 98.0}))
    (verdict,) = verdicts(told, told.cases[0])
    assert (verdict.figure, verdict.reached) == (0.98, True)


def test_the_table_and_the_chart_have_the_best_first():
    """Rates are ranked downwards, and a server without a result has no bar."""
    told = run_of(
        "fanout-1", ("asyncio", "", {"rate": 1.0}), ("reactor", "", {"rate": 3.0}), ("uvloop", "", {"rate": 2.0})
    )
    told.results.append(Result("fanout-1", "", "trio", [], ["it did not start"]))
    table = as_text(told, told.cases[0]).splitlines()
    assert [line.split()[0] for line in table[2:6]] == ["reactor", "uvloop", "asyncio", "trio"]
    chart = as_svg(told)
    assert chart.index(">reactor<") < chart.index(">uvloop<") < chart.index(">asyncio<")
    assert ">trio<" not in chart


def test_every_target_names_what_is_measured():
    """A target's metric, peer and variant exist, so that it can be judged at all."""
    for case in CASES:
        variants = {variant.name for variant in case.variants}
        for target in case.targets:
            assert isinstance(target, Target)
            assert target.metric in METRICS
            assert target.metric in case.metrics()
            assert target.variant is None or target.variant in variants
            if target.than is not None:
                assert target.than in (variants if target.variant else {each.name for each in SERVERS})


def test_the_performance_page_is_of_a_whole_run():
    """docs/performance.md has every case that there is, and every target; a new one wants a new run."""
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert page.startswith("# Performance\n\nGenerated by `python -m benchmarks all ")
    assert [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")][1:] == [
        case.name for case in CASES
    ]
    for case in CASES:
        for target in case.targets:
            assert f"| {case.name} | {target} |" in page
