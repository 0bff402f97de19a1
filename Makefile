# All that a newcomer needs is Python 3.11 or newer and make.
#
#   make train    installs, and trains PPO on CartPole-v1 with 16 seeds; the results go to a new directory in runs/
#   make test     installs what tests need, and runs them: the library's and the command line's
#   make test-faults  kills runs, damages and fills disks, tries hundreds of configurations: slow, for changes to how runs are kept
#   make test-suites  installs Brax, Playground, Craftax, Navix, XLand-MiniGrid, Jumanji and pgx (2 GB), trains in each, resumes, checks
#   make studies-smoke  every study of experiments/, small, and whether what it claims holds; CI runs it too
#   make bench    has training become slower? the library against a frozen reference, and the command against the library
#   make accelerator  compiles the programs for an H100 and a TPU that need not be here, and counts what they launch: 1.6 GB, half an hour
#   make docs     builds the documentation into build/site, where warnings are errors; make docs-serve shows it while you write
#   make wheel    builds wheel and sdist into dist/, and tries the wheel in a clean environment, as a user would
#   make check    ruff (lint, format), lint-imports (what may import what) and pyright
#   make format   lets ruff fix what it can
#   make clean    removes what make made, and leaves runs/ alone

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: train test test-faults test-suites studies-smoke bench accelerator docs docs-serve wheel check format clean

train: $(VENV)/.installed
	$(BIN)/jaxpg train ppo --env CartPole-v1 --seeds 16

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --ignore tests/studies --numprocesses logical --maxprocesses 8 --dist worksteal -q

test-faults: $(VENV)/.installed-dev
	JAXPG_FAULTS=1 $(BIN)/python -m pytest tests/faults tests/lab/test_fuzz.py tests/core/test_any_space.py --numprocesses 2 --dist worksteal -q

test-suites: .venv-suites/.installed
	.venv-suites/bin/python -m pytest tests/suites -q -rs

studies-smoke: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/studies --numprocesses logical --maxprocesses 8 --dist worksteal -q

bench: $(VENV)/.installed-dev
	$(BIN)/python -m experiments.benchmark.guard

accelerator: .venv-accelerator/.installed
	JAX_PLATFORMS=cpu .venv-accelerator/bin/python -m experiments.accelerator.census

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# No constraints: what a user gets today.
wheel:
	rm -rf build/wheel dist
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet --disable-pip-version-check build
	build/wheel/bin/python -m build --outdir dist .
	$(PYTHON) -m venv --clear build/wheel
	build/wheel/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd build/wheel && ../wheel/bin/python ../../tests/wheel.py

check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) .venv-accelerator .venv-suites .pytest_cache .ruff_cache .import_linter_cache .hypothesis .jax_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "jaxpg needs Python 3.11 or newer, but $(PYTHON) is `$(PYTHON) --version 2>/dev/null || echo not there`; name one: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Installed once, and again when the project's dependencies or their versions change.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing jaxpg into $(VENV): a minute or two"
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing jaxpg and its development tools into $(VENV): a minute or two"
	@$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed

# An environment of its own: compilers for accelerators would change how JAX starts in the other one.
.venv-accelerator/.installed: experiments/accelerator/requirements.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-accelerator
	@echo "installing jaxpg and compilers for accelerators into .venv-accelerator: some minutes"
	.venv-accelerator/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	.venv-accelerator/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement experiments/accelerator/requirements.txt
	@touch $@

# Another environment of their own: they bring a hundred packages.
.venv-suites/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-suites
	@echo "installing jaxpg and seven suites of environments into .venv-suites: some minutes"
	.venv-suites/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,suites]'
	@touch $@
