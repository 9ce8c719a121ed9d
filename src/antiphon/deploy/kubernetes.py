"""The manifests for Kubernetes: a workload for each unit, what leads requests to it, and what keeps others out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antiphon.deploy import keda, yaml
from antiphon.deploy.channels import Folder
from antiphon.deploy.image import USER
from antiphon.deploy.plan import DATA, PORT, Plan, Unit, without_secrets

Manifest = tuple[str, dict[str, Any]]

_GATEWAYS = 2
_ONE_DISK = """\
The stores are SQLite files on one volume: one process works on it, and this does not scale further. Its services
scale apart with App(..., own_stores=True) and a broker; with --store postgresql:// they scale on lag."""
_OWN_DISK = """\
The service's store is a SQLite file on a volume of its own, joined to the others by the broker: one process works on
it. With --store postgresql:// it would scale on lag."""
_CHANNEL = "A channel: its messages are moved by one process at a time. Another would wait until this one dies."
_FOLDER = """
The PersistentVolumeClaim {claim} is yours to make: it is mounted at {path}, where files come and go."""
_SCALED = "It has no `replicas`: whoever scales it says how many, and one runs where nobody does."


def files(plan: Plan) -> Iterator[tuple[str, str]]:
    """Name and text of each file."""
    units = plan.units(one_machine=False)
    settings = [unit for unit in units if plan.settings(unit)]
    for unit in units:
        parts = [_workload(plan, unit, units)]
        if unit in settings:
            parts.insert(0, ("", _named("v1", "ConfigMap", plan, unit) | {"data": plan.settings(unit)}))
        if unit.has_routes or plan.store is None:
            parts.append(("", _service(plan, unit)))
        if plan.store is not None:
            parts.append(("", _disruption(plan, unit)))
        yield f"{unit.name}.yaml", yaml.documents(*parts)
    yield "network.yaml", yaml.documents(*_network(plan, units))
    if plan.secrets or plan.variables:
        yield "secret.yaml.example", yaml.documents(_secret(plan))
    if keda.scales(plan):
        for unit in units:
            if keda.is_scaled(plan, unit):
                yield f"keda/{unit.name}.yaml", yaml.documents(*keda.scaled(plan, unit, plan.name))


def _labels(plan: Plan, unit: Unit) -> dict[str, Any]:
    return {"app.kubernetes.io/name": unit.name, "app.kubernetes.io/part-of": plan.name}


def _named(version: str, kind: str, plan: Plan, unit: Unit) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": unit.name, "labels": _labels(plan, unit)}}


def _workload(plan: Plan, unit: Unit, units: list[Unit]) -> Manifest:
    """A Deployment; of files, a StatefulSet of one process with its volume."""
    labels = _labels(plan, unit)
    pod: dict[str, Any] = {
        "metadata": {
            "labels": labels,
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT)},
        },
        "spec": _pod(plan, unit),
    }
    spec: dict[str, Any] = {"selector": {"matchLabels": labels}, "template": pod}
    claimed = "".join(_FOLDER.format(claim=_claim(plan, folder), path=folder.inside) for folder in plan.folders(unit))
    if plan.store is None:
        spec = {"serviceName": unit.name, "replicas": 1, **spec}
        spec["volumeClaimTemplates"] = [
            {
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "10Gi"}}},
            }
        ]
        remark = (_ONE_DISK if len(units) == 1 else _OWN_DISK) + claimed
        return remark, _named("apps/v1", "StatefulSet", plan, unit) | {"spec": spec}
    remark = _SCALED
    if not unit.services:
        remark, spec = "", {"replicas": _GATEWAYS, **spec}
    elif unit.channels and not keda.is_scaled(plan, unit):
        remark, spec = _CHANNEL, {"replicas": 1, **spec}
    return remark + claimed, _named("apps/v1", "Deployment", plan, unit) | {"spec": spec}


def _pod(plan: Plan, unit: Unit) -> dict[str, Any]:
    found: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": plan.patience_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(plan, unit)],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    if plan.store is not None:
        found["volumes"] = [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    found["volumes"] += [
        {"name": _claim(plan, folder), "persistentVolumeClaim": {"claimName": _claim(plan, folder)}}
        for folder in plan.folders(unit)
    ]
    return found


def _claim(plan: Plan, folder: Folder) -> str:
    """What the volume of a channel's folder is called: the same for all channels at it."""
    return f"{plan.unit_name(folder.channel)}-folder"


def _container(plan: Plan, unit: Unit) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": "antiphon",
        "image": plan.image,
        "args": list(plan.command(unit)),
        "ports": [{"name": "http", "containerPort": PORT}],
    }
    if plan.settings(unit):
        found["envFrom"] = [{"configMapRef": {"name": unit.name}}]
    if secret := [*plan.secrets, *(variable.name for variable in plan.variables)]:
        found["env"] = [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": plan.name, "key": name}}} for name in secret
        ]
    mounts = [{"name": "data", "mountPath": DATA}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    mounts += [{"name": _claim(plan, folder), "mountPath": folder.inside} for folder in plan.folders(unit)]
    return found | {
        "startupProbe": _probe("/readyz", period_s=2, failures=60),
        "readinessProbe": _probe("/readyz", period_s=5, failures=2),
        "livenessProbe": _probe("/livez", period_s=10, failures=3),
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }


def _probe(path: str, *, period_s: int, failures: int) -> dict[str, Any]:
    asked = {"path": path, "port": "http"}
    return {"httpGet": asked, "periodSeconds": period_s, "timeoutSeconds": 3, "failureThreshold": failures}


def _service(plan: Plan, unit: Unit) -> dict[str, Any]:
    ports: list[Any] = [{"name": "http", "port": PORT, "targetPort": "http"}]
    selector = _labels(plan, unit)
    return _named("v1", "Service", plan, unit) | {"spec": {"selector": selector, "ports": ports}}


def _disruption(plan: Plan, unit: Unit) -> dict[str, Any]:
    budget = {"maxUnavailable": 1, "selector": {"matchLabels": _labels(plan, unit)}}
    return _named("policy/v1", "PodDisruptionBudget", plan, unit) | {"spec": budget}


def _network(plan: Plan, units: list[Unit]) -> Iterator[Manifest]:
    """Services are asked by the gateway of this app alone; the gateway by whoever is in the cluster."""
    ours: dict[str, Any] = {"app.kubernetes.io/part-of": plan.name}
    public = next(unit for unit in units if unit.is_public)
    port: list[Any] = [{"port": "http"}]
    for name, pods, sources in (
        (plan.name, ours, [{"podSelector": {"matchLabels": _labels(plan, public)}}]),
        (f"{plan.name}-public", _labels(plan, public), None),
    ):
        rule: dict[str, Any] = {"ports": port}
        if sources is not None:
            rule = {"from": list(sources), **rule}
        remark = "Prometheus is let in by a rule of your own: where it runs is not known here." if sources else ""
        yield (
            remark,
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": name, "labels": ours},
                "spec": {"podSelector": {"matchLabels": pods}, "policyTypes": ["Ingress"], "ingress": [rule]},
            },
        )


def _secret(plan: Plan) -> Manifest:
    values = {name: without_secrets(server.url) for name, server in plan.secrets.items()}
    if keda.scales(plan):
        values[keda.CONNECTION] = (
            f"{without_secrets(plan.secrets['ANTIPHON_STORE'].url).partition('?')[0]}?sslmode=require"
        )
    values |= {variable.name: variable.placeholder for variable in plan.variables}
    remark = f"""\
Not applied as it is: fill it in as secret.yaml, out of version control, or have your secret store make it.
    kubectl create secret generic {plan.name} --from-literal=NAME=URL ..."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": plan.name, "labels": {"app.kubernetes.io/part-of": plan.name}},
        "type": "Opaque",
        "stringData": values,
    }
    return remark, manifest
