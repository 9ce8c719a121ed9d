"""How often and how long a handler is tried again, and how fast it may run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from antiphon.errors import DeclarationError


def seconds(count: float) -> timedelta:
    """*count* seconds."""
    return timedelta(seconds=count)


def minutes(count: float) -> timedelta:
    """*count* minutes."""
    return timedelta(minutes=count)


def hours(count: float) -> timedelta:
    """*count* hours."""
    return timedelta(hours=count)


def days(count: float) -> timedelta:
    """*count* days."""
    return timedelta(days=count)


def milliseconds(span: timedelta) -> int:
    """*span* in whole milliseconds."""
    return span // timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry policy: exponential back-off with full jitter, bounded by attempts and by age.

    The n-th retry waits a random time between 0 and ``min(cap, first * factor ** (n - 1))``
    (without *jitter*: exactly that long). *on* are the exception types worth another attempt,
    *give_up* those that are not. *crashes* bounds how often the event may kill its process.

    Raises DeclarationError for a policy that could never end or never start.
    """

    attempts: int = 8
    first: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    cap: timedelta = timedelta(minutes=5)
    jitter: bool = True
    max_age: timedelta = timedelta(hours=24)
    on: tuple[type[BaseException], ...] = (Exception,)
    give_up: tuple[type[BaseException], ...] = ()
    crashes: int = 3

    def __post_init__(self) -> None:
        for name, right, rule in (
            ("attempts", self.attempts >= 1, "at least 1"),
            ("first", self.first >= timedelta(0), "zero or more"),
            ("factor", self.factor >= 1, "1 or more"),
            ("cap", self.cap >= self.first, "not below first"),
            ("max_age", self.max_age > timedelta(0), "more than zero"),
            ("crashes", self.crashes >= 1, "at least 1"),
        ):
            if not right:
                raise DeclarationError(f"{name} is {getattr(self, name)}; it must be {rule}", where="Retry")


@dataclass(frozen=True, slots=True)
class Rate:
    """At most *limit* attempts in any stretch of *per*."""

    limit: int
    per: timedelta = timedelta(seconds=1)

    def __post_init__(self) -> None:
        if self.limit < 1 or self.per <= timedelta(0):
            raise DeclarationError("limit must be at least 1 and per more than zero", where="Rate")
