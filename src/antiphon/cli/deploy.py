"""``antiphon deploy``: the files that a deployment is made of, written from what the application declares."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from antiphon.cli import arguments, output
from antiphon.cli.exits import Exit
from antiphon.cli.loading import load

if TYPE_CHECKING:
    from antiphon.deploy.plan import Plan

Files = Callable[["Plan", Path], Iterable[tuple[str, str]]]


def deploy(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the commands of ``deploy``."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary, files in (
        ("compose", "write a Dockerfile and a compose file: everything on one machine", _compose),
        ("k8s", "write a Dockerfile and manifests for Kubernetes, scaled on lag by KEDA", _kubernetes),
    ):
        one = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        _add_arguments(one)
        one.set_defaults(run=lambda options, files=files: _deploy(options, files))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_app(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("deploy"), help="where to (default: ./deploy)")
    parser.add_argument(
        "--store",
        metavar="URL",
        default=os.environ.get(arguments.STORE) or None,
        help=f"the database that holds the stores (default: ${arguments.STORE}, else as the app says: files)",
    )
    arguments.add_bus(parser)
    parser.add_argument("--image", metavar="NAME", help="the image's name and tag (default: the app's name, :1)")
    parser.add_argument(
        "--python",
        metavar="X.Y",
        default=".".join(platform.python_version_tuple()[:2]),
        help="Python's version in the image (default: this one's)",
    )
    parser.add_argument("--grace", metavar="SPAN", type=arguments.span, default="10s", help="for draining (10s)")
    parser.add_argument("--force", action="store_true", help="overwrite files that say something else")
    arguments.add_json(parser)
    parser.epilog = (
        "Nothing is started, and no password is written: what a URL holds of user and password is left out, and "
        "placeholders show where they go."
    )


def _deploy(options: argparse.Namespace, files: Files) -> int:
    from antiphon.deploy.plan import plan_of
    from antiphon.deploy.writing import write

    app = load(options.app)
    grace_s = max(1, round(options.grace.total_seconds()))
    plan = plan_of(
        app,
        options.app,
        store=options.store,
        bus=options.bus,
        image=options.image,
        grace_s=grace_s,
        environment=os.environ,
    )
    written = write(options.out, [*_image(plan, options.python), *files(plan, options.out)], force=options.force)
    if options.json:
        output.emit({"app": app.name, "files": [each._asdict() for each in written]})
    else:
        output.table(("FILE", "STATE"), written)
    return Exit.OK


def _image(plan: Plan, python: str) -> Iterable[tuple[str, str]]:
    from antiphon.deploy import image

    yield "Dockerfile", image.dockerfile(plan, image.project_in(Path.cwd()), python)
    yield "Dockerfile.dockerignore", image.IGNORED


def _compose(plan: Plan, out: Path) -> Iterable[tuple[str, str]]:
    from antiphon.deploy import compose

    return compose.files(plan, out)


def _kubernetes(plan: Plan, out: Path) -> Iterable[tuple[str, str]]:
    from antiphon.deploy import kubernetes

    return ((f"k8s/{name}", text) for name, text in kubernetes.files(plan))
