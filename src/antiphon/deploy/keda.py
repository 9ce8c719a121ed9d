"""Scaling on lag: what KEDA asks, and how many processes it may start for the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from antiphon.broker.naming import without_name
from antiphon.deploy.plan import Plan, Unit

API = "keda.sh/v1alpha1"
#: The key in the secret under which KEDA finds the database: it knows libpq's options only, not those of a store.
CONNECTION = "KEDA_POSTGRES"
#: The key under which it finds RabbitMQ.
QUEUES = "ANTIPHON_BUS"
#: One process more for so many events that wait.
_PER_PROCESS = 1_000
#: How many processes of a service are started at most: yours to change, up to the 64 partitions of a handler.
_MOST = 8
_ASKED_EVERY_S = 15
_IDLE_S = 300
_REMARK = "Needs KEDA 2.10 or newer in the cluster. {why}"


def scales(plan: Plan) -> bool:
    """Whether there is something to be asked for lag: a database that others than its process can reach."""
    return plan.store is not None and plan.store.kind.name == "postgres"


def is_scaled(plan: Plan, unit: Unit) -> bool:
    """Whether *unit* is: a channel's messages are moved by one process at a time, so it has that one, or none."""
    return scales(plan) and bool(unit.services) and (not unit.channels or fewest(plan, unit)[0] == 0)


def lag_query(plan: Plan, unit: Unit) -> str:
    """SQL that counts what *unit* has before it, up to a bound. It reads, and its role needs no more than that."""
    parts = []
    for spec in unit.services:
        schema = _identifier(_schema(plan, spec.name if plan.app.own_stores else plan.app.name))
        parts.append(f"SELECT waiting FROM {schema}.antiphon_lag WHERE service = {_literal(spec.name)}")  # noqa: S608  both are quoted
        if plan.app.own_stores and plan.bus is None:
            bus, receiver = _identifier(_schema(plan, "bus")), _literal(f"inlet:{spec.name}")
            parts.append(f"SELECT waiting FROM {bus}.antiphon_lag WHERE handler = {receiver}")  # noqa: S608
    together = "\n  UNION ALL ".join(parts)
    return f"SELECT coalesce(sum(waiting), 0)::bigint FROM (\n  {together}\n) AS lag"  # noqa: S608


def fewest(plan: Plan, unit: Unit) -> tuple[int, str]:
    """How many processes stay when nothing is to be done, and why."""
    if unit.has_routes:
        return 1, "One process stays: requests come to it."
    if unit.receives:
        return 1, "One process stays: who does not listen does not know that something has come."
    if plan.bus is not None and plan.bus.kind.name != "rabbitmq":
        return 1, f"One process stays: what waits in {plan.bus.kind.name} is known to who reads it, and to nobody else."
    late = any(spec.schedules for spec in unit.services)
    return (
        0,
        f"None stays when nothing waits.{f' A schedule is late by up to {_ASKED_EVERY_S} s then.' if late else ''}",
    )


def most(unit: Unit) -> int:
    """How many processes can have something to do: keys of a handler are divided among them, unless it counts its
    events or is a workflow's or a channel's; such a one is run by one process at a time."""
    handlers = [handler for spec in unit.services for handler in spec.handlers]
    if any(
        each.rate is None and each.fair_by is None and each.workflow is None and each.channel is None
        for each in handlers
    ):
        return _MOST
    return max(1, min(len(handlers), _MOST))


def scaled(plan: Plan, unit: Unit, secret: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The manifests that scale *unit*, each with its remark."""
    low, why = fewest(plan, unit)
    triggers: list[Any] = [
        {
            "type": "postgresql",
            "metadata": {
                "query": lag_query(plan, unit),
                "targetQueryValue": str(_PER_PROCESS),
                "activationTargetQueryValue": "0",
            },
            "authenticationRef": {"name": f"{unit.name}-lag"},
        }
    ]
    refs: list[Any] = [{"parameter": "connection", "name": secret, "key": CONNECTION}]
    if plan.bus is not None and plan.bus.kind.name == "rabbitmq":
        named = without_name(plan.bus.url)[1] or plan.app.name
        triggers += [
            {
                "type": "rabbitmq",
                "metadata": {
                    "protocol": "amqp",
                    "mode": "QueueLength",
                    "queueName": f"antiphon.{named}.{spec.name}",
                    "value": str(_PER_PROCESS),
                    "activationValue": "0",
                },
                "authenticationRef": {"name": f"{unit.name}-lag"},
            }
            for spec in unit.services
        ]
        refs.append({"parameter": "host", "name": secret, "key": QUEUES})
    yield (
        _REMARK.format(why=why),
        {
            "apiVersion": API,
            "kind": "ScaledObject",
            "metadata": {"name": unit.name},
            "spec": {
                "scaleTargetRef": {"name": unit.name},
                "pollingInterval": _ASKED_EVERY_S,
                "cooldownPeriod": _IDLE_S,
                "minReplicaCount": low,
                "maxReplicaCount": max(low, most(unit)),
                "fallback": {"failureThreshold": 4, "replicas": 1},
                "triggers": triggers,
            },
        },
    )
    yield (
        "",
        {
            "apiVersion": API,
            "kind": "TriggerAuthentication",
            "metadata": {"name": f"{unit.name}-lag"},
            "spec": {"secretTargetRef": refs},
        },
    )


def _schema(plan: Plan, name: str) -> str:
    """The schema of a store, as the URL's own prefix has it."""
    assert plan.store is not None
    return dict(parse_qsl(urlsplit(plan.store.url).query)).get("schema", "") + name


def _identifier(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _literal(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))
