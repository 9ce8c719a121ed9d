"""An example system on MariaDB, whole, in processes that are killed; what else it must do is in ``test_served``."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from examples.flight_booking.demo import subject
from tests.examples.kit import (
    CHECKOUT,
    PATIENCE_S,
    all_ended,
    booked,
    client_of,
    mail_server,
)
from tests.examples.mariadb import audit
from tests.store.mariadb import databases

pytestmark = pytest.mark.anyio

BOOKINGS, BREAKS = 60, 3


@pytest.fixture
def url() -> Iterator[str]:
    """An address for databases of the test's own."""
    with databases() as found:
        yield found


async def test_flight_booking_in_processes_that_are_killed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process is ended by SIGKILL amid its bookings, the next one goes on: each booking comes to its one end."""
    bookings = subject()
    accepted: list[str] = []
    monkeypatch.setenv("ANTIPHON_STORE", url)
    async with mail_server() as (mailbox, port):
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(port))
        for part in range(BREAKS):
            is_last = part == BREAKS - 1
            async with a_process(tmp_path, killed=not is_last) as address, client_of(address) as client:
                accepted += await booked(client, bookings, part * BOOKINGS // BREAKS, BOOKINGS // BREAKS)
                if is_last:
                    await mailbox.holding((await all_ended(client, bookings, accepted))["TICKETED"])
    received = Counter(str(message["Message-ID"]) for message in mailbox.messages)
    answers = await audit(url, accepted, received)
    # An e-mail that was on its way when its process died comes again with the same Message-ID: SMTP cannot be asked.
    findings = {finding: count for finding, count in answers.items() if ": " in finding and count}
    assert findings == {}
    assert answers["accepted"] == answers["ticketed"] + answers["cancelled"] == BOOKINGS


@asynccontextmanager
async def a_process(folder: Path, *, killed: bool) -> AsyncIterator[str]:
    """``antiphon run`` of all services once it is ready: its gateway's address. It ends as it is told, or is killed."""
    command = ("-m", "antiphon", "run", "examples.flight_booking:app", "--data", str(folder), "--port", "0", "--json")
    with (folder / "stderr").open("ab") as told:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=CHECKOUT, stdout=asyncio.subprocess.PIPE, stderr=told
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            ready = await process.stdout.readline()
        assert ready, (folder / "stderr").read_text(encoding="utf-8")
        yield json.loads(ready)["url"]
    finally:
        if killed:
            process.kill()
        else:
            process.terminate()
        await process.communicate()
