"""What the buses on AWS share: where it is, how it is asked, names, batches, and events too large for a message.

The credentials are those of AWS's own chain (environment, profile, role), never the URL's. ``sqs://eu-west-1`` is a
region of AWS, ``sqs://127.0.0.1:4566`` a server that speaks its protocols here, which is given none of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import create_loader

from antiphon.broker.feed import PATIENCE_S
from antiphon.broker.naming import checked, is_plain, plain, quoted
from antiphon.errors import DeclarationError, Undecodable
from antiphon.model.envelope import Envelope
from antiphon.wire import from_attributes, from_structured, to_attributes, to_structured

ERRORS: tuple[type[Exception], ...] = (BotoCoreError, ClientError)
#: How AWS says that an object, or its bucket, is not there.
_GONE = frozenset({"404", "NotFound", "NoSuchBucket", "NoSuchKey"})
_LOCAL_REGION = "us-east-1"
_CONNECTIONS = 32
#: SQS and SNS take the characters of XML 1.0 and no others.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DIGEST = 12
#: An object is there for longer than any queue keeps the message that names it.
_KEEP_LARGE_DAYS = 45

Item = TypeVar("Item")


class Place(NamedTuple):
    """Where AWS is, as a bus's URL says it, and the URL's options."""

    region: str | None
    endpoint: str | None
    options: dict[str, str]


def place_at(url: str, known: Collection[str]) -> Place:
    """The place at *url*, whose options may be those *known* and ``region``. Raises DeclarationError."""
    parts = urlsplit(checked(url, (*known, "region")))
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    here = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if "@" in parts.netloc:
        raise DeclarationError(
            f"the URL of {here} has a user", mend="The credentials are those of the environment, a profile or a role"
        )
    region = options.pop("region", None)
    if parts.port is None:
        return Place(parts.hostname or region, None, options)
    return Place(region or _LOCAL_REGION, f"http://{parts.netloc}", options)


@cache
def _descriptions() -> Any:
    """The descriptions of AWS's services: megabytes of JSON, which are read once in a process."""
    return create_loader()


class Clients:
    """A client for each service of AWS, made when it is asked for first."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._stack = AsyncExitStack()
        self._clients: dict[str, Any] = {}
        self._making = asyncio.Lock()
        self._session = get_session()
        self._session.register_component("data_loader", _descriptions())

    async def of(self, service: str) -> Any:
        """The client of *service*. Raises what botocore does."""
        async with self._making:
            if service not in self._clients:
                local = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
                making = self._session.create_client(
                    service,
                    region_name=self._place.region,
                    endpoint_url=self._place.endpoint,
                    config=AioConfig(
                        connect_timeout=PATIENCE_S,
                        read_timeout=2 * PATIENCE_S,
                        max_pool_connections=_CONNECTIONS,
                        # What fails is tried again by who asked, once a second.
                        retries={"total_max_attempts": 1},
                    ),
                    **(local if self._place.endpoint else {}),
                )
                self._clients[service] = await self._stack.enter_async_context(making)
            return self._clients[service]

    async def close(self) -> None:
        """Close all of them. Idempotent; what is asked for later is made anew."""
        async with self._making:
            self._clients.clear()
            await self._stack.aclose()


def code_of(error: ClientError) -> str:
    """AWS's word for what was wrong."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def unless(codes: Collection[str]) -> Iterator[None]:
    """Go on where AWS says one of *codes*."""
    try:
        yield
    except ClientError as error:
        if code_of(error) not in codes:
            raise


async def wait_for_all(asked: Iterable[Awaitable[Item]]) -> list[Item]:
    """All answers, when the last is there; raises the first error then, so that nothing is still on its way."""
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]


def shortened(name: str, longest: int) -> str:
    """*name*, or if it is longer than that, its beginning and its digest."""
    if len(name) <= longest:
        return name
    return f"{name[: longest - _DIGEST - 1]}-{hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]}"


def legal(type_: str) -> str:
    """A type as an attribute's value may be."""
    return quoted(type_) if _NOT_XML.search(type_) else type_


def group_of(event: Envelope) -> str:
    """What *event* keeps its order in: its key, or nothing but itself."""
    return plain(event.id if event.key is None else event.key)


def waves(events: Iterable[Envelope]) -> Iterator[list[Envelope]]:
    """*events* in parts that have no key twice, those of a key in their order: a part is sent when the one before has
    been taken, since AWS may take some of a batch and refuse others."""
    parts: list[list[Envelope]] = []
    turns: Counter[str] = Counter()
    for event in events:
        group = group_of(event)
        if turns[group] == len(parts):
            parts.append([])
        parts[turns[group]].append(event)
        turns[group] += 1
    yield from parts


def batches(
    items: Iterable[Item], size: Callable[[Item], int], *, most: int, largest: int = 1 << 62
) -> Iterator[list[Item]]:
    """*items* in batches of at most so many, and of at most so many bytes together."""
    batch: list[Item] = []
    total = 0
    for item in items:
        if batch and (len(batch) == most or total + size(item) > largest):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch


class Large:
    """Events that are too large for a message lie in an S3 bucket, named by the message's attribute ``dataref``.

    The bucket is ``antiphon-<account>-<region>``, made when it is needed first; no other is ever read.
    """

    def __init__(self, clients: Clients, name: str) -> None:
        self._clients = clients
        self._name = name
        self._place: tuple[str, str] | None = None

    async def message(self, event: Envelope, largest: int, text: str | None = None) -> str:
        """*event* as the text of a message of at most so many bytes: as *text* if it can be. Raises what botocore
        does."""
        if text is None:
            text = to_structured(event).decode()
        if len(text.encode()) <= largest and not _NOT_XML.search(text):
            return text
        attributes, data = to_attributes(event)
        bucket, account = await self._bucket()
        key = f"{self._name}/{plain(event.id)}"
        s3 = await self._clients.of("s3")
        wanted = {"Bucket": bucket, "Key": key, "Body": data, "ExpectedBucketOwner": account}
        try:
            await s3.put_object(**wanted)
        except ClientError as error:
            if code_of(error) not in _GONE:
                raise
            await self._make(bucket, account)
            await s3.put_object(**wanted)
        return json.dumps({**attributes, "dataref": f"s3://{bucket}/{key}"})

    async def event(self, body: bytes, *, received_ms: int) -> Envelope:
        """The event in a message. Raises InvalidEvent, and what botocore does."""
        reference = _reference(body)
        if reference is None:
            return from_structured(body, received_ms=received_ms)
        bucket, account = await self._bucket()
        ours = f"s3://{bucket}/{self._name}/"
        key = reference.removeprefix(f"s3://{bucket}/")
        # Of the form that `message` gives it: one that S3 cannot have would be asked for again and again.
        if not reference.startswith(ours) or not is_plain(reference.removeprefix(ours)):
            return from_structured(body, received_ms=received_ms)
        s3 = await self._clients.of("s3")
        try:
            found = await s3.get_object(Bucket=bucket, Key=key, ExpectedBucketOwner=account)
            async with found["Body"] as stream:
                data = await stream.read()
        except ClientError as error:
            if code_of(error) not in _GONE:
                raise
            raise Undecodable("CloudEvent", "dataref", f"there is nothing at {reference}") from error
        attributes = msgspec.json.decode(body, type=dict[str, Any])
        del attributes["dataref"]
        return from_attributes(attributes, data, received_ms=received_ms)

    async def destroy(self) -> None:
        """Remove what this bus has put there. Raises what botocore does."""
        bucket, account = await self._bucket()
        s3 = await self._clients.of("s3")
        try:
            pages = s3.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=f"{self._name}/", ExpectedBucketOwner=account
            )
            async for page in pages:
                for each in page.get("Contents", ()):
                    await s3.delete_object(Bucket=bucket, Key=each["Key"], ExpectedBucketOwner=account)
        except ClientError as error:
            if code_of(error) not in _GONE:
                raise

    async def _bucket(self) -> tuple[str, str]:
        """The bucket's name, and the account that owns it."""
        if self._place is None:
            account = (await (await self._clients.of("sts")).get_caller_identity())["Account"]
            region = (await self._clients.of("s3")).meta.region_name
            self._place = f"antiphon-{account}-{region}", account
        return self._place

    async def _make(self, bucket: str, account: str) -> None:
        s3 = await self._clients.of("s3")
        region = s3.meta.region_name
        there = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        await s3.create_bucket(Bucket=bucket, **there)
        rule = {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": _KEEP_LARGE_DAYS}}
        await s3.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": [rule]}, ExpectedBucketOwner=account
        )


class _Referring(msgspec.Struct):
    """A message that names where its data lies."""

    dataref: str


def _reference(body: bytes) -> str | None:
    try:
        return msgspec.json.decode(body, type=_Referring).dataref
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def refused(answers: Sequence[dict[str, Any]]) -> str:
    """What AWS says of the entries of a batch that it did not take."""
    return ", ".join(sorted({f"{each.get('Code')}: {each.get('Message', '')}" for each in answers}))[:300]
