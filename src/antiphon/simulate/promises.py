"""The promises as code: what must hold at every moment of a run, and what must hold when it has come to rest.

Each is a function of the evidence that yields what is wrong. Its name, with the promise that it belongs to,
is how a violation is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache

from antiphon.model.effects import EffectState
from antiphon.model.handlers import HandlerSpec
from antiphon.model.retry import milliseconds
from antiphon.model.workflows import ENDED, Kind, RunState
from antiphon.ports import PUBLISHED, RECEIVED, TIMEOUT_OF
from antiphon.simulate.evidence import Evidence, published
from antiphon.simulate.history import OURS, Effect, JournalRecord, Logged, StoreHistory

#: A timer that is due later than this is not waited for.
_SOON_MS = 60_000
_INEXACT_MS = 2
#: Faults set wall clocks wrong by no more than this.
_CLOCKS_ARE_WRONG_BY_S = 4 * 3_600
_TIMED_OUT = f"{OURS}timed-out"
_STEPS = (Kind.STEP, Kind.UNDO)
_BUCKETS = 256
_UNDONE = (RunState.COMPENSATED, RunState.FAILED, RunState.CANCELLED)

Check = Callable[[Evidence], Iterator[str]]
#: By name, what must hold at every moment, and what must hold at rest.
ALONG: dict[str, Check] = {}
END: dict[str, Check] = {}


def _along(promise: str) -> Callable[[Check], Check]:
    """Declare an invariant of every moment."""

    def declare(check: Check) -> Check:
        ALONG[f"{promise} {check.__name__}"] = check
        return check

    return declare


def _at_end(promise: str) -> Callable[[Check], Check]:
    """Declare an invariant of the state at rest."""

    def declare(check: Check) -> Check:
        END[f"{promise} {check.__name__}"] = check
        return check

    return declare


# ---------------------------------------------------------------------- at every moment


@_along("G1")
def acknowledged_is_kept(seen: Evidence) -> Iterator[str]:
    """An event whose publish was acknowledged is in its service's log, through every crash and power loss."""
    for store in seen.history.stores.values():
        wanted = {id_ for id_, service in seen.ledger.acknowledged.items() if service in store.services}
        if wanted:
            for id_ in sorted(wanted - store.has(wanted)):
                if not _may_be_removed(seen, store, id_):
                    yield f"event {id_} was acknowledged, and is not in the log of {store.name}"


@_along("G1")
def committed_is_kept(seen: Evidence) -> Iterator[str]:
    """What could be read once is there ever after."""
    for store in seen.history.stores.values():
        events, effects = store.counts()
        gone = store.by_id.keys() - store.has(store.by_id) if events < len(store.log) else ()
        lost = [id_ for id_ in sorted(gone) if not _may_be_removed(seen, store, id_)]
        if lost:
            yield f"{store.name} had event {lost[0]} and {len(lost) - 1} more that it has no longer"
        if effects < len(store.effects):
            yield f"{store.name} had {len(store.effects)} effects, and has {effects}"


@_along("G1")
def facts_stay(seen: Evidence) -> Iterator[str]:
    """An event in a log is never changed."""
    yield from _wrongs(seen, "G1 facts_stay")


@_along("G2")
def settled_is_done(seen: Evidence) -> Iterator[str]:
    """A delivery is settled if and only if its effects are there: exactly one attempt of it was committed."""
    for store in seen.history.stores.values():
        for handler in store.handlers.values():
            if handler.name not in seen.handlers:
                continue
            upto, whole = seen.settled_upto.get((store.name, handler.id), 0), True
            for event in store.owed(handler, upto):
                delivery = store.deliveries.get((handler.id, event.seq))
                done = event.seq <= handler.seq and delivery is None
                times = seen.took_effect[handler.name, event.id]
                if done and not times:
                    yield f"{handler.name} is past {event.type} {event.id}, which never took effect"
                elif times and not done:
                    status = delivery.status if delivery is not None else "UNPROCESSED"
                    yield f"{event.type} {event.id} took effect in {handler.name}, and is {status}"
                whole = whole and done
                if whole:
                    seen.settled_upto[store.name, handler.id] = event.seq


@_along("G3")
def partitions_cover_all(seen: Evidence) -> Iterator[str]:
    """Each event is one partition's of each handler: none is nobody's, none several ones'."""
    for store in seen.history.stores.values():
        partitions: dict[str, list[tuple[int, int]]] = {}
        for handler in store.handlers.values():
            partitions.setdefault(handler.name, []).append((handler.part, handler.parts))
        for name, those in partitions.items():
            if wrong := _shared_out_wrongly(tuple(those)):
                yield f"of {name} in {store.name}, the buckets {list(wrong)} have {list(wrong.values())} partitions"


@lru_cache
def _shared_out_wrongly(partitions: tuple[tuple[int, int], ...]) -> dict[int, int]:
    """The first buckets that are not one partition's, and how many have each: there are few ways to share them out,
    and they are looked at after each commit."""
    share = Counter(bucket for part, parts in partitions for bucket in range(part, _BUCKETS, parts))
    return {bucket: share[bucket] for bucket in [each for each in range(_BUCKETS) if share[each] != 1][:8]}


@_along("G3")
def effects_happen_once(seen: Evidence) -> Iterator[str]:
    """Each event takes effect at most once in each handler."""
    for effect in _new_effects(seen):
        times = seen.took_effect[effect.handler, effect.event_id]
        if times > 1:
            yield f"{effect.event_id} took effect {times} times in {effect.handler}, last by {effect.owner}"


@_along("G3")
def only_the_owner_commits(seen: Evidence) -> Iterator[str]:
    """An attempt takes effect only if its process still has the lease of its handler: the others are fenced off."""
    for effect in _new_effects(seen):
        if effect.owner != effect.lease_owner:
            yield (
                f"{effect.owner} committed {effect.event_id} in {effect.handler}, whose lease {effect.lease_owner} had"
            )


@_along("G3")
def leases_change_hands_properly(seen: Evidence) -> Iterator[str]:
    """A lease is taken only when it is free, has expired or its owner is dead; each owner has a token of its own."""
    for store in seen.history.stores.values():
        now = seen.store_ms(store.name) if store.takeovers else None
        for change in store.takeovers:
            if change.epoch < change.old_epoch:
                yield f"the epoch of {change.handler} went from {change.old_epoch} to {change.epoch}"
            elif change.owner is not None and change.epoch == change.old_epoch:
                yield f"{change.owner} has {change.handler} under the epoch {change.epoch} of {change.old_owner}"
            robbed = change.old_owner is not None and change.owner not in (None, change.old_owner)
            if robbed and change.old_owner not in seen.ledger.dead and now is not None and change.until_ms > now:
                left = change.until_ms - now
                yield f"{change.owner} took {change.handler} from {change.old_owner}, whose lease has {left} ms left"


@_along("G3")
def follow_ups_happen_once(seen: Evidence) -> Iterator[str]:
    """What committed attempts publish is in the log, once, with their effects; nothing of other attempts is."""
    for what in sorted(_touched(seen)):
        service, event_id, type_ = what
        announced, followed = seen.announced[what], seen.followed[what]
        if announced != followed:
            yield f"{service} has {followed} {type_} that follow from {event_id}; committed attempts made {announced}"


@_along("G3")
def cursors_never_go_back(seen: Evidence) -> Iterator[str]:
    """Neither a handler's cursor nor a position of the bus ever goes back."""
    yield from _wrongs(seen, "G3 cursors_never_go_back")


@_along("G3")
def nothing_comes_from_nowhere(seen: Evidence) -> Iterator[str]:
    """What a service has received is in the log of the service that published it, word for word."""
    for store in seen.history.stores.values():
        for event in seen.history.received(store):
            producer = seen.history.of_service.get(event.service)
            if producer is None:
                continue
            original = producer.by_id.get(event.id)
            if original is None:
                yield f"{store.name} has received {event.type} {event.id}, which {event.service} has not published"
            elif (original.type, original.key, original.data) != (event.type, event.key, event.data):
                yield f"{store.name} has received {event.id} other than {event.service} published it"


@_along("G3")
def requests_happen_once(seen: Evidence) -> Iterator[str]:
    """A request that is sent again under its Idempotency-Key takes effect once, and is answered the same."""
    for asked in seen.ledger.asked.values():
        if not asked.repeatable:
            continue
        begun, answered = seen.begun.get(asked.traceparent, set()), set(asked.answers)
        if len(begun) > 1:
            yield f"{asked.key} ({asked.what}) took effect as {' and as '.join(sorted(begun))}"
        if len(answered) > 1:
            yield f"{asked.key} ({asked.what}) was answered with {' and with '.join(sorted(answered))}"
        if asked.refused and begun:
            yield f"{asked.key} ({asked.what}) was refused, and took effect as {min(begun)}"


@_along("G4")
def keys_keep_their_order(seen: Evidence) -> Iterator[str]:
    """Events of one key take effect in a handler in the order of the log, whatever is tried again."""
    for effect in _new_effects(seen):
        if effect.key is None:
            continue
        before = seen.newest_of_key.get((effect.handler, effect.key))
        if before is not None and before.seq > effect.seq:
            if not _was_redriven(seen, effect):
                yield f"{effect.handler} took {effect.event_id} of key {effect.key!r} after {before.event_id}"
            continue
        seen.newest_of_key[effect.handler, effect.key] = effect


@_along("G4")
def the_bus_keeps_order(seen: Evidence) -> Iterator[str]:
    """Events of one service and key are received in the order in which they were published."""
    for store in seen.history.stores.values():
        for event in seen.history.received(store):
            producer = seen.history.of_service.get(event.service)
            original = producer.by_id.get(event.id) if producer else None
            if original is None or event.key is None:
                continue
            lane = (store.name, event.service, event.key)
            before = seen.newest_received.get(lane)
            if before is not None and before[0] > original.seq:
                yield f"{store.name} received {event.id} of key {event.key!r} after {before[1]}"
            seen.newest_received[lane] = (original.seq, event.id)


@_along("G5")
def attempts_are_bounded(seen: Evidence) -> Iterator[str]:
    """Nothing is tried more often than its retry policy allows, and no dead letter is made before that."""
    for store in seen.history.stores.values():
        if not store.deliveries:
            continue
        failed, crashed = store.attempts_on_record("failed"), store.attempts_on_record("crashed")
        redriven = store.attempts_on_record("redriven")
        names = {handler.id: handler.name for handler in store.handlers.values()}
        for (handler_id, seq), delivery in store.deliveries.items():
            spec = seen.handlers.get(names.get(handler_id, ""))
            if spec is None:
                continue
            times = failed.get((handler_id, seq), 0)
            allowed = spec.retry.attempts * (1 + redriven.get((handler_id, seq), 0))
            if times > allowed:
                yield f"{spec.name} has tried {store.at(seq).id} {times} times; {allowed} are allowed"
            if delivery.crashes > spec.retry.crashes:
                yield f"{store.at(seq).id} has killed {delivery.crashes} processes of {spec.name} by itself"
            deaths = crashed.get((handler_id, seq), 0)
            if delivery.dead and (why := _innocence(seen, spec, store.at(seq), delivery.status, times, deaths)):
                yield f"{store.at(seq).id} is {delivery.status} in {spec.name} ({delivery.reason}): {why}"


@_along("G5")
def dead_letters_say_why(seen: Evidence) -> Iterator[str]:
    """A dead letter has a reason, and a status that says that it is one."""
    for store in seen.history.stores.values():
        for delivery in store.deliveries.values():
            if delivery.dead and not delivery.reason:
                yield f"the dead letter at {delivery.seq} of {store.name} has no reason"


@_along("G7")
def everything_has_a_cause(seen: Evidence) -> Iterator[str]:
    """What caused an event is in the log before it, and both belong to one process."""
    for store in seen.history.stores.values():
        for event in store.new_log:
            if event.causation_id is None or event.origin == RECEIVED:
                continue
            cause = store.by_id.get(event.causation_id)
            if cause is None or cause.seq >= event.seq:
                yield f"{event.type} {event.id} says that {event.causation_id} caused it, which is not before it"
            elif cause.correlation_id != event.correlation_id:
                yield f"{event.type} {event.id} belongs to another process than its cause {cause.id}"


@_along("G8")
def bystanders_are_not_blamed(seen: Evidence) -> Iterator[str]:
    """Only an event that ran alone is blamed for the death of its process."""
    yield from _wrongs(seen, "G8 bystanders_are_not_blamed")
    yield from seen.not_alone
    seen.not_alone.clear()


@_along("G5")
def timers_are_not_early(seen: Evidence) -> Iterator[str]:
    """A delayed event is handled no sooner than it is due."""
    for store in seen.history.stores.values():
        for effect in store.new_effects:
            due_ms, clock = store.timers.get(effect.event_id, (0, ""))
            if clock == "store" and effect.store_ms < due_ms:
                yield f"{effect.handler} had {effect.event_id} {due_ms - effect.store_ms} ms before it was due"


@_along("G5")
def timers_fire_when_they_end(seen: Evidence) -> Iterator[str]:
    """A timer whose time has come is removed with the publication of its event, never without."""
    for store in seen.history.stores.values():
        for id_, fired in store.ended_timers:
            if not fired:
                yield f"the timer {id_} of {store.name} was removed when it was due, and has not fired"


@_along("G3")
def commands_are_answered_once(seen: Evidence) -> Iterator[str]:
    """A command has one reply at most, is refused once at most, and runs out of time once at most."""
    for store in seen.history.stores.values():
        for event in store.new_log:
            if event.request_id is None:
                continue
            sort = event.type if event.type.startswith(OURS) else "reply"
            answer = seen.answers.setdefault((store.name, event.request_id, sort), event.id)
            if answer != event.id and sort == "reply":
                yield f"the command {event.request_id} has two replies in {store.name}: {answer} and {event.id}"
            elif answer != event.id and not _redrives(seen, event.request_id):
                yield f"the command {event.request_id} was told {sort} twice in {store.name}"
            others = seen.answered.setdefault((store.name, event.request_id), [])
            # A workflow's run sees what has arrived in turns of its own: it may run out of time just before.
            if others and sort == _TIMED_OUT and event.id in store.timers:
                yield f"the command {event.request_id} ran out of time in {store.name}, answered as it was"
            others.append(event.id)


@_along("G3")
def what_answers_is_an_answer(seen: Evidence) -> Iterator[str]:
    """A command whose handler has published its reply, or that was set aside, has an answer."""
    for store in seen.history.stores.values():
        answered = {
            effect.event_id: effect.handler
            for effect in store.new_effects
            if (event := store.by_id.get(effect.event_id)) is not None
            and not seen.replies.get(event.type, set()).isdisjoint(published(effect))
        }
        names = {handler.id: handler.name for handler in store.handlers.values()}
        for (handler_id, _), delivery in store.deliveries.items():
            if delivery.dead and names.get(handler_id) in seen.handlers:
                event = store.at(delivery.seq)
                if event.type in seen.replies:
                    answered[event.id] = names[handler_id]
        for event_id, handler in answered.items():
            if (store.name, event_id) not in seen.answered:
                yield f"{handler} has dealt with the command {event_id}, which nobody has answered"


@_along("G6")
def journals_stay(seen: Evidence) -> Iterator[str]:
    """What a workflow's run has done is recorded once, and a run that has ended stays as it is."""
    yield from _wrongs(seen, "G6 journals_stay")


@_along("G6")
def steps_happen_once(seen: Evidence) -> Iterator[str]:
    """Each step of a run takes effect at most once, and so does its undo, which only comes after it."""
    for store in seen.history.stores.values():
        for step in store.new_steps:
            what = (step.workflow, step.run, step.position)
            times = seen.steps_done[(*what, step.is_undo)] = seen.steps_done[(*what, step.is_undo)] + 1
            if times > 1:
                yield f"{'the undo of ' * step.is_undo}step {step.position} of run {step.run} took effect {times} times"
            if step.is_undo and not seen.steps_done[(*what, 0)]:
                yield f"step {step.position} of run {step.run} was undone, and had never been done"


@_along("G6")
def undone_in_reverse(seen: Evidence) -> Iterator[str]:
    """What a run has done is undone in reverse: the last step first."""
    for store in seen.history.stores.values():
        for undo in store.new_steps:
            if not undo.is_undo:
                continue
            own = [step for step in store.steps if (step.workflow, step.run) == (undo.workflow, undo.run)]
            begun = {step.position: step.n for step in own if not step.is_undo}
            undone = {step.position for step in own if step.is_undo and step.n < undo.n}
            for step in own:
                still_done = not step.is_undo and step.can_be_undone and step.position not in undone
                if still_done and begun.get(undo.position, undo.n) < step.n < undo.n:
                    yield f"run {undo.run} undid step {undo.position} before step {step.position}, which came later"


@_along("G2")
def steps_are_recorded_with_what_they_did(seen: Evidence) -> Iterator[str]:
    """A step, or an undo, is recorded as done if and only if it took effect."""
    for store in seen.history.stores.values():
        if not store.has_workflows:
            continue
        runs = {run.nr: run for run in store.runs_now()}
        journal = store.journal_now()
        asked = {(each.run, each.position) for each in journal if each.kind == Kind.PUBLISH}
        done = {
            (runs[each.run].workflow, runs[each.run].id, *_step_of(each))
            for each in journal
            if each.kind in _STEPS
            and each.mark == "DONE"
            and each.run in runs
            # What a request did is undone by another one, not here.
            and (each.run, _step_of(each)[0]) not in asked
        }
        alive = {(run.workflow, run.id) for run in runs.values()}
        took_effect = {(each.workflow, each.run, each.position, each.is_undo) for each in store.steps}
        for what in sorted(done - took_effect):
            if what[:3] not in seen.ledger.unwatched_steps:
                yield f"{_told(what)} is recorded as done, and took no effect"
        for what in sorted(took_effect - done):
            if what[:2] in alive or not _is_old(seen, store, what[1]):
                yield f"{_told(what)} took effect, and is not recorded as done"


@_along("G9")
def calls_are_not_repeated_blindly(seen: Evidence) -> Iterator[str]:
    """A call outside that may have been done is only made again when somebody has looked, or it may be repeated."""
    yield from seen.ledger.blind_calls
    seen.ledger.blind_calls.clear()


@_along("G7")
def the_event_table_is_right(seen: Evidence) -> Iterator[str]:
    """The event table shows of each delivery that is not plainly done how it stands."""
    for store in seen.history.stores.values():
        names = {handler.id: handler.name for handler in store.handlers.values()}
        wanted = {
            (names[delivery.handler_id], store.at(delivery.seq).id): delivery.status
            for delivery in store.deliveries.values()
            if names.get(delivery.handler_id) in seen.handlers
        }
        if wanted:
            shown = store.shown_now({event_id for _, event_id in wanted})
            for (handler, event_id), status in wanted.items():
                if shown.get((handler, event_id)) != status:
                    yield f"{event_id} is {status} for {handler}, and is shown as {shown.get((handler, event_id))}"


@_along("G5")
def no_wall_clock_moves_a_store(seen: Evidence) -> Iterator[str]:
    """While a machine is up its stores' clocks run with time itself: leases and retries go by them."""
    boot, now_ms = seen.ledger.power_losses, round(seen.ledger.now() * 1000)
    for store in seen.history.stores.values():
        store_ms = seen.store_ms(store.name)
        if store_ms is None:
            continue
        offset = store_ms - now_ms
        before = seen.clock_offsets.setdefault(store.name, (boot, offset))
        if before[0] == boot and abs(before[1] - offset) > _INEXACT_MS:
            yield f"the clock of {store.name} was moved by {offset - before[1]} ms"
        seen.clock_offsets[store.name] = (boot, offset)


# ---------------------------------------------------------------------- at rest


@_at_end("G3")
def what_was_published_arrives(seen: Evidence) -> Iterator[str]:
    """Every event is in the log of every service that handles it."""
    yield from (f"{store.name} has not received {event.type} {event.id}" for store, event in _missing(seen))


@_at_end("G5")
def nothing_is_left_over(seen: Evidence) -> Iterator[str]:
    """When the faults have ended, everything comes to rest: handled, or a dead letter."""
    yield from pending(seen)


@_at_end("G5")
def timers_fire_once(seen: Evidence) -> Iterator[str]:
    """A timer that is gone has fired or was cancelled; one that is due fires."""
    for store in seen.history.stores.values():
        waiting = {id_ for id_, _, _ in store.waiting_timers()}
        for id_ in store.timers:
            if id_ in waiting and id_ in store.by_id:
                yield f"the timer {id_} of {store.name} has fired, and is still there"


@_at_end("G7")
def all_of_the_event_table_is_right(seen: Evidence) -> Iterator[str]:
    """At rest the event table shows COMPLETED for what took effect, and for nothing else."""
    for store in seen.history.stores.values():
        for (handler, event_id), status in store.shown_now().items():
            if handler in seen.handlers and (status == "COMPLETED") != bool(seen.took_effect[handler, event_id]):
                times = seen.took_effect[handler, event_id]
                yield f"{event_id} is shown as {status} for {handler}, where it took effect {times} times"


@_at_end("G6")
def runs_end(seen: Evidence) -> Iterator[str]:
    """A run ends as it is declared to, unless it waits for a time that is far, a dead letter, or a person: to mend
    an undo that has failed, or because one has paused it."""
    for store in seen.history.stores.values():
        now = seen.store_ms(store.name)
        dead = {(each.key, each.correlation_id) for each in store.dead_events()}
        runs = store.runs_now()
        failed = {each.run for each in store.journal_now() if each.kind == Kind.UNDO and each.mark == "FAILED"}
        for run in runs:
            if run.state in ENDED or run.state == RunState.PAUSED or run.nr in failed:
                continue
            excused = any(run.order_key == key or run.correlation_id == process for key, process in dead)
            is_far = run.due_ms is not None and now is not None and run.due_ms > now + _SOON_MS
            if not excused and not is_far:
                yield f"run {run.id} of {run.workflow} is {run.state}"


@_at_end("G6")
def what_failed_is_undone(seen: Evidence) -> Iterator[str]:
    """Of a run that ended COMPENSATED, FAILED or CANCELLED, every step that can be undone is."""
    for store in seen.history.stores.values():
        runs = {run.nr: run for run in store.runs_now()} if store.has_workflows else {}
        journal = store.journal_now() if runs else []
        spared = {
            (runs[each.run].id, _step_of(each)[0])
            for each in journal
            if each.kind == Kind.UNDO and each.mark == "SKIPPED" and each.run in runs
        }
        compensated = {each.run: each.nr for each in journal if each.kind == Kind.COMPENSATE and each.mark == "DONE"}
        closed = {(each.run, each.position): each.nr for each in journal if each.kind == Kind.STEP}
        for run in runs.values():
            if run.state not in _UNDONE:
                continue
            for step in store.steps:
                if (step.workflow, step.run) != (run.workflow, run.id) or step.is_undo or not step.can_be_undone:
                    continue
                came_after = closed.get((run.nr, step.position), 0) > compensated.get(run.nr, 1 << 62)
                is_undone = seen.steps_done[step.workflow, step.run, step.position, 1]
                if not is_undone and not came_after and (run.id, step.position) not in spared:
                    yield f"run {run.id} is {run.state}, and step {step.position} is not undone"


@_at_end("G3")
def commands_are_answered(seen: Evidence) -> Iterator[str]:
    """A command that was sent with a time-out has an answer, or its time-out still lies ahead."""
    for store in seen.history.stores.values():
        waiting = {id_ for id_, _, _ in store.waiting_timers()}
        answered = {event.request_id for event in store.log if event.request_id is not None}
        for id_ in store.timers:
            command = id_.removeprefix(TIMEOUT_OF)
            if command != id_ and command not in answered and id_ not in waiting and command in store.by_id:
                yield f"the command {command} was not answered in {store.name}, and does not run out of time any more"


@_at_end("G9")
def what_was_called_is_known(seen: Evidence) -> Iterator[str]:
    """Where a handler took effect, what became of the calls that it made outside is on record."""
    states = {store.name: store.effect_states_now() for store in seen.history.stores.values()}
    for what, calls in seen.ledger.calls.items():
        handler, event_id, name = what
        if seen.handlers[handler].workflow is not None:
            continue  # a step's outcome is recorded with the step, not with the turn
        store = seen.history.of_service[seen.handlers[handler].service]
        state = states[store.name].get(what)
        if calls[-1].outcome == "done" and seen.took_effect[handler, event_id] and state != EffectState.DONE:
            yield f"{handler} has called {name!r} for {event_id}, and what is on record of it is {state}"


@_at_end("G7")
def dead_letters_have_a_history(seen: Evidence) -> Iterator[str]:
    """Of a dead letter that failed, every failed attempt is on record."""
    for store in seen.history.stores.values():
        failed = store.attempts_on_record("failed")
        for (handler_id, seq), delivery in store.deliveries.items():
            if delivery.dead and failed.get((handler_id, seq), 0) < delivery.attempts:
                yield f"not all {delivery.attempts} attempts of the dead letter at {seq} of {store.name} are on record"


@_at_end("G1")
def the_files_are_sound(seen: Evidence) -> Iterator[str]:
    """SQLite finds nothing wrong with any file."""
    for store in seen.history.stores.values():
        yield from (f"{store.name}: {found}" for found in store.damage())
    yield from (f"bus: {found}" for found in seen.history.bus_damage())


def pending(seen: Evidence) -> Iterator[str]:
    """What has not come to rest."""
    for store in seen.history.stores.values():
        names = {handler.id: handler.name for handler in store.handlers.values()}
        for handler in store.handlers.values():
            if handler.name in seen.handlers:
                fresh = store.owed(handler, handler.seq)
                if fresh:
                    yield f"{handler.name} has not handled {fresh[0].type} {fresh[0].id} and {len(fresh) - 1} more"
        for delivery in store.deliveries.values():
            if not delivery.dead and names.get(delivery.handler_id) in seen.handlers:
                yield f"{names[delivery.handler_id]} has position {delivery.seq} in {delivery.status}"
        now = seen.store_ms(store.name)
        for id_, due_ms, clock in store.waiting_timers():
            if clock == "store" and now is not None and due_ms <= now + _SOON_MS:
                yield f"the timer {id_} of {store.name} has not fired"
    yield from (f"{store.name} has not received {event.type} {event.id}" for store, event in _missing(seen))


# ---------------------------------------------------------------------- what they share


def _new_effects(seen: Evidence) -> Iterator[Effect]:
    for store in seen.history.stores.values():
        yield from store.new_effects


def _wrongs(seen: Evidence, name: str) -> Iterator[str]:
    """What triggers have noted under the name of an invariant."""
    for store in seen.history.stores.values():
        yield from (f"{store.name}: {text}" for invariant, text in store.wrongs if invariant == name)
    yield from (f"bus: {text}" for invariant, text in seen.history.bus_wrongs if invariant == name)


def _touched(seen: Evidence) -> set[tuple[str, str, str]]:
    """The follow-ups that something new has to do with."""
    touched = set()
    for store in seen.history.stores.values():
        for effect in store.new_effects:
            service = seen.handlers[effect.handler].service
            touched |= {(service, effect.event_id, type_) for type_ in published(effect)}
        for event in store.new_log:
            if event.causation_id is not None and event.origin != RECEIVED and not store.is_timed(event):
                touched.add((event.service, event.causation_id, event.type))
    return {what for what in touched if not _is_a_workflows(seen, *what[:2])}


def _is_a_workflows(seen: Evidence, service: str, event_id: str) -> bool:
    """Whether a workflow of a service has handled an event: it may publish in several turns, and commit in between."""
    event = seen.history.of_service[service].by_id.get(event_id)
    return event is not None and event.type in seen.of_workflows.get(service, ())


def _is_parked(seen: Evidence, spec: HandlerSpec, event: Logged) -> bool:
    """Whether nobody knows what became of something that a handler has called for an event."""
    states = seen.history.of_service[spec.service].effect_states_now()
    return any(what[:2] == (spec.name, event.id) and state == EffectState.AMBIGUOUS for what, state in states.items())


def _was_redriven(seen: Evidence, effect: Effect) -> bool:
    """Whether it took effect because somebody gave a dead letter another chance."""
    store = seen.history.of_service[seen.handlers[effect.handler].service]
    handler = store.partition_of(effect.handler, store.at(effect.seq))
    return (handler.id, effect.seq) in store.attempts_on_record("redriven")


def _redrives(seen: Evidence, event_id: str) -> bool:
    """Whether an event was redriven, anywhere."""
    return any(
        event_id in store.by_id
        and any(seq == store.by_id[event_id].seq for _, seq in store.attempts_on_record("redriven"))
        for store in seen.history.stores.values()
    )


def _may_be_removed(seen: Evidence, store: StoreHistory, event_id: str) -> bool:
    """Whether retention may have removed an event: it is old, and nobody needs it any more."""
    event = store.by_id.get(event_id)
    if event is None or not _is_old(seen, store, event_id):
        return False
    owed = [
        handler for handler in store.handlers.values() if handler.name in seen.handlers and store.owes(handler, event)
    ]
    return all(
        seen.took_effect[handler.name, event_id] and (handler.id, event.seq) not in store.deliveries for handler in owed
    )


def _is_old(seen: Evidence, store: StoreHistory, event_id: str) -> bool:
    """Whether an event came longer ago than is kept, as far as wall clocks can be trusted."""
    age_s = seen.ledger.now() - seen.first_seen.get((store.name, event_id), seen.ledger.now())
    return age_s + _CLOCKS_ARE_WRONG_BY_S >= seen.app.retention.total_seconds()


def _step_of(record: JournalRecord) -> tuple[str, int]:
    """The position of the step that a record is of, and whether it is of its undo."""
    if record.kind == Kind.STEP:
        return record.position, 0
    before, _, after = record.position.partition(".u")
    return after or before.removeprefix("end."), 1


def _told(what: tuple[str, str, str, int]) -> str:
    workflow, run, position, is_undo = what
    return f"{'the undo of ' * is_undo}step {position} of run {run} of {workflow}"


def _missing(seen: Evidence) -> Iterator[tuple[StoreHistory, Logged]]:
    """Events that a service handles, another has published, and its store has not."""
    if not seen.history.has_bus:
        return
    for producer in seen.history.stores.values():
        for event in producer.log:
            if event.origin != PUBLISHED or event.service not in producer.services:
                continue
            for service, types in seen.handled_by.items():
                store = seen.history.of_service[service]
                is_meant = event.type in types if event.target is None else event.target == service
                if store is not producer and is_meant and event.id not in store.by_id:
                    yield store, event


def _innocence(seen: Evidence, spec: HandlerSpec, event: Logged, status: str, failed: int, crashed: int) -> str | None:
    """Why the event should be no dead letter; None if it has earned it."""
    attempts = seen.ledger.attempts.get((spec.name, event.id), [])
    outcomes = Counter(attempt.outcome for attempt in attempts)
    if status == "ERROR":
        # One that could not even be decoded was never attempted.
        return "no attempt of it was refused" if attempts and not outcomes["rejected"] else None
    retry = spec.retry
    if event.deadline_ms is not None and spec.compensates is None:
        return None  # it may have been too late, by a wall clock that may have been wrong
    if spec.has_effects and _is_parked(seen, spec, event):
        return None
    if failed >= retry.attempts or crashed >= retry.crashes:
        return None
    if not outcomes["raised"] + outcomes["cancelled"]:
        return "no attempt of it has failed"
    if retry.give_up or retry.on != (Exception,):
        return None
    age_ms = (seen.ledger.now() - attempts[0].began) * 1000
    if age_ms >= milliseconds(retry.max_age) - milliseconds(retry.cap):
        return None
    return f"it has failed {failed} times in {age_ms:.0f} ms, and may {retry.attempts} times"
