"""Services as they are declared: what is read from a function, and which mistakes are told where."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from antiphon import Delivery, Event, Rate, Retry, Service, SyncTransaction, Transaction, event, minutes, seconds
from antiphon.errors import DeclarationError
from antiphon.model.handlers import HandlerSpec, ServiceSpec
from antiphon.service import Tick

HERE = Path(__file__)


class Placed(Event, key="order"):
    order: str


class Paid(Event, key="order"):
    order: str


class Refused(Event, key="order"):
    order: str


@event()
@dataclass
class Shipped:
    order: str


def declared(fn: Callable[..., Any], *events: type, **options: Any) -> HandlerSpec:
    """The spec of *fn*, declared in a service of its own."""
    service = Service("shop")
    service.on(*events, **options)(fn)
    return service.spec.handlers[0]


def names(spec: HandlerSpec) -> list[str]:
    """The names of the types that a handler publishes."""
    return [event_type.name for event_type in spec.publishes]


def test_a_handler_is_described_by_its_signature() -> None:
    """Events, parameters by kind, publications, name, place and options end up in one plain spec."""
    retry, rate = Retry(attempts=3), Rate(5)

    async def charge(order: Placed, tx: Transaction, delivery: Delivery) -> Paid | Refused | None: ...

    spec = declared(charge, Placed, retry=retry, rate=rate, start="now", concurrency=4, timeout=seconds(3))
    assert (spec.name, spec.service, spec.fn, spec.type_names) == ("shop.charge", "shop", charge, ("Placed",))
    assert spec.parameters == (("order", "event"), ("tx", "transaction"), ("delivery", "delivery"))
    assert names(spec) == ["Paid", "Refused"]
    assert (spec.retry, spec.has_retry, spec.rate, spec.start) == (retry, True, rate, "now")
    assert (spec.concurrency, spec.timeout, spec.is_async) == (4, seconds(3), True)
    assert spec.source == f"{HERE}:{charge.__code__.co_firstlineno}"


def test_a_decorator_returns_the_function_itself() -> None:
    """A declared function can be called and tested like any other."""

    async def handle(order: Placed) -> None: ...
    async def tick() -> None: ...
    def show(order: str) -> str:
        return order

    service = Service("shop")
    assert service.on(Placed)(handle) is handle
    assert service.every(minutes(1))(tick) is tick
    assert service.get("/orders/{order}")(show) is show


def test_events_may_come_from_the_first_annotation() -> None:
    """``on()`` without events binds to those that the first parameter names, a union included."""

    async def handle(order: Paid | Refused | Shipped, tx: Transaction) -> None: ...

    assert declared(handle).type_names == ("Paid", "Refused", "Shipped")


def test_a_parameter_may_take_a_base_of_its_events() -> None:
    """``Event``, or any base of all events that a handler is bound to, is its event too."""

    async def handle(order: Event) -> None: ...

    assert declared(handle, Paid, Refused).parameters == (("order", "event"),)


def test_a_handler_may_leave_its_event_alone() -> None:
    """Who only needs to know that something happened need not take the event."""

    async def count(tx: Transaction) -> None: ...

    assert declared(count, Paid).parameters == (("tx", "transaction"),)


def test_sessions_and_blocking_transactions_are_recognised() -> None:
    """SQLAlchemy's AsyncSession goes into ``async def``, a SyncTransaction into ``def``."""

    async def by_session(order: Paid, session: AsyncSession) -> None: ...
    def in_thread(order: Paid, tx: SyncTransaction) -> None: ...

    assert declared(by_session, Paid).parameters[1] == ("session", "session")
    spec = declared(in_thread, Paid)
    assert spec.parameters[1] == ("tx", "sync_transaction")
    assert not spec.is_async


def test_declaring_imports_no_library_for_its_parameters() -> None:
    """A service without SQLAlchemy sessions or routes loads neither SQLAlchemy nor FastAPI."""
    code = "import sys, antiphon.service; print({'sqlalchemy', 'fastapi'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


async def returns_list(order: Placed) -> list[Paid]: ...  # type: ignore[empty-body]
async def returns_pair(order: Placed) -> tuple[Paid, Refused]: ...  # type: ignore[empty-body]
async def returns_many(order: Placed) -> tuple[Paid | Refused, ...]: ...  # type: ignore[empty-body]
async def returns_sequence(order: Placed) -> Sequence[Paid | Shipped]: ...  # type: ignore[empty-body]
async def returns_iterable(order: Placed) -> Iterable[Paid] | Refused | None: ...
async def returns_none(order: Placed) -> None: ...
async def returns_unsaid(order: Placed): ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("fn", "published"),
    [
        (returns_list, ["Paid"]),
        (returns_pair, ["Paid", "Refused"]),
        (returns_many, ["Paid", "Refused"]),
        (returns_sequence, ["Paid", "Shipped"]),
        (returns_iterable, ["Paid", "Refused"]),
        (returns_none, []),
        (returns_unsaid, []),
    ],
)
def test_the_return_annotation_says_what_is_published(fn: Callable[..., Any], published: list[str]) -> None:
    """Unions, lists, tuples, sequences and iterables of events are opened; no annotation publishes nothing."""
    assert names(declared(fn, Placed)) == published


async def takes_number(order: Placed, count: int) -> None: ...
async def takes_anything(order: Placed, extra) -> None: ...  # type: ignore[no-untyped-def]
async def takes_rest(order: Placed, *rest: Transaction) -> None: ...
async def takes_named(order: Placed, *, tx: Transaction) -> None: ...
async def takes_other(order: Paid) -> None: ...
async def takes_two(order: Placed, again: Placed) -> None: ...
async def blocks(order: Placed, tx: SyncTransaction) -> None: ...
async def returns_number(order: Placed) -> int: ...  # type: ignore[empty-body]
async def returns_any_event(order: Placed) -> Event: ...  # type: ignore[empty-body]
def awaits(order: Placed, tx: Transaction) -> None: ...
def awaits_session(order: Placed, session: AsyncSession) -> None: ...
def yields(order: Placed) -> Iterable[Paid]:
    """A handler that yields."""
    yield Paid(order.order)


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (takes_number, ["'count' is annotated int", "Placed", "Transaction", "Delivery", "AsyncSession"]),
        (takes_anything, ["'extra' has no annotation", "Transaction"]),
        (takes_rest, ["'rest' is variadic positional"]),
        (takes_named, ["'tx' is keyword-only"]),
        (takes_other, ["'order' takes Paid", "bound to Placed"]),
        (takes_two, ["'again' is the second one that takes the event"]),
        (blocks, ["'tx' is a SyncTransaction", "Take a Transaction"]),
        (awaits, ["'tx' has to be awaited", "Take a SyncTransaction"]),
        (awaits_session, ["'session' has to be awaited"]),
        (returns_number, ["names int, which is not an event class"]),
        (returns_any_event, ["names Event, which is not an event class"]),
        (yields, ["yields", "Return a list"]),
    ],
)
def test_a_signature_that_cannot_work_fails_at_the_decorator(fn: Callable[..., Any], words: list[str]) -> None:
    """The error names the place, the parameter or the annotation, and what is allowed instead."""
    with pytest.raises(DeclarationError) as caught:
        Service("shop").on(Placed)(fn)
    for word in (str(HERE), *words):
        assert word in str(caught.value)


def test_a_handler_of_a_union_takes_all_of_it() -> None:
    """A parameter that covers only some of the events would meet the others as a surprise."""
    with pytest.raises(DeclarationError, match="takes Placed, but the handler is bound to Paid"):

        @Service("shop").on(Placed, Paid)
        async def handle(order: Placed) -> None: ...


def test_without_events_and_annotation_nothing_is_bound() -> None:
    """``on()`` above a function whose first parameter names no event says what is missing."""
    with pytest.raises(DeclarationError, match="which event it handles is not said"):

        @Service("shop").on()
        async def handle(tx: Transaction) -> None: ...


def test_on_without_parentheses_is_explained() -> None:
    """``@service.on`` directly above a function is a likely slip, and is told as one."""

    async def handle(order: Placed) -> None: ...

    with pytest.raises(DeclarationError, match="with parentheses"):
        Service("shop").on(handle)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"retry": 3}, {"start": "latest"}, {"concurrency": 0}, {"rate": 5}, {"timeout": timedelta(0)}, {"timeout": 5}],
)
def test_an_option_of_a_wrong_kind_fails_where_it_is_said(options: dict[str, Any]) -> None:
    """Each option is checked at the decorator, and the error names it."""
    with pytest.raises(DeclarationError, match=f"{next(iter(options))} is .*it must be") as caught:
        Service("shop").on(Placed, **options)
    assert str(HERE) in str(caught.value)


def test_an_unknown_option_names_the_allowed_ones() -> None:
    """A misspelt option is found at once, in every decorator and in the service itself."""
    service = Service("shop")
    with pytest.raises(DeclarationError, match=r"'retries'.*retry, start, concurrency, rate, timeout"):
        service.on(Placed, retries=3)  # type: ignore[call-arg]
    with pytest.raises(DeclarationError, match=r"'tz'.*zone"):
        service.cron("0 6 * * *", tz="UTC")  # type: ignore[call-arg]
    with pytest.raises(DeclarationError, match=r"'table'.*tables") as caught:
        Service("shop", table="x.sql")  # type: ignore[call-arg]
    assert str(HERE) in str(caught.value)


@pytest.mark.parametrize("name", ["Shop", "1shop", "my-shop", "", "a" * 49, "bus", "antiphon", None])
def test_a_service_name_follows_the_rule(name: Any) -> None:
    """Files, metrics and log entries bear the name, so it is a short lower-case identifier, not a taken one."""
    with pytest.raises(DeclarationError, match="cannot name a service"):
        Service(name)


def test_two_handlers_of_one_name_fail() -> None:
    """A handler's progress is kept under its name, schedules included; ``name=`` tells two apart."""
    service = Service("shop")

    @service.on(Placed)
    async def handle(order: Placed) -> None: ...

    with pytest.raises(DeclarationError, match="'handle' already"):
        service.on(Paid, name="handle")(takes_other)
    with pytest.raises(DeclarationError, match="'handle' already"):
        service.every(seconds(1), name="handle")(handle)
    service.on(Paid, name="other")(takes_other)
    assert [spec.name for spec in service.spec.handlers] == ["shop.handle", "shop.other"]


@pytest.mark.parametrize("fn", [lambda order: None, Retry(), "handle"])
def test_only_a_named_function_can_be_a_handler(fn: Any) -> None:
    """A lambda or another object has no name to keep its progress under."""
    with pytest.raises(DeclarationError, match="cannot name a handler"):
        Service("shop").on(Placed)(fn)


forward = Service("forward")


@forward.on()
async def early(later: Later) -> Later2 | None: ...


class Later(Event):
    n: int


class Later2(Event):
    n: int


def test_an_annotation_may_name_what_is_defined_below() -> None:
    """Names that do not exist at the decorator are looked up when the spec is asked for."""
    spec = forward.spec.handlers[0]
    assert (spec.type_names, names(spec)) == (("Later",), ["Later2"])


def test_annotations_may_name_local_classes() -> None:
    """A handler inside a function, as tests write them, may use the event classes beside it."""

    class Local(Event):
        n: int

    service = Service("shop")

    @service.on()
    async def handle(local: Local) -> Local | None: ...

    assert service.spec.handlers[0].type_names == ("Local",)


def test_an_annotation_that_stays_unknown_fails_with_the_spec() -> None:
    """What exists for the type checker only is named, with the way out."""
    service = Service("shop")

    @service.on(Placed)
    async def handle(order: Placed, tx: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DeclarationError, match=r"'Missing' is not defined.*TYPE_CHECKING"):
        _ = service.spec


def test_tables_are_read_from_beside_the_module(tmp_path: Path) -> None:
    """The .sql file lies beside the declaring module, wherever the process was started."""
    (tmp_path / "shop.sql").write_text("CREATE TABLE t (x)", encoding="utf-8")
    (tmp_path / "module.py").write_text("from antiphon import Service\nshop = Service('shop', tables='shop.sql')\n")
    scope: dict[str, Any] = {"__file__": str(tmp_path / "module.py"), "__name__": "module"}
    exec((tmp_path / "module.py").read_text(), scope)
    assert scope["shop"].spec == ServiceSpec("shop", "CREATE TABLE t (x)", (), (), ())


def test_tables_may_be_sql_text_itself() -> None:
    """A small service needs no second file."""
    assert Service("shop", tables="CREATE TABLE t (x)").spec.tables == "CREATE TABLE t (x)"


def test_a_missing_tables_file_is_told_where_it_is_named() -> None:
    """The error names the file that was looked for and the line that names it."""
    with pytest.raises(DeclarationError, match=r"none\.sql cannot be read") as caught:
        Service("shop", tables="none.sql")
    assert str(HERE.parent / "none.sql") in str(caught.value)


def test_a_schedule_is_a_handler_of_its_own_tick() -> None:
    """``every`` and ``cron`` bind a function to an internal type that nothing else publishes."""
    service = Service("shop")

    @service.every(minutes(5), retry=Retry(attempts=2))
    async def sweep(tx: Transaction, tick: Tick) -> list[Refused]: ...  # type: ignore[empty-body]

    @service.cron("30 6 * * MON-FRI", zone="Europe/Berlin", name="morning")
    async def report() -> None: ...

    spec = service.spec
    first, second = spec.schedules
    assert (first.name, first.every, first.cron, first.zone) == ("shop.sweep", minutes(5), None, "UTC")
    assert (second.name, second.every, second.cron) == ("shop.morning", None, "30 6 * * MON-FRI")
    assert second.zone == "Europe/Berlin"
    assert [schedule.handler for schedule in spec.schedules] == list(spec.handlers)
    assert first.handler.type_names == ("antiphon.tick.shop.sweep",)
    assert first.handler.types[0].domain
    assert first.handler.parameters == (("tx", "transaction"), ("tick", "event"))
    assert (names(first.handler), first.handler.has_retry) == (["Refused"], True)


def test_a_tick_can_be_read_by_its_own_type() -> None:
    """The type of a schedule's tick decodes to a Tick, with its name and when it was due."""
    service = Service("shop")
    service.every(minutes(5), name="sweep")(returns_nothing)
    tick_type = service.spec.schedules[0].handler.types[0]
    tick = tick_type.decode(b'{"name":"shop.sweep","due":"2026-01-02T03:04:05Z"}', 1)
    assert tick.name == "shop.sweep"
    assert tick.due.isoformat() == "2026-01-02T03:04:05+00:00"


async def returns_nothing() -> None: ...


def test_a_bad_schedule_fails_at_the_decorator() -> None:
    """Interval, cron text and zone are checked where they are said."""
    service = Service("shop")
    mistakes: list[Callable[[], object]] = [
        lambda: service.every(timedelta(0)),
        lambda: service.every(5),  # type: ignore[arg-type]
        lambda: service.cron("61 * * * *"),
        lambda: service.cron("0 6 * * *", zone="Europe/Atlantis"),
    ]
    for wrong in mistakes:
        with pytest.raises(DeclarationError) as caught:
            wrong()
        assert str(HERE) in str(caught.value)


def test_a_route_keeps_what_fastapi_shall_know() -> None:
    """Method, path, options and the events of the return annotation; other classes are the response's."""
    service = Service("shop")

    @service.post("/orders", status_code=202)
    async def place(order: str, tx: Transaction) -> Placed | dict[str, str]: ...  # type: ignore[empty-body]

    for decorate in (service.get, service.put, service.patch, service.delete):
        decorate("/orders")(returns_nothing)
    route, *others = service.spec.routes
    assert (route.method, route.path, route.options, route.fn) == ("POST", "/orders", {"status_code": 202}, place)
    assert [event_type.name for event_type in route.publishes] == ["Placed"]
    assert [other.method for other in others] == ["GET", "PUT", "PATCH", "DELETE"]


def test_a_route_is_answered_once() -> None:
    """A second function for one method and path, or a path without its slash, is refused."""
    service = Service("shop")
    service.get("/orders")(returns_nothing)
    with pytest.raises(DeclarationError, match="GET /orders already"):
        service.get("/orders")
    with pytest.raises(DeclarationError, match="does not start with /"):
        service.get("orders")


def test_tables_are_found_for_each_dialect(tmp_path: Path) -> None:
    """A script of the same name for PostgreSQL lies beside the other; without one, there is one script for all."""
    for name, text in (("a.sql", "one"), ("a.postgresql.sql", "two"), ("b.sql", "three")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    both, single = Service("a", tables=tmp_path / "a.sql").spec, Service("b", tables=tmp_path / "b.sql").spec
    assert (both.tables, both.dialects) == ("one", {"postgresql": "two"})
    assert (single.tables, single.dialects) == ("three", {})
