"""What is to run where: the processes of an app, and what they need, from what the app declares."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from antiphon.app import App
from antiphon.deploy.channels import Folder, Variable, extras_of, folders_of, variables_of
from antiphon.deploy.servers import Server, broker_of, store_of
from antiphon.model.channels import ChannelSpec
from antiphon.model.handlers import ServiceSpec

#: Where the gateway of each process listens, inside its container.
PORT = 8000
#: Where a container keeps its data directory.
DATA = "/data"
#: Between the end of the second grace and the kill.
_SLACK_S = 10
_UNSAFE = re.compile(r"[^a-z0-9-]+")
_SECRET = re.compile("pass|pwd|secret|token|key", re.IGNORECASE)


@dataclass(frozen=True)
class Unit:
    """Processes that are all alike: a service or channel, or several, and whether they serve the public's requests.

    *elsewhere* says at which of the other units a service is to be asked for.
    """

    name: str
    services: tuple[ServiceSpec, ...]
    is_public: bool
    elsewhere: Mapping[str, str]

    @property
    def has_routes(self) -> bool:
        """Whether requests come to it."""
        return self.is_public or any(map(_is_asked, self.services))

    @property
    def channels(self) -> list[ChannelSpec]:
        """The channels among what it runs."""
        return [spec.handlers[0].channel for spec in self.services if spec.handlers and spec.handlers[0].channel]

    @property
    def receives(self) -> bool:
        """Whether something comes in by a channel of it."""
        return any(channel.inbound for channel in self.channels)


@dataclass(frozen=True)
class Plan:
    """A deployment of *app* (as *reference* names it): its store, its bus, its image.

    *grace_s* is how long a process may take to drain. *store* None: SQLite files. *bus* None: a log beside the stores.
    *variables* are those that the app reads its channels' URLs and secrets from.
    """

    app: App
    reference: str
    image: str
    grace_s: int
    store: Server | None
    bus: Server | None
    variables: Sequence[Variable] = ()

    @property
    def name(self) -> str:
        """The app's name as it may stand in a host's."""
        return dns(self.app.name)

    @property
    def patience_s(self) -> int:
        """How long whoever stops a process waits before killing it: requests have their grace, then handlers theirs."""
        return 2 * self.grace_s + _SLACK_S

    def units(self, *, one_machine: bool) -> list[Unit]:
        """The processes. Those of files share one disk, unless each service has its own and a broker joins them."""
        shares_files = self.store is None and not (self.app.own_stores and (self.bus is not None or one_machine))
        if shares_files:
            return [Unit(self.name, self.app.all_specs, is_public=True, elsewhere={})]
        specs = self.app.all_specs
        apart = [Unit(self.unit_name(spec.name), (spec,), is_public=False, elsewhere={}) for spec in specs]
        elsewhere = {spec.name: f"http://{self.unit_name(spec.name)}:{PORT}" for spec in specs if _is_asked(spec)}
        return [Unit(self.unit_name("gateway"), (), is_public=True, elsewhere=elsewhere), *apart]

    def unit_name(self, service: str) -> str:
        """The name of the processes that run *service*, and of the host at which they are asked."""
        return f"{self.name}-{dns(service)}"

    def command(self, unit: Unit) -> list[str]:
        """What a container of *unit* runs."""
        services = ",".join(spec.name for spec in unit.services) or "gateway"
        chosen = [] if len(unit.services) == len(self.app.all_specs) else ["--services", services]
        where = ["--data", DATA, "--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104  inside a container
        return ["antiphon", "run", self.reference, *chosen, *where, "--grace", f"{self.grace_s}s"]

    def settings(self, unit: Unit) -> dict[str, str]:
        """The environment of a container of *unit*, what is secret excepted."""
        if not unit.elsewhere:
            return {}
        return {"ANTIPHON_ELSEWHERE": ",".join(f"{name}={url}" for name, url in unit.elsewhere.items())}

    @cached_property
    def secrets(self) -> dict[str, Server]:
        """The variables whose values are secret, with the server that each is the URL of."""
        both = {"ANTIPHON_STORE": self.store, "ANTIPHON_BUS": self.bus}
        return {name: server for name, server in both.items() if server is not None}

    @property
    def extras(self) -> list[str]:
        """The extras of Antiphon that the image needs."""
        return sorted({server.kind.extra for server in self.secrets.values()} | extras_of(self.app))

    @cached_property
    def _folders(self) -> dict[str, Folder]:
        return folders_of(self.app)

    def folders(self, unit: Unit) -> list[Folder]:
        """The folders that the channels of *unit* look into, each once."""
        return list(dict.fromkeys(self._folders[each.name] for each in unit.channels if each.name in self._folders))


def plan_of(
    app: App,
    reference: str,
    *,
    store: str | None,
    bus: str | None,
    image: str | None,
    grace_s: int,
    environment: Mapping[str, str] | None = None,
) -> Plan:
    """The plan for *app* with the store and bus at these URLs (None: as the app says), loaded in *environment*.

    Raises DeclarationError for a URL that is no store's or no bus's.
    """
    return Plan(
        app=app,
        reference=reference if ":" in reference else f"{reference}:app",
        image=image or f"{dns(app.name)}:1",
        grace_s=grace_s,
        store=store_of(store or app.store),
        bus=broker_of(bus or app.bus, app),
        variables=variables_of(app, environment or {}),
    )


def _is_asked(spec: ServiceSpec) -> bool:
    """Whether requests come to *spec*: to its routes, or webhooks to a channel."""
    channels = [handler.channel for handler in spec.handlers if handler.channel is not None]
    return bool(spec.routes) or any(channel.url.startswith("webhook:") for channel in channels)


def dns(name: str) -> str:
    """*name* as part of a host's name."""
    return _UNSAFE.sub("-", name.lower()).strip("-")


def without_secrets(url: str) -> str:
    """*url* with placeholders where user and password go, and for options that may be secret."""
    parts = urlsplit(url)
    options = [
        f"{name}={'SECRET' if _SECRET.search(name) else value}"
        for name, _, value in (each.partition("=") for each in parts.query.split("&") if each)
    ]
    netloc = f"USER:PASSWORD@{parts.netloc.rpartition('@')[2]}"
    return parts._replace(netloc=netloc, query="&".join(options)).geturl()


def context(out: Path) -> str:
    """The project's directory as seen from *out*, for who builds the image."""
    here = Path.cwd().resolve()
    try:
        depth = len(out.resolve().relative_to(here).parts)
    except ValueError:
        return str(here)
    return "/".join([".."] * depth) or "."
