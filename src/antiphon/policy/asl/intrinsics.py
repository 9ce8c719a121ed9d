"""The intrinsic functions of JSONPath definitions: ``States.Format('to {}', $.name)`` read, checked and evaluated."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence
from math import floor, isfinite
from typing import Any, NamedTuple, NoReturn

from antiphon.errors import StateFailed
from antiphon.policy.asl.failures import INTRINSIC
from antiphon.policy.asl.paths import BadPath, Path
from antiphon.policy.asl.scope import Expression, Oracle, Scope, constant
from antiphon.policy.asl.values import compact, equal, is_number, parsed

_DEEPEST = 10
_LONGEST = 10_000
_LONGEST_RANGE = 1_000
_NAME = re.compile(r"States\.(\w+)\s*\(")
_TEXT = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None}
_WORD = re.compile("true|false|null")
_ESCAPE = re.compile(r"\\([\\'{}])")
_PLACE = re.compile(r"\\([\\'{}])|(\{\})")


class Function(NamedTuple):
    """What an intrinsic function takes (*most* None: any number), and what it does."""

    least: int
    most: int | None
    call: Callable[[Sequence[Any], Oracle], Any]


class _Literal(NamedTuple):
    """A text as it stands in the definition, with its escapes."""

    raw: str


_Argument = _Literal | Expression


def is_call(text: str) -> bool:
    """Whether *text* is meant as a call of an intrinsic function."""
    return text.startswith("States.")


def compiled(text: str) -> Expression:
    """The call in *text*. Raises BadPath if it is none, or calls what there is not."""
    if len(text) > _LONGEST:
        raise BadPath(f"an intrinsic function of {len(text)} characters; the limit is {_LONGEST}")
    reader = _Reader(text)
    expression = reader.call(_DEEPEST)
    if reader.at != len(text):
        raise BadPath(f"{text!r} goes on after its end")
    return expression


class _Reader:
    """Reads one call, from the left to the right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def call(self, depth: int) -> Expression:
        """A function and its arguments."""
        found = _NAME.match(self.text, self.at)
        if found is None:
            raise BadPath(f"{self.text!r} is no call of an intrinsic function")
        name = found[1]
        function = FUNCTIONS.get(name)
        if function is None:
            raise BadPath(f"there is no intrinsic function States.{name}; there are {', '.join(FUNCTIONS)}")
        if depth == 0:
            raise BadPath(f"intrinsic functions are nested deeper than {_DEEPEST} levels")
        self.at = found.end()
        arguments: list[_Argument] = []
        self._spaces()
        if self._take(")"):
            return _bound(name, function, arguments)
        while True:
            self._spaces()
            arguments.append(self._argument(depth))
            self._spaces()
            if self._take(")"):
                return _bound(name, function, arguments)
            if not self._take(","):
                raise BadPath(f"{self.text!r} has no , or ) at character {self.at + 1}")

    def _argument(self, depth: int) -> _Argument:
        text, at = self.text, self.at
        if found := _TEXT.match(text, at):
            self.at = found.end()
            return _Literal(found[1])
        if text.startswith("$", at):
            return self._path()
        if found := _NUMBER.match(text, at):
            self.at = found.end()
            return constant(parsed(found[0]))
        if found := _WORD.match(text, at):
            self.at = found.end()
            return constant(_WORDS[found[0]])
        return self.call(depth - 1)

    def _path(self) -> Path:
        """A path, up to the comma or bracket that ends the argument."""
        begin, open_brackets, quote = self.at, 0, ""
        while self.at < len(self.text):
            each = self.text[self.at]
            if quote:
                if each == "\\":
                    self.at += 1
                elif each == quote:
                    quote = ""
            elif each in "'\"":
                quote = each
            elif each in "([":
                open_brackets += 1
            elif each in ")]" and open_brackets:
                open_brackets -= 1
            elif each in ",)":
                break
            self.at += 1
        return Path(self.text[begin : self.at].rstrip())

    def _spaces(self) -> None:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1

    def _take(self, sign: str) -> bool:
        if not self.text.startswith(sign, self.at):
            return False
        self.at += len(sign)
        return True


def _bound(name: str, function: Function, arguments: Sequence[_Argument]) -> Expression:
    count = len(arguments)
    if count < function.least or (function.most is not None and count > function.most):
        allowed = str(function.least) if function.least == function.most else f"{function.least} or more"
        raise BadPath(f"States.{name} takes {allowed} arguments, not {count}")
    if name == "Format":
        return _format(arguments)
    expressions = [_plain(each) for each in arguments]

    def call(scope: Scope) -> Any:
        values = [each(scope) for each in expressions]
        try:
            return function.call(values, scope.oracle)
        except (ValueError, RecursionError) as error:
            raise StateFailed(INTRINSIC, f"States.{name} failed: {error}") from error

    return call


def _plain(argument: _Argument) -> Expression:
    if isinstance(argument, _Literal):
        return constant(_ESCAPE.sub(r"\1", argument.raw))
    return argument


def _format(arguments: Sequence[_Argument]) -> Expression:
    template, *rest = arguments
    expressions = [_plain(each) for each in rest]
    if isinstance(template, _Literal):
        places = sum(1 for found in _PLACE.finditer(template.raw) if found[2])
        if places != len(expressions):
            raise BadPath(f"States.Format has {places} places {{}} and {len(expressions)} values")

    def call(scope: Scope) -> str:
        text = template.raw if isinstance(template, _Literal) else template(scope)
        if not isinstance(text, str):
            raise StateFailed(INTRINSIC, "States.Format failed: its template is no text")
        values = iter([_shown(each(scope)) for each in expressions])

        def fill(found: re.Match[str]) -> str:
            return next(values, "{}") if found[2] else found[1]

        return _PLACE.sub(fill, text)

    return call


def _shown(value: Any) -> str:
    """A value within a formatted text, as the service writes it: ``{a=1, b=[x, y]}``."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}={_shown(each)}' for name, each in value.items())}}}"
    return compact(value)


# ---------------------------------------------------------------------- the functions


def _wrong(what: str) -> NoReturn:
    raise ValueError(what)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else _wrong("its first argument is no array")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        _wrong("an argument is no text")
    return value if len(value) <= _LONGEST else _wrong(f"a text is longer than {_LONGEST} characters")


def _rounded(value: Any) -> int:
    """A number as an integer: halves go up."""
    if not is_number(value) or not isfinite(value):
        _wrong("an argument is no number")
    return value if isinstance(value, int) else floor(value + 0.5)


def _partition(values: Sequence[Any], _: Oracle) -> list[Any]:
    items, size = _list(values[0]), _rounded(values[1])
    if size < 1:
        _wrong("the size of a part is less than 1")
    return [items[at : at + size] for at in range(0, len(items), size)]


def _range(values: Sequence[Any], _: Oracle) -> list[int]:
    first, last, step = map(_rounded, values)
    if step == 0:
        _wrong("the step is 0")
    found = range(first, last + (1 if step > 0 else -1), step)
    return list(found) if len(found) <= _LONGEST_RANGE else _wrong(f"more than {_LONGEST_RANGE} numbers")


def _item(values: Sequence[Any], _: Oracle) -> Any:
    items, at = _list(values[0]), _rounded(values[1])
    return items[at] if 0 <= at < len(items) else _wrong(f"there is no item {at}")


def unique(items: Sequence[Any]) -> list[Any]:
    """*items* without those that came before, the first of each kept."""
    found: dict[str, Any] = {}
    for item in items:
        found.setdefault(compact(_normal(item)), item)
    return list(found.values())


def _normal(value: Any) -> Any:
    """*value* so that equal values are written alike."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_normal(each) for each in value]
    if isinstance(value, dict):
        return {name: _normal(value[name]) for name in sorted(value)}
    return value


def _decoded(values: Sequence[Any], _: Oracle) -> str:
    try:
        return base64.b64decode(_text(values[0]), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("it is no Base64 of a text") from error


_ALGORITHMS = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}


def hashed(data: Any, algorithm: Any) -> str:
    """The hash of a value in hexadecimal. Raises ValueError for an algorithm that is unknown."""
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise ValueError(f"the algorithm is none of {', '.join(_ALGORITHMS)}")
    text = _text(data if isinstance(data, str) else compact(data))
    return hashlib.new(_ALGORITHMS[algorithm], text.encode(), usedforsecurity=False).hexdigest()


def _merged(values: Sequence[Any], _: Oracle) -> dict[str, Any]:
    one, other, deep = values
    if deep is not False:
        _wrong("its third argument is not false; only a shallow merge is offered")
    if not isinstance(one, dict) or not isinstance(other, dict):
        _wrong("an argument is no object")
    return {**one, **other}


def chance(seed: Any, oracle: Oracle) -> float:
    """A number in [0, 1): the same for the same *seed*, and a new one for None."""
    if seed is None:
        return oracle.random()
    digest = hashlib.blake2b(compact(_normal(seed)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


def _random(values: Sequence[Any], oracle: Oracle) -> int:
    first, last = _rounded(values[0]), _rounded(values[1])
    if last <= first:
        _wrong("the end is not above the start")
    return first + floor(chance(_rounded(values[2]) if len(values) > 2 else None, oracle) * (last - first))


def _split(values: Sequence[Any], _: Oracle) -> list[str]:
    text, signs = _text(values[0]), _text(values[1])
    if not signs:
        return [text]
    return [part for part in re.split(f"[{re.escape(signs)}]", text) if part]


def _from_json(values: Sequence[Any], _: Oracle) -> Any:
    if not isinstance(values[0], str):
        _wrong("its argument is no text")
    return parsed(values[0]) if values[0].strip() else None


FUNCTIONS: dict[str, Function] = {
    "Format": Function(1, None, lambda values, _: values),
    "StringToJson": Function(1, 1, _from_json),
    "JsonToString": Function(1, 1, lambda values, _: compact(values[0])),
    "Array": Function(0, None, lambda values, _: list(values)),
    "ArrayPartition": Function(2, 2, _partition),
    "ArrayContains": Function(2, 2, lambda values, _: any(equal(each, values[1]) for each in _list(values[0]))),
    "ArrayRange": Function(3, 3, _range),
    "ArrayGetItem": Function(2, 2, _item),
    "ArrayLength": Function(1, 1, lambda values, _: len(_list(values[0]))),
    "ArrayUnique": Function(1, 1, lambda values, _: unique(_list(values[0]))),
    "Base64Encode": Function(1, 1, lambda values, _: base64.b64encode(_text(values[0]).encode()).decode()),
    "Base64Decode": Function(1, 1, _decoded),
    "Hash": Function(2, 2, lambda values, _: hashed(*values)),
    "JsonMerge": Function(3, 3, _merged),
    "MathRandom": Function(2, 3, _random),
    "MathAdd": Function(2, 2, lambda values, _: _rounded(values[0]) + _rounded(values[1])),
    "StringSplit": Function(2, 2, _split),
    "UUID": Function(0, 0, lambda _, oracle: oracle.uuid()),
}
