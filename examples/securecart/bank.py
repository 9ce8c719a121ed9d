"""The bank that cards are charged at, at BANK_HOST (127.0.0.1) and BANK_PORT (4180): a line of JSON each way.

It books under the reference that it is given, and refuses a second booking under the same one; so after an
answer that was lost one asks what was booked, and asks for the booking only if there is none.
"""

import asyncio
import os
from typing import Any

import msgspec

HOST, PORT = "127.0.0.1", 4180
_PATIENCE_S = 10.0


class Answer(msgspec.Struct, frozen=True):
    """What became of a charge or a refund: its number in the bank's books, or why there is none."""

    number: str | None = None
    declined: str | None = None


class BankError(Exception):
    """The bank did not do what it was asked, and does not say that it never will."""


async def charge(reference: str, card_last4: str, cents: int) -> Answer:
    """Charge *cents* to a card. Raises BankError, OSError, TimeoutError."""
    return await _ask({"do": "charge", "reference": reference, "card_last4": card_last4, "cents": cents})


async def refund(reference: str, number: str) -> Answer:
    """Give the charge *number* back. Raises as `charge` does."""
    return await _ask({"do": "refund", "reference": reference, "number": number})


async def booked(reference: str, *_: Any) -> Answer | None:
    """What is booked under *reference*; None if nothing is. Raises as `charge` does."""
    answer = await _ask({"do": "find", "reference": reference})
    return answer if answer.number is not None else None


async def _ask(question: dict[str, Any]) -> Answer:
    host, port = os.environ.get("BANK_HOST", HOST), int(os.environ.get("BANK_PORT", PORT))
    async with asyncio.timeout(_PATIENCE_S):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(msgspec.json.encode(question) + b"\n")
            line = await reader.readline()
        finally:
            writer.close()
    if not line.endswith(b"\n"):
        raise BankError("the bank broke off in the middle of its answer")
    answer = msgspec.json.decode(line, type=dict[str, str | None])
    if answer.get("error"):
        raise BankError(str(answer["error"]))
    return msgspec.convert(answer, Answer)
