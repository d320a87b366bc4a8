# `make demo` and `make test` do everything on a fresh machine: they set up .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-fast lint docs dist bench compat setup clean

# Two processes, each with half of the tests in their order, so that those of a file share what it made; one that is done
# takes over from the other. What was compiled once is kept, or each process reads 250 test modules anew.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
unexport PYTHONDONTWRITEBYTECODE
LINTED := src tests benchmarks experiments

demo: $(READY)
	$(BIN)/fedcowpro demo --out demo

test: $(READY)
	$(PYTEST)

test-fast: $(READY)
	FEDCOWPRO_FUZZ=25 $(PYTEST) -m "not deployment and not browser and not slow"

lint: $(READY)
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/mypy

# A warning, a broken link among them, is an error.
docs: $(READY)
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "documents: build/docs/index.html"

# The wheel is tried as a stranger would: in a new environment, without the checkout, with the README's first command.
dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/try_wheel.py dist/*.whl

# Costs as ratios, each with its limit; a part that is done is not run again (python benchmarks/all.py --overwrite).
bench: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/all.py

# The quick tests on Python 3.11 with the oldest packages that are allowed, and on 3.13 with the newest.
compat: $(READY)
	$(BIN)/python tests/try_versions.py

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist
