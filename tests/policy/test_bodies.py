"""What is read from the text of a function: its publications and its calls outside."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from antiphon import Event, Transaction
from antiphon.policy.bodies import read_body


class Placed(Event):
    order: str


class Paid(Event):
    order: str


class Refused(Event):
    order: str


client = httpx.AsyncClient
GIVEN = frozenset({"order", "tx", "session"})


async def helper(*values: object, connection: object = None) -> str:
    """Something of the user's own that may go anywhere."""
    return str((values, connection))


async def returns_directly(order: Placed) -> Any:
    """A plain return."""
    return Paid(order.order)


async def returns_either(order: Placed) -> Any:
    """A conditional expression."""
    return Paid("1") if order.order else Refused("2")


async def returns_several(order: Placed) -> Any:
    """Lists, tuples, stars and comprehensions."""
    return [*(Paid(each) for each in order.order), (Refused("1"), None)]


async def returns_a_variable(order: Placed) -> Any:
    """A variable that is assigned twice, and one that is assigned itself."""
    answer: Any = Paid("1")
    if order.order:
        answer = Refused("1")
    answer = answer or None
    return (answer,)


async def publishes(order: Placed, tx: Transaction) -> None:
    """The methods of a transaction."""
    tx.publish(Paid("1"))
    await tx.publish_later(event=Refused("1"))
    await tx.schedule("again", Placed("1"))


async def publishes_nothing(order: Placed, tx: Transaction) -> Any:
    """Events that are only looked at, and returns of a function inside."""

    def inner() -> Paid:
        return Paid("1")

    known = [Refused("1"), inner()]
    return len(known) or None


@pytest.mark.parametrize(
    ("fn", "published"),
    [
        (returns_directly, ["Paid"]),
        (returns_either, ["Paid", "Refused"]),
        (returns_several, ["Paid", "Refused"]),
        (returns_a_variable, ["Paid", "Refused"]),
        (publishes, ["Paid", "Refused", "Placed"]),
        (publishes_nothing, []),
    ],
)
def test_publications_are_seen(fn: Callable[..., Any], published: list[str]) -> None:
    """What is returned or handed to publish, publish_later and schedule, and nothing else."""
    assert [each.event_type.name for each in read_body(fn).publications] == published


def test_a_publication_has_its_place() -> None:
    """The place is the line of the publication, where it has to be mended."""
    line = returns_directly.__code__.co_firstlineno + 2
    assert read_body(returns_directly).publications[0].where == f"{__file__}:{line}"


def test_classes_of_an_enclosing_function_are_known() -> None:
    """A handler may be written inside a function, with its event classes beside it."""

    class Local(Event):
        n: int

    async def handle() -> Any:
        return Local(1)

    assert [each.event_type.cls for each in read_body(handle).publications] == [Local]


async def only_database(order: Placed, tx: Transaction, session: AsyncSession) -> None:
    """All that is awaited works on what was handed in."""
    rows = await tx.fetch_all("SELECT 1")
    first: Any = (await session.execute(rows[0])).scalars()
    await first.close()
    await helper(tx, order.order)
    await helper(connection=session)
    async with session.begin_nested() as nested:
        await nested.commit()
    async for row in await session.stream(rows[0]):
        await row.load()
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await tx.fetch_all("SELECT 1")


async def calls_a_library(order: Placed) -> None:
    """A call of a known library through a module."""
    async with httpx.AsyncClient() as web:
        await web.get("x")


async def calls_an_alias(order: Placed) -> None:
    """A call of a known library through another name."""
    client()


async def imports_inside(order: Placed) -> None:
    """A library that is imported in the function."""
    import smtplib as mail
    from urllib.request import urlopen

    mail.SMTP("localhost")
    urlopen("x")


def blocks(order: Placed) -> None:
    """A plain def that starts a process."""
    subprocess.run(["true"], check=True)


async def hands_over(order: Placed) -> None:
    """A blocking call in a thread."""
    await asyncio.to_thread(subprocess.run, ["true"])


async def awaits_something(order: Placed) -> None:
    """Something of the user's own, without the transaction."""
    await helper(order.order, "x")


async def enters_something(order: Placed) -> None:
    """A context of the user's own."""
    async with helper_context("x"):
        pass


def helper_context(name: str) -> Any:
    """Some connection."""
    return name


@pytest.mark.parametrize(
    ("fn", "calls"),
    [
        (calls_a_library, ["httpx.AsyncClient", "web.get"]),
        (calls_an_alias, ["client"]),
        (imports_inside, ["mail.SMTP", "urlopen"]),
        (blocks, ["subprocess.run"]),
        (hands_over, ["asyncio.to_thread"]),
        (awaits_something, ["helper"]),
        (enters_something, ["helper_context"]),
    ],
)
def test_calls_outside_are_seen(fn: Callable[..., Any], calls: list[str]) -> None:
    """Known libraries, and whatever is awaited that does not work on what was handed in."""
    assert [call.text for call in read_body(fn, frozenset({"order"})).outside_calls] == calls


def test_the_database_is_not_outside() -> None:
    """Awaits on the transaction, the session, what comes from them, or with them in hand are our own."""
    assert read_body(only_database, GIVEN).outside_calls == ()


def test_a_function_without_text_claims_nothing() -> None:
    """What was made at run time has no text to read."""
    scope: dict[str, Any] = {"Paid": Paid}
    exec("async def made(): return Paid('1')", scope)
    body = read_body(scope["made"])
    assert (body.publications, body.outside_calls) == ((), ())
