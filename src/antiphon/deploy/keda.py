"""Scaling on lag: what KEDA asks, and how many processes it may start for the answer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
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
#: More than these are not counted: the index alone is read, and no more of it than this.
_MOST = 100_000
_ASKED_EVERY_S = 15
_IDLE_S = 300
_REMARK = "Needs KEDA 2.10 or newer in the cluster. {why}"


def scales(plan: Plan) -> bool:
    """Whether there is something to be asked for lag: a database that others than its process can reach."""
    return plan.store is not None and plan.store.kind.name == "postgres"


def lag_query(plan: Plan, unit: Unit) -> str:
    """SQL that counts what *unit* has before it, up to a bound. It reads, and its role needs no more than that."""
    texts = _parts()
    shared = plan.app.name
    parts = []
    for spec in unit.services:
        names = {
            "schema": _identifier(_schema(plan, spec.name if plan.app.own_stores else shared)),
            "bus": _identifier(_schema(plan, "bus")),
            "service": _literal(spec.name),
            "receiver": _literal(f"inlet:{spec.name}"),
            "sender": _literal(f"outlet:{spec.name}"),
            "most": _MOST,
        }
        parts.append(texts["store"].format(**names))
        if plan.app.own_stores and plan.bus is None:
            parts.append(texts["bus"].format(**names))
    return "SELECT " + "\n+ ".join(parts)


def fewest(plan: Plan, unit: Unit) -> tuple[int, str]:
    """How many processes stay when nothing is to be done, and why."""
    if unit.has_routes:
        return 1, "One process stays: requests come to it."
    if plan.bus is not None and plan.bus.kind.name != "rabbitmq":
        return 1, f"One process stays: what waits in {plan.bus.kind.name} is known to who reads it, and to nobody else."
    late = any(spec.schedules for spec in unit.services)
    return (
        0,
        f"None stays when nothing waits.{f' A schedule is late by up to {_ASKED_EVERY_S} s then.' if late else ''}",
    )


def most(unit: Unit) -> int:
    """How many processes can have something to do: a handler is run by one at a time."""
    return max(1, sum(len(spec.handlers) for spec in unit.services))


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


@cache
def _parts() -> dict[str, str]:
    text = files("antiphon.deploy").joinpath("lag.sql").read_text(encoding="utf-8")
    found = {}
    for part in text.split("-- part: ")[1:]:
        name, _, sql = part.partition("\n")
        found[name] = "\n".join(line for line in sql.strip().splitlines() if not line.startswith("--"))
    return found


def _identifier(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _literal(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))
