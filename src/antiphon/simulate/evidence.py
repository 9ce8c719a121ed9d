"""What invariants look at: what has been committed, what the outside world knows, and what they remember."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from antiphon.model.handlers import HandlerSpec
from antiphon.ports import RECEIVED
from antiphon.simulate.history import OURS, Effect, History
from antiphon.simulate.ledger import Ledger

if TYPE_CHECKING:
    from antiphon.app import App


class Evidence:
    """All that invariants look at, and what they remember from look to look."""

    def __init__(self, app: App, ledger: Ledger, history: History, store_ms: Callable[[str], int | None]) -> None:
        self.app = app
        self.ledger = ledger
        self.history = history
        #: The clock of a store now; None while nobody has it open.
        self.store_ms = store_ms
        self.handlers: dict[str, HandlerSpec] = {
            handler.name: handler for spec in app.specs for handler in spec.handlers
        }
        self.handled_by = {
            spec.name: {type_ for handler in spec.handlers for type_ in handler.type_names} for spec in app.specs
        }
        #: By service, the types that are handled by its workflows: what these publish is told by their journals.
        self.of_workflows = {
            spec.name: {type_ for handler in spec.handlers if handler.workflow for type_ in handler.type_names}
            for spec in app.specs
        }
        #: How often each handler took effect on each event.
        self.took_effect: Counter[tuple[str, str]] = Counter()
        #: When each event of a store was seen first, in virtual seconds.
        self.first_seen: dict[tuple[str, str], float] = {}
        self.settled_upto: dict[tuple[str, int], int] = {}
        self.newest_of_key: dict[tuple[str, str], Effect] = {}
        self.newest_received: dict[tuple[str, str, str], tuple[int, str]] = {}
        self.announced: Counter[tuple[str, str, str]] = Counter()
        self.followed: Counter[tuple[str, str, str]] = Counter()
        #: The processes that each traceparent has begun.
        self.begun: dict[str, set[str]] = {}
        self.clock_offsets: dict[str, tuple[int, int]] = {}
        #: The answers to commands, by store, command and sort.
        self.answers: dict[tuple[str, str, str], str] = {}
        #: All answers to a command that a store has, in the order of its log.
        self.answered: dict[tuple[str, str], list[str]] = {}
        #: The types that answer each command.
        self.replies = {
            command.name: {reply.name for reply in command.replies} for spec in app.specs for command in spec.commands
        }
        #: How often each step of a run (workflow, run, position) took effect, and its undo (1).
        self.steps_done: Counter[tuple[str, str, str, int]] = Counter()
        #: Handlers that ran beside others while they were said to run alone.
        self.not_alone: list[str] = []

    def absorb(self) -> None:
        """Take in what `History.refresh` has found."""
        for store in self.history.stores.values():
            for effect in store.new_effects:
                self.took_effect[effect.handler, effect.event_id] += 1
                service = self.handlers[effect.handler].service
                for type_ in published(effect):
                    self.announced[service, effect.event_id, type_] += 1
            for event in store.new_log:
                self.first_seen.setdefault((store.name, event.id), self.ledger.now())
                if event.origin == RECEIVED or store.is_timed(event):
                    continue
                if event.causation_id is not None:
                    self.followed[event.service, event.causation_id, event.type] += 1
                elif event.traceparent is not None:
                    self.begun.setdefault(event.traceparent, set()).add(event.correlation_id)


def published(effect: Effect) -> list[str]:
    """The types of the application's events that an attempt published."""
    types: list[str] = msgspec.json.decode(effect.published)
    return [type_ for type_ in types if not type_.startswith(OURS)]
