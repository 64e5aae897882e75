# The newcomer's commands. Only python3 (3.11 or 3.12) and make are needed; the rest is brought in.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
ARGS ?=
# Some machines forbid it, and every process of hundreds would compile its modules anew.
export PYTHONDONTWRITEBYTECODE :=
# Three processes on two cores, sharing the servers: much of the suite waits.
PARALLEL ?= -n 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup lint types architecture kernels test coverage unit speed chaos bench bench-full demo up down lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv from requirements.lock (free when up to date)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "streamsvc needs Python 3.11 or 3.12; name one with make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5"
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip sync --require-hashes requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $(STAMP)

lint: setup ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## Check types (mypy --strict)
	$(BIN)/mypy

architecture: setup ## Check the import layers
	$(BIN)/lint-imports

kernels: setup ## Compile the kernels into numba's cache, where they are not there yet
	@$(BIN)/python -m streamsvc.agents.warm

# The kernels take one processor for a minute in a fresh clone, and the checks the other one.
test: setup ## Lint, types, architecture and all tests
	@$(MAKE) --no-print-directory --output-sync=target -j 2 kernels lint types architecture
	$(BIN)/pytest $(PARALLEL) --durations=25
	$(BIN)/pytest tests/speed

speed: setup ## What the hot paths cost beside library calls, against the baseline; ARGS=--write makes it anew
	PYTHONPATH=tests $(BIN)/python -m support.speed $(ARGS)

coverage: setup ## All tests once more, slower, with the lines that none of them runs
	$(BIN)/pytest $(PARALLEL) --cov --cov-report=term-missing:skip-covered

unit: setup ## Unit tests only (no servers)
	$(BIN)/pytest $(PARALLEL) tests/unit

chaos: setup ## Hundreds of faults on real servers, from a seed; ARGS="--seed 7 --faults 200"
	PYTHONPATH=tests $(BIN)/python -m support.chaos $(ARGS)

bench: setup ## The short form of all benchmarks (a quarter of an hour), into docs/performance.md
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-full: setup ## All benchmarks, an hour or two
	$(BIN)/python benchmarks/bench.py --full $(ARGS)

demo: setup ## The whole path on real servers and real flights; ARGS="--days 2 --headless"
	$(BIN)/streamsvc -c feature_repo demo $(ARGS)

up: setup ## Start Kafka, Valkey and Triton for feature_repo
	$(BIN)/streamsvc -c feature_repo up

down: setup ## Stop them; data stays (ARGS=-v removes it)
	$(BIN)/streamsvc -c feature_repo down $(ARGS)

lock: setup ## Write the locks anew: ours, Triton's environment, the Kafka jars
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 --all-extras pyproject.toml -o requirements.lock
	cd streamsvc/local && $(CURDIR)/$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	  --no-header --no-annotate --no-deps --python-version 3.11 triton.in -o triton.lock
	$(BIN)/python -m streamsvc.local.kafka_jars

clean: ## Remove what can be made again (keeps .venv and the stack's data)
	rm -rf dist build htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
