"""The Shipping service: packs parcels and hands them to the carrier."""

from antiphon import Reject, Service, Transaction

from . import retries
from .events import ParcelRecalled, ParcelShipped, RecallParcel, ShipParcel

shipping = Service("shipping", tables="shipping.sql")

#: Where the carriers go.
COUNTRIES = frozenset({"AT", "BE", "CH", "CZ", "DE", "DK", "ES", "FR", "GB", "IE", "IT", "NL", "PL", "PT", "SE"})


@shipping.on(ShipParcel, RecallParcel, retry=retries.DEPOT)
async def serve(asked: ShipParcel | RecallParcel, tx: Transaction) -> ParcelShipped | ParcelRecalled:
    """Ship, or recall: one handler for both, so that a recall never overtakes its parcel."""
    if isinstance(asked, RecallParcel):
        return await _recall(asked.order_id, tx)
    return await _ship(asked, tx)


async def _ship(asked: ShipParcel, tx: Transaction) -> ParcelShipped:
    if asked.country not in COUNTRIES:
        raise Reject(f"no carrier goes to {asked.country}")
    if await tx.fetch_value("SELECT 1 FROM given_up WHERE order_id = ?", asked.order_id):
        raise Reject(f"order {asked.order_id} was given up")
    number = await tx.fetch_value(
        "INSERT INTO parcels (order_id, country, pieces, shipped_at) VALUES (?, ?, ?, ?) RETURNING number",
        asked.order_id,
        asked.country,
        sum(line.quantity for line in asked.lines),
        tx.now.isoformat(),
    )
    return ParcelShipped(asked.order_id, f"SC{number:09d}{asked.country}")


async def _recall(order_id: str, tx: Transaction) -> ParcelRecalled:
    if await tx.fetch_value("SELECT 1 FROM parcels WHERE order_id = ?", order_id):
        raise Reject(f"the carrier has the parcel of order {order_id} already")
    await tx.execute("INSERT INTO given_up (order_id) VALUES (?) ON CONFLICT DO NOTHING", order_id)
    return ParcelRecalled(order_id)
