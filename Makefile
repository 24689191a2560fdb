# Every target sets up what it needs. `make test PYTHON=python3.12 VENV=.venv-3.12` chooses another Python.

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
DASHBOARD := dashboard/.venv
UV := uv==0.13.8
PEERS := arq saq streaq taskiq celery dramatiq rq

.NOTPARALLEL:
.PHONY: help demo up dashboard dashboard-test dashboard-pictures test test-long contract bench chaos check compatible docs lock clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: $(VENV)/.installed ## 50 prompts, answered by a simulated endpoint
	$(BIN)/greenscale-worker demo

up: $(VENV)/.installed $(VENV)/.up ## Redis, an endpoint and a worker (ARGS="--data DIR")
	@$(BIN)/greenscale-worker up $(ARGS)

dashboard: $(VENV)/.installed $(VENV)/.up $(DASHBOARD)/.installed ## all of `up`, and the page in front of it (port 8501)
	@$(BIN)/greenscale-worker up --dashboard $(DASHBOARD)/bin/python $(ARGS)

dashboard-test: $(VENV)/.installed $(DASHBOARD)/.tools ## tests of the page
	cd dashboard && .venv/bin/mypy
	cd dashboard && .venv/bin/python -m pytest $(ARGS)

dashboard-pictures: $(DASHBOARD)/.tools  # draws the pictures of docs/dashboard.md
	$(DASHBOARD)/bin/python dashboard/pictures.py

test: $(VENV)/.installed $(VENV)/.tools ## the tests, against a real Redis (ARGS="-k gate" picks some)
	$(BIN)/python -m pytest -m "not long" -n 2 --dist loadfile $(ARGS)

test-long: $(VENV)/.installed $(VENV)/.tools ## longer searches for faults
	$(BIN)/python -m pytest -m long --timeout 0 $(ARGS)

contract: $(VENV)/.installed $(VENV)/.tools ## the contract of queues, against each Redis and Valkey
	$(BIN)/python -m tests.servers $(ARGS)

bench: $(VENV)/.installed $(VENV)/.tools ## measure beside others, 35 minutes (ARGS=--quick: one)
	$(BIN)/python -m bench $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m bench.front_doors && $(BIN)/python -m bench.batches)

chaos: $(VENV)/.installed $(VENV)/.tools ## break everything, lose nothing (ARGS="--seconds 3600")
	$(BIN)/python -m chaos $(ARGS)

compatible: $(VENV)/.made ## redis-py 5 to 8, arq, SAQ, an older openai (ARGS=redis-5)
	.ci/compatible $(ARGS)

check: $(VENV)/.installed $(VENV)/.tools ## lint, types, layers, generated documents
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/greenscale-worker config --markdown | diff -u docs/configuration.md - || \
		{ echo 'docs/configuration.md is stale: make docs' >&2; exit 1; }
	$(BIN)/python -m tests.layers --check CONTRIBUTING.md
	$(BIN)/python -m tests.support.lines --check docs/batches.md

docs: $(VENV)/.installed ## write the documents that are generated
	$(BIN)/greenscale-worker config --markdown >docs/configuration.md
	$(BIN)/python -m tests.layers --write CONTRIBUTING.md
	$(BIN)/python -m tests.support.lines --write docs/batches.md

lock: ## pin what pyproject.toml asks for (ARGS=--upgrade)
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check $(UV)
	$(call compile,requirements.txt,pyproject.toml --extra cli --extra files --extra scaler)
	$(call compile,requirements-build.txt,--group build -c requirements.txt)
	$(call compile,requirements-up.txt,pyproject.toml --extra up -c requirements.txt)
	$(call compile,requirements-dev.txt,--group dev -c requirements.txt -c requirements-build.txt -c requirements-up.txt)
	$(call compile,dashboard/requirements.txt,dashboard/pyproject.toml -c requirements-dev.txt)
	$(call compile,dashboard/requirements-dev.txt,dashboard/pyproject.toml --group dashboard/pyproject.toml:dev -c dashboard/requirements.txt -c requirements-dev.txt)
	$(foreach peer,$(PEERS) report,$(call compile,harness/peers/$(peer).txt,--group bench-$(peer)) && ) true

# Universal: one file for all Pythons and platforms, with markers. No index is written down.
compile = build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' --output-file $(1) $(2) $(ARGS)

clean: ## remove whatever was made
	rm -rf $(VENV) $(DASHBOARD) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.made: requirements.txt requirements-build.txt
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed, with venv (Debian: apt-get install python3-venv)'; exit 2; } >&2
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --require-hashes -r requirements.txt -r requirements-build.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.up: $(VENV)/.made requirements-up.txt
	$(PIP) install --require-hashes -r requirements-up.txt
	@touch $@

$(VENV)/.tools: $(VENV)/.made requirements-dev.txt
	$(PIP) install --require-hashes -r requirements.txt -r requirements-build.txt -r requirements-dev.txt
	@touch $@

$(DASHBOARD)/.made: dashboard/requirements.txt
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed, with venv (Debian: apt-get install python3-venv)'; exit 2; } >&2
	@echo "Installing the page's packages: once, about a minute."
	$(PYTHON) -m venv --clear $(DASHBOARD)
	$(DASHBOARD)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r dashboard/requirements.txt
	@touch $@

# As `pip install --editable` does, which would fetch a build backend.
$(DASHBOARD)/.installed: $(DASHBOARD)/.made
	@echo '$(CURDIR)/dashboard' >"$$($(DASHBOARD)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/greenscale-dashboard.pth"
	@touch $@

$(DASHBOARD)/.tools: $(DASHBOARD)/.made dashboard/requirements-dev.txt
	$(DASHBOARD)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r dashboard/requirements-dev.txt
	@touch $@
