"""``/metrics``: what handlers have done and have before them, as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from antiphon.gateway.problems import DOCUMENTED
from antiphon.model.views import HandlerStatus
from antiphon.runtime.runtime import Runtime
from antiphon.store.desk import Desk
from antiphon.store.failures import FailureCounts

_LABELS = ("service", "handler")


class _Snapshot(Collector):
    """Metrics that were read already: reading awaits, and collecting cannot."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """The metrics."""
        return self._metrics


class Metrics:
    """Reads the metrics of all stores that are open here."""

    def __init__(self, runtime: Runtime) -> None:
        self._stores = runtime.logs
        self._failures = {store.name: FailureCounts(store) for store in self._stores}

    async def text(self) -> bytes:
        """All metrics in Prometheus' text format. Raises StoreError."""
        statuses = [status for store in self._stores for status in await Desk(store).status()]
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Snapshot([*_of_handlers(statuses), await self._of_rules(statuses), self._of_stores()]))
        return generate_latest(registry)

    async def _of_rules(self, statuses: list[HandlerStatus]) -> Metric:
        family = CounterMetricFamily(
            "antiphon_rule_failed_invocations",
            "Invocations that failed since this process was first asked, by handler and event type",
            labels=(*_LABELS, "event_type"),
        )
        failed = {store: await failures.read() for store, failures in self._failures.items()}
        for status in statuses:
            for type_ in status.types:
                count = failed[status.store].get((status.handler, type_), 0)
                family.add_metric((status.service, status.handler, type_), count)
        return family

    def _of_stores(self) -> Metric:
        family = GaugeMetricFamily("antiphon_store_wal_bytes", "Size of the write-ahead log", labels=("store",))
        for store in self._stores:
            family.add_metric((store.name,), store.wal_bytes())
        return family


def _of_handlers(statuses: list[HandlerStatus]) -> list[Metric]:
    lag = _gauge("lag_events", "Events after the cursor that are not handled yet (above some thousands a bound)")
    age = _gauge("oldest_unhandled_age_seconds", "Age of the oldest event that is not handled; 0 if there is none")
    paused = _gauge("paused", "Whether it is paused because it fails on everything")
    deliveries = _gauge("deliveries", "Deliveries that are not plainly done, by status", "status")
    handled = _counter("handled", "Events handled")
    failed = _counter("failed_invocations", "Invocations that failed")
    for status in statuses:
        labels = (status.service, status.handler)
        counts = status.counts
        lag.add_metric(labels, status.lag)
        age.add_metric(labels, status.oldest_unhandled_s or 0)
        paused.add_metric(labels, status.paused_until_ms is not None)
        handled.add_metric(labels, status.handled)
        failed.add_metric(labels, status.failed_invocations)
        for name, count in (
            ("UNPROCESSED", counts.parked),
            ("IN_PROGRESS", counts.in_progress),
            ("RETRY", counts.retry),
            ("ERROR", counts.error),
            ("FAILED", counts.failed),
        ):
            deliveries.add_metric((*labels, name), count)
    return [lag, age, paused, deliveries, handled, failed]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"antiphon_handler_{name}", text, labels=(*_LABELS, *labels))


def _counter(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"antiphon_handler_{name}", text, labels=_LABELS)


def metric_routes(metrics: Metrics) -> APIRouter:
    """The route that Prometheus reads."""
    router = APIRouter(tags=["operation"], responses=DOCUMENTED)

    @router.get("/metrics", response_class=Response)
    async def read_metrics() -> Response:
        """Lag, age of the oldest unhandled event, invocations, deliveries by status: for Prometheus."""
        return Response(await metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router
