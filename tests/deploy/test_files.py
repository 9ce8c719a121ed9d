"""``antiphon deploy`` writes files that the tools which they are meant for accept, and no secrets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from antiphon.broker import connecting
from antiphon.cli.exits import Exit
from antiphon.cli.main import main
from antiphon.deploy import image
from antiphon.deploy.plan import plan_of
from antiphon.deploy.yaml import document
from examples.flight_booking import app as flights
from tests.deploy.kit import (
    PASSWORD,
    POSTGRES,
    SCHEMAS,
    assert_compose,
    assert_manifests,
    compose_of,
    manifests_of,
    strict,
    tool,
    written,
)

FLIGHTS = "examples.flight_booking:app"
SHARED = "orders:app"
BUSES = {
    "nats": f"nats://user:{PASSWORD}@broker:4222",
    "redis": f"redis://:{PASSWORD}@broker:6379",
    "rabbitmq": f"amqp://user:{PASSWORD}@broker:5672",
    "kafka": "kafka://broker:9092",
}
WAYS = [
    pytest.param(FLIGHTS, [], id="files"),
    pytest.param(SHARED, [], id="one file"),
    pytest.param(SHARED, ["--store", POSTGRES], id="one schema"),
    pytest.param(FLIGHTS, ["--store", POSTGRES], id="postgres"),
    pytest.param(FLIGHTS, ["--store", f"mariadb://user:{PASSWORD}@db.example.com/shop"], id="mariadb"),
    *(pytest.param(FLIGHTS, ["--bus", url], id=f"files, {name}") for name, url in BUSES.items()),
    *(
        pytest.param(FLIGHTS, ["--store", POSTGRES, "--bus", url], id=f"postgres, {name}")
        for name, url in BUSES.items()
    ),
]
ORDERS = """
from antiphon import App, Event, Service
class Ordered(Event, key="number"):
    number: str
shop, audit = Service("shop"), Service("audit_log")
@shop.on(Ordered)
async def take(ordered: Ordered) -> None: ...
@audit.on(Ordered)
async def note(ordered: Ordered) -> None: ...
app = App(shop, audit, name="orders")
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one's own, with the application ``orders``."""
    (tmp_path / "orders.py").write_text(ORDERS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", {name: each for name, each in sys.modules.items() if name != "orders"})
    monkeypatch.delenv("ANTIPHON_STORE", raising=False)
    monkeypatch.delenv("ANTIPHON_BUS", raising=False)
    return tmp_path


@pytest.mark.parametrize(("app", "options"), WAYS)
def test_the_compose_file_is_one(app: str, options: list[str], here: Path) -> None:
    """The schema of the Compose specification holds; a container is killed later than it has drained; what it waits
    for is there and says whether it is well."""
    out = written("compose", app, here / "deploy", *options, "--grace", "7s")
    assert_compose(out)
    services = compose_of(out)["services"]
    for service in services.values():
        assert "test" in service["healthcheck"]
        assert all(services[name]["healthcheck"] for name in service.get("depends_on", ()))
        if "command" in service and "antiphon" in service["command"]:
            assert int(service["stop_grace_period"].removesuffix("s")) > 2 * 7
    assert sum("build" in service for service in services.values()) == 1
    assert sum("ports" in service for service in services.values()) == 1
    assert services[next(iter(services))]["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}


@pytest.mark.parametrize(("app", "options"), WAYS)
def test_the_manifests_are_those_of_kubernetes(app: str, options: list[str], here: Path) -> None:
    """Each is valid, strictly, for an old and a new version of Kubernetes, or by KEDA's own definition."""
    found = manifests_of(written("k8s", app, here / "deploy", *options))
    assert_manifests(found)
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in found]
    assert len(names) == len(set(names))


def test_a_mistake_is_seen() -> None:
    """The schema of KEDA refuses what is misspelt: otherwise the test above would hold nothing."""
    wrong = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {}, "spec": {"minReplicas": 0}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, strict(SCHEMAS["ScaledObject"]))


@pytest.mark.parametrize(("app", "options"), WAYS)
@pytest.mark.parametrize("command", ["compose", "k8s"])
def test_no_secret_is_written(command: str, app: str, options: list[str], here: Path) -> None:
    """No file holds the password that the URLs have."""
    out = written(command, app, here / "deploy", *options)
    texts = {path: path.read_text(encoding="utf-8") for path in out.rglob("*") if path.is_file()}
    assert texts
    assert not [path for path, text in texts.items() if PASSWORD in text]


@pytest.mark.parametrize(("app", "options"), WAYS)
def test_pods_are_locked_down_and_drain(app: str, options: list[str], here: Path) -> None:
    """No root, no capabilities, no writing but where the data lies; asked for health; stopped with patience."""
    found = manifests_of(written("k8s", app, here / "deploy", *options, "--grace", "20s"))
    workloads = [each for each in found if each["kind"] in ("Deployment", "StatefulSet")]
    assert workloads
    for workload in workloads:
        pod = workload["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["terminationGracePeriodSeconds"] > 2 * 20
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
        assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
        assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]


def test_files_are_one_process_s(here: Path) -> None:
    """Without a server all is one StatefulSet with its volume, and the file says why it does not scale."""
    out = written("k8s", FLIGHTS, here / "deploy")
    (workload,) = [each for each in manifests_of(out) if each["kind"] in ("Deployment", "StatefulSet")]
    assert (workload["kind"], workload["spec"]["replicas"]) == ("StatefulSet", 1)
    assert "does not scale further" in (out / "k8s" / "flight-booking.yaml").read_text(encoding="utf-8")
    assert not list(out.glob("k8s/keda/*"))


def test_what_nobody_asks_scales_to_zero(here: Path) -> None:
    """On PostgreSQL a service without routes goes to zero; one with routes keeps a process, and so does one whose
    events wait where KEDA cannot count them."""
    fewest = {}
    for name, options in {
        "bus": [],
        "nats": ["--bus", BUSES["nats"]],
        "rabbitmq": ["--bus", BUSES["rabbitmq"]],
    }.items():
        out = written("k8s", FLIGHTS, here / name, "--store", POSTGRES, *options)
        for each in manifests_of(out):
            if each["kind"] == "ScaledObject":
                fewest[name, each["metadata"]["name"].rpartition("-")[2]] = each["spec"]["minReplicaCount"]
    assert [fewest[name, "booking"] for name in ("bus", "nats", "rabbitmq")] == [1, 1, 1]
    assert [fewest[name, "payment"] for name in ("bus", "nats", "rabbitmq")] == [0, 1, 0]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), ""),
        (("requirements.txt",), "httpx==0.28.1\n"),
        (("requirements.lock", "pyproject.toml"), '[project]\nname = "shop"\nversion = "1"\n'),
        (("uv.lock", "pyproject.toml"), '[project]\nname = "shop"\nversion = "1"\n'),
        (("requirements.txt",), "antiphon[postgres]==0.1\n"),
    ],
    ids=["nothing", "pinned", "a package", "uv", "antiphon pinned"],
)
def test_the_dockerfile_has_no_fault_that_hadolint_finds(names: tuple[str, ...], text: str, here: Path) -> None:
    """Whatever pins the project's libraries; it runs as nobody, is asked for health, and gets the signal itself."""
    for name in names:
        (here / name).write_text(text, encoding="utf-8")
    out = written("compose", SHARED, here / "deploy", "--store", POSTGRES)
    linted = subprocess.run([tool("hadolint"), str(out / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")
    lines = (out / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert f"USER {image.USER}:{image.USER}" in lines
    assert "STOPSIGNAL SIGTERM" in lines
    assert 'CMD ["antiphon", "run", "orders:app", "--data", "/data"]' in lines
    for name in names:
        assert name == "pyproject.toml" or name in "\n".join(lines)


def test_hadolint_finds_a_fault(here: Path) -> None:
    """It is the real linter that was asked: a Dockerfile with the latest image and a shell's CMD does not pass."""
    (here / "Dockerfile").write_text("FROM python:latest\nCMD antiphon run\n", encoding="utf-8")
    linted = subprocess.run([tool("hadolint"), "Dockerfile"], capture_output=True, text=True, check=False)
    assert linted.returncode != 0
    assert "DL3007" in linted.stdout


def test_nothing_is_overwritten_unasked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that was changed stays as it is, and so do all others; --force writes; what is the same is no matter."""
    out = written("compose", SHARED, here / "deploy")
    (out / "Dockerfile").write_text("FROM mine\n", encoding="utf-8")
    (out / "compose.yaml").unlink()
    capsys.readouterr()
    assert main(["deploy", "compose", SHARED, "--out", str(out)]) == Exit.REFUSED
    assert f"{out}/Dockerfile would be overwritten" in capsys.readouterr().err
    assert (out / "Dockerfile").read_text(encoding="utf-8") == "FROM mine\n"
    assert not (out / "compose.yaml").exists()
    assert main(["deploy", "compose", SHARED, "--out", str(out), "--force", "--json"]) == 0
    states = {Path(each["path"]).name: each["state"] for each in json.loads(capsys.readouterr().out)["files"]}
    assert states == {"Dockerfile": "overwritten", "Dockerfile.dockerignore": "unchanged", "compose.yaml": "written"}


@pytest.mark.parametrize(
    "options", [["--store", "oracle://x/y"], ["--bus", "carrier-pigeon://x"], ["--bus", BUSES["nats"]]]
)
def test_what_cannot_be_is_refused(options: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No such store, no such bus, and a bus for services that share a store: nothing is written."""
    assert main(["deploy", "k8s", SHARED, "--out", str(here / "deploy"), *options]) == Exit.USAGE
    assert capsys.readouterr().err.startswith("antiphon: ")
    assert not (here / "deploy").exists()


def test_every_bus_can_be_deployed() -> None:
    """Each scheme that an app takes is known here, and brings the same extra into the image."""
    for scheme, (_, _, extra) in connecting._BUSES.items():
        plan = plan_of(flights, FLIGHTS, store=POSTGRES, bus=f"{scheme}://broker", image=None, grace_s=10)
        assert plan.extras == sorted({"postgres", extra})


TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t#:-'\"{}[]$&*!|>%@`"), max_size=20
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | TEXTS
    | st.sampled_from(["yes", "No", "1e3", "012", "~", "null", "8080"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS.filter(bool), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS.filter(bool), VALUES, max_size=4))
def test_what_is_written_is_what_is_read(value: dict[str, Any]) -> None:
    """Whatever a value is, another library reads the same from what was written."""
    assert yaml.safe_load(document(value)) == value


def test_the_image_has_what_the_servers_need() -> None:
    """The extras of Antiphon are those of the store and the bus."""
    plan = plan_of(flights, FLIGHTS, store=POSTGRES, bus=BUSES["nats"], image=None, grace_s=10)
    text = image.dockerfile(plan, image.Project("requirements.txt", False, None, False), "3.13")
    assert '"antiphon[nats,postgres]==' in text
    assert text.count("FROM python:3.13-slim") == 2
