"""Flight booking: five services, a database file each, that answer each other's events. Nobody conducts them."""

from antiphon import App

from .booking import booking
from .notification import notification
from .payment import payment
from .seat import seat
from .ticket import ticket

app = App(booking, payment, seat, ticket, notification, name="flight_booking", own_stores=True)

from . import simulation as simulation  # noqa: E402  it says to the simulator what must hold of `app`
