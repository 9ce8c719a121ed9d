"""Whether a webhook is from who has the secret: the signatures of Standard Webhooks, and plain ones of the body.

https://github.com/standard-webhooks/standard-webhooks: the id, the time and the body are signed together, so none of
them can be changed, and an old message cannot be sent again later than the tolerance.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
_PREFIX = "whsec_"
_VERSION = "v1"


def key_of(secret: str) -> bytes:
    """The key in *secret*, base64 with or without ``whsec_`` before it. Raises ValueError for what is none."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not key:
        raise ValueError("it is no base64 text")
    return key


def is_standard(
    keys: Iterable[bytes], headers: Mapping[str, str], body: bytes, now_s: float, tolerance_s: float
) -> bool:
    """Whether one of *keys* has signed *body* with the id and the time in *headers* (names in lower case), and the
    time is within *tolerance_s* of *now_s*. Takes as long whatever is wrong with a signature."""
    message_id, timestamp, listed = headers.get(ID, ""), headers.get(TIMESTAMP, ""), headers.get(SIGNATURE, "")
    if not message_id or not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > len("9999999999"):
        return False
    if abs(now_s - int(timestamp)) > tolerance_s:
        return False
    signed = b".".join((message_id.encode("utf-8", "surrogateescape"), timestamp.encode(), body))
    given = [value for version, _, value in (each.partition(",") for each in listed.split()) if version == _VERSION]
    return _is_any([base64.b64encode(_hmac(key, signed)) for key in keys], given)


def is_plain(keys: Iterable[bytes], given: str, body: bytes) -> bool:
    """Whether one of *keys* has signed *body*: *given* is the digest in hexadecimal, with or without ``sha256=``."""
    return _is_any([_hmac(key, body).hex().encode() for key in keys], [given.strip().removeprefix("sha256=").lower()])


def _is_any(expected: Sequence[bytes], given: Sequence[str]) -> bool:
    found = False
    for right in expected:
        for each in given:
            found |= hmac.compare_digest(right, each.encode("utf-8", "surrogateescape"))
    return found


def _hmac(key: bytes, signed: bytes) -> bytes:
    return hmac.new(key, signed, hashlib.sha256).digest()
