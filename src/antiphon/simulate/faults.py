"""What goes wrong, and when: drawn from a seed, or said beforehand."""

from __future__ import annotations

import random  # noqa: TID251  seeded: the seed decides every fault
from collections.abc import Iterable

import msgspec

from antiphon.errors import AntiphonError
from antiphon.simulate.process import NEVER

#: What a person may name, and the kinds of fault that it stands for.
CLI_KINDS = {
    "crash": ("crash", "power", "stall"),
    "drop": ("drop",),
    "duplicate": ("duplicate",),
    "reorder": ("reorder",),
    "delay": ("delay", "late"),
    "partition": ("partition",),
    "disk": ("disk",),
    "clock": ("clock",),
}
#: Where faults of a kind can strike: at which points. None: wherever a process does anything.
_WHERE: dict[str, frozenset[str] | None] = {
    "crash": None,
    "power": None,
    "stall": None,
    "clock": None,
    "disk": frozenset({"write", "commit", "begin"}),
    "handler": frozenset({"handler"}),
    "drop": frozenset({"bell", "bus.send", "bus.receive", "net", "request"}),
    "duplicate": frozenset({"bus.send", "bus.receive", "request"}),
    "delay": frozenset({"bell", "bus.send", "bus.receive", "net", "request"}),
    "late": frozenset({"step"}),
    "reorder": frozenset({"request", "bus.receive"}),
    "partition": frozenset({"bus.send", "bus.receive"}),
}
KINDS = tuple(_WHERE)
# Faults in a thousand points: a swarm draws one for each of its kinds. Power is shared by all processes.
_RATES = {"power": (0.1, 0.3, 1.0), "handler": (1.0, 5.0, 20.0)}
_USUAL_RATES = (0.3, 1.0, 3.0)
_DISK = ("full", "slow", "locked")
_HANDLER = ("raise", "after", "hang", "kill", "kill-after")
_OFTEN = (1, 1, 1, 2, 2, 3, 99)


class Fault(msgspec.Struct, frozen=True):
    """A fault of a *kind* at the point number *at*. *process* is whom it strikes (empty: whoever comes by).

    *detail* says what exactly and for how long, in seconds: ``full:2.5``, ``0.3``, ``raise*2``. Left empty,
    it is drawn from the seed, the kind and the point.
    """

    kind: str
    at: int
    process: str = ""
    detail: str = ""

    def __str__(self) -> str:
        parts = [f"{self.kind}@{self.at}", self.process, self.detail]
        while not parts[-1]:
            parts.pop()
        return ":".join(parts)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """The fault that ``kind@point[:process[:detail]]`` says. Raises AntiphonError."""
        head, _, rest = text.partition(":")
        kind, _, at = head.partition("@")
        process, _, detail = rest.partition(":")
        if kind not in KINDS or not at.isdecimal():
            raise AntiphonError(
                f"{text!r} is no fault",
                where="a schedule",
                mend=f"Write kind@point[:process[:detail]]; the kinds are {', '.join(KINDS)}",
            )
        return cls(kind, int(at), process, detail)

    @property
    def what(self) -> str:
        """Which variety of its kind."""
        return self.detail.partition(":")[0]

    @property
    def name(self) -> str:
        """Its kind, with the variety where there are several that have little in common."""
        variety = self.what.partition("*")[0]
        return f"{self.kind} {variety}" if self.kind in ("handler", "disk", "drop") else self.kind

    @property
    def seconds(self) -> float:
        """For how long."""
        number = self.detail.rpartition(":")[2]
        try:
            return float(number)
        except ValueError:
            return 0.0


class Schedule(msgspec.Struct, frozen=True):
    """Faults that are said beforehand."""

    faults: tuple[Fault, ...] = ()

    def __str__(self) -> str:
        return " ".join(map(str, self.faults))

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """The faults of a text, separated by blanks. Raises AntiphonError."""
        return cls(tuple(map(Fault.parse, text.split())))


class FaultMix(msgspec.Struct, frozen=True):
    """Which faults come how often: their number in a thousand points, by kind."""

    rates: dict[str, float]

    @classmethod
    def none(cls) -> FaultMix:
        """Nothing goes wrong."""
        return cls({})

    @classmethod
    def swarm(cls, seed: int, kinds: Iterable[str] = tuple(CLI_KINDS)) -> FaultMix:
        """A mix of the seed's own: a part of *kinds* (of CLI_KINDS) and of handlers' faults, at rates of its own.

        A mix of everything at once hides what only shows when some kinds are absent.
        """
        chance = random.Random(f"{seed}:swarm")
        meant = [each for kind in kinds for each in CLI_KINDS[kind]]
        chosen = [kind for kind in (*meant, "handler") if chance.random() < 0.5]
        return cls({kind: chance.choice(_RATES.get(kind, _USUAL_RATES)) for kind in chosen})


class Plan:
    """Decides at every point whether a fault strikes there. What struck is kept, to be said again."""

    def __init__(self, faults: FaultMix | Schedule, seed: int) -> None:
        self._seed = seed
        self._random = random.Random(f"{seed}:faults")
        self._rates: dict[str, float] = {}
        self._waiting: list[Fault] = []
        self._armed: list[Fault] = []
        self.struck: list[Fault] = []
        if isinstance(faults, Schedule):
            self._waiting = sorted(faults.faults, key=lambda fault: fault.at)
        else:
            self._rates = {kind: rate for kind, rate in sorted(faults.rates.items()) if rate > 0}
            for kind in self._rates:
                self._draw(kind, 0)
        self.next_at = NEVER
        #: The names of points at which something may strike before *next_at*: a fault that waits for its occasion.
        self.occasions: frozenset[str] = frozenset()
        self._look_ahead()

    def strike(self, at: int, process: str | None, name: str) -> Fault | None:
        """The fault that strikes at the point *at*, if any. *process* is who does it."""
        while self._waiting and self._waiting[0].at <= at:
            self._armed.append(self._waiting.pop(0))
        found = None
        for number, fault in enumerate(self._armed):
            if _is_possible(fault.kind, process, name):
                del self._armed[number]
                found = self._exactly(fault, at, process or "", name)
                self.struck.append(found)
                if fault.kind in self._rates:
                    self._draw(fault.kind, at)
                break
        self._look_ahead()
        return found

    def end(self) -> None:
        """Nothing goes wrong any more."""
        self._rates.clear()
        self._waiting.clear()
        self._armed.clear()
        self._look_ahead()

    def _draw(self, kind: str, at: int) -> None:
        gap = 1 + int(self._random.expovariate(self._rates[kind] / 1000))
        self._waiting.append(Fault(kind, at + gap))
        self._waiting.sort(key=lambda fault: fault.at)

    def _look_ahead(self) -> None:
        places = [_WHERE[fault.kind] for fault in self._armed]
        self.occasions = frozenset().union(*(names for names in places if names is not None))
        self.next_at = 0 if None in places else self._waiting[0].at if self._waiting else NEVER

    def _exactly(self, fault: Fault, at: int, process: str, name: str) -> Fault:
        chance = random.Random(f"{self._seed}:{fault.kind}@{at}")
        detail = fault.detail or _detail(fault.kind, name, chance)
        return Fault(fault.kind, at, fault.process or process, detail)


def _is_possible(kind: str, process: str | None, name: str) -> bool:
    where = _WHERE[kind]
    return process is not None if where is None else name in where


def _detail(kind: str, name: str, chance: random.Random) -> str:
    """What exactly happens, and for how long."""
    if kind in ("crash", "power"):
        # Now and then it is away for longer than its leases last.
        return f"{chance.choice((0.05, 0.5, 2.0, 5.0, 20.0)) * (0.5 + chance.random()):.2f}"
    if kind == "stall":
        return f"{chance.choice((0.3, 3.0, 12.0, 20.0, 40.0)) * (0.5 + chance.random()):.2f}"
    if kind == "clock":
        return f"{chance.choice((-7200, -3600, -60, 60, 3600, 7200)) * (0.5 + chance.random()):.0f}"
    if kind == "disk":
        what = {"begin": "locked", "write": "full"}.get(name) or chance.choice(_DISK)
        return f"{what}:{chance.choice((0.01, 0.5, 5.0, 35.0)) * (0.5 + chance.random()):.2f}"
    if kind == "partition":
        return f"{chance.choice((0.5, 5.0, 30.0)) * (0.5 + chance.random()):.2f}"
    if kind in ("delay", "late", "reorder"):
        return f"{chance.choice((0.01, 0.3, 3.0)) * (0.5 + chance.random()):.2f}"
    if kind == "drop":
        return chance.choice(("before", "after"))
    if kind == "handler":
        return "reject" if chance.random() < 0.05 else f"{chance.choice(_HANDLER)}*{chance.choice(_OFTEN)}"
    return ""
