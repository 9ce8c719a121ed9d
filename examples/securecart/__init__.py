"""SecureCart: five services with a database file each; an order is fulfilled by a workflow that asks the others."""

from antiphon import App

from . import by_definition as by_definition
from . import fulfilment as fulfilment
from .inventory import inventory
from .notifications import notifications
from .orders import orders
from .payments import payments
from .shipping import shipping

app = App(orders, payments, inventory, shipping, notifications, name="securecart", own_stores=True)

from . import simulation as simulation  # noqa: E402  it says to the simulator what must hold of `app`
