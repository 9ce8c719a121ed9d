"""When a schedule runs next.

``every`` runs at its anchor plus whole multiples of the interval, in elapsed time. A ``cron`` expression
(five fields, read by the cronsim library) speaks of local time in a zone, and is resolved afresh for each
run, so new rules of a zone count from the next run on. Where local time is shifted, two readings of an
expression exist, and the hour field tells which one is meant:

- *Named hours* (``30 2 * * *``) are appointments. In a gap, where the local time does not exist, the run
  moves to the first instant after the gap; runs that meet there are one. In a fold, where the local
  time comes twice, it runs at the first one only.
- *Any hour* (``*/15 * * * *``, ``0 */2 * * *``) is a beat. It runs at every matching local time that
  exists, each time it exists: nothing extra in a gap, and no silent hour in a fold.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from antiphon.errors import DeclarationError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")
_CRON_HELP = "Write five fields: minute hour day-of-month month day-of-week, such as '30 6 * * MON-FRI'"
_SOME_DAY = datetime(2024, 1, 1, tzinfo=UTC)
_DAY, _SECOND, _MILLISECOND = timedelta(days=1), timedelta(seconds=1), timedelta(milliseconds=1)


def next_occurrence(
    after: datetime,
    *,
    every: timedelta | None = None,
    cron: str | None = None,
    zone: str = "UTC",
    anchor: datetime = EPOCH,
) -> datetime:
    """The first instant later than *after* at which the schedule runs, in UTC.

    Give one of *every* (from *anchor*) and *cron* (in *zone*). Raises DeclarationError for what
    `check_schedule` refuses and for an *after* or *anchor* without a zone.
    """
    after, anchor = _in_utc(after), _in_utc(anchor)
    rules = _zone(zone)
    if every is not None and cron is None:
        _check_every(every)
        return anchor + ((after - anchor) // every + 1) * every
    if cron is None or every is not None:
        raise _one_of_both()
    start = _local_start(after, rules)
    candidates = [_appointments(_parsed(cron, start), rules)]
    if cron.split()[1].startswith("*"):
        candidates = [_beats(_parsed(cron, start), rules, fold) for fold in (0, 1)]
    later = [next((run for run in runs if run > after), None) for runs in candidates]
    found = [run for run in later if run is not None]
    if not found:
        raise DeclarationError(f"cron {cron!r} never comes: no date matches it", mend=_CRON_HELP)
    return min(found)


def check_schedule(*, every: timedelta | None = None, cron: str | None = None, zone: str = "UTC") -> None:
    """Raise DeclarationError, naming what is wrong, unless this is a schedule that runs some day."""
    next_occurrence(_SOME_DAY, every=every, cron=cron, zone=zone)


def _appointments(local_times: Iterator[datetime], rules: ZoneInfo) -> Iterator[datetime]:
    """The instants of named local times, each once: a time in a gap moves to the gap's end."""
    for local in local_times:
        instant = _instant(local, rules, fold=0)
        yield instant if _exists(local, instant, rules) else _end_of_gap(local, rules)


def _beats(local_times: Iterator[datetime], rules: ZoneInfo, fold: int) -> Iterator[datetime]:
    """The instants of the local times that exist; of a time that comes twice the first or the second."""
    for local in local_times:
        instant = _instant(local, rules, fold)
        if _exists(local, instant, rules):
            yield instant


def _instant(local: datetime, rules: ZoneInfo, fold: int) -> datetime:
    return local.replace(tzinfo=rules, fold=fold).astimezone(UTC)


def _exists(local: datetime, instant: datetime, rules: ZoneInfo) -> bool:
    return instant.astimezone(rules).replace(tzinfo=None) == local


def _end_of_gap(local: datetime, rules: ZoneInfo) -> datetime:
    """The first instant after the gap that *local* lies in, to the second, found by halving."""
    # Read by the offset after the gap the time lies before it, and the other way round.
    before, behind = _instant(local, rules, fold=1), _instant(local, rules, fold=0)
    offset = behind.astimezone(rules).utcoffset()
    while behind - before > _SECOND:
        middle = before + (behind - before) // _SECOND // 2 * _SECOND
        if middle.astimezone(rules).utcoffset() == offset:
            behind = middle
        else:
            before = middle
    return behind


def _local_start(after: datetime, rules: ZoneInfo) -> datetime:
    """A local time, without its zone, from which no run later than *after* is missed.

    Ahead of a fold that is the time by the offset to come: what is past by today's comes once more.
    """
    return min(moment.astimezone(rules).replace(tzinfo=None) - (moment - after) for moment in (after, after + _DAY))


def _parsed(cron: str, start: datetime) -> CronSim:
    """The local times of *cron* after *start*; DeclarationError names the field that is wrong."""
    fields = cron.split()
    if len(fields) != len(_FIELDS):
        raise DeclarationError(f"cron {cron!r} has {len(fields)} fields, not five", mend=_CRON_HELP)
    try:
        return CronSim(cron, start)
    except (CronSimError, ValueError) as error:
        wrong = next((i for i, name in enumerate(_FIELDS) if str(error) == f"Bad {name}"), None)
        where = "it" if wrong is None else f"its {_FIELDS[wrong]} field {fields[wrong]!r}"
        raise DeclarationError(f"cron {cron!r}: {where} is not valid", mend=_CRON_HELP) from None


def _zone(zone: str) -> ZoneInfo:
    try:
        return ZoneInfo(zone)
    except (LookupError, ValueError, OSError):
        close = get_close_matches(zone, sorted(available_timezones()), n=3, cutoff=0.7)
        mend = f"Did you mean {' or '.join(close)}?" if close else "Use an IANA name such as Europe/Berlin"
        raise DeclarationError(f"there is no time zone {zone!r}", mend=mend) from None


def _check_every(every: timedelta) -> None:
    if every <= timedelta(0) or every % _MILLISECOND:
        raise DeclarationError(f"every is {every}; it must be one or more whole milliseconds")


def _in_utc(moment: datetime) -> datetime:
    if moment.utcoffset() is None:
        raise DeclarationError(f"the time {moment} has no zone", mend="Give it one, such as datetime.UTC")
    return moment.astimezone(UTC)


def _one_of_both() -> DeclarationError:
    return DeclarationError("a schedule needs either every or cron", mend="Give exactly one of them")
