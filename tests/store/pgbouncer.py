"""A PgBouncer in transaction mode before the tests' PostgreSQL, on a port of its own, with a role for each store."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.store.postgres import database

#: So many stores can be made; each has a role, and a schema of its name.
STORES = 240
_READY_WITHIN_S = 20
_BINARIES = ("/usr/sbin/pgbouncer", "/usr/local/sbin/pgbouncer", "/opt/homebrew/bin/pgbouncer")

_INI = """[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = transaction
max_client_conn = 500
default_pool_size = 4
server_idle_timeout = 1
"""


class Bouncer:
    """Its port, and addresses through it."""

    def __init__(self, url: str, port: int, roles: list[str]) -> None:
        self._behind = urlsplit(url)
        self._port = port
        self._roles = roles
        self._given: dict[str, str] = {}

    def schema(self, name: str) -> str:
        """The schema that stands for *name*: a role finds the schema of its own name."""
        if name not in self._given:
            self._given[name] = self._roles[len(self._given)]
        return self._given[name]

    def url(self, schema: str) -> str:
        """The address of a schema's store, through the bouncer."""
        direct = self._behind.netloc.rpartition("@")[2]
        path = self._behind.path
        return f"postgresql://{schema}@127.0.0.1:{self._port}{path}?pooler=transaction&direct={direct}"


def binary() -> str:
    """Where PgBouncer is. Skips where there is none: no wheel has it, so not every machine that must test does."""
    found = shutil.which("pgbouncer") or next((each for each in _BINARIES if os.access(each, os.X_OK)), None)
    if found is None:
        pytest.skip("PgBouncer is missing (on Debian: apt-get install pgbouncer)")
    return found


@contextmanager
def bouncer() -> Iterator[Bouncer]:
    """One of the test's own, on a database of its own; both are gone afterwards."""
    command = [binary()]
    import psycopg

    roles = [f"antiphon_test_{os.getpid()}_{number}" for number in range(STORES)]
    with database() as url, socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        where = urlsplit(url)
        Path(folder).chmod(0o755)
        ini = Path(folder) / "pgbouncer.ini"
        ini.write_text(_INI.format(host=where.hostname, port=where.port or 5432, own=port, folder=folder))
        (Path(folder) / "users.txt").write_text("".join(f'"{role}" ""\n' for role in roles))
        if os.geteuid() == 0:
            command += ["-u", "nobody"]  # it refuses to run as root
        with psycopg.connect(url, autocommit=True) as server:
            for role in roles:
                server.execute(f'CREATE ROLE "{role}" LOGIN')
                server.execute(f'GRANT CREATE ON DATABASE "{where.path[1:]}" TO "{role}"')
            running = subprocess.Popen([*command, "-q", str(ini)], stderr=subprocess.DEVNULL)
            try:
                _wait_for(port, running)
                yield Bouncer(url, port, roles)
            finally:
                running.terminate()
                running.wait(10)
                for role in roles:
                    server.execute(f'DROP OWNED BY "{role}" CASCADE')
                    server.execute(f'DROP ROLE "{role}"')


def _wait_for(port: int, running: subprocess.Popen[bytes]) -> None:
    for _ in range(_READY_WITHIN_S * 20):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            with suppress(subprocess.TimeoutExpired):
                running.wait(0.05)
                raise AssertionError("PgBouncer has ended") from None
        else:
            return
    raise AssertionError(f"PgBouncer did not listen within {_READY_WITHIN_S} s")
