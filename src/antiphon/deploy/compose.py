"""The compose file: everything on one machine, database and broker included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from antiphon.deploy import yaml
from antiphon.deploy.channels import Folder
from antiphon.deploy.image import HEALTH, USER
from antiphon.deploy.plan import DATA, PORT, Plan, Unit, context
from antiphon.deploy.servers import NATS_CONF, NATS_CONF_PATH, Server

_PER_SERVICE = """\
{name} by Docker Compose. Copy .env.example to .env, put passwords into it, then
    docker compose up --build --wait
Whoever stops a container waits {patience} s: twice the grace of a draining process, and some."""
_FILES = """
The stores are SQLite files on one volume, which containers of one machine share: they do not scale beyond it."""


def compose_file(plan: Plan, out: Path) -> str:
    """The text of compose.yaml in the directory *out*."""
    units = plan.units(one_machine=True)
    services: dict[str, Any] = {unit.name: _service(plan, unit, units[0], out) for unit in units}
    servers = list(plan.secrets.values())
    running = [server for server in servers if server.kind.image is not None]
    services.update({server.kind.name: _server(server) for server in running})
    volumes: dict[str, Any] = {server.kind.name: {} for server in running}
    if plan.store is None:
        volumes["data"] = {}
    found: dict[str, Any] = {"name": plan.name, "services": services, "volumes": volumes}
    if any(server.kind.name == "nats" for server in running):
        found["configs"] = {"nats": {"content": NATS_CONF.rstrip()}}
    remark = _PER_SERVICE.format(name=plan.app.name, patience=plan.patience_s) + (_FILES if plan.store is None else "")
    return yaml.document(found, remark)


def env_example(plan: Plan) -> str:
    """The text of .env.example: the variables that .env has to set."""
    lines = [
        "# Copy this to .env and fill it in. Keep .env out of version control and out of the image.",
        "# A password stands in a URL: letters, digits, - . _ ~ only. For one: openssl rand -hex 24",
    ]
    lines += [f"{server.variable}=" for server in plan.secrets.values() if server.has_variable]
    for variable in plan.variables:
        lines += [f"# {variable.what}: {variable.placeholder}", f"{variable.name}="]
    return "\n".join(lines) + "\n"


def _service(plan: Plan, unit: Unit, first: Unit, out: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"image": plan.image}
    if unit is first:
        found["build"] = {"context": context(out), "dockerfile": _dockerfile_at(out)}
    environment = {name: server.own_url for name, server in plan.secrets.items()} | plan.settings(unit)
    environment |= {each.name: f"${{{each.name}:?set it in .env}}" for each in plan.variables}
    found["command"] = list(plan.command(unit))
    if environment:
        found["environment"] = environment
    if unit.is_public:
        found["ports"] = [f"127.0.0.1:{PORT}:{PORT}"]
    depends = {
        server.kind.name: {"condition": "service_healthy"} for server in plan.secrets.values() if server.kind.image
    }
    if depends:
        found["depends_on"] = depends
    found["tmpfs"] = ["/tmp"]  # noqa: S108  of a container whose root cannot be written
    if plan.store is None:
        found["volumes"] = [f"data:{DATA}"]
    else:
        found["tmpfs"] = ["/tmp", f"{DATA}:uid={USER},gid={USER},mode=0700"]  # noqa: S108
    if folders := plan.folders(unit):
        found["volumes"] = [*found.get("volumes", ()), *(_bound(folder, out) for folder in folders)]
    return found | {
        "healthcheck": {
            "test": ["CMD", "python", "-c", HEALTH],
            "interval": "10s",
            "timeout": "3s",
            "start_period": "30s",
            "retries": 3,
        },
        "stop_signal": "SIGTERM",
        "stop_grace_period": f"{plan.patience_s}s",
        "restart": "unless-stopped",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }


def _bound(folder: Folder, out: Path) -> dict[str, Any]:
    """The folder of a channel, as it is on the machine. It has to be there: made by Docker, it would be root's."""
    here = Path.cwd().resolve()
    inside = folder.here.is_relative_to(here)
    source = f"{context(out)}/{folder.here.relative_to(here)}" if inside else str(folder.here)
    # A dollar would be the beginning of a variable.
    source, target = (path.replace("$", "$$") for path in (source, folder.inside))
    return {"type": "bind", "source": source, "target": target, "bind": {"create_host_path": False}}


def _dockerfile_at(out: Path) -> str:
    """The Dockerfile, as seen from the context."""
    here, there = Path.cwd().resolve(), out.resolve() / "Dockerfile"
    return str(there.relative_to(here)) if there.is_relative_to(here) else str(there)


def _server(server: Server) -> dict[str, Any]:
    kind = server.kind

    def filled(text: str) -> str:
        return text.replace("{password}", f"${{{server.variable}:?set it in .env}}").replace("{name}", server.database)

    found: dict[str, Any] = {"image": kind.image}
    if kind.command:
        found["command"] = [filled(word) for word in kind.command]
    if kind.environment:
        found["environment"] = {name: filled(value) for name, value in kind.environment.items()}
    if kind.name == "nats":
        found["configs"] = [{"source": "nats", "target": NATS_CONF_PATH}]
    return found | {
        "volumes": [f"{kind.name}:{kind.volume}"],
        "healthcheck": {
            "test": list(kind.health),
            "interval": "5s",
            "timeout": "5s",
            "start_period": "60s",
            "retries": 12,
        },
        "stop_grace_period": "60s",
        "restart": "unless-stopped",
    }


def files(plan: Plan, out: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each file."""
    yield "compose.yaml", compose_file(plan, out)
    if plan.variables or any(server.has_variable for server in plan.secrets.values()):
        yield ".env.example", env_example(plan)
