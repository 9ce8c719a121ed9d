"""Servers that speak the protocols of AWS here: MiniStack, and moto's. Both come from Python wheels of their names.

They check no credentials, and keep what they have in memory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from antiphon.testing.servers import Server


class MiniStack(Server):
    """MiniStack, as the URL of a bus on it: with the *scheme*, and perhaps *options*."""

    scheme = "sqs"
    options = ""
    forgets = True

    @property
    def url(self) -> str:
        """The bus's."""
        return f"{super().url}{self.options}"

    @classmethod
    def is_there(cls) -> bool:
        """From the wheel ``ministack``."""
        return find_spec("ministack") is not None

    @property
    def command(self) -> Sequence[str]:
        """The rest of it is said by the environment."""
        return (sys.executable, "-m", "ministack")

    def environment(self) -> Mapping[str, str]:
        """Nothing outside its folder."""
        return {
            **os.environ,
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
        }


class MiniStackUnordered(MiniStack):
    """Its standard queues."""

    options = "?order=none"


class MiniStackEventBridge(MiniStackUnordered):
    """Its event buses."""

    scheme = "eventbridge"


class MiniStackKinesis(MiniStack):
    """Its streams."""

    scheme = "kinesis"
    options = "?shards=4&poll=0.2"


class Moto(MiniStack):
    """Moto's server."""

    @classmethod
    def is_there(cls) -> bool:
        """From the wheel ``moto``, with its extra ``server``."""
        return find_spec("moto") is not None and find_spec("flask") is not None

    @property
    def command(self) -> Sequence[str]:
        """On this machine's own address alone."""
        return (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port))
