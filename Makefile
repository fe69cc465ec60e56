# Each command does its own set-up: the first one makes .venv from the pinned, hashed list (with uv where there
# is one, else with pip), later ones only look at two stamps. Needs make and Python >= 3.11.

PYTHON ?= python3
BIN := .venv/bin
PINNED := .venv/.pinned
READY := .venv/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo lab serve test check format bench requirements

help:  ## This list
	@sed -n 's/^\([a-z]*\):.*## /make \1|/p' Makefile | column -t -s '|'

demo: $(READY)  ## One run of each model in the terminal, with its tool call answered
	@$(BIN)/nbruns demo

lab: $(READY)  ## The tour in JupyterLab, against the demo's server
	@$(BIN)/nbruns lab

serve: $(READY)  ## The server on its own: make serve ARGS="--port 8123"
	@$(BIN)/nbruns serve $(ARGS)

test: $(READY)  ## All tests: make test ARGS="tests/test_sse.py -k bom"
	@$(BIN)/python -m pytest $(ARGS)

check: $(READY)  ## Lint, format, types and import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_layers.py

format: $(READY)  ## Sort imports, mend what can be mended, format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY)  ## The measurements: make bench ARGS="-k stream"
	@$(BIN)/python -m pytest -s -q -o python_files='bench_*.py' -o python_functions='bench_*' tests/benchmarks $(ARGS)

# Each part of the stack is named once, in pyproject.toml. No index URLs and no paths: the list is the same
# whatever machine compiled it. Only wheels: nothing is compiled at installation.
requirements:  ## Compile requirements.txt anew (needs uv): make requirements ARGS="--upgrade-package NAME"
	@uv pip compile pyproject.toml --output-file requirements.txt \
	  --universal --python-version 3.11 --all-extras --group dev --group weights \
	  --generate-hashes --only-binary :all: --no-annotate \
	  --custom-compile-command "make requirements" --quiet $(ARGS)

$(PINNED): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'nbruns needs Python 3.11 or newer, and $(PYTHON) is not one. Name one that is: make $(MAKECMDGOALS) PYTHON=python3.12'; exit 1; }
	@echo 'Setting up .venv, once: about 160 packages, 1.1 GB, a minute or so'
	@rm -rf .venv
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes --only-binary :all: -r requirements.txt; \
	else \
	  $(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: -r requirements.txt; \
	fi
	@touch $@

# hatchling is in the list, so that building the package asks no registry.
$(READY): $(PINNED) pyproject.toml
	@if command -v uv >/dev/null; then \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .; \
	else \
	  $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .; \
	fi
	@touch $@
