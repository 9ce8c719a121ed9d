"""What to do about a call to the outside world, given what is known of it."""

from __future__ import annotations

import hashlib
import re
from typing import Literal

from antiphon.model.effects import Effect, EffectState

Step = Literal["call", "give result", "verify", "park"]

# What others take as an idempotency key, and what a person can copy.
_PLAIN_ID = re.compile(r"[\x21-\x7e]{1,64}")


def next_step(known: Effect | None, *, can_verify: bool, idempotent: bool) -> Step:
    """What an attempt does when it comes to the call.

    An intent without an outcome is what a crash, a time-out or an error between the call and its record leaves
    behind. It is never simply repeated, unless the other side recognises the repetition by its key.
    """
    if known is None or known.state is EffectState.NOT_DONE:
        return "call"
    if known.state is EffectState.DONE:
        return "give result"
    if can_verify:
        return "verify"
    return "call" if idempotent and known.state is EffectState.INTENDED else "park"


def idempotency_key(event_id: str, handler: str, name: str) -> str:
    """The key of a call: the same in every attempt, another one for each event, handler and name."""
    if not _PLAIN_ID.fullmatch(event_id):  # an event from elsewhere may have any text as its id
        event_id = hashlib.blake2b(event_id.encode(), digest_size=16).hexdigest()
    return f"{event_id}:{handler}:{name}"
