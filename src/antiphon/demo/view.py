"""What the demo shows while it runs: a live table in a terminal, a plain line a second elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from antiphon.demo.figures import Figures, Trace
from antiphon.demo.subject import Subject

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


@dataclass(frozen=True)
class Heading:
    """What stays the same: where the system is, and what to try with it."""

    subject: Subject
    url: str
    data: str

    @property
    def addresses(self) -> tuple[tuple[str, str], ...]:
        """What may be opened, and what is there."""
        paths = (("/docs", "the API, to be tried out"), *self.subject.addresses, ("/metrics", "figures for Prometheus"))
        return tuple((f"{self.url}{path}", what) for path, what in paths)

    @property
    def things_to_try(self) -> tuple[str, str, str]:
        """For another terminal or a browser."""
        return (
            self.subject.hint,
            f"antiphon status --data {self.data}",
            f"antiphon tail --data {self.data}, then antiphon trace with the id of an event",
        )


@dataclass(frozen=True)
class Scene:
    """What is shown now. Rates are per second, over the last second or so."""

    phase: str
    seconds: float
    accepted: int
    accepted_per_s: float
    events_per_s: float
    figures: Figures
    traces: Sequence[Trace]


Show = Callable[[Scene], None]


@contextmanager
def opened_view(heading: Heading) -> Iterator[Show]:
    """A view on stderr for the length of the block; call what it gives with each new scene."""
    if not sys.stderr.isatty() or find_spec("rich") is None:
        for line in _introduction(heading):
            print(line, file=sys.stderr)
        yield lambda scene: print(line_of(scene), file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        yield lambda scene: live.update(rendered(heading, scene), refresh=True)


def line_of(scene: Scene) -> str:
    """A scene on one line."""
    statuses = " ".join(f"{status} {count}" for status, count in scene.figures.statuses.items())
    counters = "".join(f"{name} {count}, " for name, count in scene.figures.counters.items())
    passing = "".join(f"{status} {count}, " for status, count in scene.figures.deliveries.items() if count)
    line = (
        f"{scene.seconds:4.0f} s {scene.phase}: accepted {scene.accepted} ({scene.accepted_per_s:.0f}/s), "
        f"{statuses}, {counters}events {scene.figures.events} ({scene.events_per_s:.0f}/s), {passing}"
        f"failed attempts {scene.figures.failed_attempts}, dead letters {scene.figures.dead_letters}"
    )
    return f"{line}, paused {', '.join(scene.figures.paused)}" if scene.figures.paused else line


def trace_line(trace: Trace) -> str:
    """What a request came to, and in how many milliseconds."""
    (_, *steps) = trace.steps
    return f"{steps[-1][1]:5} ms  {' > '.join(type_ for type_, _ in steps)}" if steps else ""


def _introduction(heading: Heading) -> Iterator[str]:
    for address, what in heading.addresses:
        yield f"{address}  {what}"
    yield "To try:"
    for number, thing in enumerate(heading.things_to_try, 1):
        yield f"  {number}. {thing}"


def rendered(heading: Heading, scene: Scene) -> RenderableType:
    """A scene for rich: less than 24 lines."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    def panel(title: str, table: Table) -> Panel:
        return Panel(table, title=title, title_align="left")

    top = Table.grid(expand=True)
    top.add_column(ratio=1)
    top.add_column(ratio=1)
    subject = heading.subject
    title = f"{subject.title}, {scene.phase}, {scene.seconds:.0f} s"
    top.add_row(panel(title, _rates(scene)), panel(f"{subject.noun}s", _statuses(scene.figures, subject.ends)))
    traces, around = Table.grid(padding=(0, 2)), Table.grid()
    for trace in scene.traces:
        line = Text(trace_line(trace), no_wrap=True, overflow="ellipsis")
        traces.add_row(Text(trace.event_id, style="dim"), line)
    for address, what in heading.addresses:
        around.add_row(Text.assemble((address, "underline"), f"  {what}"))
    for number, thing in enumerate(heading.things_to_try, 1):
        around.add_row(Text(f"{number}. {thing}", no_wrap=True, overflow="ellipsis"))
    return Group(
        top,
        panel("what came of the last ones, by their first event", traces),
        panel("to open, and three things to try; Ctrl-C drains and audits", around),
    )


def _rates(scene: Scene) -> Table:
    from rich.table import Table
    from rich.text import Text

    figures = scene.figures
    table = Table.grid(padding=(0, 2))
    table.add_row("accepted", f"{scene.accepted:,}", f"{scene.accepted_per_s:.0f}/s")
    table.add_row("events", f"{figures.events:,}", f"{scene.events_per_s:.0f}/s")
    for name, count in figures.counters.items():
        table.add_row(name, f"{count:,}")
    for status, count in figures.deliveries.items():
        table.add_row(status, f"{count:,}")
    table.add_row("failed attempts", f"{figures.failed_attempts:,}", "tried again" if figures.failed_attempts else "")
    dead = Text(f"{figures.dead_letters:,}", style="bold red" if figures.dead_letters else "")
    paused = sorted({name.partition(".")[0] for name in figures.paused})
    table.add_row("dead letters", dead, f"paused: {', '.join(paused)}" if paused else "")
    return table


def _statuses(figures: Figures, colours: Mapping[str, str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    total = max(1, sum(figures.statuses.values()))
    table = Table.grid(padding=(0, 2))
    for status, count in figures.statuses.items():
        bar = Text("█" * round(20 * count / total), style=colours.get(status, "cyan"))
        table.add_row(status, f"{count:,}", bar)
    return table
