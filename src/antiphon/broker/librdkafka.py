"""The clients of librdkafka, the library of Kafka's protocol, as a bus needs them: none blocks the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from antiphon.broker.naming import shown
from antiphon.errors import DeclarationError

#: The largest record: 1 MiB of data, and its attributes.
LARGEST = 2 * 1024 * 1024
_CHUNK = 256
#: How long a thread waits for what comes before it looks whether it shall end.
_POLL_S = 0.1
#: Whoever dies is missed by its group after so long; whoever lives shows it so often, and hears of changes then.
_SESSION_MS = 10_000
_HEARTBEAT_MS = 3_000
_COMMIT_EVERY_MS = 500
#: What a URL may ask for, and the library's names for files.
_COUNTS = ("partitions", "replication")
_FILES = {"ca": "ssl.ca.location", "cert": "ssl.certificate.location", "key": "ssl.key.location"}
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
#: No more partitions, and no more replicas.
_MOST = 10_000

Header = tuple[str, str | bytes | None]
Told = Callable[[KafkaError | None, Message], None]


class Batch:
    """Events on their way: *done* when each is confirmed, or one is not."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = count
        self.done: asyncio.Future[None] = self._loop.create_future()
        if not count:
            self.done.set_result(None)

    async def confirmed(self, patience_s: float) -> None:
        """Return when each is. Raises KafkaException, and TimeoutError when for so long none was confirmed."""
        try:
            while not self.done.done():
                left = self._left
                await asyncio.wait([self.done], timeout=patience_s)
                if self._left == left and not self.done.done():
                    raise TimeoutError
            self.done.result()
        finally:
            self.done.cancel()

    def told(self, error: KafkaError | None, _: Message) -> None:
        """Called in the producer's thread, for each."""
        self._left -= 1
        if error is not None or self._left == 0:
            call(self._loop, self._end, error)

    def _end(self, error: KafkaError | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(KafkaException(error))


class Sender:
    """A producer, and the thread in which it tells what became of each event."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._producer = Producer(
            {
                **settings,
                "enable.idempotence": True,
                "acks": "all",
                # What cannot be sent ends all that is after it. Nothing times out by itself in the midst of others.
                "enable.gapless.guarantee": True,
                "message.timeout.ms": 0,
                "message.max.bytes": LARGEST,
                "partitioner": "murmur2",
                "linger.ms": 1,
            }
        )
        self._ended = threading.Event()
        threading.Thread(target=self._poll, name="antiphon kafka", daemon=True).start()

    def publish(self, topic: str, key: bytes, value: bytes, headers: list[Header], told: Told) -> None:
        """Put one on its way; *told* is called in another thread. Raises KafkaException, BufferError."""
        self._producer.produce(topic, value, key=key, headers=headers, on_delivery=told)

    def end(self) -> None:
        """Send nothing more. What was not confirmed may have been taken, or not."""
        self._ended.set()

    def _poll(self) -> None:
        while not self._ended.is_set():
            try:
                self._producer.poll(_POLL_S)
            except KafkaException:
                # It has ended by itself; what it had on its way has been told so, or is not confirmed in time.
                self._ended.wait(_POLL_S)
        with suppress(KafkaException):
            self._producer.purge()
            self._producer.flush(_POLL_S)
        # The last reference: its connections end with it.
        del self._producer


class Reader:
    """A member of a group. Its methods but `store` block, and are called in threads, one at a time."""

    def __init__(self, settings: Mapping[str, Any], group: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                **settings,
                "group.id": group,
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": _SESSION_MS,
                "heartbeat.interval.ms": _HEARTBEAT_MS,
                "auto.offset.reset": "earliest",
                # What `store` notes is committed now and then, before a partition is given away, and at the end.
                "enable.auto.commit": True,
                "auto.commit.interval.ms": _COMMIT_EVERY_MS,
                "enable.auto.offset.store": False,
                "queued.max.messages.kbytes": 16 * 1024,
                "check.crcs": True,
            }
        )
        self._consumer.subscribe([topic])
        self._topic = topic
        self._one = threading.Lock()
        # The offset up to which each partition is done with, until a thread tells the library.
        self._done: SimpleQueue[Mapping[int, int]] = SimpleQueue()

    def read(self) -> list[Message]:
        """What has come; nothing after a while. Raises KafkaException."""
        with self._one:
            self._tell()
            first = self._consumer.poll(_POLL_S)
            found = [] if first is None else [first, *self._consumer.consume(_CHUNK, 0)]
        for each in found:
            if (error := each.error()) is not None and not _passes(error):
                raise KafkaException(error)
        return [each for each in found if each.error() is None]

    def store(self, offsets: Mapping[int, int]) -> None:
        """Note that what lies before the *offsets*, by partition, need not come again.

        The library is told when it is read next: asked while it waits for what comes, it would block until that ends.
        """
        self._done.put(offsets)

    def close(self) -> None:
        """Commit what was stored, and leave the group."""
        with self._one:
            self._tell()
            self._consumer.close()

    def _tell(self) -> None:
        latest: dict[int, int] = {}
        with suppress(Empty):
            while True:
                latest.update(self._done.get_nowait())
        for partition, offset in latest.items():
            with suppress(KafkaException, RuntimeError):
                # Refused for a partition that has moved to another process by now, which says it itself.
                self._consumer.store_offsets(offsets=[TopicPartition(self._topic, partition, offset)])


def settings_of(url: str) -> dict[str, Any]:
    """What the library is told of *url*. Raises DeclarationError."""
    parts, options = urlsplit(url), _options_in(url)
    login, _, servers = parts.netloc.rpartition("@")
    encrypted = parts.scheme == "kafka+ssl"
    settings = {
        "bootstrap.servers": servers,
        "security.protocol": ("sasl_" if login else "") + ("ssl" if encrypted else "plaintext"),
        "reconnect.backoff.ms": 250,
        "reconnect.backoff.max.ms": 1_000,
        "socket.keepalive.enable": True,
        # What is wrong comes to `_failed`.
        "log_level": 0,
        **{setting: options[name] for name, setting in _FILES.items() if name in options},
    }
    if login:
        user, _, password = login.partition(":")
        mechanism = options.get("sasl", _MECHANISMS[0])
        if mechanism not in _MECHANISMS:
            raise DeclarationError(
                f"no mechanism {mechanism!r}", where=shown(url), mend=f"sasl={'|'.join(_MECHANISMS)}"
            )
        settings |= {"sasl.mechanism": mechanism, "sasl.username": unquote(user), "sasl.password": unquote(password)}
    return settings


def counts_in(url: str) -> dict[str, int]:
    """The numbers of partitions and replicas that *url* asks for. Raises DeclarationError."""
    counts = {name: text for name, text in _options_in(url).items() if name in _COUNTS}
    for name, text in counts.items():
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST):
            raise DeclarationError(f"{name}={text!r} is no number", where=shown(url), mend=f"1 to {_MOST}")
    return {name: int(text) for name, text in counts.items()}


def _options_in(url: str) -> dict[str, str]:
    options = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    known = (*_COUNTS, "sasl", *_FILES)
    if unknown := ", ".join(sorted({*options} - {*known})):
        raise DeclarationError(f"no option {unknown}", where=shown(url), mend=f"There are: {', '.join(known)}")
    return options


def _passes(error: KafkaError) -> bool:
    """Whether a reader goes on after *error* by itself."""
    return error.retriable() or error.code() == KafkaError._MAX_POLL_EXCEEDED


def call(loop: asyncio.AbstractEventLoop, fn: Callable[..., None], *arguments: Any) -> None:
    """Have *fn* called in *loop*, unless that has ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(fn, *arguments)
