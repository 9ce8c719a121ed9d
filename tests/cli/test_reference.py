"""docs/reference/cli.md and the parsers say the same."""

from __future__ import annotations

from pathlib import Path

from antiphon.cli.main import COMMANDS
from antiphon.cli.reference import page

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_reference_page_is_what_the_parsers_say() -> None:
    """The page is generated: ``python -m antiphon.cli.reference > docs/reference/cli.md``."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_the_page_names_every_command() -> None:
    """Each command has a heading, each of ``dead``'s commands too."""
    text = page()
    assert all(f"\n## antiphon {name}\n" in text for name in COMMANDS)
    assert "\n### antiphon dead redrive\n" in text
