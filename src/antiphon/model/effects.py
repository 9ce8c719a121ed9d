"""Effects: calls to the outside world of which the intent is recorded before, and the outcome after."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class EffectState(StrEnum):
    """What is known of a call. There are no other states."""

    #: It was about to be made. Whether it took effect is not known, or not yet.
    INTENDED = "INTENDED"
    #: It took effect; its result is kept and given to every later attempt.
    DONE = "DONE"
    #: It took no effect, for certain: it may be made again.
    NOT_DONE = "NOT_DONE"
    #: Nobody knows, and nothing can be asked: a person has to say.
    AMBIGUOUS = "AMBIGUOUS"


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """A call named *name* of *handler* for one event. *key* is its idempotency key, *result* JSON text.

    *calls* counts how often it was made; *resolution* is what a person said of it. Times are wall time.
    """

    event_id: str
    handler: str
    name: str
    key: str
    state: EffectState = EffectState.INTENDED
    calls: int = 1
    result: bytes | None = None
    error: str | None = None
    resolution: str | None = None
    created_ms: int = 0
    updated_ms: int = 0
