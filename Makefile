# Each command does its own set-up: the first one makes .venv from the pinned, hashed list (with uv where there
# is one, else with pip), later ones only look at two stamps. Needs make and Python >= 3.11.

PYTHON ?= python3
BIN := .venv/bin
PINNED := .venv/.pinned
READY := .venv/.ready
DEVELOP := .venv/.develop
NODE := tests/node/node_modules/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo lab serve test check docs format notebooks bench requirements

help:  ## This list
	@sed -n 's/^\([a-z]*\):.*## /make \1|/p' Makefile | column -t -s '|'

demo: $(READY)  ## Run each model once in the terminal, with a tool call
	@$(BIN)/nbruns demo

lab: $(READY)  ## Open the tour in JupyterLab, with copies of the notebooks (in nbruns-notebooks)
	@$(BIN)/nbruns lab

serve: $(READY)  ## Run the server: make serve ARGS="--port 8123"
	@$(BIN)/nbruns serve $(ARGS)

test: $(DEVELOP) $(NODE)  ## All tests: make test ARGS="tests/test_sse.py -k bom"
	@$(BIN)/python -m pytest $(ARGS)

check: $(DEVELOP)  ## Lint, format, types, import layers, and the docs without a warning
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo >.venv/imports 2>&1 || { cat .venv/imports; exit 1; }
	@$(BIN)/deptry . --no-ansi >.venv/imports 2>&1 || { cat .venv/imports; exit 1; }
	@$(BIN)/python -m pytest -q tests/test_repository.py
	@$(MAKE) --no-print-directory docs

docs: $(DEVELOP)  ## Build the documentation into docs/_build/html
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs docs/_build/html

format: $(DEVELOP)  ## Sort imports, apply fixes, format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

notebooks: $(DEVELOP)  ## Run the notebooks in JupyterLab and store their outputs (needs Chromium)
	@NBRUNS_REQUIRE_BROWSER=1 NBRUNS_STORE_NOTEBOOKS=1 $(BIN)/python -m pytest -q \
	  tests/browser/test_tour.py tests/browser/test_usage.py tests/browser/test_notebooks.py $(ARGS)

bench: $(DEVELOP)  ## Run the benchmarks: make bench ARGS="-k stream"
	@$(BIN)/python -m pytest -s -q -o python_files='bench_*.py' -o python_functions='bench_*' tests/benchmarks $(ARGS)

# Each part of the stack is named once, in pyproject.toml; requirements.txt is what its commands need, and
# requirements-dev.txt that and what developing needs. No index URLs and no paths: the lists are the same whatever
# machine compiled them. Only wheels: nothing is compiled at installation.
COMPILE = uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras --group build --group notebooks --group weights \
	--generate-hashes --only-binary :all: --no-annotate --custom-compile-command "make requirements" --quiet
requirements:  ## Compile both pinned lists (needs uv): make requirements ARGS="--upgrade-package NAME"
	@$(COMPILE) --group dev --group docs --output-file requirements-dev.txt $(ARGS)
	@$(COMPILE) --constraints requirements-dev.txt --output-file requirements.txt $(ARGS)

install = if command -v uv >/dev/null; then uv pip install --quiet --python $(BIN)/python --no-deps $(1); \
	else $(BIN)/python -m pip install --quiet --no-deps $(1); fi

$(PINNED): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'nbruns needs Python 3.11 or newer, and $(PYTHON) is not one. Name one that is: make $(MAKECMDGOALS) PYTHON=python3.12'; exit 1; }
	@echo 'Setting up .venv, once: about 150 packages, 1.2 GB, a minute or so'
	@rm -rf .venv
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv; \
	else \
	  $(PYTHON) -m venv .venv; \
	fi
	@$(call install,--require-hashes --only-binary :all: -r requirements.txt)
	@touch $@

# hatchling is in the list, so that building the package asks no registry.
$(READY): $(PINNED) pyproject.toml
	@$(call install,--no-build-isolation -e .)
	@touch $@

$(DEVELOP): $(READY) requirements-dev.txt
	@echo 'Adding what tests, checks and docs need, once'
	@$(call install,--require-hashes --only-binary :all: -r requirements-dev.txt)
	@touch $@

# Exact versions in package.json, and no lock file: that would name a registry's host. Without npm the tests that
# need these packages are skipped and say so.
$(NODE): tests/node/package.json
	@if command -v npm >/dev/null; then \
	  npm install --prefix tests/node --no-package-lock --no-audit --no-fund --silent && touch $@; \
	fi
