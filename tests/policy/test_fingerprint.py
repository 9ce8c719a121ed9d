"""The groups of dead letters."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import Reject
from antiphon.policy.fingerprint import LABEL_LIMIT, TRACEBACK_LIMIT, failure_of, fingerprint, normalised
from antiphon.policy.words import MESSAGE_LIMIT, bounded, storable


def raised(fn: Callable[..., object], *args: Any) -> Exception:
    """The error that *fn* raises, with its traceback."""
    try:
        fn(*args)
    except Exception as error:
        return error
    raise AssertionError(f"{fn} raised nothing")


def charge(message: str) -> None:
    """Fail in one function."""
    raise ValueError(message)


def refund(message: str) -> None:
    """Fail in another function."""
    raise ValueError(message)


def parse(text: str) -> object:
    """Fail inside the standard library."""
    return json.loads(text)


def code_at(path: str, module: str, source: str) -> Callable[[], object]:
    """A function ``run`` that seems to live in the file *path* of *module*."""
    space: dict[str, Any] = {"__name__": module, "charge": charge}
    exec(compile(source, path, "exec"), space)
    run: Callable[[], object] = space["run"]
    return run


def test_what_varies_does_not_split_a_group() -> None:
    """Numbers, UUIDs, hexadecimals and quoted strings in the message do not make a new group."""
    one = raised(charge, "card 4711 of 'Ada O'Neil' <0xdeadbeef> 018f4e4e-1111-7abc-8def-0123456789ab: -1.50")
    two = raised(charge, "card 2 of 'Bo' <0x1> 118f4e4e-2222-7abc-8def-a123456789ab: 12,000.75")
    assert fingerprint(one) == fingerprint(two)


def test_what_differs_splits() -> None:
    """Another type, another text or another function of one's own is another group."""
    errors = [
        raised(charge, "card declined"),
        raised(charge, "card expired"),
        raised(refund, "card declined"),
        raised(parse, "{"),
    ]
    assert len({fingerprint(error) for error in errors}) == 4


def test_the_label_reads() -> None:
    """A fingerprint is ten hexadecimal digits and a label: type, own function, normalised message."""
    digest, label = fingerprint(raised(charge, "no funds for 'Ada', 12 EUR short")).split(" ", 1)
    assert re.fullmatch("[0-9a-f]{10}", digest)
    assert label == f"ValueError in {__name__}.charge: no funds for '*', # EUR short"


def test_the_frame_is_the_users_own() -> None:
    """An error raised deep in the standard library is placed in the function that called it."""
    assert f" in {__name__}.parse:" in fingerprint(raised(parse, "{"))


def test_installed_code_is_not_ones_own() -> None:
    """Frames in site-packages are passed over, unless the application itself is installed there."""
    source = "def run():\n    raise ValueError('x')"
    library = code_at("/v/lib/python3.11/site-packages/shop/pay.py", "shop.pay", source)
    assert f" in {__name__}.raised:" in fingerprint(raised(library))
    assert " in shop.pay.run:" in fingerprint(raised(library), own_root="/v/lib/python3.11/site-packages/shop")


def test_code_under_the_root_is_preferred() -> None:
    """With a root, the innermost frame under it counts, not a helper library's beside it."""
    own = code_at("/srv/shop/payment.py", "payment", "def run():\n    charge('declined')")
    assert " in payment.run:" in fingerprint(raised(own), own_root="/srv/shop")
    assert f" in {__name__}.charge:" in fingerprint(raised(own))
    sibling = code_at("/srv/shopping/payment.py", "payment", "def run():\n    charge('declined')")
    assert f" in {__name__}.charge:" in fingerprint(raised(sibling), own_root="/srv/shop")


def test_an_environment_inside_the_root_is_not_own() -> None:
    """A virtual environment in the checkout does not make its packages the user's code."""
    library = code_at("/srv/shop/.venv/site-packages/http.py", "http", "def run():\n    raise OSError('x')")
    assert " in http.run" not in fingerprint(raised(library), own_root="/srv/shop")


def test_lines_and_directories_do_not_count() -> None:
    """The group stays when the code moves to another line or another directory."""
    here = code_at("/srv/a/payment.py", "payment", "def run():\n    raise OSError('down')")
    there = code_at("/opt/b/payment.py", "payment", "\n\n\ndef run():\n    x = 1\n    raise OSError('down')")
    assert fingerprint(raised(here), own_root="/srv/a") == fingerprint(raised(there), own_root="/opt/b")


def test_a_task_group_is_looked_into() -> None:
    """A group of one error belongs with that error."""
    error = raised(charge, "declined")
    assert fingerprint(ExceptionGroup("unhandled errors", [error])) == fingerprint(error)


def test_an_error_without_a_traceback_has_a_group() -> None:
    """An error that was made and never raised is grouped by type and message."""
    assert fingerprint(OSError("down 1")) == fingerprint(OSError("down 2"))
    assert fingerprint(OSError()).endswith(" OSError")


def test_long_lists_are_one_message() -> None:
    """A list of two values and one of three give the same message."""
    assert normalised("ids 1, 2 of ('a', 'b')") == "ids # of ('*')"
    assert normalised("ids 1, 2, 3 of ('c', 'd', 'e')") == "ids # of ('*')"


def test_apostrophes_are_not_quotes() -> None:
    """An apostrophe inside a word opens no quoted string."""
    assert normalised("can't open 'a.db' or 'b.db'") == "can't open '*' or '*'"


@given(st.integers(), st.uuids(), st.from_regex(r"[^'\"\\\n]{0,30}", fullmatch=True), st.floats(0, 1e9))
def test_normalising_hides_any_value(number: int, uuid: UUID, quoted: str, amount: float) -> None:
    """Whatever the values, the normalised message is one and the same."""
    message = f"booking {uuid} of {quoted!r}: {number} seats, EUR {amount}"
    assert normalised(message) == "booking # of '*': # seats, EUR #"


@given(st.text(max_size=2000))
def test_normalised_is_short_and_without_digits(message: str) -> None:
    """Whatever the message, nothing countable is left in it and it is bounded."""
    text = normalised(message)
    assert not any(char.isdecimal() for char in text)
    assert len(text) <= 3000


@pytest.mark.timeout(5)
@pytest.mark.parametrize("hostile", ["'" * 10**6, "' '" * 10**6, "a1" * 10**6, "0x" * 10**6, "1," * 10**6])
def test_a_hostile_message_takes_no_time(hostile: str) -> None:
    """A message made to make patterns backtrack is grouped at once."""
    assert len(fingerprint(ValueError(hostile)).encode()) <= LABEL_LIMIT + 11


def test_a_failure_keeps_what_is_needed() -> None:
    """A failure holds the qualified type, the message, the traceback with its causes, and the group."""

    def store() -> None:
        try:
            charge("declined")
        except ValueError as error:
            raise sqlite3.OperationalError("database is locked") from error

    failure = failure_of(raised(store))
    assert failure.error_type == "sqlite3.OperationalError"
    assert failure.message == "database is locked"
    assert "ValueError: declined" in failure.traceback
    assert "direct cause" in failure.traceback
    assert failure.traceback.endswith("sqlite3.OperationalError: database is locked\n")
    assert "OperationalError in" in failure.fingerprint
    assert failure_of(Reject("no seat")).error_type == "antiphon.errors.Reject"


def test_local_variables_stay_out() -> None:
    """No value of a local variable reaches the stored failure."""

    def login() -> None:
        token = "hunter" + str(2)
        raise PermissionError(f"refused after {len(token)} characters")

    assert "hunter2" not in repr(failure_of(raised(login)))


def test_an_endless_recursion_is_bounded() -> None:
    """A RecursionError's failure fits, and keeps the end of the traceback."""

    def down(depth: int) -> int:
        return down(depth + 1) + up(depth)

    def up(depth: int) -> int:
        return down(depth)

    failure = failure_of(raised(down, 0))
    assert len(failure.traceback.encode()) <= TRACEBACK_LIMIT
    assert "RecursionError" in failure.traceback[-200:]


@given(st.text(alphabet=st.characters(), max_size=200), st.integers(1, 20_000))
def test_a_failure_is_bounded_and_storable(text: str, times: int) -> None:
    """Whatever the message, its parts are bounded, valid UTF-8 and without NUL."""
    failure = failure_of(ValueError(text * times))
    assert len(failure.message.encode()) <= MESSAGE_LIMIT
    assert len(failure.traceback.encode()) <= TRACEBACK_LIMIT
    assert "\0" not in failure.message + failure.traceback + failure.fingerprint


@given(st.text(alphabet=st.characters(), max_size=500), st.integers(20, 300))
def test_bounded_text_keeps_both_ends(text: str, limit: int) -> None:
    """A text within the limit stays as it is; a longer one keeps its start and its end."""
    kept = bounded(text, limit)
    assert len(kept.encode()) <= limit
    if len(storable(text).encode()) <= limit:
        assert kept == storable(text)
    else:
        assert " [...] " in kept
