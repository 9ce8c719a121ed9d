"""Where the boxes of a directed graph go: layers from top to bottom, few crossings, straight long edges.

The steps are those of Sugiyama, Tagawa and Toda (1981): turn the edges of cycles round, put each node below
what leads to it, order the nodes of a layer by their neighbours, then give them places. All is deterministic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_SWEEPS = 12


@dataclass(frozen=True)
class Layout:
    """The centre of each node, and for each edge the centres that it passes, its ends included.

    Units are those of the widths; layers are one row each, numbered from 0.
    """

    rows: int
    left: float
    right: float
    places: Mapping[str, tuple[float, int]]
    routes: Mapping[tuple[str, str], tuple[tuple[float, int], ...]]


def lay_out(widths: Mapping[str, float], edges: Iterable[tuple[str, str]], gap: float) -> Layout:
    """Places for nodes of these *widths*, in the given order where nothing else decides.

    *gap* is kept between neighbours. Edges may form cycles; both ends of each must have a width.
    """
    edges = [edge for edge in dict.fromkeys(edges) if edge[0] != edge[1]]
    downward = _without_cycles(list(widths), edges)
    rows = _rows(list(widths), downward)
    chains = {edge: _chain(edge, rows) for edge in dict.fromkeys(downward)}
    sizes: dict[str, float] = dict(widths)
    layers: list[list[str]] = [[] for _ in range(max(rows.values(), default=-1) + 1)]
    for name in widths:
        layers[rows[name]].append(name)
    for (start, _), chain in chains.items():
        for row, name in enumerate(chain[1:-1], rows[start] + 1):
            sizes[name] = gap / 2
            layers[row].append(name)
    links = [link for chain in chains.values() for link in pairwise(chain)]
    layers = _ordered(layers, links)
    xs = _placed(layers, links, sizes, gap)
    places = {name: (xs[name], row) for row, layer in enumerate(layers) for name in layer}
    routes = {}
    for start, end in edges:
        chain = chains[start, end] if (start, end) in chains else chains[end, start][::-1]
        routes[start, end] = tuple(places[name] for name in chain)
    return Layout(
        rows=len(layers),
        left=min((xs[name] - size / 2 for name, size in sizes.items()), default=0.0),
        right=max((xs[name] + size / 2 for name, size in sizes.items()), default=0.0),
        places={name: places[name] for name in widths},
        routes=routes,
    )


def _without_cycles(names: Sequence[str], edges: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The edges, those that lead back to where a depth-first walk came from turned round."""
    following: dict[str, list[str]] = {name: [] for name in names}
    entered = set()
    for start, end in edges:
        following[start].append(end)
        entered.add(end)
    found: list[tuple[str, str]] = []
    open_, done = set(), set()
    for root in sorted(names, key=lambda name: name in entered):
        if root in done:
            continue
        open_.add(root)
        stack = [(root, iter(following[root]))]
        while stack:
            name, rest = stack[-1]
            after = next(rest, None)
            if after is None:
                stack.pop()
                open_.discard(name)
                done.add(name)
            elif after in open_:
                found.append((after, name))
            else:
                found.append((name, after))
                if after not in done:
                    open_.add(after)
                    stack.append((after, iter(following[after])))
    return found


def _rows(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The row of each node: below all that leads to it; what nothing leads to, right above what follows."""
    before: dict[str, set[str]] = {name: set() for name in names}
    after: dict[str, set[str]] = {name: set() for name in names}
    for start, end in edges:
        before[end].add(start)
        after[start].add(end)
    rows: dict[str, int] = {}
    waiting = {name: len(before[name]) for name in names}
    ready = [name for name in names if not waiting[name]]
    for name in ready:  # grows as it goes
        rows[name] = max((rows[other] + 1 for other in before[name]), default=0)
        for other in sorted(after[name]):
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    for name in names:
        if not before[name] and after[name]:
            rows[name] = min(rows[other] for other in after[name]) - 1
    return rows


def _chain(edge: tuple[str, str], rows: Mapping[str, int]) -> list[str]:
    """The edge with a stand-in on each row that it crosses."""
    start, end = edge
    return [start, *(f"{start}\0{end}\0{row}" for row in range(rows[start] + 1, rows[end])), end]


def _ordered(layers: list[list[str]], links: list[tuple[str, str]]) -> list[list[str]]:
    """The layers, each ordered by the middle of its neighbours, down and up again; the best that was seen."""
    above, below = _neighbours(links)
    best, fewest = layers, _crossings(layers, below)
    for sweep in range(_SWEEPS):
        layers = [list(layer) for layer in layers]
        down = sweep % 2 == 0
        neighbours = above if down else below
        walk = range(1, len(layers)) if down else range(len(layers) - 2, -1, -1)
        for row in walk:
            fixed = {name: place for place, name in enumerate(layers[row - 1 if down else row + 1])}
            own = {name: float(place) for place, name in enumerate(layers[row])}
            for name in layers[row]:
                if places := [fixed[other] for other in neighbours.get(name, ())]:
                    own[name] = sum(places) / len(places)
            layers[row].sort(key=own.__getitem__)
        crossings = _crossings(layers, below)
        if crossings < fewest:
            best, fewest = layers, crossings
    return best


def _crossings(layers: list[list[str]], below: Mapping[str, list[str]]) -> int:
    count = 0
    for upper, lower in pairwise(layers):
        place = {name: number for number, name in enumerate(lower)}
        seen: list[int] = []
        for name in upper:
            ends = sorted(place[other] for other in below.get(name, ()))
            count += sum(1 for end in ends for other in seen if other > end)
            seen.extend(ends)
    return count


def _placed(
    layers: list[list[str]], links: list[tuple[str, str]], sizes: Mapping[str, float], gap: float
) -> dict[str, float]:
    """The x of each node: near its neighbours, in order, *gap* apart."""
    above, below = _neighbours(links)
    xs: dict[str, float] = {}
    for layer in layers:
        xs.update(_apart(layer, dict.fromkeys(layer, 0.0), sizes, gap))
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            wanted = {}
            for name in layer:
                near = (above if down else below).get(name) or (below if down else above).get(name, [])
                wanted[name] = sum(xs[other] for other in near) / len(near) if near else xs[name]
            xs.update(_apart(layer, wanted, sizes, gap))
    return xs


def _apart(layer: list[str], wanted: Mapping[str, float], sizes: Mapping[str, float], gap: float) -> dict[str, float]:
    """The places nearest to those *wanted* (least squares) that keep the order and the gap.

    Without the room that each needs, that is monotone regression: neighbours that would overlap are pooled.
    """
    offsets: list[float] = []
    edge = 0.0
    for name in layer:
        offsets.append(edge + sizes[name] / 2)
        edge += sizes[name] + gap
    pools: list[tuple[float, int]] = []
    for name, offset in zip(layer, offsets, strict=True):
        mean, count = wanted[name] - offset, 1
        while pools and pools[-1][0] > mean:
            other, more = pools.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        pools.append((mean, count))
    shifts = [mean for mean, count in pools for _ in range(count)]
    return {name: shift + offset for name, shift, offset in zip(layer, shifts, offsets, strict=True)}


def _neighbours(links: list[tuple[str, str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for upper, lower in links:
        above.setdefault(lower, []).append(upper)
        below.setdefault(upper, []).append(lower)
    return above, below
