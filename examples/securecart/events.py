"""The contract between the services: what each is asked for, what it answers, and how an order ends.

What is asked about an order is keyed by the order; what is asked about money by the account that pays, so that an
account's payments are booked one after another, in the order in which they were asked for.
"""

import msgspec

from antiphon import Command, Event


class Line(msgspec.Struct, frozen=True):
    """So many pieces of one product."""

    sku: str
    quantity: int


class OrderPlaced(Event, key="order_id"):
    """A customer wants these things. Of the card only its last four digits go further.

    Until *window_s* seconds after the payment the customer may still think better of it.
    """

    order_id: str
    account: str
    email: str
    card_last4: str
    country: str
    lines: tuple[Line, ...]
    cents: int
    window_s: int


class OrderForMachine(OrderPlaced, key="order_id"):
    """The same, to be fulfilled by the definition in ``fulfilment.asl.json``."""


class OrderFulfilled(Event, key="order_id"):
    """It is paid for and on its way."""

    order_id: str
    tracking: str


class OrderFailed(Event, key="order_id"):
    """It cannot be fulfilled; whatever was reserved or paid is given back."""

    order_id: str
    reason: str


# ---------------------------------------------------------------------- inventory


class StockReserved(Event, key="order_id"):
    """All lines of the order lie on its shelf."""

    order_id: str


class OutOfStock(Event, key="order_id"):
    """Nothing was reserved, since there is too little of one product."""

    order_id: str
    reason: str


class StockReleased(Event, key="order_id"):
    """Nothing is reserved for the order any more, nor will be. *pieces* went back to the shelves."""

    order_id: str
    pieces: int


class ReserveStock(Command[StockReserved | OutOfStock], key="order_id", to="inventory"):
    """Put all lines of the order aside, or none."""

    order_id: str
    lines: tuple[Line, ...]


class ReleaseStock(Command[StockReleased], key="order_id", to="inventory"):
    """The order is given up: put back what was reserved for it, if anything was."""

    order_id: str


# ---------------------------------------------------------------------- payments


class CardCharged(Event, key="account"):
    """The money is there. *number* is the charge's in the bank's books."""

    account: str
    order_id: str
    number: str


class CardDeclined(Event, key="account"):
    """The bank took nothing."""

    account: str
    order_id: str
    reason: str


class ChargeReturned(Event, key="account"):
    """The customer has all the money back, and nothing more will be taken for the order. *cents* were given back."""

    account: str
    order_id: str
    cents: int


class ChargeCard(Command[CardCharged | CardDeclined], key="account", to="payments"):
    """Take the money for an order."""

    account: str
    order_id: str
    card_last4: str
    cents: int


class ReturnCharge(Command[ChargeReturned], key="account", to="payments"):
    """The order is given up: give back what was taken for it, if anything was."""

    account: str
    order_id: str


# ---------------------------------------------------------------------- shipping


class ParcelShipped(Event, key="order_id"):
    """The carrier has it."""

    order_id: str
    tracking: str


class ParcelRecalled(Event, key="order_id"):
    """No parcel of the order has left, nor will."""

    order_id: str


class ShipParcel(Command[ParcelShipped], key="order_id", to="shipping"):
    """Pack and hand over to the carrier. Refused for a country that no carrier goes to."""

    order_id: str
    country: str
    lines: tuple[Line, ...]


class RecallParcel(Command[ParcelRecalled], key="order_id", to="shipping"):
    """The order is given up. Refused once the carrier has the parcel."""

    order_id: str


# ---------------------------------------------------------------------- notifications


class CustomerNotified(Event, key="order_id"):
    """The mail server has the e-mail."""

    order_id: str
    message_id: str


class NotifyCustomer(Command[CustomerNotified], key="order_id", to="notifications"):
    """Tell the customer how the order ended: *status* SHIPPED, FAILED or CANCELLED."""

    order_id: str
    email: str
    status: str
    detail: str
