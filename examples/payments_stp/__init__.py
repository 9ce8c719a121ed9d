"""Payments, straight through: a channel upstream, services A and B, the ledger C, and a channel downstream."""

from antiphon import App

from .downstream import downstream
from .service_a import service_a
from .service_b import service_b
from .service_c import service_c
from .upstream import upstream

app = App(upstream, service_a, service_b, service_c, downstream, name="payments_stp", own_stores=True)

from . import simulation as simulation  # noqa: E402  it says to the simulator what must hold of `app`
