"""A MariaDB server of one's own: started in a temporary folder, killed, started again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from antiphon.testing.servers import PATIENCE_S, Server, program


class MariadbServer(Server):
    """MariaDB as it is delivered; its user ``root`` needs no password."""

    scheme = "mariadb"

    @classmethod
    def is_there(cls) -> bool:
        """From the system."""
        return program("mariadbd") is not None and program("mariadb-install-db") is not None

    @property
    def url(self) -> str:
        """The server's."""
        return f"mariadb://root@127.0.0.1:{self.port}"

    @property
    def command(self) -> Sequence[str]:
        """On TCP of this machine alone, whatever the system's settings are."""
        where = (f"--datadir={self.folder / 'data'}", f"--port={self.port}", f"--socket={self.folder / 'socket'}")
        return (program("mariadbd") or "mariadbd", "--no-defaults", *where, "--bind-address=127.0.0.1", *self._rights)

    @property
    def _rights(self) -> tuple[str, ...]:
        """It runs with root's rights only if it is told so."""
        return ("--user=root",) if os.geteuid() == 0 else ()

    async def start(self) -> None:
        """Make its data first."""
        if not (self.folder / "data").exists():
            made = self._run(
                (
                    program("mariadb-install-db") or "mariadb-install-db",
                    "--no-defaults",
                    f"--datadir={self.folder / 'data'}",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    *self._rights,
                )
            )
            if await asyncio.wait_for(asyncio.to_thread(made.wait), PATIENCE_S):
                raise TimeoutError(f"mariadb-install-db ended with {made.returncode}: {self._last_words()}")
        await super().start()
