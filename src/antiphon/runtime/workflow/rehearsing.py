"""Whether the code as it is now can go on with runs that were begun on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from antiphon.errors import AntiphonError
from antiphon.model.workflows import Record, Run, WorkflowSpec
from antiphon.ports import Clock, Store
from antiphon.runtime.transaction import Publisher, Transaction
from antiphon.runtime.workflow.engine import move_on
from antiphon.runtime.workflow.turn import Turn


class Fit(StrEnum):
    """How a run and the code fit together."""

    COMPATIBLE = "compatible"
    NEEDS_VERSION = "needs a version branch"
    MUST_BE_PINNED = "must be pinned"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What the rehearsal of one run came to: whether it fits, and if not why, and how to mend it."""

    run: str
    workflow: str
    key: str
    version: int
    fit: Fit
    why: str | None = None
    mend: str | None = None


async def rehearse(
    versions: Mapping[int, WorkflowSpec], run: Run, records: Sequence[Record], store: Store, clock: Clock
) -> Finding:
    """Call the function, answered from the journal of *run* as far as that goes; nothing is done."""
    spec = versions.get(run.version, versions[max(versions)])
    tx = Transaction(store, Publisher(spec.service, clock, None))
    turn = Turn(spec, run, list(records), tx, rehearsal=True)
    try:
        await move_on(turn)
    except AntiphonError as error:
        turn.stuck = str(error)
    fit, mend = Fit.COMPATIBLE, None
    if turn.stuck is not None and turn.added and not spec.is_machine:
        fit = Fit.NEEDS_VERSION
        mend = 'Put what is new behind if wf.version("..."):'
    elif turn.stuck is not None:
        fit = Fit.MUST_BE_PINNED
        kept, call = ("definition", "Workflow.from_asl") if spec.is_machine else ("function", "@service.workflow")
        mend = (
            f"Keep the old {kept} beside the new one: {call}(name={spec.name.partition('.')[2]!r}, "
            f"version={run.version}), and give the new one version={run.version + 1}"
        )
    return Finding(
        run=run.id, workflow=run.workflow, key=run.key, version=run.version, fit=fit, why=turn.stuck, mend=mend
    )
