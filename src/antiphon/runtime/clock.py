"""The machine's clock, randomness and ids: the only place that asks the standard library for them."""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from antiphon.model.ids import uuid7

# CLOCK_BOOTTIME counts suspended time too; macOS's CLOCK_MONOTONIC does as well.
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_TAIL_BITS = 74
# More than handlers may run at once. In the loop's own pool, of a few threads, handlers that wait for the writer
# could take all of them, and the commit that they wait for would never get one.
_THREADS = ThreadPoolExecutor(1024, thread_name_prefix="antiphon")


def in_thread(fn: Callable[[], Any]) -> asyncio.Future[Any]:
    """Start *fn* in a thread of the runtime's own."""
    return asyncio.get_running_loop().run_in_executor(_THREADS, fn)


class SystemClock:
    """The real clock (``ports.Clock``)."""

    def __init__(self) -> None:
        self._random = random.Random(secrets.randbits(128))
        self._last_ms = 0
        self._tail = 0

    def now_ms(self) -> int:
        """Unix milliseconds, UTC."""
        return time.time_ns() // 1_000_000

    def boot_ms(self) -> int:
        """Milliseconds since boot."""
        return time.clock_gettime_ns(_BOOT_CLOCK) // 1_000_000

    def boot_id(self) -> str:
        """The kernel's name of this boot."""
        return _boot_id()

    def new_id(self) -> str:
        """A UUIDv7; within a millisecond the random tail counts up (RFC 9562, method 2)."""
        ms = time.time_ns() // 1_000_000
        if ms > self._last_ms:
            self._last_ms = ms
            # The top bit starts as zero, so that counting up cannot overflow within a millisecond.
            self._tail = self._random.getrandbits(_TAIL_BITS - 1)
        else:
            ms = self._last_ms
            self._tail += 1 + self._random.getrandbits(32)
        return uuid7(ms, self._tail)

    def random(self) -> float:
        """A random number in [0, 1)."""
        return self._random.random()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(seconds)

    async def idle(self, seconds: float) -> None:
        """The same as `sleep`."""
        await asyncio.sleep(seconds)

    async def run_blocking(self, fn: Callable[[], Any]) -> Any:
        """Run *fn* in a thread."""
        return await in_thread(fn)


@cache
def _boot_id() -> str:
    if sys.platform == "linux":
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    # Elsewhere the boot's moment, to ten seconds, names it well enough: clocks drift less than that.
    return f"boot-{(time.time() - time.clock_gettime(_BOOT_CLOCK)) // 10:.0f}"
