# Everything a person or a machine does with this tree, each as one short target. Needs Python 3.11+ and make.
PYTHON ?= python3
PIP_FLAGS ?=
PYTEST_FLAGS ?=
ONCE ?=
JSON ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed

.PHONY: help setup install check test demo serve peers build clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## make .venv and install the exact versions of constraints.txt, when they changed

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

NATIVE := hatch_build.py $(wildcard models/native/*.[ch] app/native/*.[ch]) models/native/build.py app/native/build.py

$(STAMP): pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

install: $(BIN)/python ## install what serving needs, and nothing for development (the container image does this)
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt .

check: $(STAMP) ## lint, format, types and import arrows
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP) ## the whole test suite
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

demo: $(STAMP) ## learn handwritten digits from one example each, over HTTP (ONCE=1 exits, JSON=1 ends with one JSON object)
	@$(BIN)/innerloop demo $(if $(filter-out 0,$(ONCE)),--once) $(if $(filter-out 0,$(JSON)),--json)

serve: $(STAMP) ## the service with its embedded defaults on http://127.0.0.1:8000
	$(BIN)/innerloop serve

peers: $(PEERS_STAMP) ## make .venv-peers: this project beside the libraries that `innerloop benchmark` compares it with

$(PEERS)/bin/python:
	$(PYTHON) -m venv $(PEERS)

# The project first: its pinned torch is then there, and the peers' looser bounds cannot fetch another.
$(PEERS_STAMP): benchmarks/requirements-peers.txt pyproject.toml constraints.txt $(NATIVE) | $(PEERS)/bin/python
	$(PEERS)/bin/pip install $(PIP_FLAGS) -c constraints.txt -e .
	$(PEERS)/bin/pip install $(PIP_FLAGS) -c constraints.txt -r benchmarks/requirements-peers.txt
	@touch $@

build: $(STAMP) ## sdist and wheel in dist/
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

clean: ## remove what the other targets made; trained runs and .innerloop/ stay
	rm -rf $(VENV) $(PEERS) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
