# Everything below works from a clean clone with Python >= 3.11 and a package registry.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
RELEASE := .release
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two more Airflows to install, and stories of minutes: a target of their own.
TWO := $(wildcard tests/airflow/test_two_*.py tests/airflow/test_both_dialects.py tests/e2e/test_airflow2.py tests/e2e/test_two_*.py)
PIN := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url

.DEFAULT_GOAL := help
.PHONY: help demo picture wheel ui test unit simulate exhaustive planted mutants chaos e2e node bench lint cluster docs manifests pins clean airflow2 logins release-dry-run

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kpo-healer needs Python 3.11 or newer: call make PYTHON=python3.11")'
	@echo "preparing $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: $(READY) ## a real Airflow, a real cluster, real orphans, healed; KEEP=1 leaves it running, AIRFLOW=2.11 is another one, NODE=real has real containers
	@$(BIN)/python -m $(if $(filter real,$(NODE)),tests.node demo,tests.lab demo $(if $(KEEP),--keep) $(if $(AIRFLOW),--airflow $(AIRFLOW)))

wheel: $(READY) ## kpo-healer-airflow as a wheel in dist/, to be installed where Airflow runs
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist ./deploy/airflow

ui: $(READY) ## the page in Airflow's UI, in a browser: VERSIONS="3.1.8 3.2.2 3.3.2"; screenshots in tests/ui/shots
	@VERSIONS="$(or $(VERSIONS),3.1.8 3.2.2 3.3.2)" $(BIN)/pytest tests/ui

picture: $(READY) ## the demo up to its scan, recorded as docs/scan.svg, and the dashboard's figures of a minute as docs/dashboard.svg
	@$(BIN)/python -m tests.lab picture docs/scan.svg
	@$(BIN)/python -m tests.observe.picture docs/dashboard.svg

cluster: $(READY) ## a real API server with kwok nodes; prints the export KUBECONFIG line; Ctrl-C stops it
	@$(BIN)/python -m tests.lab cluster

lint: $(READY) ## ruff, mypy --strict, import order
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

unit: $(READY) ## the fast tests: no cluster, no Airflow
	@$(BIN)/pytest tests/unit tests/simulation -n 3 -q -m "not slow"

simulate: $(READY) ## random histories against the real code, on all cores: N=10000 SEED=1 PROCESSES= REPORT=
	@$(BIN)/python -m tests.simulation --n $(or $(N),10000) --seed $(or $(SEED),1) \
		$(if $(PROCESSES),--processes $(PROCESSES)) $(if $(REPORT),--report $(REPORT))

planted: $(READY) ## bugs planted into the healer, each of which the simulation must catch: N=50000 histories at most
	@$(BIN)/python -m tests.simulation.planted --n $(or $(N),50000)

exhaustive: $(READY) ## every order of events up to a depth, against the real code: DEPTH=3 PROCESSES=<cores> REPORT=<file>
	@$(BIN)/python -m tests.simulation.exhaustive --depth $(or $(DEPTH),3) \
		$(if $(PROCESSES),--processes $(PROCESSES)) $(if $(REPORT),--report $(REPORT))

mutants: $(READY) ## mutation testing of decision: rules, labels, quarantine and limits: MODULES="limits labels"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check mutmut==3.8.1
	@$(BIN)/python -m tests.mutation $(MODULES) $(if $(PROCESSES),--processes $(PROCESSES))

test: lint unit ## everything: lint, unit, real API server, real Airflow, end to end
	@$(BIN)/pytest tests/unit tests/simulation -n 3 -q -m slow
	@$(BIN)/python -m tests.lab prepare --chart
	@$(BIN)/pytest tests/cluster tests/airflow tests/faults tests/e2e tests/observe tests/deploy tests/chaos tests/bench tests/ui \
		$(TWO:%=--ignore %) -n 2 --dist loadfile

airflow2: $(READY) ## the healer and real Airflows 2.11 and 2.10: questions, logins, rights, real tasks
	@$(BIN)/python -m tests.lab prepare
	@$(BIN)/pytest $(TWO) -n 2 --dist loadfile

logins: $(READY) ## real Keycloak, FAB and the platforms' own libraries: what can't be had here is skipped and said
	@$(BIN)/pytest tests/logins -n 2 --dist loadfile -o timeout=1800

node: $(READY) ## a real kubelet runs real containers, in namespaces of their own; needs root: TESTS=tests/node/test_kpo.py
	@$(BIN)/python -m tests.node $(TESTS)

e2e: $(READY) ## only the tests with real KubernetesPodOperator tasks
	@$(BIN)/python -m tests.lab prepare
	@$(BIN)/pytest tests/e2e $(TWO:%=--ignore %)

chaos: $(READY) ## real tasks, everything killed at random: RUNS=1000 SEED=1 MINUTES=0 REPORT=docs/chaos.md AIRFLOW=2.11
	@$(BIN)/python -m tests.lab prepare
	@$(BIN)/python -m tests.chaos --runs $(or $(RUNS),1000) --seed $(or $(SEED),1) --minutes $(or $(MINUTES),0) \
		$(if $(REPORT),--report $(REPORT)) $(if $(AIRFLOW),--airflow $(AIRFLOW)) $(if $(AT_ONCE),--at-once $(AT_ONCE))

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
	@$(PIN) --generate-hashes --extra aws pyproject.toml -o deploy/requirements-aws.txt
	@$(PIN) --generate-hashes --extra google pyproject.toml -o deploy/requirements-google.txt
	@$(PIN) --generate-hashes --all-extras pyproject.toml -o deploy/requirements-all.txt
	@$(PIN) deploy/requirements-release.in -o deploy/requirements-release.txt
	@echo hatchling | $(PIN) --generate-hashes - -o deploy/requirements-build.txt

$(RELEASE)/.ready: deploy/requirements-release.txt
	@$(PYTHON) -m venv $(RELEASE)
	@$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check -r deploy/requirements-release.txt
	@touch $@

release-dry-run: $(RELEASE)/.ready ## what a release does, up to publishing: wheels, checks, list of materials, linted workflows
	@rm -rf dist
	@$(RELEASE)/bin/validate-pyproject pyproject.toml deploy/airflow/pyproject.toml
	@$(RELEASE)/bin/python -m build --outdir dist . > /dev/null
	@$(RELEASE)/bin/python -m build --outdir dist deploy/airflow > /dev/null
	@$(RELEASE)/bin/twine check --strict dist/*.whl dist/*.tar.gz
	@mkdir -p sbom && $(RELEASE)/bin/cyclonedx-py requirements deploy/requirements.txt --output-format JSON --output-file sbom/kpo-healer.cdx.json
	@$(RELEASE)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(RELEASE)/bin/check-jsonschema --builtin-schema vendor.renovate .github/renovate.json
	@$(RELEASE)/bin/zizmor --offline --quiet --no-progress .github/workflows
	@$(RELEASE)/bin/reuse lint --quiet
	@$(RELEASE)/bin/hadolint --config .hadolint.yaml deploy/Dockerfile
	@if command -v actionlint > /dev/null; then actionlint; else echo "actionlint is not installed: not run; go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.7"; fi
	@if command -v helm > /dev/null; then helm package deploy/chart --destination sbom > /dev/null; else echo "helm is not installed: the chart is not packaged"; fi

clean: ## removes what make left in this folder
	@rm -rf $(VENV) $(RELEASE) dist sbom site .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
