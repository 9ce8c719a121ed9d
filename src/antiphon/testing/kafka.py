"""A Kafka cluster of one's own: librdkafka's mock cluster, which comes in the wheel ``confluent-kafka``.

It speaks Kafka's protocol over TCP, and keeps what it has in memory, also while it takes no connections. It has no
administration: topics are made by asking for them, and nothing is ever removed. Run as a program, this module is the
cluster: it answers each command on its standard input with one line, and ends with that.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from antiphon.testing.servers import Server

#: Kinds of requests, by their numbers in Kafka's protocol.
PRODUCE = 0
_PRODUCER = 0
_ALL = -1
_BROKER = 1
_TEXT = 512


class KafkaServer(Server):
    """A mock cluster of one broker, in a process of its own."""

    scheme = "kafka"

    @classmethod
    def is_there(cls) -> bool:
        """From the wheel ``confluent-kafka``."""
        return _path() is not None

    @property
    def command(self) -> Sequence[str]:
        """This module."""
        return (sys.executable, "-m", __name__)

    async def start(self) -> None:
        """Start it, or let it take connections again after `kill`."""
        if self._process is None:
            self._process = self._spoken_to()
            self.port = int(await self.tell("port"))
        else:
            await self.tell("up", _ALL)

    async def kill(self) -> None:
        """Break its connections and refuse new ones. What it has it keeps, as a broker does that has a disk."""
        await self.tell("down", _ALL)

    async def advertise(self, port: int) -> None:
        """Have clients reach it by way of another port of 127.0.0.1."""
        await self.tell("host_port", _BROKER, "127.0.0.1", port)

    async def make_topic(self, name: str, partitions: int) -> None:
        """What a cluster does that has an administration, when it is asked to."""
        await self.tell("topic", name, partitions, 1)

    async def answer(self, request: int, *errors: int) -> None:
        """Answer the next requests of the kind *request* with *errors*, one each."""
        await self.tell("answer", request, *errors)

    def stop(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    async def tell(self, *words: object) -> str:
        """Give a command of `_Cluster`; its answer. Raises OSError if it is refused."""
        return await asyncio.to_thread(self._tell, " ".join(map(str, words)))

    def _spoken_to(self) -> subprocess.Popen[bytes]:
        with self._output.open("ab") as output:
            pipe = subprocess.PIPE
            process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=output, start_new_session=True)
        return self._reaped(process)

    def _tell(self, line: str) -> str:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()
        answer, _, rest = process.stdout.readline().decode().strip().partition(" ")
        if answer != "done":
            raise OSError(f"the mock cluster refused {line!r}: {rest or self._last_words()}")
        return rest

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def close(self) -> None:
        """End it: what it has is gone."""
        super().close()
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()


class _Cluster:
    """The cluster itself: librdkafka's, by way of C."""

    def __init__(self) -> None:
        lib = self._lib = _library()
        why = ctypes.create_string_buffer(_TEXT)
        settings = lib.rd_kafka_conf_new()
        lib.rd_kafka_conf_set(settings, b"log_level", b"0", why, _TEXT)
        client = lib.rd_kafka_new(_PRODUCER, settings, why, _TEXT)
        if not client:
            raise OSError(why.value.decode())
        self._cluster = lib.rd_kafka_mock_cluster_new(client, 1)
        lib.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        # Clients look for it, and learn from it at once that it makes no topics.
        lib.rd_kafka_mock_set_controller_id(self._cluster, _BROKER)

    def obey(self, command: str, *words: str) -> str:
        """What *command* says. Raises OSError, ValueError."""
        arguments = [int(word) if word.lstrip("-").isdigit() else word.encode() for word in words]
        if command == "port":
            found: bytes = self._lib.rd_kafka_mock_cluster_bootstraps(self._cluster)
            return found.decode().rpartition(":")[2]
        if command == "answer":
            kind, *errors = map(int, words)
            codes = (ctypes.c_int * len(errors))(*errors)
            self._lib.rd_kafka_mock_push_request_errors_array(self._cluster, kind, len(errors), codes)
            return ""
        names = {"topic": "topic_create"}
        if command in ("up", "down", "rtt", "host_port"):
            names[command] = f"broker_set_{command}"
        if error := getattr(self._lib, f"rd_kafka_mock_{names[command]}")(self._cluster, *arguments):
            raise OSError(self._lib.rd_kafka_err2str(error).decode())
        return ""


def _path() -> Path | None:
    """The library that the wheel brings: beside the package, or in it."""
    spec = find_spec("confluent_kafka")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    places = (package.parent / "confluent_kafka.libs", package / ".dylibs")
    return next((found for place in places for found in place.glob("librdkafka*")), None)


def _library() -> Any:
    lib = ctypes.CDLL(str(_path()))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, *arguments in (
        ("conf_new", pointer),
        ("conf_set", number, pointer, text, text, text, ctypes.c_size_t),
        ("new", pointer, number, pointer, text, ctypes.c_size_t),
        ("err2str", text, number),
        ("mock_cluster_new", pointer, pointer, number),
        ("mock_cluster_bootstraps", text, pointer),
        ("mock_group_initial_rebalance_delay_ms", None, pointer, ctypes.c_int32),
        ("mock_set_controller_id", None, pointer, ctypes.c_int32),
        ("mock_topic_create", number, pointer, text, number, number),
        ("mock_broker_set_up", number, pointer, ctypes.c_int32),
        ("mock_broker_set_down", number, pointer, ctypes.c_int32),
        ("mock_broker_set_rtt", number, pointer, ctypes.c_int32, number),
        ("mock_broker_set_host_port", number, pointer, ctypes.c_int32, text, ctypes.c_int32),
        ("mock_push_request_errors_array", None, pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(number)),
    ):
        function = getattr(lib, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


def _serve() -> None:
    cluster = _Cluster()
    for line in sys.stdin:
        try:
            answer = f"done {cluster.obey(*line.split())}"
        except (OSError, KeyError, TypeError, ctypes.ArgumentError) as error:
            answer = f"refused {error}"
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
