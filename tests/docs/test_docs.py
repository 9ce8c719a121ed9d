"""README and docs/: every block of Python runs, every command parses, every link leads somewhere.

A fence's info string says what a block is. ``python``: all of a page's are one program, run in order from an empty
directory; ``python title="a.py"`` (and ``sql``): a file beside it; ``python no-run``: compiled only. ``text output``:
what the program prints. The pages of the tutorial share one directory, in order.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from antiphon.cli.bench import parser as bench_parser
from antiphon.cli.main import COMMANDS, build_parser
from antiphon.demo.main import parser as demo_parser

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIAL = [page for page in PAGES if page.parent.name == "tutorial"]
ALONE = [page for page in PAGES if page.parent.name != "tutorial"]
OTHERS = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(ROOT.glob("examples/*/*.md"))]

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_TITLE = re.compile(r'title="(?P<name>[^"]+)"')
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
_PLACES = re.compile(r"(?<![\w.])/(?:work|home|Users|root|tmp)/")


class Block(NamedTuple):
    """A fenced block: where it starts, the language, what else its info string says, and its text."""

    line: int
    language: str
    rest: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    source = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(source):
        language, _, rest = match["info"].strip().partition(" ")
        found.append(Block(source.count("\n", 0, match.start()) + 1, language, rest, match["text"]))
    return found


def name_of(page: Path) -> str:
    """A page as test ids and complaints name it."""
    return str(page.relative_to(ROOT))


def program(page: Path) -> str:
    """All of the page's Python that runs, each line where it stands on the page."""
    lines: list[str] = []
    for block in blocks(page):
        if block.language == "python" and not block.rest:
            lines += [""] * (block.line - len(lines))
            lines += block.text.splitlines()
    return "\n".join(lines)


def run(page: Path, folder: Path) -> None:
    """Write the page's files into *folder*, run its program there, and compare what it prints."""
    for block in blocks(page):
        if title := _TITLE.search(block.rest):
            path = folder / title["name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    source = program(page)
    if not source.strip():
        return
    script = folder / f"{page.stem.replace('-', '_').lower()}_page.py"
    script.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{name_of(page)}:\n{done.stderr}"
    expected = "".join(block.text for block in blocks(page) if (block.language, block.rest) == ("text", "output"))
    assert not expected or done.stdout == expected, f"{name_of(page)} prints:\n{done.stdout}"


def test_the_readme_s_first_service_runs_as_pasted(tmp_path: Path) -> None:
    """It is one block of some 25 lines; pasted into a file it prints what the README says, also the second time."""
    first = next(block for block in blocks(README) if block.language == "python")
    assert len([line for line in first.text.splitlines() if line.strip()]) <= 26
    (tmp_path / "first.py").write_text(first.text, encoding="utf-8")
    expected = next(block.text for block in blocks(README) if block.rest == "output")
    for _ in range(2):
        done = subprocess.run([sys.executable, "first.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


@pytest.mark.parametrize("page", ALONE, ids=name_of)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """A page's Python is one program that runs, without a warning, from an empty directory."""
    run(page, tmp_path)


def test_the_tutorial_runs_from_its_first_page_to_its_last(tmp_path: Path) -> None:
    """Its pages build one system in one directory; each runs on what the pages before have left there."""
    for page in TUTORIAL:
        run(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_all_python_compiles(page: Path) -> None:
    """Blocks that cannot run alone (``no-run``) are correct Python all the same."""
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, f"{name_of(page)}:{block.line}", "exec")


_OWN_PARSERS = {"demo": demo_parser, "bench": bench_parser}


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every ``antiphon ...`` line of a shell block, with its place."""
    for page in [*PAGES, *OTHERS]:
        for block in blocks(page):
            if block.language != "sh":
                continue
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.partition("|")[0], comments=True)
                if words[:1] == ["antiphon"]:
                    yield f"{name_of(page)}:{block.line} {line}", words[1:]


def test_every_command_is_one_that_the_command_line_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """Commands and options in the docs are those of the parsers."""
    wrong = []
    for place, words in commands():
        try:
            if words[0] in _OWN_PARSERS:
                _OWN_PARSERS[words[0]]().parse_args(words[1:])
            else:
                assert words[0] in COMMANDS or words[0].startswith("--")
                build_parser(words[0] if words[0] in COMMANDS else None).parse_args(words)
        except (SystemExit, AssertionError) as end:
            if not isinstance(end, SystemExit) or end.code:
                wrong.append(f"{place}: {capsys.readouterr().err}")
    assert not wrong, "\n".join(wrong)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    source = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", match["text"].lower()).replace(" ", "-") for match in _HEADING.finditer(source)}


def links(page: Path) -> list[str]:
    """The targets of a page's links, those in code left out."""
    source = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    return [match["target"] for match in _LINK.finditer(source)]


def test_internal_links_lead_somewhere() -> None:
    """Each link names a file that is there, and a heading in it if it names one."""
    wrong = []
    for page in [*PAGES, *OTHERS]:
        for target in links(page):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                wrong.append(f"{name_of(page)}: {target}")
    assert not wrong, "\n".join(wrong)


def test_every_page_is_reached_from_the_readme() -> None:
    """Nothing is written that no link leads to."""
    reached: set[Path] = set()
    ahead = [README]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        targets = [(page.parent / target.partition("#")[0]).resolve() for target in links(page)]
        ahead += [file for file in targets if file.suffix == ".md" and file.is_file() and file not in reached]
    assert not {name_of(page) for page in PAGES} - {name_of(page) for page in reached}


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name_of)
def test_no_page_names_a_place_of_one_machine(page: Path) -> None:
    """Paths in the docs mean the reader's machine."""
    assert not _PLACES.search(page.read_text(encoding="utf-8"))
