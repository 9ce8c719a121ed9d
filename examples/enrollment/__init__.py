"""Enrollment: a customer service and a transaction service, a database file each, that answer each other."""

from antiphon import App

from .customer import customer
from .transaction import transaction

app = App(customer, transaction, name="enrollment", own_stores=True)

from . import simulation as simulation  # noqa: E402  it says to the simulator what must hold of `app`
