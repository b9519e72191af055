# make install | demo | test | bench | bench-pacs | serve | bundle
# Two environments: .venv (lean, no torch) and .venv-dev (training and tests).
PYTHON ?= python3
LEAN := .venv/.ready
DEV := .venv-dev/.ready

.PHONY: install demo serve test bench bench-pacs check bundle clean

$(LEAN): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --require-virtualenv -r requirements.txt
	.venv/bin/python -m pip install --quiet --require-virtualenv --no-deps -e .
	touch $@

$(DEV): requirements-dev.txt requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-dev
	.venv-dev/bin/python -m pip install --quiet --require-virtualenv -r requirements-dev.txt
	.venv-dev/bin/python -m pip install --quiet --require-virtualenv --no-deps -e .
	touch $@

install: $(LEAN)

demo: $(LEAN)
	.venv/bin/python -m service.commands.demo

serve: $(LEAN)
	.venv/bin/triggerscope serve

check: $(DEV)
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/mypy
	.venv-dev/bin/lint-imports

test: $(DEV) check
	.venv-dev/bin/python -m pytest

bench: $(DEV)
	.venv-dev/bin/python -m training.measure.bench

bench-pacs: $(DEV)
	.venv-dev/bin/python -m tests.service.pacs.bench

# Everything that a machine without network needs, for this machine's kind of Python. Proof: deploy/bundle/check.sh FILE
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' service/__init__.py)
BUNDLE = triggerscope-offline-$(VERSION)
bundle:
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

clean:
	rm -rf .venv .venv-dev build dist *.egg-info var
