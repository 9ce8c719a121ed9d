"""JSONPath as state machines use it: paths that select, and reference paths that also say where to write."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from antiphon.errors import NotInstalled, StateFailed
from antiphon.policy.asl.failures import RESULT_PATH, runtime_error
from antiphon.policy.asl.scope import Scope

if TYPE_CHECKING:
    from jsonpath import JSONPath

#: ``$.a``, ``$$.Map.Item``, ``$variable.a``: the root, and the path below it.
_ROOT = re.compile(r"(\$\$|\$(?P<variable>[^\W\d]\w*)?)(?P<rest>(?:[.\[].*)?)", re.DOTALL)
_LONGEST = 1024
#: A backslash in a quoted name stands for itself unless it escapes a quote or a backslash.
_LONE_BACKSLASH = re.compile(r"\\(?!['\\])")
_KEYS_SELECTOR = re.compile(r"[.\[]\s*~")

MISSING: Any = object()
Steps = tuple[str | int, ...]


class BadPath(ValueError):
    """A text is no path; says why."""


class Path:
    """A path. *steps* are those of a reference path (names and indexes below ``$``), None if it is none."""

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise BadPath(f"a path of {len(text)} characters; the limit is {_LONGEST}")
        found = _ROOT.fullmatch(text)
        if found is None:
            raise BadPath(f"{text!r} is no JSONPath; it begins with $")
        self.text = text
        self.variable: str | None = found["variable"]
        self._context = text.startswith("$$")
        self._query = _compiled(found["rest"]) if found["rest"] else None
        self.definite = self._query is None or self._query.singular_query()
        self.steps = None if self._context or self.variable else _steps(self._query)

    def look(self, scope: Scope) -> Any:
        """What it selects: a value, a list if it can select several, MISSING if there is none."""
        if self.variable is not None:
            root = scope.variables.get(self.variable, MISSING)
        else:
            root = scope.context if self._context else scope.focus
        if self._query is None or root is MISSING:
            return root
        # A text would be taken for JSON that is still to be parsed.
        found = self._query.findall(root) if isinstance(root, dict | list) else []
        if not self.definite:
            return found
        return found[0] if found else MISSING

    def __call__(self, scope: Scope) -> Any:
        """What it selects. Raises StateFailed if there is nothing."""
        found = self.look(scope)
        if found is MISSING:
            raise runtime_error(f"Invalid path '{self.text}': it selects nothing")
        return found


@lru_cache(maxsize=4096)
def _compiled(rest: str) -> JSONPath:
    """The query of a path below its root. Raises BadPath."""
    try:
        from jsonpath import JSONPath, JSONPathEnvironment
        from jsonpath.exceptions import JSONPathError
    except ImportError as error:
        raise missing_library("python-jsonpath") from error
    text = _LONE_BACKSLASH.sub(r"\\\\", rest)
    try:
        query = JSONPathEnvironment().compile(f"${text}")
    except (JSONPathError, RecursionError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadPath(f"'${rest}' is no JSONPath that is supported ({reason})") from error
    if not isinstance(query, JSONPath) or _KEYS_SELECTOR.search(rest):
        raise BadPath(f"'${rest}' is no JSONPath that is supported (unions of paths, selectors of keys)")
    return query


def missing_library(name: str) -> NotInstalled:
    """What is raised where a library of the extra ``asl`` is needed and not there."""
    return NotInstalled(f"{name} is not installed", where="state machine", mend="pip install 'antiphon[asl]'")


def _steps(query: JSONPath | None) -> Steps | None:
    if query is None:
        return ()  # "$" alone needs no library
    from jsonpath.selectors import IndexSelector, NameSelector

    if not query.singular_query():
        return None
    steps: list[str | int] = []
    for segment in query.segments:
        (selector,) = segment.selectors
        if isinstance(selector, NameSelector):
            steps.append(selector.name)
        elif isinstance(selector, IndexSelector) and selector.index >= 0:
            steps.append(selector.index)
        else:
            return None
    return tuple(steps)


def put(document: Any, steps: Steps, value: Any) -> Any:
    """*document* with *value* at *steps*; what lies on the way is copied, never changed.

    Raises StateFailed where the way leads through what is no object, or beyond a list.
    """
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(step, str) and isinstance(document, dict):
        return {**document, step: put(document.get(step, {}), rest, value)}
    if isinstance(step, int) and isinstance(document, list) and step < len(document):
        return [*document[:step], put(document[step], rest, value), *document[step + 1 :]]
    raise StateFailed(RESULT_PATH, f"there is no place for the result at {step!r} in the state's input")
