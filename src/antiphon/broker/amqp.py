"""RabbitMQ's protocol, AMQP 0-9-1, for tasks: pika's callbacks as what can be awaited.

pika, since it does least for each message: what came with one read of the socket is handed over at once, and one
confirmation that stands for many is passed on as one (ADR 16).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, Self

from pika import BasicProperties, ConnectionParameters, spec
from pika.channel import Channel as PikaChannel
from pika.exceptions import AMQPError

from antiphon.broker.amqp_decoding import tolerate
from antiphon.broker.amqp_line import Line
from antiphon.broker.naming import plain

_LONGEST = 255
_LAST_YEAR_S = 253_402_300_799
_CLOSE_WITHIN_S = 2.0
_LOG = logging.getLogger("pika")


class Lost(ConnectionError):
    """The connection or the channel has ended, or the server has refused what it was asked."""


class Outgoing(NamedTuple):
    """A message to be published. It is persistent."""

    body: bytes
    exchange: str
    routing_key: str
    content_type: str
    message_id: str | None
    headers: Mapping[str, Any] | None = None
    is_mandatory: bool = False


class Incoming(NamedTuple):
    """A message that came. *time_s*: seconds since 1970, where it bears a time that there is."""

    tag: int
    body: bytes
    content_type: str
    message_id: str | None
    headers: Mapping[str, Any]
    time_s: int | None


class Refused(NamedTuple):
    """How many messages the server has refused, and the addresses of those that no queue would get."""

    number: int
    unroutable: frozenset[str]


class Connection:
    """A connection to a server. Errors are OSErrors."""

    def __init__(self, line: Line, closed: asyncio.Future[None]) -> None:
        self._line = line
        self._closed = closed

    @classmethod
    async def to(cls, parameters: ConnectionParameters) -> Self:
        """Connect. Raises Lost."""
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        closed: asyncio.Future[None] = loop.create_future()
        line = Line(
            parameters,
            on_open_callback=lambda _: _succeed(opened),
            on_open_error_callback=lambda _, error: _fail(opened, error),
            on_close_callback=lambda *_: _succeed(closed),
            custom_ioloop=loop,
        )
        try:
            await opened
        except asyncio.CancelledError:
            with suppress(AMQPError):
                line.close()
            raise
        return cls(line, closed)

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be done with it."""
        return not self._line.is_open

    @property
    def version(self) -> str:
        """The server's."""
        return str((self._line.server_properties or {}).get("version", "0"))

    async def channel(self) -> Channel:
        """A channel on which what is published is confirmed. Raises Lost."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with _told():
            channel = Channel(self._line.channel(on_open_callback=lambda _: _succeed(opened)))
        await channel.until(opened)
        await channel.confirm()
        return channel

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        if self._line.is_open:
            with suppress(AMQPError):
                self._line.close()
        await asyncio.wait([self._closed], timeout=_CLOSE_WITHIN_S)


class Channel:
    """A channel of a connection. Errors are OSErrors."""

    def __init__(self, raw: PikaChannel) -> None:
        self._raw = raw
        self._error: Lost | None = None
        self._waiting: set[asyncio.Future[Any]] = set()
        self._at_end: list[Callable[[], object]] = []
        # The numbers of what is not confirmed; those of the last that was sent, and of the last that was confirmed with
        # all before it; and what became of what was sent last.
        self._unconfirmed: set[int] = set()
        self._last = self._upto = self._refused = 0
        self._unroutable: set[str] = set()
        self._all_confirmed = asyncio.Event()
        self._all_confirmed.set()
        raw.add_on_close_callback(self._ended)
        raw.add_on_return_callback(self._returned)
        raw.add_on_cancel_callback(lambda _: self._tell())

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be done with it."""
        return not self._raw.is_open

    def at_end(self, tell: Callable[[], object]) -> None:
        """Call *tell* when the channel has ended, or the server no longer gives it what is in a queue."""
        self._at_end.append(tell)

    async def until(self, done: asyncio.Future[Any]) -> Any:
        """What *done* comes to. Raises Lost if the channel ends before."""
        if self._error is not None:
            raise self._error
        self._waiting.add(done)
        try:
            return await done
        finally:
            self._waiting.discard(done)

    async def confirm(self) -> None:
        """Have the server confirm what is published. Raises Lost."""
        await self._ask(self._raw.confirm_delivery, self._confirmed)

    async def find_queue(self, queue: str) -> None:
        """See that there is a queue. Raises Lost if there is none."""
        await self._ask(self._raw.queue_declare, queue, passive=True)

    async def make_queue(self, queue: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Make a quorum queue with *arguments*, if it is not there. Raises Lost, also for one that is otherwise."""
        arguments = {"x-queue-type": "quorum", **(arguments or {})}
        await self._ask(self._raw.queue_declare, queue, durable=True, arguments=arguments)

    async def make_exchange(self, exchange: str) -> None:
        """Make a durable topic exchange, if it is not there. Raises Lost, also for one that is otherwise."""
        await self._ask(self._raw.exchange_declare, exchange, exchange_type="topic", durable=True)

    async def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Have *queue* get what is sent to *exchange* with *routing_key*. Raises Lost."""
        await self._ask(self._raw.queue_bind, queue, exchange, routing_key=routing_key)

    async def delete_queue(self, queue: str) -> None:
        """Remove a queue with all that it holds. Raises Lost."""
        await self._ask(self._raw.queue_delete, queue)

    async def delete_exchange(self, exchange: str) -> None:
        """Remove an exchange. Raises Lost."""
        await self._ask(self._raw.exchange_delete, exchange)

    async def publish(self, messages: Iterable[Outgoing]) -> Refused:
        """Send all of *messages*, in order; return when each is confirmed or refused. One call at a time.

        What an earlier call was cancelled over is waited for first: behind a server that takes nothing, nothing piles
        up. Raises Lost.
        """
        await self._until_confirmed()
        self._refused = 0
        self._unroutable.clear()
        with _told():
            for each in messages:
                self._send(each)
        await self._until_confirmed()
        return Refused(self._refused, frozenset(self._unroutable))

    async def consume(self, queues: Iterable[str], take: Callable[[str, Incoming], object], *, prefetch: int) -> None:
        """Have *take* called with each message of *queues*, *prefetch* of them unacknowledged at most. Raises Lost."""
        await self._ask(self._raw.basic_qos, prefetch_count=prefetch)
        for queue in queues:
            await self._ask(self._raw.basic_consume, queue, partial(_hand_over, partial(take, queue)))

    def acknowledge(self, tag: int) -> None:
        """The message of this tag, and all before it, need not come again. Raises Lost."""
        with _told():
            self._raw.basic_ack(tag, multiple=True)

    async def close(self) -> None:
        """End it: what was not acknowledged comes again. Idempotent."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.at_end(partial(_succeed, ended))
        with suppress(AMQPError):
            self._raw.close()
            await asyncio.wait([ended], timeout=_CLOSE_WITHIN_S)

    # ------------------------------------------------------------------ inside

    async def _ask(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Return when the server has answered one of pika's methods."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with _told():
            method(*arguments, callback=lambda _: _succeed(answered), **options)
        await self.until(answered)

    def _send(self, message: Outgoing) -> None:
        properties = BasicProperties(
            content_type=message.content_type,
            delivery_mode=spec.PERSISTENT_DELIVERY_MODE,
            message_id=message.message_id,
            headers=message.headers,
        )
        self._raw.basic_publish(message.exchange, message.routing_key, message.body, properties, message.is_mandatory)
        self._last += 1
        self._unconfirmed.add(self._last)
        self._all_confirmed.clear()

    async def _until_confirmed(self) -> None:
        await self._all_confirmed.wait()
        if self._error is not None:
            raise self._error

    def _confirmed(self, answer: Any) -> None:
        tag, is_of_many = answer.method.delivery_tag, answer.method.multiple
        numbers = range(self._upto + 1 if is_of_many else tag, tag + 1)
        before = len(self._unconfirmed)
        self._unconfirmed.difference_update(numbers)
        if is_of_many:
            self._upto = tag
        if isinstance(answer.method, spec.Basic.Nack):
            self._refused += before - len(self._unconfirmed)
        if not self._unconfirmed:
            self._all_confirmed.set()

    def _returned(self, _: PikaChannel, method: Any, *__: Any) -> None:
        self._unroutable.add("/".join(filter(None, (method.exchange, method.routing_key))))

    def _ended(self, _: PikaChannel, reason: BaseException) -> None:
        self._error = Lost(_text(reason))
        for each in self._waiting:
            _fail(each, reason)
        self._all_confirmed.set()
        self._tell()

    def _tell(self) -> None:
        for tell in self._at_end:
            tell()


def message_id(event_id: str | None) -> str | None:
    """An event's id as that of a message, which has at most 255 bytes: a longer one's digest."""
    return event_id if event_id is None or len(event_id.encode()) <= _LONGEST else plain(event_id)


# ---------------------------------------------------------------------- what pika calls, and says


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[Any], reason: BaseException) -> None:
    if not future.done():
        future.set_exception(Lost(_text(reason)))


@contextmanager
def _told() -> Iterator[None]:
    """Raise Lost for what pika refuses to do."""
    try:
        yield
    except AMQPError as error:
        raise Lost(_text(error)) from error


def _text(error: BaseException) -> str:
    """The innermost reason, in the server's words if it has said it."""
    causes = (*error.args, *getattr(error, "exceptions", ()), getattr(error, "exception", None))
    inner = [each for each in causes if isinstance(each, BaseException)]
    if inner:
        return _text(inner[-1])
    return str(getattr(error, "reply_text", "") or error) or type(error).__name__


def _hand_over(take: Callable[[Incoming], object], _: PikaChannel, method: Any, properties: Any, body: bytes) -> None:
    headers = properties.headers
    time_s = properties.timestamp
    take(
        Incoming(
            tag=method.delivery_tag,
            body=body,
            content_type=_as_text(properties.content_type) or "",
            message_id=_as_text(properties.message_id),
            headers={_as_text(name) or "": value for name, value in headers.items()} if headers else {},
            time_s=time_s if time_s is not None and time_s <= _LAST_YEAR_S else None,
        )
    )


def _as_text(value: Any) -> str | None:
    """pika leaves bytes that are no UTF-8 as they are."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


tolerate()
# It reports as an error whatever its caller is told; unless somebody wants to read that, it is left out.
if _LOG.level == logging.NOTSET:
    _LOG.setLevel(logging.CRITICAL)
