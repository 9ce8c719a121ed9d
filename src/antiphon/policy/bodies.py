"""What the body of a handler seems to do: which events it publishes, what it calls outside.

Read from the source text, never run. It sees plain code (a class called by its name, a variable assigned once
or more); what it cannot see it does not claim. A body without source text seems to do nothing.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from antiphon.model.events import EventType
from antiphon.policy.signatures import event_type_or_none

# fmt: off
#: Libraries that talk to something outside the process.
_OUTSIDE = frozenset({
    "aiobotocore", "aioboto3", "aiohttp", "aiosmtplib", "asyncpg", "boto3", "botocore", "ftplib",
    "grpc", "http.client", "httpx", "imaplib", "paramiko", "poplib", "psycopg", "psycopg2",
    "pymongo", "redis", "requests", "smtplib", "socket", "stripe", "subprocess", "urllib.request",
    "urllib3", "websockets",
})
# fmt: on
#: Waiting on these is waiting on ourselves.
_INSIDE = frozenset({"antiphon", "anyio", "asyncio", "contextlib"})
#: Method -> which of its arguments is the event.
_PUBLISHING = {"publish": 0, "publish_later": 0, "schedule": 1, "request": 0, "reply": 1}
_NESTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


@dataclass(frozen=True)
class Publication:
    """An event type that a body seems to publish, and where (``file:line``)."""

    event_type: EventType
    where: str


@dataclass(frozen=True)
class OutsideCall:
    """A call that seems to leave the process, as written, and where (``file:line``)."""

    text: str
    where: str


@dataclass(frozen=True)
class Body:
    """What is seen in one function."""

    publications: tuple[Publication, ...] = ()
    outside_calls: tuple[OutsideCall, ...] = ()


def read_body(fn: Callable[..., Any], given: frozenset[str] = frozenset()) -> Body:
    """What *fn* seems to do. *given* names the parameters that the runtime hands in."""
    tree = _tree(fn)
    return Body() if tree is None else _Reader(fn, tree, given).body()


def _tree(fn: Callable[..., Any]) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    try:
        lines, first = inspect.getsourcelines(fn)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return None
    ast.increment_lineno(tree, first - 1)
    found = tree.body[0] if tree.body else None
    return found if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef) else None


class _Reader:
    """Reads one function; names are looked up where the function would."""

    def __init__(
        self, fn: Callable[..., Any], tree: ast.FunctionDef | ast.AsyncFunctionDef, given: frozenset[str]
    ) -> None:
        self._nodes = [node for statement in tree.body for node in ast.walk(statement)]
        self._tree = tree
        self._file = inspect.unwrap(fn).__code__.co_filename
        self._names = _names_of(fn)
        self._imported = dict(_imports(self._nodes))
        self._assigned = list(_assignments(self._nodes))
        self._given = self._grown(given)

    def body(self) -> Body:
        """All that is seen."""
        publications: dict[str, Publication] = {}
        for node in self._published():
            for event_type in self._events_in(node, frozenset()):
                publications.setdefault(event_type.name, Publication(event_type, self._place(node)))
        outside = {self._place(node): OutsideCall(_text(node), self._place(node)) for node in self._outside()}
        return Body(tuple(publications.values()), tuple(outside.values()))

    def _published(self) -> Iterator[ast.expr]:
        """The expressions that are returned, or handed to a publish or schedule method."""
        for statement in _own_nodes(self._tree.body):
            if isinstance(statement, ast.Return) and statement.value is not None:
                yield statement.value
        for node in self._nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                position = _PUBLISHING.get(node.func.attr)
                if position is not None:
                    yield from node.args[position : position + 1]
                    yield from (keyword.value for keyword in node.keywords if keyword.arg == "event")

    def _events_in(self, node: ast.AST, seen: frozenset[str]) -> Iterator[EventType]:
        """The event types whose construction is the value of *node*, or part of the collection it is."""
        match node:
            case ast.Call(func=func):
                event_type = event_type_or_none(self._look_up(func))
                if event_type is not None:
                    yield event_type
            case ast.Name(id=name) if name not in seen:
                for target, value in self._assigned:
                    if target == name:
                        yield from self._events_in(value, seen | {name})
            case ast.IfExp(body=body, orelse=orelse):
                yield from self._events_in(body, seen)
                yield from self._events_in(orelse, seen)
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.BoolOp(values=parts):
                for part in parts:
                    yield from self._events_in(part, seen)
            case ast.ListComp(elt=part) | ast.GeneratorExp(elt=part) | ast.Starred(value=part):
                yield from self._events_in(part, seen)
            case ast.NamedExpr(value=part):
                yield from self._events_in(part, seen)

    def _outside(self) -> Iterator[ast.expr]:
        """The calls that leave the process: those of known libraries, and what is awaited of others."""
        for node in self._nodes:
            match node:
                case ast.Call(func=func, args=args) if any(map(self._is_outside, (func, *args))):
                    yield node
                case ast.Await(value=ast.Call() as call) if not self._is_inside(call):
                    yield call
                case ast.AsyncWith(items=items):
                    yield from (each.context_expr for each in items if not self._is_inside(each.context_expr))
                case ast.AsyncFor(iter=ast.Call() as call) if not self._is_inside(call):
                    yield call

    def _is_outside(self, node: ast.expr) -> bool:
        module = self._module(node)
        return any(module == known or module.startswith(f"{known}.") for known in _OUTSIDE)

    def _is_inside(self, node: ast.expr) -> bool:
        """Whether *node* works on something that was handed in, or only waits for ourselves."""
        if _root(node) in self._given or self._module(node).partition(".")[0] in _INSIDE:
            return True
        if isinstance(node, ast.Call):
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            return any(isinstance(value, ast.Name) and value.id in self._given for value in values)
        return not isinstance(node, ast.Await)

    def _module(self, node: ast.expr) -> str:
        """The dotted module that the callee or reference *node* comes from; empty if unknown."""
        while isinstance(node, ast.Call | ast.Await):
            node = node.func if isinstance(node, ast.Call) else node.value
        root = _root(node)
        if root in self._imported:
            return self._imported[root] + _tail(node)
        value = self._look_up(node)
        if value is None and isinstance(node, ast.Attribute):
            return self._module(node.value)
        if isinstance(value, ModuleType):
            return value.__name__
        module = getattr(value, "__module__", None) or type(value).__module__
        return "" if value is None else str(module)

    def _look_up(self, node: ast.expr) -> object:
        """The object that a name or a dotted name means; None if that is not known before running."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._look_up(node.value)
            if isinstance(owner, ModuleType | type):
                return getattr(owner, node.attr, None)
        return None

    def _grown(self, given: frozenset[str]) -> frozenset[str]:
        """*given* and the variables that are made from it."""
        while True:
            more = given | {target for target, value in self._assigned if _root(value) in given}
            if more == given:
                return given
            given = more

    def _place(self, node: ast.expr) -> str:
        return f"{self._file}:{node.lineno}"


def _names_of(fn: Callable[..., Any]) -> Mapping[str, object]:
    fn = inspect.unwrap(fn)
    names = dict(fn.__globals__)
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return names


def _imports(nodes: list[ast.AST]) -> Iterator[tuple[str, str]]:
    """Local name -> dotted module, for the imports inside a function."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                plain = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (plain, plain)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module or ''}.{alias.name}"


def _assignments(nodes: list[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    """Variable -> what is assigned to it, in all the ways that a function can."""
    for node in nodes:
        match node:
            case ast.Assign(targets=targets, value=value):
                pass
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                targets = [target]
            case ast.NamedExpr(target=target, value=value):
                targets = [target]
            case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
                targets = [target]
            case ast.For(target=target, iter=value) | ast.AsyncFor(target=target, iter=value):
                targets = [target]
            case ast.comprehension(target=target, iter=value):
                targets = [target]
            case _:
                continue
        for target in targets:
            yield from ((each.id, value) for each in ast.walk(target) if isinstance(each, ast.Name))


def _own_nodes(statements: list[ast.stmt]) -> Iterator[ast.AST]:
    """All nodes below *statements* except those of nested functions and classes."""
    stack: list[ast.AST] = list(reversed(statements))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, _NESTED):
            stack.extend(reversed(list(ast.iter_child_nodes(node))))


def _root(node: ast.expr) -> str:
    """The name that a chain of calls, attributes, items and awaits starts with; empty if there is none."""
    while True:
        match node:
            case ast.Name(id=name):
                return name
            case ast.Call(func=inner):
                node = inner
            case ast.Attribute(value=inner) | ast.Subscript(value=inner) | ast.Await(value=inner):
                node = inner
            case _:
                return ""


def _tail(node: ast.expr) -> str:
    """``.b.c`` of ``a.b.c``."""
    return f"{_tail(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _text(node: ast.expr) -> str:
    """The callee of *node* as it is written, shortened."""
    text = ast.unparse(node.func if isinstance(node, ast.Call) else node)
    return f"{text[:57]}..." if len(text) > 60 else text
