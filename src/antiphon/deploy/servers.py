"""The databases and brokers that a deployment may stand on: their image, how they are started, and asked for health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from antiphon.app import App
from antiphon.errors import DeclarationError

_USER = "antiphon"


@dataclass(frozen=True)
class Kind:
    """A kind of server. *image* None: it is nobody's to run in a container, but a service of a cloud.

    *url* is its address as its own container has it: ``{name}`` is the database, ``{password}`` its variable.
    """

    name: str
    extra: str
    url: str = ""
    image: str | None = None
    volume: str = ""
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    health: tuple[str, ...] = ()


@dataclass(frozen=True)
class Server:
    """A server of a *kind*, at *url* as the user has given it."""

    kind: Kind
    url: str

    @property
    def database(self) -> str:
        """The database that the URL names, if it does."""
        return urlsplit(self.url).path.strip("/") or _USER

    @property
    def variable(self) -> str:
        """The variable that holds the password of its container; of a cloud's service, its URL."""
        return f"{self.kind.name.upper()}_{'PASSWORD' if self.kind.image else 'URL'}"

    @property
    def has_variable(self) -> bool:
        """Whether there is something of it that only its user knows."""
        return self.kind.image is None or "{password}" in self.kind.url

    @property
    def own_url(self) -> str:
        """Its URL where it is a container, the password still a variable."""
        secret = f"${{{self.variable}:?set it in .env}}"
        if self.kind.image is None:
            return secret
        return self.kind.url.format(password=secret, name=self.database) + self._options()

    def _options(self) -> str:
        """What of the URL's options holds for any server: names."""
        named = [each for each in urlsplit(self.url).query.split("&") if each.startswith(("name=", "schema="))]
        return f"?{'&'.join(named)}" if named else ""


_POSTGRES = Kind(
    "postgres",
    "postgres",
    url="postgresql://antiphon:{password}@postgres:5432/{name}",
    image="postgres:17-alpine",
    volume="/var/lib/postgresql/data",
    environment={"POSTGRES_USER": _USER, "POSTGRES_PASSWORD": "{password}", "POSTGRES_DB": "{name}"},
    # By TCP: while the database is made it answers on its socket already.
    health=("CMD", "pg_isready", "--quiet", "--host=127.0.0.1", "--username=antiphon"),
)
_MARIADB = Kind(
    "mariadb",
    "mariadb",
    url="mariadb://antiphon:{password}@mariadb:3306/{name}",
    image="mariadb:11.8",
    volume="/var/lib/mysql",
    environment={
        "MARIADB_USER": _USER,
        "MARIADB_PASSWORD": "{password}",
        "MARIADB_DATABASE": "{name}",
        "MARIADB_RANDOM_ROOT_PASSWORD": "1",
    },
    health=("CMD", "healthcheck.sh", "--connect", "--innodb_initialized"),
)
NATS_CONF_PATH = "/etc/nats/antiphon.conf"
#: What NATS is told in a file: only there can it be told to flush what it confirms.
NATS_CONF = """\
listen: 0.0.0.0:4222
http: 127.0.0.1:8222
jetstream {
  store_dir: /data
  sync_interval: always
}
"""
_NATS = Kind(
    "nats",
    "nats",
    url="nats://antiphon:{password}@nats:4222",
    image="nats:2.12-alpine",
    volume="/data",
    command=("--config", NATS_CONF_PATH, "--user", _USER, "--pass", "{password}"),
    health=("CMD", "wget", "-q", "--spider", "http://127.0.0.1:8222/healthz?js-enabled-only=true"),
)
_REDIS = Kind(
    "redis",
    "redis",
    url="redis://:{password}@redis:6379",
    image="redis:8-alpine",
    volume="/data",
    command=("redis-server", "--appendonly", "yes", "--appendfsync", "always", "--requirepass", "{password}"),
    environment={"REDISCLI_AUTH": "{password}"},
    health=("CMD-SHELL", "redis-cli ping | grep -q PONG"),
)
_RABBITMQ = Kind(
    "rabbitmq",
    "rabbitmq",
    url="amqp://antiphon:{password}@rabbitmq:5672",
    image="rabbitmq:4-alpine",
    volume="/var/lib/rabbitmq",
    environment={"RABBITMQ_DEFAULT_USER": _USER, "RABBITMQ_DEFAULT_PASS": "{password}"},
    health=("CMD", "rabbitmq-diagnostics", "-q", "check_port_connectivity"),
)
_KAFKA = Kind(
    "kafka",
    "kafka",
    url="kafka://kafka:9092",
    image="apache/kafka:4.1.0",
    volume="/var/lib/kafka/data",
    environment={
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://kafka:9092",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@127.0.0.1:9093",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
    },
    health=("CMD", "/opt/kafka/bin/kafka-broker-api-versions.sh", "--bootstrap-server", "127.0.0.1:9092"),
)
_AWS = Kind("aws", "aws")

_STORES = {"postgresql": _POSTGRES, "postgres": _POSTGRES, "mariadb": _MARIADB, "mysql": _MARIADB}
_BROKERS = {
    "nats": _NATS,
    "tls": _NATS,
    "redis": _REDIS,
    "rediss": _REDIS,
    "amqp": _RABBITMQ,
    "amqps": _RABBITMQ,
    "kafka": _KAFKA,
    "kafka+ssl": _KAFKA,
    "sqs": _AWS,
    "eventbridge": _AWS,
    "kinesis": _AWS,
}


def store_of(url: str | None) -> Server | None:
    """The database at *url*. Raises DeclarationError for what is none."""
    return None if url is None else Server(_kind(url, _STORES, "store"), url)


def broker_of(url: str | None, app: App) -> Server | None:
    """The broker at *url*, between the stores of *app*. Raises DeclarationError."""
    if url is None:
        return None
    if not app.own_stores:
        raise DeclarationError(
            "a bus carries events between stores, and the services of this app share one",
            where=f"app {app.name!r}",
            mend="App(..., own_stores=True)",
        )
    return Server(_kind(url, _BROKERS, "bus"), url)


def _kind(url: str, known: Mapping[str, Kind], what: str) -> Kind:
    scheme = url.partition("://")[0]
    if scheme not in known:
        names = ", ".join(f"{each}://" for each in known)
        raise DeclarationError(f"no {what} is known at {scheme}://", mend=f"There are: {names}")
    return known[scheme]
