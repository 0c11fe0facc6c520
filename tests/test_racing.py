"""Happy eyeballs, as tables of who answers what after how long."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor.racing import GiveUp, Race, Start, Wait, Win, interleaved

SILENCE = math.inf


@attrs.frozen
class Road:
    """An address: what becomes of an attempt at it, and how long after its start."""

    name: str
    family: int
    delay: float
    good: bool = False


def six(name: str, delay: float, outcome: str = "fails") -> Road:
    return Road(name, 6, delay, outcome == "works")


def four(name: str, delay: float, outcome: str = "fails") -> Road:
    return Road(name, 4, delay, outcome == "works")


def drive(roads: list[Road], delay: float = 0.25, deadline: float = 30.0) -> list[tuple[float, str]]:
    """Runs a race as a loop would: what is decided at one moment is told first, then the race is asked once."""
    race: Race[Road] = Race(roads, delay)
    decided: dict[Road, float] = {}
    log: list[tuple[float, str]] = []
    now = 0.0
    for _ in range(10 * len(roads) + 10):
        answer = race.proceed(now)
        while isinstance(answer, Start):
            road = answer.address
            log.append((now, f"start {road.name}"))
            decided[road] = now + road.delay
            answer = race.proceed(now)
        if isinstance(answer, Win):
            log.append((now, f"win {answer.address.name}"))
            log.extend((now, f"close {road.name}") for road in answer.losers)
            assert race.proceed(now) == answer
            return log
        if isinstance(answer, GiveUp):
            log.append((now, "give up: " + " ".join(str(cause) for _, cause in answer.causes)))
            assert race.proceed(now) == answer
            return log
        until = SILENCE if answer.until is None else answer.until
        assert until > now
        now = min(until, deadline, *decided.values())
        for road in [road for road, when in decided.items() if when == now]:
            del decided[road]
            if road.good:
                race.succeeded(road)
            else:
                log.append((now, f"fail {road.name}"))
                race.failed(road, OSError(road.name))
        if now == deadline:
            log.extend((now, f"late {road.name}") for road in decided)
            race.expire(OSError("late"))
            decided.clear()
    raise AssertionError("it never ends")


@pytest.mark.parametrize(
    ("roads", "expected"),
    [
        # Nobody to ask.
        ([], [(0, "give up: ")]),
        # One road.
        ([six("a", 0.1, "works")], [(0, "start a"), (0.1, "win a")]),
        ([six("a", 0.1)], [(0, "start a"), (0.1, "fail a"), (0.1, "give up: a")]),
        ([six("a", SILENCE)], [(0, "start a"), (30, "late a"), (30, "give up: late")]),
        # Whoever answers within the delay has no rival.
        ([six("a", 0.2, "works"), four("b", 0, "works")], [(0, "start a"), (0.2, "win a")]),
        # A black hole costs one delay.
        (
            [six("a", SILENCE), four("b", 0.125, "works")],
            [(0, "start a"), (0.25, "start b"), (0.375, "win b"), (0.375, "close a")],
        ),
        # Earlier attempts run on, and may win.
        (
            [six("a", 0.375, "works"), four("b", 5, "works")],
            [(0, "start a"), (0.25, "start b"), (0.375, "win a"), (0.375, "close b")],
        ),
        # Families take turns: a cut-off v6 with three addresses does not hold up v4.
        (
            [six("a", SILENCE), six("b", SILENCE), six("c", SILENCE), four("d", 0.125, "works")],
            [(0, "start a"), (0.25, "start d"), (0.375, "win d"), (0.375, "close a")],
        ),
        # A refusal starts the next at once.
        ([six("a", 0), four("b", 0, "works")], [(0, "start a"), (0, "fail a"), (0, "start b"), (0, "win b")]),
        (
            [six("a", 0.125), four("b", 0.125, "works")],
            [(0, "start a"), (0.125, "fail a"), (0.125, "start b"), (0.25, "win b")],
        ),
        # So does a refusal of an earlier attempt; the delay then counts from the new start.
        (
            [six("a", 0.375), four("b", SILENCE), six("c", SILENCE), four("d", 1, "works")],
            [
                (0, "start a"),
                (0.25, "start b"),
                (0.375, "fail a"),
                (0.375, "start c"),
                (0.625, "start d"),
                (1.625, "win d"),
                (1.625, "close b"),
                (1.625, "close c"),
            ],
        ),
        # All refuse: the causes come in the order of failing, not of starting.
        (
            [six("a", 1), four("b", 0.125), six("c", 0.125)],
            [
                (0, "start a"),
                (0.25, "start b"),
                (0.375, "fail b"),
                (0.375, "start c"),
                (0.5, "fail c"),
                (1, "fail a"),
                (1, "give up: b c a"),
            ],
        ),
        # Two winners at one moment: one wins, the other is closed.
        (
            [six("a", 0.5, "works"), four("b", 0.25, "works")],
            [(0, "start a"), (0.25, "start b"), (0.5, "win a"), (0.5, "close b")],
        ),
        # A winner and a loser at one moment: nobody new is tried.
        (
            [six("a", 0.5), four("b", 0.25, "works"), six("c", 0, "works")],
            [(0, "start a"), (0.25, "start b"), (0.5, "fail a"), (0.5, "win b")],
        ),
        # The deadline is everybody's cause who has none yet.
        (
            [six("a", SILENCE), four("b", 0.125), six("c", SILENCE)],
            [
                (0, "start a"),
                (0.25, "start b"),
                (0.375, "fail b"),
                (0.375, "start c"),
                (30, "late a"),
                (30, "late c"),
                (30, "give up: b late late"),
            ],
        ),
    ],
)
def test_a_race_goes_as_the_rfc_says(roads, expected):
    """Addresses with their answers in, every start and every end out, to the moment."""
    assert drive(roads) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("", ""),
        ("a6 b6 c6", "a6 b6 c6"),
        ("a6 b6 c4 d4", "a6 c4 b6 d4"),
        ("a4 b6 c6 d6", "a4 b6 c6 d6"),
        ("a6 b6 c6 d4", "a6 d4 b6 c6"),
        ("a6 b4 a6 c6", "a6 b4 c6"),
        ("a1 b6 c6 d4 e4", "a1 b6 d4 c6 e4"),
    ],
)
def test_families_take_turns(names, expected):
    """The resolver's first family begins, each family keeps its order, nothing is tried twice."""
    roads = [Road(name, int(name[1]), 0) for name in names.split()]
    assert " ".join(road.name for road in interleaved(roads)) == expected


def test_the_next_start_is_told_beforehand():
    """A Wait says until when; with nobody left to start, only the attempts matter."""
    first, second = six("a", SILENCE), four("b", SILENCE)
    race = Race([first, second], 0.25)
    assert race.proceed(7.0) == Start(first)
    assert race.proceed(7.0) == Wait(7.25)
    assert race.proceed(7.24) == Wait(7.25)
    assert race.proceed(7.25) == Start(second)
    assert race.proceed(7.25) == Wait(None)


def test_a_second_success_is_a_loser():
    """Told of both before it is asked, it takes the first; the second is closed with the rest."""
    roads = [six("a", 0), four("b", 0), six("c", 0)]
    race = Race(roads, 0.25)
    for now in (0.0, 0.25, 0.5):
        assert isinstance(race.proceed(now), Start)
    a, b, c = interleaved(roads)
    race.succeeded(b)
    race.succeeded(a)
    assert race.proceed(0.5) == Win(b, (a, c))


def test_an_expired_race_starts_nobody():
    """What was never tried has no cause, and is not tried any more."""
    first, second = six("a", SILENCE), four("b", SILENCE)
    race = Race([first, second], 0.25)
    race.proceed(0.0)
    late = TimeoutError()
    assert race.expire(late) == GiveUp(((first, late),))
    assert race.proceed(1.0) == GiveUp(((first, late),))


ROADS = st.lists(
    st.builds(
        lambda family, delay, good: (family, delay, good),
        st.sampled_from([4, 6]),
        st.sampled_from([0.0, 0.01, 0.25, SILENCE]) | st.floats(0, 3),
        st.booleans(),
    ),
    max_size=8,
).map(lambda rows: [Road(str(number), *row) for number, row in enumerate(rows)])


@settings(deadline=None)  # a busy machine is no failure
@given(ROADS, st.floats(0.01, 2.0))
def test_whatever_happens_one_wins_or_every_cause_is_told(roads, delay):
    """Every attempt wins, is closed, or has its cause; starts keep their distance, except after a failure."""
    log = drive(roads, delay)
    acts = [(what, name) for what, name in (entry.split() for _, entry in log if not entry.startswith("give up"))]
    starts = [name for what, name in acts if what == "start"]
    ends = [(what, name) for what, name in acts if what != "start"]
    assert sorted(starts) == sorted(name for _, name in ends)
    assert len(set(starts)) == len(starts)
    if log[-1][1].startswith("give up"):
        assert {what for what, _ in ends} <= {"fail", "late"}
        assert log[-1][1].split()[2:] == [name if what == "fail" else "late" for what, name in ends]
        assert len(starts) == len(roads) or ("late" in {what for what, _ in ends})
    else:
        assert {what for what, _ in ends} <= {"win", "fail", "close"}
        assert [what for what, _ in ends].count("win") == 1
    last = -math.inf
    failed = False
    for when, entry in log:
        if entry.startswith("fail"):
            failed = True
        elif entry.startswith("start"):
            assert failed or when - last >= 0.01 - 1e-9
            assert failed or when - last >= delay - 1e-9
            last, failed = when, False
