"""The Dockerfile of an app: what is pinned is installed in one stage, the other runs it as nobody in particular."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from antiphon.deploy.plan import DATA, PORT, Plan
from antiphon.version import __version__

_ANTIPHON = re.compile(r"^antiphon\b", re.MULTILINE)
#: What pins the project's libraries, the first that is found.
_LOCKS = ("requirements.lock", "requirements.txt")

#: What no image needs to have, or should.
IGNORED = """\
.git
.venv
**/__pycache__
**/*.db*
**/.env
data
dist
node_modules
"""
#: The number of the user that runs the app in the image.
USER = 10001

_DOCKERFILE = """\
# syntax=docker/dockerfile:1
# {remark}
FROM python:{python}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/app
ENV PATH=/opt/app/bin:$PATH
WORKDIR /build
{install}

FROM python:{python}-slim
ENV PATH=/opt/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid {user} --user-group --no-create-home --shell /usr/sbin/nologin app \\
    && install -d -o app -g app -m 0700 {data}
COPY --from=build /opt/app /opt/app
WORKDIR /app
COPY . .
USER {user}:{user}
VOLUME {data}
EXPOSE {port}
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \\
    CMD ["python", "-c", "{health}"]
CMD [{command}]
"""
#: Asks the process whether it lives, as a supervisor would.
HEALTH = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{PORT}/livez', timeout=2)"


@dataclass(frozen=True)
class Project:
    """The directory that an app lies in: the file that pins its libraries, and whether it can be installed itself."""

    lock: str | None
    is_uv: bool
    name: str | None
    pins_antiphon: bool


def project_in(folder: Path) -> Project:
    """What is found in *folder*."""
    lock = next((name for name in _LOCKS if (folder / name).is_file()), None)
    pins = lock is not None and _ANTIPHON.search((folder / lock).read_text(encoding="utf-8", errors="replace"))
    return Project(lock, (folder / "uv.lock").is_file(), _name_of(folder / "pyproject.toml"), bool(pins))


def _name_of(path: Path) -> str | None:
    """The project's name; None where there is none to install."""
    try:
        name = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return name if isinstance(name, str) else None


def dockerfile(plan: Plan, project: Project, python: str) -> str:
    """The text of the Dockerfile; its context is the project's directory."""
    pinned = "uv.lock" if project.is_uv else project.lock
    return _DOCKERFILE.format(
        remark=f"What {pinned} pins is installed."
        if pinned
        else "Nothing pins the libraries: pip freeze > requirements.lock",
        python=python,
        install="\n".join(_install(plan, project)),
        data=DATA,
        user=USER,
        port=PORT,
        health=HEALTH,
        command=", ".join(map(json.dumps, ("antiphon", "run", plan.reference, "--data", DATA))),
    )


def _install(plan: Plan, project: Project) -> list[str]:
    """The lines that install the project's libraries, and Antiphon with the extras that the plan needs."""
    extras = f"[{','.join(plan.extras)}]" if plan.extras else ""
    if project.is_uv:
        return [
            "COPY . .",
            'RUN pip install "uv==0.9.*" \\',
            "    && UV_PROJECT_ENVIRONMENT=/opt/app uv sync --frozen --no-dev --no-editable",
        ]
    pins = f" -c {project.lock}" if project.lock else ""
    if project.name == "antiphon":
        return ["COPY . .", f'RUN pip install{pins} ".{extras}"']
    steps = [f"pip install -r {project.lock}"] if project.lock else []
    version = "" if project.pins_antiphon else f"=={__version__}"
    itself = "" if project.name is None else ' "."'
    steps.append(f'pip install{pins} "antiphon{extras}{version}"{itself}')
    return ["COPY . .", "RUN " + " \\\n    && ".join(steps)]
