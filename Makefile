# Each target sets itself up: `make demo` and `make test` need Python 3.11+ and nothing else.
PYTHON ?= python3
BIN := .venv/bin
# Or constraints-lowest.txt: the lowest versions that are supported.
CONSTRAINTS ?= constraints.txt
# Names the constraints that .venv was installed with, so that others install anew.
READY := .venv/ready$(patsubst -constraints.txt,,-$(notdir $(CONSTRAINTS)))

# Compiled modules are kept: dozens of the tests start processes, each of which would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-slow lint types check results constraints wheel test-wheel clean
.DEFAULT_GOAL := help

help:            ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: $(READY)  ## create .venv from pyproject.toml and $$(CONSTRAINTS)

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, got {v[0]}.{v[1]}; set PYTHON=/path/to/python3.11")'
	@rm -f .venv/ready*
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch torchvision
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	@touch $@

demo: setup      ## the whole way from a parameter table to a scored submission, half a minute
	$(BIN)/cifar-small demo

test: setup      ## the fast test suite, on two cores
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: setup ## the slow tests and those on real CIFAR under $$CIFAR_SMALL_DATA
	$(BIN)/python -m pytest -m 'slow or real_data'

test-wheel: setup ## build the wheel, install it in a fresh environment, make a whole entry there; about a minute
	$(BIN)/python -m pytest -m slow tests/test_wheel.py

wheel: setup     ## build dist/*.whl
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

lint: setup      ## ruff: lint and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup     ## mypy
	$(BIN)/mypy

check: lint types test  ## lint, types and the fast tests

DRAWN = cifar10_90_20_28_32px cifar10_94_10min cifar10_94 cifar10_96 resnet_plain_95 cifar10_95_26epochs cifar10_95_22epochs airbench94_muon resnet_hour lite0_hour
SHOWN = cifar10_96 resnet_plain_95 cifar10_95_26epochs cifar10_94_10min cifar10_90_20_28_32px resnet_hour airbench94_muon lite0_hour cifar100_77
results: setup   ## write the tables of results from the records under submissions/
	$(BIN)/cifar-small results --write docs/results.md
	$(BIN)/cifar-small results --write README.md --recipes $(SHOWN)
	$(BIN)/cifar-small results --picture submissions/accuracy_over_time.png --recipes $(DRAWN)

constraints: setup  ## write constraints.txt from the versions installed in .venv
	@{ echo '# Exact versions every command of the README installs; tested together on Python 3.11. Update by: make constraints'; \
	   $(BIN)/pip freeze --exclude-editable | sed 's/+.*//'; } > constraints.txt

clean:           ## remove the environment and caches (runs/ and data stay)
	rm -rf .venv .*_cache *.egg-info build dist
