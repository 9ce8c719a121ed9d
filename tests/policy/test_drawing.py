"""The choreography drawn as Mermaid and as SVG."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from antiphon.policy.choreography import Graph, Node
from antiphon.policy.drawing import describe, mermaid, svg
from antiphon.policy.layout import lay_out

SVG = "{http://www.w3.org/2000/svg}"

ORDERS = Graph(
    services=("orders", "payment"),
    nodes=(
        Node("route:orders:POST /orders", "route", "POST /orders/{id}", "orders"),
        Node("schedule:orders.sweep", "schedule", "sweep, every 5 min", "orders"),
        Node("handler:payment.charge", "handler", "charge", "payment"),
        Node("event::Placed", "event", "Placed"),
        Node("event::PaymentFailed", "event", "PaymentFailed"),
        Node("event:payment:Counted", "event", "Counted", "payment"),
    ),
    edges=(
        ("route:orders:POST /orders", "event::Placed"),
        ("schedule:orders.sweep", "event::Placed"),
        ("event::Placed", "handler:payment.charge"),
        ("handler:payment.charge", "event::PaymentFailed"),
        ("handler:payment.charge", "event:payment:Counted"),
    ),
)


def test_mermaid_shows_services_as_boxes() -> None:
    """The text is a Mermaid flowchart as it is pasted into Markdown."""
    assert (
        mermaid(ORDERS)
        == """\
flowchart TB
    subgraph s0["orders"]
        n0[/"POST /orders/{id}"/]
        n1{{"sweep, every 5 min"}}
    end
    subgraph s1["payment"]
        n2["charge"]
        n5(["Counted"])
    end
    n3(["Placed"])
    n4(["PaymentFailed"])
    n0 --> n3
    n1 --> n3
    n3 --> n2
    n2 --> n4
    n2 --> n5
    classDef failure stroke:#b91c1c,stroke-dasharray:5 3
    class n4 failure
"""
    )


def test_the_description_says_what_the_picture_shows() -> None:
    """Who cannot see the picture reads the same from it."""
    assert describe(ORDERS) == (
        "orders, POST /orders/{id}: publishes Placed. orders, sweep, every 5 min: publishes Placed. "
        "payment, charge: handles Placed, publishes PaymentFailed or Counted."
    )


def test_svg_is_accessible_and_stands_alone() -> None:
    """An image role with title and description, a size, no script and nothing from elsewhere."""
    text = svg(ORDERS)
    root = ElementTree.fromstring(text)
    ids = [element.get("id") for element in root.iter() if element.tag in (f"{SVG}title", f"{SVG}desc")]
    assert root.get("role") == "img"
    assert (root.get("aria-labelledby") or "").split() == ids
    assert root.findtext(f"{SVG}title") == "Events between orders, payment"
    assert root.findtext(f"{SVG}desc") == describe(ORDERS)
    assert not re.search(r"<script|href|url\((?!#)|@import", text)


def test_an_empty_graph_is_a_small_picture() -> None:
    """Services without handlers can be drawn too."""
    empty = Graph((), (), ())
    assert ElementTree.fromstring(svg(empty)).findtext(f"{SVG}title") == "Events between no services"
    assert mermaid(empty) == "flowchart TB\n"


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Events and handlers with any text for names, joined at random, cycles included."""
    texts = draw(st.lists(st.text(min_size=1), min_size=1, max_size=8))
    nodes = tuple(
        Node(f"{number}", "event", text) if number % 2 else Node(f"{number}", "handler", text, "shop")
        for number, text in enumerate(texts)
    )
    pairs = [(a.id, b.id) for a in nodes for b in nodes if a.kind != b.kind]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return Graph(("shop",), nodes, tuple(edges))


@given(graphs())
def test_any_graph_is_drawn_as_valid_xml(graph: Graph) -> None:
    """Whatever the names hold, each node's text and each edge is in the picture, and the XML is well-formed."""
    root = ElementTree.fromstring(svg(graph))
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert len(texts) == sum(1 if node.kind == "event" else 2 for node in graph.nodes)
    for node in graph.nodes:
        if node.label.isprintable():
            assert node.label in texts
    paths = [path for path in root.iter(f"{SVG}path") if path.get("class") == "edge"]
    assert len(paths) == len(graph.edges)


@given(graphs())
def test_no_name_breaks_out_of_mermaid(graph: Graph) -> None:
    """A name stays within its quotes: no line is added, and no quote or bracket of it is left as it is."""
    lines = mermaid(graph).splitlines()
    boxes = [line.strip() for line in lines if re.match(r"\s+n\d+\W", line) and "-->" not in line]
    assert len(boxes) == len(graph.nodes)
    for box in boxes:
        match = re.fullmatch(r'n\d+(\[|\(\[)"([^"\[\]<>|`]*)"(\]\)|\])', box)
        assert match is not None, box


@given(graphs())
def test_boxes_keep_apart(graph: Graph) -> None:
    """Boxes of a row never touch, lie within the picture, and edges run from their start to their end."""
    widths = {node.id: 10.0 + 7 * len(node.label) for node in graph.nodes}
    layout = lay_out(widths, graph.edges, gap=20)
    for row in range(layout.rows):
        spans = sorted(
            (x - widths[name] / 2, x + widths[name] / 2) for name, (x, own) in layout.places.items() if own == row
        )
        assert all(right + 19.9 <= left for (_, right), (left, _) in pairwise(spans))
        assert all(layout.left - 0.1 <= left and right <= layout.right + 0.1 for left, right in spans)
    for (start, end), route in layout.routes.items():
        assert (route[0], route[-1]) == (layout.places[start], layout.places[end])
        assert all(abs(below[1] - above[1]) == 1 for above, below in pairwise(route))


def test_a_chain_is_a_straight_line() -> None:
    """Nodes that simply follow each other stand below each other, one row each."""
    layout = lay_out({"a": 40, "b": 90, "c": 20}, [("a", "b"), ("b", "c")], gap=10)
    assert [layout.places[name][1] for name in "abc"] == [0, 1, 2]
    assert len({layout.places[name][0] for name in "abc"}) == 1


def test_a_row_is_ordered_so_that_edges_do_not_cross() -> None:
    """Two chains that were declared crosswise are drawn side by side."""
    layout = lay_out(dict.fromkeys("abxy", 10.0), [("a", "y"), ("b", "x")], gap=10)
    places = {name: x for name, (x, _) in layout.places.items()}
    assert (places["a"] < places["b"]) == (places["y"] < places["x"])
