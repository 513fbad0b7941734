# Two commands are all that a fresh clone needs: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
NEWEST := .venv-newest
# Tests of what a newer Python, NumPy, numba or Zarr can break.
NEWEST_TESTS := tests/cli tests/codecs tests/columns tests/kernels tests/loading tests/storage tests/test_golden_stores.py

.PHONY: demo test test-fast test-newest coverage timing bench setup lint types format clean golden interface

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,dev,dmc,drqv2,test,torch]'
	touch $@

demo: setup
	$(BIN)/python -m experiments.demo $(DEMO)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

test: lint types
	$(BIN)/pytest

# Minutes less: without fault injection, experiments and the patch.
test-fast: setup
	$(BIN)/pytest tests replaystore --ignore=tests/faults --ignore=tests/experiments --ignore=tests/drqv2_patch

# The newest of everything on Python 3.12 or later; NEWEST_PYTHON=... chooses one.
test-newest:
	python=$$(.ci/newest-python) && $$python -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -e '.[test]'
	$(NEWEST)/bin/python -VV
	$(NEWEST)/bin/python -m pip list --disable-pip-version-check | grep -iE '^(numpy|numba|llvmlite|numcodecs|zarr|torch|xarray|click|pytest) '
	$(NEWEST)/bin/python -m pytest $(NEWEST_TESTS)

coverage: setup
	$(BIN)/coverage run -m pytest tests replaystore --ignore=tests/faults --ignore=tests/experiments
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --sort=cover

# Tests that compare seconds with a limit: on an idle machine.
timing: setup
	$(BIN)/pytest -m timing tests

# On a store and episodes of your own: make bench STORE=DIR EPISODES=DIR
bench: setup
	$(BIN)/replaystore bench sample $(STORE)
	$(BIN)/replaystore bench stages $(STORE)
	$(BIN)/replaystore bench write $(EPISODES)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: setup
	$(BIN)/python tests/codecs/make_golden.py

# After a change of the public interface that is meant.
interface: setup
	REPLAYSTORE_RENEW_INTERFACE=1 $(BIN)/pytest -q tests/test_public_interface.py

clean:
	rm -rf $(VENV) $(NEWEST) $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
