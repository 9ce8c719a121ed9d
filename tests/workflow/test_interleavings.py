"""Any order of steps, crashes, retries, signals and a cancellation leads to one of the declared ends."""

import asyncio
import shutil
import sqlite3
import tempfile
from functools import partial
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from antiphon.model.workflows import ENDED, RunState
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running
from tests.workflow.orders import Faults, OrderPlaced, Paid, shop

UNDO_OF = {"reserve": "release", "charge": "refund"}

ACTS = st.lists(
    st.sampled_from(["pay", "cancel", "pause", "resume", "skip", "crash", "wait", "wait long"]), max_size=12
)
FAULTS = st.fixed_dictionaries(
    {step: st.sampled_from([0, 0, 1, 2, 3]) for step in ("reserve", "charge", "ship", "release", "refund")}
)


async def play(folder: Path, acts: list[str], times: dict[str, int], await_outside: bool) -> tuple[str, list[str]]:
    """Do *acts* to one run, crash where it is said, then bring it to its end; its state and what took effect."""
    clock, faults, store = VirtualClock(), Faults(**times), folder / "0"
    generation = 0
    queue = [*acts, "resume", "pay", "wait long", "resume", "wait long", "skip", "wait long", "skip", "wait long"]
    begun = False
    while queue:
        service = shop(faults, await_first=outside) if await_outside else shop(faults)
        async with running(store, service, clock=clock) as world:
            if not begun:
                begun = True
                await world.publish("orders", OrderPlaced("o1"))
            while queue and queue[0] != "crash":
                await one_act(world, service, queue.pop(0))
            if not queue:
                ((state,),) = await world.rows("SELECT state FROM antiphon_runs")
                effects = [str(what) for (what,) in await world.rows("SELECT what FROM effects ORDER BY n")]
                assert await world.rows("SELECT * FROM antiphon_dead_letters") == []
                return str(state), effects
            queue.pop(0)
            generation += 1
            store = folder / str(generation)
            store.mkdir()
            # What a crash leaves: the file as it is committed at this moment, and none of what is in memory.
            await world.store.writer.exclusive(partial(copy, target=store / "app.db"))
    raise AssertionError("unreachable")


def copy(connection: sqlite3.Connection, target: Path) -> None:
    """Copy what is committed."""
    connection.execute("VACUUM INTO ?", (str(target),))


async def outside() -> None:
    """Awaits what is outside."""
    await asyncio.sleep(0)


async def one_act(world: World, service: object, act: str) -> None:
    """Do one thing, if it can be done now."""
    handle = service.workflows["fulfil"]  # type: ignore[attr-defined]
    if act == "pay":
        await world.publish("orders", Paid("o1"))
    elif act.startswith("wait"):
        await world.clock.advance(70 if act == "wait long" else 3)
    elif (await world.rows("SELECT state FROM antiphon_runs"))[0][0] not in ENDED:
        reason = {} if act == "resume" else {"reason": act}
        async with world.runtime.transaction("orders") as tx:
            await getattr(handle, act)(tx, key="o1", **reason)
        await world.clock.rest()


@settings(max_examples=25)
@given(ACTS, FAULTS, st.booleans())
@example(["pay", "wait", "cancel", "crash", "wait long"], {"refund": 3}, True)
@example(["pause", "pay", "crash", "cancel", "resume"], {"release": 3}, False)
def test_every_interleaving_ends_in_a_declared_end(acts: list[str], times: dict[str, int], await_outside: bool) -> None:
    """It ends; nothing takes effect twice; what is undone was done; nothing done stays unless it completed."""
    folder = Path(tempfile.mkdtemp(prefix="antiphon-runs-"))
    try:
        state, effects = asyncio.run(play(folder, acts, times, await_outside))
    finally:
        shutil.rmtree(folder)
    assert RunState(state) in ENDED
    assert len(effects) == len(set(effects)), "an effect is there twice"
    done = [what for what in effects if what in ("reserve", "charge", "ship")]
    undone = [what for what in effects if what in UNDO_OF.values()]
    if state == "COMPLETED":
        assert done == ["reserve", "charge", "ship"]
        assert undone == []
    else:
        assert "ship" not in done
        expected = [UNDO_OF[what] for what in reversed(done)]
        left_out = [what for what in expected if what not in undone]
        assert undone == [what for what in expected if what in undone], "undone in another order"
        assert all(times.get(what, 0) >= 3 for what in left_out), "left done without a reason"
