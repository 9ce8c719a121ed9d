"""Stands in for the bank in tests, in the demo and in the simulator; it goes by the last digits of the card.

``python -m examples.securecart.bank_stand_in`` runs it where `bank` looks for it.
"""

import asyncio
import os
from collections import Counter
from hashlib import sha256
from typing import Any

import msgspec

from . import bank

#: The end of a card that is declined; of one that is charged, and whose account is closed when money comes back.
DECLINED, CLOSED = "0002", "0341"
_LONGEST_LINE = 10_000


class Books:
    """What the bank has booked: by reference, and the charges by their number. *times* counts bookings by number.

    While it is *away* it hangs up; the next *silent* questions are heard, and not answered.
    """

    def __init__(self, times: Counter[str] | None = None) -> None:
        self.times: Counter[str] = Counter() if times is None else times
        self.closed = {CLOSED}
        self.away = False
        self.silent = 0
        self.forget()

    def forget(self) -> None:
        """Begin new books."""
        self.booked: dict[str, str] = {}
        self.charges: dict[str, tuple[str, int]] = {}
        self.refunded: list[str] = []

    @property
    def cents(self) -> int:
        """What customers have paid, less what they have back."""
        return sum(cents for number, (_, cents) in self.charges.items() if number not in self.refunded)

    def answer(self, question: dict[str, Any]) -> dict[str, str | None]:
        """Book, or say what is booked."""
        reference = str(question["reference"])
        if question["do"] == "find":
            return {"number": self.booked.get(reference)}
        if reference in self.booked:
            return {"error": f"reference {reference} is booked already"}
        if question["do"] == "charge":
            return self._charge(reference, str(question["card_last4"]), int(question["cents"]))
        return self._refund(reference, str(question["number"]))

    def _charge(self, reference: str, card_last4: str, cents: int) -> dict[str, str | None]:
        if card_last4 == DECLINED:
            return {"declined": f"the card ending in {DECLINED} was declined"}
        number = self._book(reference, "CH")
        self.charges[number] = (card_last4, cents)
        return {"number": number}

    def _refund(self, reference: str, number: str) -> dict[str, str | None]:
        if self.charges[number][0] in self.closed:
            return {"declined": f"the account of charge {number} is closed"}
        if number in self.refunded:
            return {"error": f"charge {number} was given back already"}
        self.refunded.append(number)
        return {"number": self._book(reference, "RE")}

    def _book(self, reference: str, kind: str) -> str:
        number = self.booked[reference] = f"{kind}-{sha256(reference.encode()).hexdigest()[:12]}"
        self.times[number] += 1
        return number


class Teller(asyncio.Protocol):
    """One connection: a question, its answer."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._heard = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Listen; hang up if the bank is away."""
        self._transport = transport
        if self._books.away:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Answer when the line is complete."""
        self._heard += data
        line, end, _ = self._heard.partition(b"\n")
        if not end and len(self._heard) < _LONGEST_LINE:
            return
        try:
            answer = self._books.answer(msgspec.json.decode(line, type=dict[str, Any]))
        except (msgspec.DecodeError, KeyError, ValueError) as error:
            answer = {"error": f"not understood: {error}"}
        if self._books.silent:
            self._books.silent -= 1
        else:
            self._transport.write(msgspec.json.encode(answer) + b"\n")
        self._transport.close()


async def _serve() -> None:
    host, port = os.environ.get("BANK_HOST", bank.HOST), int(os.environ.get("BANK_PORT", bank.PORT))
    books = Books()
    server = await asyncio.get_running_loop().create_server(lambda: Teller(books), host, port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
