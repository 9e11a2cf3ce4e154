# Everything below works from a clean clone with Python >= 3.11 and a package registry.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIN := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url

.DEFAULT_GOAL := help
.PHONY: help demo test unit simulate exhaustive planted mutants chaos e2e bench lint cluster docs manifests pins clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kpo-healer needs Python 3.11 or newer: call make PYTHON=python3.11")'
	@echo "preparing $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: $(READY) ## a real Airflow, a real cluster, real orphans, healed; KEEP=1 leaves it running
	@$(BIN)/python -m tests.lab demo $(if $(KEEP),--keep)

cluster: $(READY) ## a real API server with kwok nodes; prints the export KUBECONFIG line; Ctrl-C stops it
	@$(BIN)/python -m tests.lab cluster

lint: $(READY) ## ruff, mypy --strict, import order
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

unit: $(READY) ## the fast tests: no cluster, no Airflow
	@$(BIN)/pytest tests/unit -n 3 -q -m "not slow"

simulate: $(READY) ## random histories against the real code, on all cores: N=10000 SEED=1 PROCESSES= REPORT=
	@$(BIN)/python -m tests.simulation --n $(or $(N),10000) --seed $(or $(SEED),1) \
		$(if $(PROCESSES),--processes $(PROCESSES)) $(if $(REPORT),--report $(REPORT))

planted: $(READY) ## bugs planted into the healer, each of which the simulation must catch: N=50000 histories at most
	@$(BIN)/python -m tests.simulation.planted --n $(or $(N),50000)

exhaustive: $(READY) ## every order of events up to a depth, against the real code: DEPTH=3 PROCESSES=<cores> REPORT=<file>
	@$(BIN)/python -m tests.simulation.exhaustive --depth $(or $(DEPTH),3) \
		$(if $(PROCESSES),--processes $(PROCESSES)) $(if $(REPORT),--report $(REPORT))

mutants: $(READY) ## mutation testing of rules, labels, suspects and guard: MODULES="guard labels"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check mutmut==3.8.1
	@$(BIN)/python -m tests.mutation $(MODULES) $(if $(PROCESSES),--processes $(PROCESSES))

test: lint unit ## everything: lint, unit, real API server, real Airflow, end to end
	@$(BIN)/pytest tests/unit tests/simulation -n 3 -q -m slow
	@$(BIN)/python -m tests.lab prepare --chart
	@$(BIN)/pytest tests/cluster tests/airflow tests/faults tests/e2e tests/observe tests/deploy tests/chaos tests/bench \
		-n 2 --dist loadfile

e2e: $(READY) ## only the tests with real KubernetesPodOperator tasks
	@$(BIN)/python -m tests.lab prepare
	@$(BIN)/pytest tests/e2e

chaos: $(READY) ## real tasks, everything killed at random: RUNS=1000 SEED=1 MINUTES=0 REPORT=docs/chaos.md
	@$(BIN)/python -m tests.lab prepare
	@$(BIN)/python -m tests.chaos --runs $(or $(RUNS),1000) --seed $(or $(SEED),1) --minutes $(or $(MINUTES),0) \
		$(if $(REPORT),--report $(REPORT))

docs: $(READY) ## writes the generated parts of the documentation and builds it strictly into site/
	@$(BIN)/python -m tests.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site

bench: $(READY) ## 10,000 Pods, beside what one would run instead: BENCH="startup pass" PODS=10000 MINUTES=60 QUICK=1
	@$(BIN)/python -m tests.lab prepare
	@$(BIN)/python -m tests.bench $(BENCH) $(if $(QUICK),--quick) $(if $(PODS),--pods $(PODS)) \
		$(if $(LARGEST),--largest $(LARGEST)) $(if $(REPEAT),--repeat $(REPEAT)) $(if $(MINUTES),--minutes $(MINUTES))

manifests: $(READY) ## the chart's schema of values and the plain manifests, from the models and the chart
	@$(BIN)/python -m deploy.generate

pins: ## resolves what is pinned anew: tests/requirements.txt, and with hashes what the image consists of
	@$(BIN)/python -m pip install --quiet uv
	@$(PIN) pyproject.toml tests/requirements.in -o tests/requirements.txt
	@$(PIN) --generate-hashes pyproject.toml -o deploy/requirements.txt
	@echo hatchling | $(PIN) --generate-hashes - -o deploy/requirements-build.txt

clean: ## removes what make left in this folder
	@rm -rf $(VENV) dist site .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
