"""Tables, spans and marks: what is printed, and what is read from arguments."""

from __future__ import annotations

import argparse
from datetime import timedelta

import pytest

from antiphon.cli import arguments, output
from antiphon.policy import words


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers stand to the right, text to the left; wide characters take two columns, None is a dash."""
    output.table(("NAME", "COUNT", "LAST"), [("a", 1, None), ("\u65e5\u672c", 1000, "x"), ("e\u0301", 20, "y")])
    assert capsys.readouterr().out.splitlines() == [
        "NAME  COUNT  LAST",
        "a         1  -",
        "\u65e5\u672c   1000  x",
        "e\u0301        20  y",
    ]


def test_nothing_in_a_table_is_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences and line breaks of a message cannot reach the terminal."""
    output.table(("REASON",), [("\033[2Jboom\nnext\u202e",)])
    assert capsys.readouterr().out == "REASON\n\ufffd[2Jboom next\ufffd\n"


def test_colour_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A status is coloured on a terminal, unless NO_COLOR is set or the terminal is dumb."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    output.table(("STATUS",), [("FAILED",)])
    assert "\033[31mFAILED\033[0m" in capsys.readouterr().out
    for name, value in (("NO_COLOR", ""), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
        output.table(("STATUS",), [("FAILED",)])
        assert "\033" not in capsys.readouterr().out
        monkeypatch.delenv(name)


def test_times_and_sizes() -> None:
    """Times are RFC 3339 in UTC, sizes in handy units."""
    assert words.moment(1_767_225_600_123) == "2026-01-01T00:00:00.123Z"
    assert [output.size(count) for count in (0, 1023, 1536, 5 << 20, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5 MiB",
        "3072 GiB",
    ]
    assert words.shortened("a\n  b", 10) == "a b"
    assert words.shortened("a" * 20, 10) == "aaaaaaa..."
    assert words.shortened(None) is None


def test_spans_are_read() -> None:
    """A number and a unit; anything else is refused with an example."""
    assert arguments.span("90s") == timedelta(seconds=90)
    assert arguments.span("1.5h") == timedelta(minutes=90)
    assert arguments.span("7d") == timedelta(days=7)
    assert arguments.span("250ms") == timedelta(milliseconds=250)
    for text in ("7", "d", "-1d", "7 days", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="90s"):
            arguments.span(text)


def test_shares_are_read() -> None:
    """A share or a percentage."""
    assert arguments.share("0.2") == arguments.share("20%") == 0.2
    for text in ("2", "-0.1", "120%", "much", "nan"):
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.share(text)
