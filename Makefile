# `make help` lists the targets. Three environments: .venv (the service), .venv-fast (and its tests, no torch) and
# .venv-dev (and training).
PYTHON ?= python3
LEAN := .venv/.ready
FAST := .venv-fast/.ready
DEV := .venv-dev/.ready
.DEFAULT_GOAL := help

# What test-fast leaves out: what needs torch, reads ninety films under each shipped pair, calibrates or examines the
# shipped files again and again, starts servers, browsers or peers, or waits for clocks. PostgreSQL's half of each test
# is left out by name.
SLOW := tests/training tests/browser tests/service/stories tests/service/web tests/service/pacs tests/service/queue \
	tests/service/people/test_oidc.py tests/service/films/test_decoder_process.py tests/service/test_main.py \
	tests/service/desk tests/service/audit/test_pipeline_scores.py tests/service/audit/test_calibration_poisoned.py \
	tests/service/graphs/test_examination.py tests/service/graphs/test_examiner.py \
	tests/service/registry/test_examinations.py

.PHONY: help install demo serve fmt check hooks test-fast test bench bench-pacs bundle clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(LEAN): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --require-virtualenv -r requirements.txt
	.venv/bin/python -m pip install --quiet --require-virtualenv --no-deps -e .
	touch $@

$(FAST): requirements-test.txt requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-fast
	.venv-fast/bin/python -m pip install --quiet --require-virtualenv -r requirements-test.txt
	.venv-fast/bin/python -m pip install --quiet --require-virtualenv --no-deps -e .
	touch $@

$(DEV): requirements-dev.txt requirements-test.txt requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-dev
	.venv-dev/bin/python -m pip install --quiet --require-virtualenv -r requirements-dev.txt
	.venv-dev/bin/python -m pip install --quiet --require-virtualenv --no-deps -e .
	touch $@

install: $(LEAN) ## the service in .venv

demo: $(LEAN) ## audit the radiographs that ship, on a service of their own
	.venv/bin/python -m service.commands.demo

serve: $(LEAN) ## the service on this machine
	.venv/bin/triggerscope serve

fmt: $(FAST) ## sort imports and format
	.venv-fast/bin/ruff check --select I --fix .
	.venv-fast/bin/ruff format .

check: $(DEV) ## lint, format, types and import contracts
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/mypy
	.venv-dev/bin/lint-imports

hooks: $(DEV) ## run `make check` before each commit (.pre-commit-config.yaml)
	.venv-dev/bin/pre-commit install

test-fast: $(FAST) ## lint, format, import contracts and tests of the core: no torch, under two minutes
	.venv-fast/bin/ruff check .
	.venv-fast/bin/ruff format --check .
	.venv-fast/bin/lint-imports
	.venv-fast/bin/python -m pytest -k 'not postgresql' $(SLOW:%=--ignore=%)

test: $(DEV) check ## everything that CI runs
	.venv-dev/bin/python -m pytest

bench: $(DEV) ## time the audit on this machine
	.venv-dev/bin/python -m training.measure.bench

bench-pacs: $(DEV) ## time a film's way from and to a PACS
	.venv-dev/bin/python -m tests.service.pacs.bench

# For this machine's kind of Python. Proof: deploy/bundle/check.sh FILE
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' service/__init__.py)
BUNDLE = triggerscope-offline-$(VERSION)
bundle: ## one file with everything that a machine without network needs
	rm -rf build dist/$(BUNDLE) dist/$(BUNDLE).tar
	mkdir -p dist/$(BUNDLE)
	$(PYTHON) -m pip wheel --quiet --wheel-dir dist/$(BUNDLE)/wheels -r requirements.txt pip
	$(PYTHON) -m pip wheel --quiet --wheel-dir dist/$(BUNDLE)/wheels --no-deps .
	cp -r models docs deploy requirements.txt README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE deploy/bundle/install.sh dist/$(BUNDLE)
	rm -f dist/$(BUNDLE)/deploy/orthanc/hook-key
	$(PYTHON) -c 'import sys, sysconfig; print("{}.{}".format(*sys.version_info), sysconfig.get_platform())' > dist/$(BUNDLE)/PYTHON
	cd dist/$(BUNDLE) && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs -d '\n' sha256sum > SHA256SUMS
	tar -C dist -cf dist/$(BUNDLE).tar $(BUNDLE)
	rm -rf dist/$(BUNDLE)

clean: ## remove environments and what was built
	rm -rf .venv .venv-fast .venv-dev build dist *.egg-info var
