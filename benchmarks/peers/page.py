"""The results as a table for the terminal, a page of the docs, and a chart. Pure functions of what was saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

from benchmarks.peers.catalogue import CATALOGUE, Entry
from benchmarks.peers.servers import SERVERS

OURS = "antiphon_sqlite"
_ALL_OURS = (OURS, "antiphon_processes")
NOTHING = "-"

Results = dict[str, Any]


class Column(NamedTuple):
    """A figure of the steady phase: what it is called, how it is read, and whether less is better."""

    title: str
    of: Callable[[dict[str, Any]], float | None]
    shown: Callable[[float], str]
    less: bool = True


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


COLUMNS = (
    Column("Events/s", lambda found: found["rate"], _plain, less=False),
    Column("Latency p50, ms", lambda found: found.get("p50_ms"), _short),
    Column("p99, ms", lambda found: found.get("p99_ms"), _short),
    Column("CPU per event, µs", lambda found: found["cpu_us"] + found["server_cpu_us"], _plain),
    Column("Memory, MiB", lambda found: found["memory_mib"], _plain),
)


def steady_of(results: Results, name: str) -> dict[str, Any] | None:
    """The figures of a system's load, whichever phase took them; None if it has none."""
    found = results["systems"].get(name, {})
    figures: dict[str, Any] | None = found.get("steady") or found.get("loop")
    return figures


def measured(results: Results) -> list[str]:
    """The systems that have figures, the fastest first."""
    there = [(steady["rate"], name) for name in results["systems"] if (steady := steady_of(results, name))]
    return [name for _, name in sorted(there, reverse=True)]


def observed(results: Results, name: str) -> str:
    """What the kill test found."""
    if "kill" not in CATALOGUE[name].phases:
        return "not asked"
    kill = results["systems"][name].get("kill")
    if not kill:
        return "no result"
    return f"{kill['lost']} lost, {kill['doubled']} doubled of {kill['published']:,}"


def text(results: Results) -> str:
    """The table for a terminal."""
    rows = [["", *(column.title for column in COLUMNS), "killed"]]
    rows += [
        [CATALOGUE[name].title, *_cells(steady_of(results, name) or {}), observed(results, name)]
        for name in measured(results)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*lines, *_troubles(results), *_better(results)])


def markdown(results: Results) -> str:
    """The page of the docs."""
    names, plan = measured(results), results["plan"]
    parts = [
        _INTRODUCTION.format(machine=_machine(results), fsync=_fsync(results), short=_doubts(results), **plan),
        "## Figures\n",
        _table(
            ["System", *(column.title for column in COLUMNS), "of that CPU, server's", "Server's memory, MiB"],
            [_figures(results, name) for name in names],
        ),
        _HOW.format(**plan),
        "## What a kill costs\n",
        _table(
            [
                "System",
                "Events synced to disk?",
                "Its documentation promises",
                "Killed",
                "Effects",
                "Follow-ups counted",
            ],
            [_guarantee(results, name) for name in names if "kill" in CATALOGUE[name].phases],
        ),
        _KILLS.format(**plan),
        "## Where others are better\n",
        "\n".join(_better(results)) + "\n",
        _READING,
        "## Settings\n",
        "\n".join(_settings(results, name) for name in names) + "\n",
    ]
    if troubles := _troubles(results):
        parts += ["## Not measured\n", "\n".join(troubles) + "\n"]
    return "\n".join(parts)


def _cells(figures: dict[str, Any]) -> list[str]:
    values = [(column, column.of(figures)) for column in COLUMNS]
    return [NOTHING if value is None else column.shown(value) for column, value in values]


def _figures(results: Results, name: str) -> list[str]:
    figures = steady_of(results, name) or {}
    cells = _cells(figures)
    if figures["missing"]:
        cells[0] += f" ({figures['missing']:,} of {figures['events']:,} lost)"
    if "latency_rate" in figures and figures["latency_rate"] < results["plan"]["rate"]:
        cells[1] += f" (at {_plain(figures['latency_rate'])}/s)"
    server = (
        [_plain(figures["server_cpu_us"]), _plain(figures["server_memory_mib"])]
        if CATALOGUE[name].server
        else [NOTHING] * 2
    )
    title = CATALOGUE[name].title
    return [f"**{title}**" if name in _ALL_OURS else title, *cells, *server]


def _guarantee(results: Results, name: str) -> list[str]:
    entry, kill = CATALOGUE[name], results["systems"][name].get("kill", {})
    killed = f"{kill['kills']} times" if kill else NOTHING
    counted = f"{kill['counted']:+,}" if kill.get("counted") else "exact" if kill else NOTHING
    title = f"**{entry.title}**" if name in _ALL_OURS else entry.title
    return [title, entry.durable, entry.promise, killed, observed(results, name), counted]


def _settings(results: Results, name: str) -> str:
    entry = CATALOGUE[name]
    return f"- **{entry.title}**{_versions(results, entry)}. Effects: {entry.effects}. {entry.settings}"


def _versions(results: Results, entry: Entry) -> str:
    libraries = [f"{each} {results['libraries'][each]}" for each in entry.libraries if each in results["libraries"]]
    if entry.server:
        libraries.append(f"{SERVERS[entry.server].title} {results['servers'].get(entry.server, '')}".strip())
    return f" ({', '.join(libraries)})" if libraries else ""


def _better(results: Results) -> list[str]:
    """A line for each figure: who is ahead of Antiphon, and by how much."""
    ours = steady_of(results, OURS)
    if ours is None:
        return []
    lines = []
    for column in COLUMNS:
        own, ahead = column.of(ours), []
        for name in measured(results):
            value = column.of(steady_of(results, name) or {})
            if own and value is not None and name not in _ALL_OURS and (value < own if column.less else value > own):
                ahead.append(f"{CATALOGUE[name].title} ({column.shown(value)})")
        nobody = "nobody that was measured here"
        lines.append(f"- {column.title}: {', '.join(ahead) or nobody}; Antiphon {column.shown(own or 0.0)}.")
    return lines


def _troubles(results: Results) -> list[str]:
    absent = [f"- {CATALOGUE[name].title}: absent, {why}." for name, why in results["absent"].items()]
    failed = [
        f"- {CATALOGUE[name].title}: {found['failed']}"
        for name, found in results["systems"].items()
        if "failed" in found
    ]
    return absent + failed


def _machine(results: Results) -> str:
    machine = results["machine"]
    return (
        f"{results['date']}: {machine['cores']} cores, {machine['system']}, Python {machine['python']}, "
        f"SQLite {machine['sqlite']}; load before the run {machine['load']}"
    )


def _doubts(results: Results) -> str:
    short = _SHORT if results["plan"]["seconds"] < _SHORT_S else ""
    return short + (_BUSY if results["machine"]["load"] > results["machine"]["cores"] else "")


def _fsync(results: Results) -> str:
    taken = sorted(each["fsync_ms"] for each in results["systems"].values() if "fsync_ms" in each)
    if not taken:
        return "not measured"
    return f"{taken[len(taken) // 2]:.2f} ms (median; {taken[0]:.2f} to {taken[-1]:.2f} between the systems)"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


#: Less than so many seconds for each rate is a short run.
_SHORT_S = 5.0
_SHORT = " It was a short run (`--quick`): its figures are coarse."

_BUSY = " Other programs kept the machine busy meanwhile: what takes much CPU or many commits suffers most from that."

_INTRODUCTION = """\
# Antiphon beside its peers

The same job, on the same machine, in the same run, with Antiphon and with what a user would pick instead: an order is
published; a handler makes one upsert in a database and publishes a follow-up; a second handler counts it.

One run on {machine}. One `fsync` took {fsync}.{short} This page is written by `python -m benchmarks.peers --page`
from what that run kept. `make peers` measures your machine.

![Events a second and latency of each system](peers.svg)
"""

_HOW = """\
- **Events/s**: orders that went through both handlers, for some {seconds:g} s. They are published 256 at a time, as
  far as the system has a call for that or tasks at once, while at most 4,096 are under way.
- **Latency**: {rate:g} orders a second for {seconds:g} s, from the call that publishes to the start of the second
  handler: what the first one wrote is committed and its follow-up has arrived. A system that is too slow for that got
  half of its own rate, as noted.
- **CPU**: of the publishing process, the worker processes and the server together. A server's share is what all of
  its processes took meanwhile, for whomever.
- **Memory**: of the publishing process and the workers, after the load; what processes share is divided among them
  (PSS).
- Embedded systems publish and handle in one process, the others publish from one and handle in another. All have the
  same two cores.
"""

_KILLS = """\
While orders come in, the worker process with all its children gets SIGKILL {kills:g} times, each time when it has
counted some more; it is started again at once. Each order upserts a row of its own. When nothing changes any more,
the rows are compared with what had been published: *lost* orders have no row, *doubled* ones were added twice. The
last column is the second handler's count against the orders published. Systems that redeliver by time-out got one of
5 s, so that the test is short; their defaults are longer. A handler that is called twice can be made harmless by a
table of what was handled; that is the user's to write, and is not here. Few kills show that a promise is broken; they
do not prove that it holds. The server was not killed.
"""

_READING = """\
How to read that: Antiphon commits up to 256 events at a time, with their effects; the peers' handlers, written as
their documentation shows, commit one by one, and each commit waits for the disk. On a disk with slow `fsync` the
difference grows. A broker's clients may be on many machines; Antiphon's processes share one.
"""


# The chart: a row for each system; its rate as a bar, its latency as a line from p50 to p99, on logarithmic scales.
_ROW, _TOP, _NAMES, _PANEL, _GAP = 26, 64, 230, 300, 90
_WIDTH = _NAMES + 2 * _PANEL + _GAP + 40
_COLOURS = {"kept": "#2a7f62", "doubled": "#c98a1b", "lost": "#b3392f", "none": "#7a7f87"}
_LEGEND = (
    ("kept", "killed: nothing lost or doubled"),
    ("doubled", "doubled"),
    ("lost", "lost"),
    ("none", "not killed"),
)


class _Scale(NamedTuple):
    """A logarithmic axis from 10^low to 10^high, beginning at *left*."""

    left: float
    low: int
    high: int

    def at(self, value: float) -> float:
        share = (math.log10(max(value, 10**self.low)) - self.low) / (self.high - self.low)
        return round(self.left + share * _PANEL, 1)


def chart(results: Results) -> str:
    """The chart, an SVG."""
    names = measured(results)
    height = _TOP + _ROW * len(names) + 44
    steady = {name: steady_of(results, name) or {} for name in names}
    rates = _scale(_NAMES, [found["rate"] for found in steady.values()])
    latencies = [found[key] for found in steady.values() for key in ("p50_ms", "p99_ms") if key in found]
    waits = _scale(_NAMES + _PANEL + _GAP, latencies)
    bottom = _TOP + _ROW * len(names)
    shapes = [*_axis(rates, bottom, "events/s"), *_axis(waits, bottom, "latency, ms: p50 to p99")]
    for row, name in enumerate(names):
        shapes += _row(results, name, steady[name], _TOP + _ROW * row, rates, waits)
    left = _NAMES
    for kind, title in _LEGEND:
        shapes.append(f'<rect x="{left}" y="{height - 20}" width="10" height="10" fill="{_COLOURS[kind]}"/>')
        shapes.append(_text(left + 15, height - 11, title))
        left += 42 + 7 * len(title)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
            'font-family="system-ui, sans-serif" font-size="12">',
            "<title>Events a second and latency of each system</title>",
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            *shapes,
            "</svg>\n",
        ]
    )


def _row(results: Results, name: str, figures: dict[str, Any], top: float, rates: _Scale, waits: _Scale) -> list[str]:
    colour, middle = _COLOURS[_kind(results, name)], top + _ROW / 2
    weight = ' font-weight="bold"' if name in _ALL_OURS else ""
    end = rates.at(figures["rate"])
    shapes = [
        _text(_NAMES - 10, middle + 4, CATALOGUE[name].title, f'text-anchor="end"{weight}'),
        f'<rect x="{rates.left}" y="{top + 5}" width="{round(end - rates.left, 1)}" height="{_ROW - 10}" '
        f'fill="{colour}"/>',
        _text(end + 5, middle + 4, _plain(figures["rate"])),
    ]
    if "p50_ms" in figures:
        near, far = waits.at(figures["p50_ms"]), waits.at(figures["p99_ms"])
        beside, side = (far + 8, "start") if far < waits.left + 0.75 * _PANEL else (near - 10, "end")
        shapes += [
            f'<line x1="{near}" y1="{middle}" x2="{far}" y2="{middle}" stroke="{colour}" stroke-width="4"/>',
            f'<circle cx="{near}" cy="{middle}" r="5" fill="{colour}"/>',
            _text(
                beside,
                middle + 4,
                f"{_short(figures['p50_ms'])} to {_short(figures['p99_ms'])}",
                f'text-anchor="{side}"',
            ),
        ]
    return shapes


def _kind(results: Results, name: str) -> str:
    kill = results["systems"][name].get("kill")
    if not kill:
        return "none"
    return "lost" if kill["lost"] else "doubled" if kill["doubled"] or kill["counted"] else "kept"


def _scale(left: float, values: list[float]) -> _Scale:
    logs = [math.log10(value) for value in values if value > 0] or [0.0, 1.0]
    low = math.floor(min(logs))
    return _Scale(left, low, max(low + 1, math.ceil(max(logs))))


def _axis(scale: _Scale, bottom: float, title: str) -> list[str]:
    shapes = [_text(scale.left, 20, title, 'font-weight="bold"')]
    for power in range(scale.low, scale.high + 1):
        x = scale.at(10**power)
        shapes.append(f'<line x1="{x}" y1="{_TOP - 8}" x2="{x}" y2="{bottom}" stroke="#d5d8dc"/>')
        shapes.append(_text(x, _TOP - 14, f"{10**power:,}" if power >= 0 else f"{10**power:g}", 'text-anchor="middle"'))
    return shapes


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" fill="#22262b"{" " + more if more else ""}>{escape(words)}</text>'
