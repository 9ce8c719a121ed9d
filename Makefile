# Everything that is done with this checkout. Needs make and a Python 3.11 or newer, nothing else;
# the libraries go into .venv. `make help` lists the verbs, ARGS="..." passes options on.

VENV := .venv
BIN := $(VENV)/bin
# The stamps say for what .venv was last made ready; a change of these files makes it ready again.
DEMO_READY := $(VENV)/.ready-demo
DEV_READY := $(VENV)/.ready-dev
SOURCES := pyproject.toml requirements.lock
PEERS := benchmarks/peers
ifeq ($(realpath $(BIN)/python),)
# No interpreter, or one that has gone since: whatever the stamps say, nothing is ready.
.PHONY: $(DEMO_READY) $(DEV_READY)
endif

# Where Python may not keep what it has compiled, as in many images, each of a few hundred processes that the tests
# start compiles all of it again.
unexport PYTHONDONTWRITEBYTECODE

# Set PYTHON to choose the interpreter that .venv is made with.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14)
INSTALL := $(BIN)/python -m pip install -qq --no-input --disable-pip-version-check --use-pep517 -c requirements.lock

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types bench peers soak lock clean
.DELETE_ON_ERROR:

help: ## list the verbs
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1@\2/p' Makefile | tr '@' '\t' | expand -t 16

setup: $(DEV_READY) ## make .venv ready for all of the others

demo: $(DEMO_READY) ## flight booking, live (ARGS="--for 10 --json")
	@exec $(BIN)/antiphon demo $(ARGS)

# Tests wait as much as they compute: a few processes share them, and each has names, ports and databases of its own.
test: lint types ## lint, types and all tests (ARGS="tests/policy -x")
	@$(BIN)/python -m pytest -n 4 --dist worksteal $(ARGS)

lint: $(DEV_READY) ## style and formatting
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(DEV_READY) ## mypy, and pyright on the public API
	@$(BIN)/mypy
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

bench: $(DEMO_READY) ## measure this machine (ARGS="--json")
	@exec $(BIN)/antiphon bench $(ARGS)

peers: $(DEMO_READY) ## measure beside Celery, FastStream and others (ARGS="--quick")
	@exec $(BIN)/python -m benchmarks.peers $(ARGS)

soak: $(DEV_READY) ## the long tests, bounded
	@$(BIN)/python -m pytest -m soak --timeout 3600 $(ARGS)

# Not after setup: an environment cannot be made of pins that contradict pyproject.toml.
lock: | $(BIN)/python ## resolve requirements.lock and the peers' again (ARGS="--upgrade")
	@test -x $(BIN)/uv || $(INSTALL) uv
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --all-extras \
	    --custom-compile-command "make lock" -o requirements.lock $(ARGS) pyproject.toml
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 -c requirements.lock \
	    --custom-compile-command "make lock" -o $(PEERS)/requirements.txt $(ARGS) $(PEERS)/requirements.in pyproject.toml

clean: ## remove caches and build products; .venv stays
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name $(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@bare=; for python in $(PYTHONS); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    "$$python" -c 'import venv, ensurepip' 2>/dev/null || { bare=$$python; continue; }; \
	    echo "making .venv with $$("$$python" --version)" >&2; \
	    exec "$$python" -m venv --clear $(VENV); \
	done; \
	if [ -n "$$bare" ]; then \
	    echo "$$bare cannot make virtual environments: its venv or ensurepip module is missing." >&2; \
	    echo "On Debian and Ubuntu: apt install python3-venv" >&2; \
	else \
	    echo "Antiphon needs Python 3.11 or newer; none found as: $(PYTHONS)." >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3" >&2; \
	fi; \
	exit 1

$(DEMO_READY): $(SOURCES) | $(BIN)/python
	@echo "installing what the demo needs into .venv (once)" >&2
	@$(INSTALL) -e '.[demo]'
	@touch $@

$(DEV_READY): $(SOURCES) | $(BIN)/python
	@echo "installing everything into .venv (once)" >&2
	@$(INSTALL) -e '.[dev]'
	@touch $(DEMO_READY) $@
