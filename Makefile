# make demo    trains a small model and watches it being scored; make demo SLURM=1 on a real Slurm (Debian, root)
# make test    everything the tests need, then all tests but the slow ones; make test-unit: tests/unit alone; make test-all: the slow ones too
# make check   linters, types, import rules, and the login node's tests on the installed wheel, without torch
# make venv    the environment of all of them; make clean removes it, .demo with its scores, and whatever else was made
# make bench   measures, and writes tests/benchmarks/RESULTS.md; make bench BENCH=speed: only that part
#
# JOBS=N runs N tests at a time: more than two cores have, since many wait for daemons. PYTHON=/path/to/python3.11 where python3 is older. Every target can be run again: what is done is not done twice.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory
.DEFAULT_GOAL := help

PYTHON ?= python3
SLURM  ?=
BENCH  ?=
JOBS   ?= 3
VENV   := .venv
LOGIN  := .venv-login
BIN    := $(VENV)/bin
PIP    := -m pip --disable-pip-version-check install -qq --progress-bar off
SHIPPED := $(shell find watcher suites scoring slurm systemd -type f -not -name '*.pyc')

.PHONY: help venv demo check lint login-node slurm browser uplot test-unit test test-all bench clean

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

# $(call fresh_venv,FOLDER): an environment that runs, made anew where python3 changed under it
define fresh_venv
	if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "$(PYTHON) is $$($(PYTHON) --version 2>&1 || true); 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 2; fi; \
	if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo "installing python3-venv"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
	    else echo "$(PYTHON) cannot make environments: install its venv package (Debian: apt-get install python3-venv)" >&2; exit 2; fi; fi; \
	if ! $(1)/bin/python -m pip --version >/dev/null 2>&1; then $(PYTHON) -m venv --clear $(1); fi
endef

venv: $(VENV)/.installed

# torch goes first, so that pip settles on one build of it before anything else can ask for another
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(call fresh_venv,$(VENV))
	@echo "installing torch into $(VENV) (a few minutes the first time)"
	@$(BIN)/python $(PIP) -c constraints.txt torch==2.13.0
	@echo "installing the rest"
	@$(BIN)/python $(PIP) -c constraints.txt -e '.[scoring,dev]'
	@touch $@

demo: venv
	@PYTHONPATH=tests $(BIN)/python tests/demo/run.py $(if $(filter-out 0 no,$(SLURM)),--slurm)

check: lint login-node

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck slurm/*.sbatch .ci/run
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/lint-imports

dist/.built: $(SHIPPED) pyproject.toml README.md LICENSE $(VENV)/.installed
	@rm -rf dist
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	@touch $@

$(LOGIN)/.installed: dist/.built constraints.txt
	@$(call fresh_venv,$(LOGIN))
	@$(LOGIN)/bin/python $(PIP) -c constraints.txt "$$(echo dist/*.whl)[test]"
	@$(LOGIN)/bin/python $(PIP) --force-reinstall --no-deps dist/*.whl
	@touch $@

# What a login node gets: the wheel, no torch, no numpy. Run from elsewhere, so that nothing is found by being in the repository.
# Long tests that know no difference between an installed package and the repository run in `make test` alone.
login-node: $(LOGIN)/.installed
	@for unwanted in torch numpy scipy pyarrow datasets transformers tokenizers safetensors; do \
	    if $(LOGIN)/bin/python -c "import $$unwanted" 2>/dev/null; then echo "a plain install brings $$unwanted" >&2; exit 1; fi; done
	cd / && EXPECT_INSTALLED=1 $(CURDIR)/$(LOGIN)/bin/pytest -q -m "not slow and not scoring" -p no:cacheprovider -n $(JOBS) -c $(CURDIR)/pyproject.toml --rootdir $(CURDIR) \
	    $(CURDIR)/tests/unit/suites $(CURDIR)/tests/unit/watcher $(CURDIR)/tests/integration/daemon \
	    --ignore $(CURDIR)/tests/unit/watcher/simulate --ignore $(CURDIR)/tests/integration/daemon/test_state_machine.py \
	    -k "not killed_at_every_effect"

# The tests' own Slurm; says why where it cannot be had
slurm: venv
	@if ! $(BIN)/python tests/support/slurm_cluster/cluster.py install; then \
	    if [ -n "$${CI:-}" ]; then exit 1; fi; echo "the tests that need a Slurm will be skipped"; fi

# A browser for the tests of report.html, and the npm packages that they look with; says why where it cannot be had
browser: venv
	@if ! $(BIN)/python tests/support/browser.py install; then \
	    if [ -n "$${CI:-}" ]; then exit 1; fi; echo "the tests that need a browser will be skipped"; fi

# Takes report.html's chart library anew from npm, in the version that tests/support/browser.py names
uplot: venv
	@$(BIN)/python tests/support/browser.py uplot

test-unit: venv
	$(BIN)/pytest -n $(JOBS) -m "not slow" tests/unit

test: venv slurm browser
	$(BIN)/pytest -n $(JOBS) -m "not slow"

test-all: venv slurm browser
	$(BIN)/pytest -n $(JOBS)

bench: venv
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.run $(BENCH)

clean:
	rm -rf $(VENV) $(LOGIN) .venv-lm-eval dist build .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
