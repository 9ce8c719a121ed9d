"""An app's channels are deployed with it: run once each, with their libraries, and told their URLs by nobody's file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from antiphon import App, Event, Service
from antiphon.deploy import compose, keda, kubernetes
from antiphon.deploy.plan import Plan, plan_of, without_secrets
from tests.deploy.kit import (
    PASSWORD,
    POSTGRES,
    assert_compose,
    assert_manifests,
    compose_of,
    manifests_of,
    queues,
    written,
)

BROKERS = {
    "PAYMENTS_UPSTREAM": f"amqp://user:{PASSWORD}@mq.example.com/",
    "PAYMENTS_DOWNSTREAM": f"kafka://user:{PASSWORD}@kafka.example.com:9092?password={PASSWORD}",
}
BUS = f"nats://user:{PASSWORD}@broker:4222"
FOLDERS = {"PAYMENTS_UPSTREAM": "folder:///srv/exchange", "PAYMENTS_DOWNSTREAM": "folder:///srv/exchange"}
MEMBERS = {"upstream", "service_a", "service_b", "service_c", "downstream", "orders", "reports"}
WAYS = [
    pytest.param(told, options, id=f"{name}, {' '.join(options[::2]) or 'files'}")
    for name, told in (("brokers", BROKERS), ("folders", FOLDERS))
    for options in ([], ["--store", POSTGRES], ["--store", POSTGRES, "--bus", BUS], ["--bus", BUS])
]


class Came(Event, key="number"):
    """What a channel brings."""

    number: str


def members_run(command: list[str]) -> list[str]:
    """What a container runs of the app, the gateway excepted."""
    if "--services" not in command:
        return sorted(MEMBERS)
    return [each for each in command[command.index("--services") + 1].split(",") if each != "gateway"]


def app_with(url: str, own_stores: bool = True, **options: Any) -> App:
    """A service, and a channel named ``wide_channel`` at *url*."""
    shop = Service("shop")

    @shop.on(Came)
    async def take(came: Came) -> None:
        """Nothing comes of it."""

    app = App(shop, name="shop", own_stores=own_stores)
    app.channel(url, name="wide_channel", inbound={"orders": Came}, **options)
    return app


def planned(app: App, environment: dict[str, str] | None = None, store: str | None = POSTGRES) -> Plan:
    """The plan for *app*."""
    return plan_of(app, "shop:app", store=store, bus=None, image=None, grace_s=5, environment=environment)


@pytest.mark.parametrize(("told", "options"), WAYS)
def test_compose_runs_each_channel_once(
    told: dict[str, str], options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is one; each service and each channel is run by one container, and .env tells all of them the URLs."""
    with queues(monkeypatch, told) as app:
        out = written("compose", app, tmp_path, *options)
    assert_compose(out)
    services = [each for each in compose_of(out)["services"].values() if each.get("command", ())[:1] == ["antiphon"]]
    assert Counter(name for each in services for name in members_run(each["command"])) == Counter(MEMBERS)
    for each in services:
        for name in told:
            assert each["environment"][name] == f"${{{name}:?set it in .env}}"
    lines = (out / ".env.example").read_text(encoding="utf-8").splitlines()
    assert {"PAYMENTS_UPSTREAM=", "PAYMENTS_DOWNSTREAM="} <= set(lines)


@pytest.mark.parametrize(("told", "options"), WAYS)
def test_kubernetes_runs_each_channel_once_and_never_several_times(
    told: dict[str, str], options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifests are valid; each channel has a workload of one process, which has the URLs from the Secret. What
    receives is never scaled; what only sends at most to zero, where its lag is known."""
    with queues(monkeypatch, told) as app:
        out = written("k8s", app, tmp_path, *options)
    found = manifests_of(out)
    assert_manifests(found)
    workloads = {each["metadata"]["name"]: each for each in found if each["kind"] in ("Deployment", "StatefulSet")}
    run: Counter[str] = Counter()
    for each in workloads.values():
        (container,) = each["spec"]["template"]["spec"]["containers"]
        run.update(members_run(container["args"]))
        from_secret = {env["name"] for env in container["env"] if env["valueFrom"]["secretKeyRef"]}
        assert set(told) <= from_secret
    assert run == Counter(MEMBERS)
    scaled = {each["metadata"]["name"]: each["spec"] for each in found if each["kind"] == "ScaledObject"}
    (secret,) = [each for each in found if each["kind"] == "Secret"]
    assert set(told) <= set(secret["stringData"])
    if options:
        assert workloads["payments-stp-orders"]["spec"]["replicas"] == 1
    assert "payments-stp-orders" not in scaled
    if options == ["--store", POSTGRES]:
        reports = scaled["payments-stp-reports"]
        assert (reports["minReplicaCount"], reports["maxReplicaCount"]) == (0, 1)
    else:
        assert "payments-stp-reports" not in scaled


@pytest.mark.parametrize("command", ["compose", "k8s"])
@pytest.mark.parametrize("options", [[], ["--store", POSTGRES]])
def test_no_file_holds_a_channel_s_password(
    command: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither that before the host, nor one among the options; but the file says where they go, and the libraries
    of the brokers are installed."""
    with queues(monkeypatch, BROKERS) as app:
        out = written(command, app, tmp_path, *options)
    texts = {path: path.read_text(encoding="utf-8") for path in out.rglob("*") if path.is_file()}
    assert not [path for path, text in texts.items() if PASSWORD in text]
    assert any("amqp://USER:PASSWORD@mq.example.com/" in text for text in texts.values())
    extras = ",".join(["kafka", *(["postgres"] if options else []), "rabbitmq"])
    assert f"[{extras}]" in texts[out / "Dockerfile"]


@pytest.mark.parametrize(
    ("url", "extras"),
    [
        ("mqtt://broker", ["mqtt", "postgres"]),
        ("table+mariadb://db/x", ["mariadb", "postgres"]),
        ("table+postgresql://db/x", ["postgres"]),
        ("folder:///srv/in", ["postgres"]),
    ],
)
def test_the_image_has_what_the_channels_need(url: str, extras: list[str]) -> None:
    """The extras of Antiphon are those of the channels too."""
    options = {"column": "id"} if url.startswith("table") else {}
    assert planned(app_with(url, options=options)).extras == extras


def test_services_of_one_file_have_their_channels_with_them() -> None:
    """Where there is one unit it runs everything: services, gateway and channels."""
    plan = planned(app_with("folder:///srv/in", own_stores=False), store=None)
    for one_machine in (True, False):
        (unit,) = plan.units(one_machine=one_machine)
        assert [channel.name for channel in unit.channels] == ["wide_channel"]
        assert "--services" not in plan.command(unit)


def test_webhooks_come_by_the_gateway_and_their_secret_from_outside() -> None:
    """The gateway knows where the channel is asked, it has a Service and one process, and its secret is a variable."""
    secret = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cw=="
    plan = planned(app_with("webhook://", options={"secret": secret}), {"HOOKS": secret, "HOME": "/root"})
    gateway, _, channel = plan.units(one_machine=False)
    assert gateway.elsewhere == {"wide_channel": "http://shop-wide-channel:8000"}
    assert channel.has_routes
    assert not keda.is_scaled(plan, channel)
    assert [(each.name, each.placeholder) for each in plan.variables] == [("HOOKS", "SECRET")]
    files = dict(kubernetes.files(plan))
    assert "kind: Service\n" in files["shop-wide-channel.yaml"]
    assert secret not in "".join(files.values())


def test_a_folder_is_mounted_where_the_channel_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the machine is bound; one in the project's directory is where the image has that; in a cluster it
    is a claim, named in a remark."""
    monkeypatch.chdir(tmp_path)
    for path, source, inside in (
        (Path("/srv/in$1"), "/srv/in$$1", "/srv/in$$1"),
        (tmp_path / "exchange", "../exchange", "/app/exchange"),
    ):
        plan = planned(app_with(f"folder://{path}"))
        (unit,) = [unit for unit in plan.units(one_machine=True) if unit.channels]
        (folder,) = plan.folders(unit)
        services = yaml.safe_load(compose.compose_file(plan, tmp_path / "deploy"))["services"]
        (bound,) = services["shop-wide-channel"]["volumes"]
        assert (bound["type"], bound["source"], bound["target"]) == ("bind", source, inside)
        assert bound["bind"] == {"create_host_path": False}
        assert folder.inside.replace("$", "$$") == inside
        manifest = dict(kubernetes.files(plan))["shop-wide-channel.yaml"]
        assert "# The PersistentVolumeClaim shop-wide-channel-folder is yours to make" in manifest
        assert manifest.count("shop-wide-channel-folder") == 4  # the remark, the volume, its claim, the mount


def test_two_channels_at_one_folder_share_its_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one writes the other reads: there is one claim."""
    with queues(monkeypatch, FOLDERS) as app:
        found = manifests_of(written("k8s", app, tmp_path, "--store", POSTGRES))
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for each in found
        if each["kind"] == "Deployment"
        for volume in each["spec"]["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert claims == ["payments-stp-orders-folder", "payments-stp-orders-folder"]


def test_secret_options_of_a_url_are_not_shown() -> None:
    """A password among the options is replaced as that before the host is; what is none stays."""
    shown = without_secrets(f"postgresql://a:{PASSWORD}@db/x?password={PASSWORD}&sslmode=require&sslkey={PASSWORD}")
    assert shown == "postgresql://USER:PASSWORD@db/x?password=SECRET&sslmode=require&sslkey=SECRET"
