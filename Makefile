# make demo | test | bench | serve     Two environments: .venv (lean, no torch) and .venv-dev (training and tests).
PYTHON ?= python3
LEAN := .venv/.ready
DEV := .venv-dev/.ready

.PHONY: demo serve test bench check clean

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

demo: $(LEAN)
	.venv/bin/python -m service.demo

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
	.venv-dev/bin/python -m training.bench

clean:
	rm -rf .venv .venv-dev build *.egg-info var
