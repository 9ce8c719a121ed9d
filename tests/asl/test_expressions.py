"""Paths, intrinsic functions, JSONata and patterns: what they come to, what they refuse, and their bounds."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import StateFailed
from antiphon.policy.asl import expressions, intrinsics
from antiphon.policy.asl.choices import matches, moment_of
from antiphon.policy.asl.failures import is_meant
from antiphon.policy.asl.machine import Retrier
from antiphon.policy.asl.paths import BadPath, Path, put
from antiphon.policy.asl.scope import Scope
from antiphon.policy.asl.values import compact, equal, parsed

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Answers:
    """An oracle whose answers count up."""

    def __init__(self) -> None:
        self.asked = 0

    def now_ms(self) -> int:
        """New Year 2026."""
        return 1_767_225_600_000

    def random(self) -> float:
        """0.25, 0.5, 0.75, 0, ..."""
        self.asked += 1
        return self.asked % 4 / 4

    def uuid(self) -> str:
        """The next one."""
        self.asked += 1
        return f"uuid-{self.asked}"


def scope(value: Any, variables: Mapping[str, Any] | None = None) -> Scope:
    """What an expression sees whose input is *value*."""
    return Scope(value, value, {"State": {"Name": "S"}}, variables or {}, Answers(), {})


def call(text: str, value: Any = None) -> Any:
    """What an intrinsic function comes to."""
    return intrinsics.compiled(text)(scope(value))


def jsonata(text: str, value: Any = None, **variables: Any) -> Any:
    """What a JSONata expression comes to."""
    return expressions.compiled(text, "Output")(scope(value, variables))


# ---------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", {"a": {"b-c": [1, 2, 3]}, "ü": 4, "d e": 5, "n": None}),
        ("$.a.b-c[1]", 2),
        ("$.a['b-c'][-1]", 3),
        ("$.a.b-c[1:]", [2, 3]),
        ("$.a.b-c[*]", [1, 2, 3]),
        ("$..b-c", [[1, 2, 3]]),
        ("$.a.b-c[?(@ > 1)]", [2, 3]),
        ("$.ü", 4),
        ("$['d e']", 5),
        ("$.n", None),
        ("$$.State.Name", "S"),
        ("$v.w", 6),
        ("$.none[*]", []),
    ],
)
def test_a_path_selects(path: str, found: Any) -> None:
    """A value, or a list if it can select several; from the input, the context object, or a variable."""
    value = {"a": {"b-c": [1, 2, 3]}, "ü": 4, "d e": 5, "n": None}
    assert Path(path)(scope(value, {"v": {"w": 6}})) == found


@pytest.mark.parametrize("path", ["$.x", "$[0]", "$v", "$$.x", "$.x.y"])
@pytest.mark.parametrize("value", [{}, [], "text that is no JSON {", 1, None])
def test_a_path_that_selects_nothing_fails(path: str, value: Any) -> None:
    """In whatever it looks; a text is not taken for JSON."""
    with pytest.raises(StateFailed, match="Invalid path"):
        Path(path)(scope(value))


@pytest.mark.parametrize(
    "path",
    ["", "a", "$a b", "$.a | $.b", "$.~a", "$.a.length()", "$.", "$[", "$.a[(@.length-1)]", "$" + ".a" * 600, "$$23"],
)
def test_what_is_no_path_is_refused(path: str) -> None:
    """What the language has not, and what is too long."""
    with pytest.raises(BadPath):
        Path(path)


@given(JSON, st.lists(st.text() | st.integers(0, 3), max_size=4), JSON)
def test_what_is_put_is_found_there_and_nothing_else_changes(document: Any, steps: list[str | int], value: Any) -> None:
    """The document itself stays as it was; where there is no place, that is said."""
    before = compact(document)
    try:
        made = put(document, tuple(steps), value)
    except StateFailed as error:
        assert error.error == "States.ResultPathMatchFailure"
        return
    assert compact(document) == before
    for step in steps:
        made = made[step]
    assert equal(made, value)


# ---------------------------------------------------------------------- intrinsic functions


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("States.Format('{} and {}', $.s, 1)", "it's and 1"),
        (r"States.Format('it\'s \{\} {} \\', true)", r"it's {} true \ ".strip()),
        ("States.Format('{}', $.o)", "{a=[1, x], b=null}"),
        ("States.Array($.s, States.Array(), null, -1.5)", ["it's", [], None, -1.5]),
        ("States.ArrayRange(5, 1, -2)", [5, 3, 1]),
        ("States.ArrayUnique(States.Array(1, 1.0, true, 'a', 'a', $.o, $.o))", None),
        ("States.ArrayContains(States.Array(true), 1)", False),
        ("States.Base64Decode(States.Base64Encode('ü'))", "ü"),
        ("States.Hash('a', 'SHA-256')", "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"),
        ("States.JsonMerge($.o, States.StringToJson('{\"b\":2}'), false)", {"a": [1, "x"], "b": 2}),
        ("States.MathAdd(-2.5, 1)", -1),
        ("States.MathRandom(10, 20)", 12),
        ("States.StringSplit('a.b*c', '.*')", ["a", "b", "c"]),
        ("States.UUID()", "uuid-1"),
        ("States.ArrayLength($.o.a)", 2),
        ("States.Format('{}', $['o']['a'][0])", "1"),
    ],
)
def test_an_intrinsic_function_comes_to(text: str, found: Any) -> None:
    """Each of them, nested and with every kind of argument."""
    value = {"s": "it's", "o": {"a": [1, "x"], "b": None}}
    wanted = [1, True, "a", value["o"]] if found is None else found
    assert equal(call(text, value), wanted)


def test_chance_with_a_seed_is_the_same_again() -> None:
    """And asks nobody."""
    assert call("States.MathRandom(0, 1000, 7)") == call("States.MathRandom(0, 1000, 7)")
    assert call("States.MathRandom(0, 1000, 7)") != call("States.MathRandom(0, 1000, 8)")
    assert jsonata("$random(7)") == jsonata("$random(7)")


@pytest.mark.parametrize(
    "text",
    [
        "States.ArrayPartition(States.Array(1), 0)",
        "States.ArrayRange(1, 2, 0)",
        "States.ArrayRange(0, 100000, 1)",
        "States.ArrayLength(1)",
        "States.MathAdd('a', 1)",
        "States.MathRandom(2, 1)",
        "States.Hash('a', 'CRC')",
        "States.Base64Decode('*')",
        "States.JsonMerge(1, 2, false)",
        "States.JsonMerge($, $, true)",
        "States.StringToJson('{')",
        "States.StringToJson('NaN')",
        "States.Format($, 1)",
    ],
)
def test_an_intrinsic_function_fails_by_its_name(text: str) -> None:
    """What it cannot do with its arguments is an error of the language."""
    with pytest.raises(StateFailed) as told:
        call(text, {})
    assert told.value.error == "States.IntrinsicFailure"


@pytest.mark.parametrize(
    "text",
    [
        "States.Nothing()",
        "States.Array(",
        "States.Array(1 2)",
        "States.Array(1))",
        "States.UUID(1)",
        "States.Format('{}')",
        "States.Format('{} {}', 1)",
        "States.Array(" * 40 + ")" * 40,
        "States.Array('" + "x" * 11_000 + "')",
        "Array()",
    ],
)
def test_what_is_no_call_is_refused(text: str) -> None:
    """Unknown functions, wrong counts, loose ends, and what is nested too deeply or too long."""
    with pytest.raises(BadPath):
        intrinsics.compiled(text)


@given(st.text(max_size=60))
def test_any_text_is_a_call_or_is_refused(text: str) -> None:
    """No text makes the reader fail otherwise."""
    for attempt in (text, f"States.Format({text}", f"States.Array('{text}')", f"States.Array({text})"):
        try:
            found = intrinsics.compiled(attempt)
        except BadPath:
            continue
        try:
            found(scope({}))
        except StateFailed as error:
            assert error.error in ("States.IntrinsicFailure", "States.Runtime")


@given(JSON)
def test_json_comes_back_as_it_was(value: Any) -> None:
    """Written into a text and read again."""
    assert equal(call("States.StringToJson(States.JsonToString($))", value), value)
    assert equal(parsed(compact(value)), value)


# ---------------------------------------------------------------------- JSONata


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$states.input.a", None),
        ("$states.input.b[0]", 1),
        ("$states.context.State.Name & '!'", "S!"),
        ("$v", None),
        ("$sum($w) / 2", 3),
        ("[1..3]", [1, 2, 3]),
        ("{'x': $states.input.none, 'y': [null, $states.input.none]}", {"y": [None]}),
        ("$now()", "2026-01-01T00:00:00.000Z"),
        ("$millis()", 1_767_225_600_000),
        ("$random()", 0.25),
        ("$uuid()", "uuid-1"),
        ("$shuffle([1,2,3])", [1, 3, 2]),
        ("$hash('a', 'MD5')", "0cc175b9c0f1b6a831c399e269772661"),
        ("$parse('[1, null]')", [1, None]),
        ("$parse('null')", None),
        ("$pad('x', 3, '-')", "x--"),
        ("($f := function($n){$n < 2 ? 1 : $n * $f($n - 1)}; $f(5))", 120),
        ("$map([1,2], function($x){$x * 2})", [2, 4]),
    ],
)
def test_jsonata_comes_to(text: str, found: Any) -> None:
    """Null is not undefined; time, chance and ids come from whoever drives the machine."""
    assert equal(jsonata(text, {"a": None, "b": [1]}, v=None, w=[1, 5]), found)


@pytest.mark.parametrize(
    "text",
    [
        "$states.input.none",
        "$none",
        "1 + 'a'",
        "$sum",
        "function($x){$x}",
        "[function($x){$x}]",
        "$error('no')",
        "($f := function($n){$f($n + 1)}; $f(1))",
        "($f := function($n){1 + $f($n + 1)}; $f(1))",
        "($f := function($n){$map([1], function($x){$f($n)})}; $f(1))",
        "($f := function($n){$sort([1, 2], function($a, $b){$f($a)})}; $f(1))",
        "$map([1..1000000], function($x){$x})",
        "$reduce([1..60], function($a, $b){$a & $a}, 'xx')",
        "$pad('x', 1000000000)",
        "[1..10000000]",
        "$range(1, 100000, 1)",
        "$partition([1], 0)",
    ],
)
def test_jsonata_fails_by_its_name_and_is_bounded(text: str) -> None:
    """What is undefined, no JSON value, too deep, too long, or without an end."""
    with pytest.raises(StateFailed) as told:
        jsonata(text, {})
    assert told.value.error == "States.QueryEvaluationError"


def test_the_limit_of_recursion_stays_as_it_was() -> None:
    """The library raises it for the whole process, where it guards the reading of hostile JSON."""
    code = (
        "import sys; from antiphon.policy.asl.expressions import compiled; compiled('1', '');"
        "print(sys.getrecursionlimit())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 1000


@pytest.mark.parametrize("text", ["1 +", "$eval('1')", "($__evaluate_entry := $x; 1)", "x" * 40_000, "(" * 5000])
def test_jsonata_that_is_wrong_or_not_supported_is_refused(text: str) -> None:
    """Where the definition is loaded."""
    with pytest.raises(BadPath):
        jsonata(text)


# ---------------------------------------------------------------------- patterns, times, errors


@given(st.text("ab*\\", max_size=12), st.lists(st.text("ab*\\", max_size=4), min_size=1, max_size=4))
def test_a_pattern_means_what_its_regular_expression_means(text: str, parts: list[str]) -> None:
    """Any text between its parts; stars and backslashes in them are escaped."""
    pattern = "*".join(part.replace("\\", "\\\\").replace("*", "\\*") for part in parts)
    assert matches(text, pattern) == bool(re.fullmatch(".*".join(map(re.escape, parts)), text, re.DOTALL))


def test_a_long_pattern_is_matched_at_once() -> None:
    """No pattern makes the matching go back and forth for ever."""
    assert not matches("a" * 5_000, "*a" * 500 + "b")


@pytest.mark.parametrize(
    ("text", "is_time"),
    [
        ("2026-01-31T08:00:00Z", True),
        ("2026-01-31T08:00:00.123456789+02:00", True),
        ("2026-01-31T08:00:00", False),
        ("2026-02-30T08:00:00Z", False),
        ("2026-01-31 08:00:00Z", False),
        ("2026-01-31T08:00:00z", False),
        (17, False),
    ],
)
def test_a_time_has_a_zone(text: Any, is_time: bool) -> None:
    """As RFC 3339 has it, with T and Z in capitals."""
    assert (moment_of(text) is not None) is is_time


@pytest.mark.parametrize(
    ("error", "names", "meant"),
    [
        ("Own", ["Own"], True),
        ("Own", ["Other"], False),
        ("Own", ["States.ALL"], True),
        ("Own", ["States.TaskFailed"], True),
        (None, ["States.ALL"], True),
        ("States.Timeout", ["States.TaskFailed"], False),
        ("States.Timeout", ["States.ALL"], True),
        ("States.HeartbeatTimeout", ["States.Timeout"], True),
        ("States.Runtime", ["States.ALL"], False),
        ("States.Runtime", ["States.Runtime"], False),
        ("States.DataLimitExceeded", ["States.ALL"], True),
        ("Antiphon.Cancelled", ["States.ALL"], False),
        ("Antiphon.Cancelled", ["Antiphon.Cancelled"], True),
    ],
)
def test_an_error_is_meant(error: str | None, names: list[str], meant: bool) -> None:
    """By its name, or by a wildcard that means it."""
    assert is_meant(error, names) is meant


@given(st.integers(0, 400), st.floats(1, 100), st.booleans(), st.none() | st.integers(2, 1000))
def test_a_delay_is_bounded(retried: int, rate: float, jitter: bool, longest: int | None) -> None:
    """Whatever the back-off, it is never longer than its limit, nor than a year."""
    delay = Retrier(("E",), 1, 500, rate, longest, jitter).delay(retried, lambda: 0.5)
    assert delay is not None
    assert 0 <= delay <= (longest or 31_622_400)
    assert Retrier(("E",), 1, retried, rate, longest, jitter).delay(retried, lambda: 0.5) is None
