"""``antiphon check`` and ``antiphon graph``: what the declarations alone tell."""

from __future__ import annotations

import argparse
from pathlib import Path

from antiphon.cli import arguments, output
from antiphon.cli.exits import CommandError, Exit
from antiphon.cli.loading import load


def check(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``check``."""
    arguments.add_app(parser)
    parser.add_argument("--strict", action="store_true", help="let warnings decide the exit code too")
    arguments.add_json(parser)
    parser.epilog = "Exit code 1 if there are errors; with --strict, if there are findings at all."
    parser.set_defaults(run=_check)


def graph(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``graph``."""
    arguments.add_app(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--mermaid", action="store_true", help="print a Mermaid flowchart (the default)")
    form.add_argument("--svg", metavar="FILE", help="write an SVG picture to FILE (-: stdout)")
    arguments.add_json(form)
    parser.set_defaults(run=_graph)


def _check(options: argparse.Namespace) -> int:
    from antiphon.policy import choreography

    app = load(options.app)
    findings = choreography.check(app.all_specs)
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = len(findings) - errors
    if options.json:
        output.emit({"app": app.name, "errors": errors, "warnings": warnings, "findings": findings})
    else:
        for finding in findings:
            print(f"{_here(finding.where)}: {finding.severity}: {finding.what} [{finding.code}]")
            print(f"    Why: {finding.why}.\n    Mend: {finding.mend}.")
        output.say(f"{app.name}: errors {errors}, warnings {warnings}")
    return Exit.FINDINGS if errors or (options.strict and warnings) else Exit.OK


def _graph(options: argparse.Namespace) -> int:
    from antiphon.policy import choreography, drawing

    app = load(options.app)
    drawn = choreography.graph(app.all_specs)
    if options.json:
        output.emit(drawn)
    elif options.svg is None:
        print(drawing.mermaid(drawn), end="")
    elif options.svg == "-":
        print(drawing.svg(drawn), end="")
    else:
        _write(Path(options.svg), drawing.svg(drawn))
        output.say(f"written to {options.svg}")
    return Exit.OK


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"cannot be written ({error.strerror})", code=Exit.REFUSED, where=str(path), mend="Name another file"
        ) from error


def _here(where: str) -> str:
    """*where* as seen from the current directory, if it lies below."""
    return where.removeprefix(f"{Path.cwd()}/")
