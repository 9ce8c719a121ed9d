"""When a schedule runs next."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.errors import DeclarationError
from antiphon.policy.schedule import EPOCH, check_schedule, next_occurrence

CASES = Path(__file__).parents[3] / "shared" / "cases" / "cron_cases.json"
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kolkata")

NAIVE = EPOCH.replace(tzinfo=None)


def moments(first_year: int, last_year: int) -> st.SearchStrategy[datetime]:
    """Any moment between the starts of two years."""
    return st.datetimes(NAIVE.replace(year=first_year), NAIVE.replace(year=last_year), timezones=st.just(UTC))


def at(text: str, zone: str = "UTC", fold: int = 0) -> datetime:
    """The instant of local time *text*."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)


def local_runs(cron: str, zone: str, start: datetime, count: int) -> list[str]:
    """The next *count* runs after *start*, as local times with their offsets."""
    runs = []
    for _ in range(count):
        start = next_occurrence(start, cron=cron, zone=zone)
        assert start.tzinfo is UTC
        runs.append(start.astimezone(ZoneInfo(zone)).strftime("%d %H:%M %z"))
    return runs


def test_every_keeps_to_its_anchor() -> None:
    """An interval runs at whole multiples from its anchor, whenever one asks."""
    anchor = at("2024-05-01 12:00:10")
    every = timedelta(minutes=10)
    assert next_occurrence(at("2024-05-01 12:00:10"), every=every, anchor=anchor) == at("2024-05-01 12:10:10")
    assert next_occurrence(at("2024-05-01 12:34:56"), every=every, anchor=anchor) == at("2024-05-01 12:40:10")
    assert next_occurrence(at("2024-05-01 11:59:59"), every=every, anchor=anchor) == at("2024-05-01 12:00:10")
    assert next_occurrence(at("2024-05-01 13:07"), every=timedelta(hours=1)) == at("2024-05-01 14:00")


def test_every_is_elapsed_time() -> None:
    """An interval does not stretch or shrink where the local clock is shifted."""
    berlin = "Europe/Berlin"
    anchor = at("2024-03-30 12:00", berlin)
    run = next_occurrence(at("2024-03-30 13:00", berlin), every=timedelta(hours=24), anchor=anchor)
    assert run == at("2024-03-31 13:00", berlin)


@given(
    st.integers(1, 10**10),
    moments(1980, 2200),
    moments(1980, 2200),
)
def test_every_is_the_first_multiple_later(every_ms: int, after: datetime, anchor: datetime) -> None:
    """The next run is later than *after*, by at most one interval, and a whole multiple from the anchor."""
    every = timedelta(milliseconds=every_ms)
    run = next_occurrence(after, every=every, anchor=anchor)
    assert after < run <= after + every
    assert (run - anchor) % every == timedelta(0)


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("*/15 * * * *", "2024-02-28 10:45"),
        ("0 9 * * MON-FRI", "2024-02-29 09:00"),
        ("0 0 29 2 *", "2024-02-29 00:00"),
        ("0 0 1 * *", "2024-03-01 00:00"),
        ("0 0 13 * FRI", "2024-03-01 00:00"),
        ("0 0 L * *", "2024-02-29 00:00"),
        ("0 0 * * SUN#2", "2024-03-10 00:00"),
        ("5,35 8-10/2 * jan,feb *", "2024-02-28 10:35"),
    ],
)
def test_cron_reads_as_usual(cron: str, expected: str) -> None:
    """Steps, ranges, names, leap days, last days and the n-th weekday mean what they mean in cron."""
    assert next_occurrence(at("2024-02-28 10:30"), cron=cron) == at(expected)


def test_cron_speaks_of_local_time() -> None:
    """The same local time is another instant in summer than in winter."""
    after = at("2024-03-29 12:00", "Europe/Berlin")
    assert local_runs("30 6 * * *", "Europe/Berlin", after, 3) == [
        "30 06:30 +0100",
        "31 06:30 +0200",
        "01 06:30 +0200",
    ]


def test_an_appointment_in_a_gap_moves_to_its_end() -> None:
    """A named local time that does not exist runs at the first instant after the gap, next day as usual."""
    after = at("2024-03-30 12:00", "Europe/Berlin")
    assert local_runs("30 2 * * *", "Europe/Berlin", after, 2) == ["31 03:00 +0200", "01 02:30 +0200"]


def test_appointments_that_meet_after_a_gap_are_one() -> None:
    """Several named times in one gap, and one at its end, are a single run."""
    after = at("2024-03-31 01:00", "Europe/Berlin")
    assert local_runs("0,20,40 2,3 * * *", "Europe/Berlin", after, 3) == [
        "31 03:00 +0200",
        "31 03:20 +0200",
        "31 03:40 +0200",
    ]


def test_an_appointment_in_a_fold_runs_once() -> None:
    """A named local time that comes twice runs the first time only, also when asked in between."""
    berlin = "Europe/Berlin"
    assert local_runs("30 2 * * *", berlin, at("2024-10-26 12:00", berlin), 2) == [
        "27 02:30 +0200",
        "28 02:30 +0100",
    ]
    assert local_runs("30 2 * * *", berlin, at("2024-10-27 02:10", berlin, fold=1), 1) == ["28 02:30 +0100"]


def test_a_gap_at_midnight() -> None:
    """Where midnight does not exist, a daily run at midnight comes at one o'clock."""
    after = at("2024-04-25 12:00", "Africa/Cairo")
    assert local_runs("0 0 * * *", "Africa/Cairo", after, 2) == ["26 01:00 +0300", "27 00:00 +0300"]


def test_a_day_that_does_not_exist() -> None:
    """Samoa had no 30 December 2011: its appointment moves to the start of the 31st."""
    after = at("2011-12-29 13:00", "Pacific/Apia")
    assert local_runs("0 12 30 12 *", "Pacific/Apia", after, 1) == ["31 00:00 +1400"]


def test_a_beat_has_no_silent_hour() -> None:
    """A schedule for any hour goes on through the hour that comes twice."""
    after = at("2024-10-27 02:00", "Europe/Berlin")
    assert local_runs("*/30 * * * *", "Europe/Berlin", after, 4) == [
        "27 02:30 +0200", "27 02:00 +0100", "27 02:30 +0100", "27 03:00 +0100",
    ]  # fmt: skip


def test_a_beat_has_nothing_extra_in_a_gap() -> None:
    """A schedule for any hour passes over local times that do not exist."""
    after = at("2024-03-31 01:10", "Europe/Berlin")
    assert local_runs("30 * * * *", "Europe/Berlin", after, 3) == [
        "31 01:30 +0100",
        "31 03:30 +0200",
        "31 04:30 +0200",
    ]


def test_a_shift_of_half_an_hour() -> None:
    """Lord Howe Island shifts by 30 minutes: a quarter-hourly beat stays one."""
    lord_howe = "Australia/Lord_Howe"
    runs, moment = [], at("2024-04-06 23:59", lord_howe)
    for _ in range(20):
        moment = next_occurrence(moment, cron="*/15 * * * *", zone=lord_howe)
        runs.append(moment)
    assert {late - early for early, late in pairwise(runs)} == {timedelta(minutes=15)}


fields = st.tuples(
    st.sampled_from(["0", "30", "*/7", "*", "5,50", "10-20"]),
    st.sampled_from(["*", "*/2", "0", "1,2,3", "1-5", "23"]),
    st.sampled_from(["*", "1", "27-31", "L"]),
    st.sampled_from(["*", "3", "10", "*/2"]),
    st.sampled_from(["*", "SUN", "1-5"]),
)


@settings(deadline=None)
@given(fields, st.sampled_from(ZONES), moments(2020, 2040))
def test_runs_go_on_forever_and_forward(cron: tuple[str, ...], zone: str, start: datetime) -> None:
    """Each run is later than the one before, and asking at any moment in between gives the same run."""
    text, moment = " ".join(cron), start
    for _ in range(5):
        run = next_occurrence(moment, cron=text, zone=zone)
        assert run > moment
        assert next_occurrence(moment + (run - moment) / 2, cron=text, zone=zone) == run
        assert next_occurrence(run - timedelta(microseconds=1), cron=text, zone=zone) == run
        moment = run


def expected_run(cron: str, zone: ZoneInfo, after: datetime, hours: int) -> datetime | None:
    """The next run by looking at each minute that passes; None if none comes within *hours*."""
    beat = cron.split()[1].startswith("*")
    minute = after.replace(second=0, microsecond=0)
    shown = minute.astimezone(zone)
    for _ in range(hours * 60):
        minute += timedelta(minutes=1)
        earlier, shown = shown, minute.astimezone(zone)
        local, before = shown.replace(tzinfo=None, fold=0), earlier.replace(tzinfo=None, fold=0)
        skipped = [before + timedelta(minutes=n) for n in range(1, (local - before) // timedelta(minutes=1))]
        new = [local] if beat else [] if shown.fold else [local, *skipped]
        if any(next(CronSim(cron, time - timedelta(seconds=1))) == time for time in new):
            return minute
    return None


SHIFTS = [
    ("Europe/Berlin", "2024-03-30 22:00"), ("Europe/Berlin", "2024-10-26 22:00"),
    ("Australia/Lord_Howe", "2024-04-06 12:00"), ("Australia/Lord_Howe", "2024-10-05 12:00"),
    ("Africa/Cairo", "2024-04-25 18:00"), ("Africa/Cairo", "2024-10-31 18:00"),
]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(fields, st.sampled_from(SHIFTS), st.integers(0, 360))
def test_runs_agree_with_watching_the_clock(cron: tuple[str, ...], shift: tuple[str, str], minutes: int) -> None:
    """Around every kind of shift the next run is the one that a watcher of the local clock would find."""
    zone, start = shift
    text, after = " ".join((*cron[:2], "*", "*", "*")), at(start) + timedelta(minutes=minutes)
    expected = expected_run(text, ZoneInfo(zone), after, hours=12)
    run = next_occurrence(after, cron=text, zone=zone)
    assert run == expected or (expected is None and run > after + timedelta(hours=12))


@pytest.mark.parametrize(
    ("cron", "complaint"),
    [
        ("61 * * * *", "cron '61 * * * *': its minute field '61' is not valid"),
        ("0 25 * * *", "its hour field '25'"),
        ("0 0 32 * *", "its day-of-month field '32'"),
        ("0 0 30 2 *", "its day-of-month field '30'"),
        ("0 0 * FOO *", "its month field 'FOO'"),
        ("0 0 ? * MON", "its day-of-month field '?'"),
        ("0 0 * * 1-", "its day-of-week field '1-'"),
        ("@daily", "cron '@daily' has 1 fields, not five"),
        ("0 0 0 * * *", "has 6 fields, not five"),
        ("", "has 0 fields, not five"),
        ("0 0 */31 * MON#5", "cron '0 0 */31 * MON#5' never comes"),
        ("9" * 5000 + " * * * *", "is not valid"),
    ],
)
def test_a_wrong_cron_is_named(cron: str, complaint: str) -> None:
    """A cron text that cannot be met is refused, with the field that is wrong and how to write it."""
    with pytest.raises(DeclarationError) as caught:
        check_schedule(cron=cron)
    assert complaint in str(caught.value)
    assert "Write five fields" in str(caught.value)


@settings(deadline=None)
@given(st.text(alphabet="0123456789*/-,#LW MON?@", max_size=25), st.text(max_size=20))
def test_any_text_is_read_or_refused(cron: str, zone: str) -> None:
    """Whatever is declared, it is accepted or refused with a DeclarationError, nothing else."""
    for text, place in ((cron, "UTC"), ("* * * * *", zone)):
        with suppress(DeclarationError):
            check_schedule(cron=text, zone=place)


def test_a_wrong_zone_is_named() -> None:
    """An unknown zone is refused with the names that come close; a directory of zones is none."""
    with pytest.raises(DeclarationError, match=r"no time zone 'Europe/Berlni'\. Did you mean Europe/Berlin"):
        check_schedule(cron="* * * * *", zone="Europe/Berlni")
    for zone in ("America", "", "/etc/passwd", "../UTC", "\0", "x" * 5000):
        with pytest.raises(DeclarationError, match="no time zone"):
            check_schedule(every=timedelta(1), zone=zone)


def test_exactly_one_of_every_and_cron() -> None:
    """A schedule with both or neither is refused, and so is an interval of nothing."""
    for both in ({}, {"every": timedelta(1), "cron": "* * * * *"}):
        with pytest.raises(DeclarationError, match="either every or cron"):
            check_schedule(**both)  # type: ignore[arg-type]
    for every in (timedelta(0), timedelta(-1), timedelta(microseconds=1500)):
        with pytest.raises(DeclarationError, match="whole milliseconds"):
            check_schedule(every=every)


def test_a_time_without_a_zone_is_refused() -> None:
    """A naive time is an error, never taken for this machine's local time."""
    with pytest.raises(DeclarationError, match="has no zone"):
        next_occurrence(NAIVE, cron="* * * * *")
    with pytest.raises(DeclarationError, match="has no zone"):
        next_occurrence(EPOCH, every=timedelta(1), anchor=NAIVE)


def test_agrees_with_cases_from_another_scheduler() -> None:
    """Cases recorded for a scheduler with a year field hold, where standard cron can say the same."""
    if not CASES.exists():
        pytest.skip("the cases are not on this machine")
    held = 0
    for case in json.loads(CASES.read_text()):
        *five, _year = case["expression"].split()
        if case["kind"] != "next" or "W" in five[2] or any(char.isdigit() for char in five[4]):
            continue
        moment = datetime.fromisoformat(case["start"])
        for expected in case["expected"]:
            moment = next_occurrence(moment, cron=" ".join(five).replace("?", "*"))
            assert moment == datetime.fromisoformat(expected), case["expression"]
        held += 1
    assert held >= 5
