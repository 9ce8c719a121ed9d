"""A state machine as it is once read: states with compiled expressions, and how data passes through one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from antiphon.policy.asl.paths import Steps, put
from antiphon.policy.asl.scope import Expression, Scope
from antiphon.policy.asl.values import checked


@dataclass(frozen=True)
class Left:
    """What a state comes to: its output, the variables that it assigns, and the state that follows (None: the end)."""

    output: Any
    assigned: Mapping[str, Any]
    next: str | None


@dataclass(frozen=True, kw_only=True)
class Flow:
    """How data passes through a state.

    *chooses* is what is seen of the input, *takes* gives what the state works on, *selects* what is kept of a result,
    *gives* the output (None: as it is).
    *merges*: where a result goes in the input; () in its place, None nowhere.
    """

    jsonata: bool
    chooses: Expression | None = None
    takes: Expression | None = None
    selects: Expression | None = None
    merges: Steps | None = ()
    gives: Expression | None = None
    assigns: Expression | None = None

    def choose(self, scope: Scope) -> Scope:
        """*scope*, where ``$`` means what is seen of the input. Raises StateFailed."""
        return scope if self.chooses is None else scope.at(self.chooses(scope))

    def enter(self, chosen: Scope) -> Any:
        """What the state works on, of what it has chosen. Raises StateFailed."""
        return chosen.focus if self.takes is None else self.takes(chosen)

    def leave(self, name: str, scope: Scope, result: Any, next_state: str | None, *, is_new: bool) -> Left:
        """What state *name* comes to with *result*, which *is_new* unless it is its input. Raises StateFailed."""
        if self.jsonata:
            seen = scope.told("result", result) if is_new else scope
            output = result if self.gives is None else self.gives(seen)
        else:
            seen = scope.at(result)
            output = result if self.selects is None else self.selects(seen)
            output = scope.input if self.merges is None else put(scope.input, self.merges, output)
            output = output if self.gives is None else self.gives(scope.at(output))
        assigned = {} if self.assigns is None else checked(self.assigns(seen), name)
        return Left(checked(output, name), assigned, next_state)


@dataclass(frozen=True, kw_only=True)
class State:
    """What all states have. *needs_time*: one of its expressions can see when it was entered."""

    name: str
    flow: Flow
    next: str | None = None
    needs_time: bool = False


@dataclass(frozen=True, kw_only=True)
class Pass(State):
    """Hands on its input, or *result*."""

    result: Expression | None = None


@dataclass(frozen=True, kw_only=True)
class Succeed(State):
    """Ends the machine, or the branch that it is in."""


@dataclass(frozen=True, kw_only=True)
class Fail(State):
    """Fails the machine, or the branch that it is in."""

    error: Expression
    cause: Expression


@dataclass(frozen=True, kw_only=True)
class Wait(State):
    """Waits so many seconds, or until a time (RFC 3339)."""

    seconds: Expression | None = None
    until: Expression | None = None


@dataclass(frozen=True)
class Rule:
    """One rule of a Choice. *flow* is how data leaves the state through it."""

    condition: Callable[[Scope], bool]
    next: str
    flow: Flow


@dataclass(frozen=True, kw_only=True)
class Choice(State):
    """Goes on by the first rule that holds, else with *default*."""

    rules: tuple[Rule, ...]
    default: str | None


@dataclass(frozen=True)
class Retrier:
    """When a failed state is tried again; times in seconds."""

    errors: tuple[str, ...]
    interval: float
    attempts: int
    rate: float
    longest: float | None
    jitter: bool

    def delay(self, retried: int, random: Callable[[], float]) -> float | None:
        """How long to wait for the next attempt after *retried* retries of this kind; None: there is none left."""
        if retried >= self.attempts:
            return None
        try:
            delay = self.interval * self.rate**retried
        except OverflowError:
            delay = float("inf")
        delay = min(delay, self.longest if self.longest is not None else LONGEST_DELAY)
        return delay * random() if self.jitter else delay


#: A year: no retry waits longer.
LONGEST_DELAY = 31_622_400.0


@dataclass(frozen=True)
class Catcher:
    """Where a failed state goes on, and how its error passes there."""

    errors: tuple[str, ...]
    next: str
    flow: Flow


@dataclass(frozen=True, kw_only=True)
class Working(State):
    """A state that can fail, be tried again, and be caught."""

    retriers: tuple[Retrier, ...] = ()
    catchers: tuple[Catcher, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Task(Working):
    """Calls a resource. *has_token*: its result comes later, from whoever has been given the token.

    *invokes*: the resource is that which calls the function that the input names; *function* is it, if it is known.
    """

    resource: str
    has_token: bool = False
    invokes: bool = False
    function: str | None = None
    timeout: Expression | None = None
    heartbeat: Expression | None = None


@dataclass(frozen=True, kw_only=True)
class Parallel(Working):
    """Runs branches beside each other."""

    branches: tuple[Machine, ...]


@dataclass(frozen=True, kw_only=True)
class Map(Working):
    """Runs *processor* for each item. *tolerated_count*, *tolerated_percentage*: how many may fail."""

    processor: Machine
    items: Expression
    selector: Expression | None = None
    batches: Callable[[list[Any], Scope], list[Any]] | None = None
    concurrency: Expression | None = None
    tolerated_count: Expression | None = None
    tolerated_percentage: Expression | None = None


@dataclass(frozen=True)
class Machine:
    """A state machine, or a branch of one. *timeout*, in seconds, bounds all of it."""

    start: str
    states: Mapping[str, State]
    timeout: int | None = None
    comment: str | None = None

    def walk(self) -> Iterator[State]:
        """All states, those of branches included."""
        for state in self.states.values():
            yield state
            inner = state.branches if isinstance(state, Parallel) else ()
            for machine in (state.processor,) if isinstance(state, Map) else inner:
                yield from machine.walk()

    @property
    def tasks(self) -> Iterator[Task]:
        """Its tasks, those of branches included."""
        return (state for state in self.walk() if isinstance(state, Task))
