"""The choreography as a picture: Mermaid for documents, SVG for everything else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from itertools import pairwise
from xml.sax.saxutils import escape

from antiphon.policy.choreography import Graph, Node, is_failure
from antiphon.policy.layout import Layout, lay_out

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_CHARACTER = 7.9  # width of one character at the font size below, in pixels: 0.6 em of a monospaced font
_HEIGHT = {"event": 30, "handler": 44, "route": 44, "schedule": 44}
_ROW = 82
_GAP = 26
_MARGIN = 24

#: Fill and line of the services' boxes, in order: distinct hues, light enough for dark text on all of them.
_HUES = (
    ("#dbeafe", "#1d4ed8"),
    ("#dcfce7", "#15803d"),
    ("#fef3c7", "#b45309"),
    ("#f3e8ff", "#7e22ce"),
    ("#cffafe", "#0e7490"),
    ("#fce7f3", "#be185d"),
    ("#ecfccb", "#4d7c0f"),
    ("#e2e8f0", "#475569"),
)

_ID = "antiphon-graph"
_FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
#: Each rule names the picture, so that none reaches the page that it is put into.
_STYLE = "\n".join(
    f".{_ID} {rule}"
    for rule in (
        f"text{{font:13px {_FONT};fill:#111827;text-anchor:middle}}",
        ".by{font-size:11px;fill:#374151}",
        ".event{fill:#fff;stroke:#6b7280;stroke-width:1.2}",
        ".failure{fill:#fef2f2;stroke:#b91c1c;stroke-width:1.2;stroke-dasharray:5 3}",
        ".edge{fill:none;stroke:#6b7280;stroke-width:1.3}",
    )
)
_MARKER = (
    f'<defs><marker id="{_ID}-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto"><path d="M0 0.5 8 4 0 7.5z" fill="#6b7280"/></marker></defs>'
)


def mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart: a box for each service, events between them."""
    names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart TB"]
    for number, service in enumerate(graph.services):
        own = [node for node in graph.nodes if node.service == service]
        if own:
            lines.append(f'    subgraph s{number}["{_mermaid_text(service)}"]')
            lines += [f"        {names[node.id]}{_mermaid_shape(node)}" for node in own]
            lines.append("    end")
    lines += [f"    {names[node.id]}{_mermaid_shape(node)}" for node in graph.nodes if not node.service]
    lines += [f"    {names[start]} --> {names[end]}" for start, end in graph.edges]
    failures = [names[node.id] for node in graph.nodes if node.kind == "event" and is_failure(node.label)]
    if failures:
        lines.append("    classDef failure stroke:#b91c1c,stroke-dasharray:5 3")
        lines.append(f"    class {','.join(failures)} failure")
    return "\n".join(lines) + "\n"


def svg(graph: Graph) -> str:
    """The graph as one SVG document: layers from top to bottom, services told apart by name and colour."""
    widths = {node.id: _width(node) for node in graph.nodes}
    layout = lay_out(widths, graph.edges, _GAP)
    width = layout.right - layout.left + 2 * _MARGIN
    height = max(layout.rows, 1) * _ROW - (_ROW - 44) + 2 * _MARGIN
    hues = {service: _HUES[number % len(_HUES)] for number, service in enumerate(graph.services)}
    shift = _MARGIN - layout.left
    heights = {node.id: _HEIGHT[node.kind] for node in graph.nodes}
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    names = f'class="{_ID}" role="img" aria-labelledby="{_ID}-title {_ID}-desc"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {names} {size}>',
        f'<title id="{_ID}-title">{_xml(_title(graph))}</title>',
        f'<desc id="{_ID}-desc">{_xml(describe(graph))}</desc>',
        f"<style>{_STYLE}</style>",
        _MARKER,
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
        *(_edge(edge, layout, heights, shift) for edge in graph.edges),
        *(_box(node, layout, widths[node.id], shift, hues) for node in graph.nodes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def describe(graph: Graph) -> str:
    """The graph in sentences, one for each publisher or handler."""
    sentences = []
    for node in graph.nodes:
        if node.kind == "event":
            continue
        takes = [graph.node(start).label for start, end in graph.edges if end == node.id]
        gives = [graph.node(end).label for start, end in graph.edges if start == node.id]
        deeds = [f"handles {' and '.join(takes)}"] if takes else []
        deeds += [f"publishes {' or '.join(gives)}"] if gives else []
        sentences.append(f"{node.service}, {node.label}: {', '.join(deeds) or 'publishes nothing'}.")
    return " ".join(sentences)


def _title(graph: Graph) -> str:
    return f"Events between {', '.join(graph.services) or 'no services'}"


def _mermaid_shape(node: Node) -> str:
    text = _mermaid_text(node.label)
    left, right = {"event": ("([", "])"), "route": ("[/", "/]"), "schedule": ("{{", "}}")}.get(node.kind, ("[", "]"))
    return f'{left}"{text}"{right}'


def _mermaid_text(text: str) -> str:
    """*text* with every character that Mermaid or HTML could take for its own as an entity."""
    plain = _NO_XML.sub("\ufffd", " ".join(text.split()))
    return "".join(each if each.isalnum() or each in " _-./:,{}" else f"#{ord(each)};" for each in plain)


def _box(node: Node, layout: Layout, width: float, shift: float, hues: Mapping[str, tuple[str, str]]) -> str:
    x, row = layout.places[node.id]
    x, y = x + shift, _middle(row)
    height = _HEIGHT[node.kind]
    frame = f'x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height}"'
    label = _xml(node.label)
    if node.kind == "event":
        look = "failure" if is_failure(node.label) else "event"
        return f'<g><rect class="{look}" {frame} rx="15"/><text x="{x:.1f}" y="{y + 4.5:.1f}">{label}</text></g>'
    fill, line = hues[node.service]
    return (
        f'<g><rect {frame} rx="4" fill="{fill}" stroke="{line}"/>'
        f'<text class="by" x="{x:.1f}" y="{y - 6:.1f}">{_xml(node.service)}</text>'
        f'<text x="{x:.1f}" y="{y + 12:.1f}">{label}</text></g>'
    )


def _edge(edge: tuple[str, str], layout: Layout, heights: Mapping[str, int], shift: float) -> str:
    """A smooth line through the places of the edge, from border to border."""
    start, end = edge
    route = layout.routes[edge]
    sign = 1 if route[-1][1] > route[0][1] else -1
    points = [(x + shift, float(_middle(row))) for x, row in route]
    points[0] = (points[0][0], points[0][1] + sign * heights[start] / 2)
    points[-1] = (points[-1][0], points[-1][1] - sign * (heights[end] / 2 + 1))
    path = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x, y), (to_x, to_y) in pairwise(points):
        bend = (to_y - y) / 2
        path.append(f"C{x:.1f} {y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y:.1f}")
    return f'<path class="edge" marker-end="url(#{_ID}-arrow)" d="{" ".join(path)}"/>'


def _middle(row: int) -> int:
    return _MARGIN + 22 + row * _ROW


def _width(node: Node) -> float:
    longest = max(_columns(node.label), _columns(node.service) if node.kind != "event" else 0)
    return longest * _CHARACTER + 28


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def _xml(text: str) -> str:
    return escape(_NO_XML.sub("\ufffd", text), {'"': "&quot;"})
