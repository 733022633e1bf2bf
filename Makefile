# `make demo` and `make test` set everything up by themselves in .venv; nothing outside this folder is read.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 0:100
SCENARIO ?= partition-leader
SECONDS ?= 20
SEED ?= 1
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check sim chaos bench up format wheels clean

help:
	@echo "make demo    a real three-node cluster does the main job and explains itself (under 90 s)"
	@echo "make test    sets up and runs all tests (under 10 minutes)"
	@echo "make check   format, lint, types, layers, unit, contract, golden: what one runs all day"
	@echo "make sim     SEEDS=a:b of the consensus simulation; make sim TRACE=1 SEED=n MODE=power NODES=3 replays one"
	@echo "make chaos   SCENARIO=$(SCENARIO) SECONDS=$(SECONDS) SEED=$(SEED)"
	@echo "make bench   figures of this machine;  make up  a local cluster until Ctrl-C"

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml sdk/pyproject.toml
	@test -x $(BIN)/python || { echo "setting up $(VENV) …"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, this is $$($(BIN)/python --version)"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ./sdk -e '.[dev]' 2>&1 | grep -v '^WARNING: Location' || true
	@$(BIN)/python -c 'import lastgood, wal, node, cluster, chaos, pytest'
	@touch $(STAMP)

demo: setup
	@$(BIN)/lastgood demo

test: setup
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest

check: setup
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/tidy tests/unit tests/contract tests/golden

sim: setup
	@$(BIN)/python -m chaos.sim $(if $(TRACE),--trace $(SEED),--seeds $(SEEDS)) $(MODE:%=--mode %) $(NODES:%=--nodes %)

chaos: setup
	@$(BIN)/lastgood chaos run $(SCENARIO) --seconds $(SECONDS) --seed $(SEED)

bench: setup
	@$(BIN)/python -m benchmarks

up: setup
	@$(BIN)/lastgood up

format: setup
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

# Wheels for an image build without a registry (see Dockerfile).
wheels: setup
	@$(BIN)/python -m pip wheel --quiet --wheel-dir deploy/wheels -c constraints.txt 'setuptools>=77' \
	  aiohttp blake3 click lmdb lz4 msgspec numpy prometheus-client rich uvloop pysyncobj

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis results
