# Two commands on a fresh machine: `make demo` and `make test`. Each makes its environment if it is missing.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# For installing a browser.
SUDO   := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Here money and time are decided: every branch is tested.
EXACT := novita_async/_policy/*,novita_async/_protocol.py,novita_async/_codec.py,novita_async/_ledger.py,novita_async/_sender.py,novita_async/_watch.py,novita_async/_callbacks.py,novita_async/_finder.py

.PHONY: demo test test-browser check lint types tests coverage soak worlds bench bench-check chromium clean

demo: $(VENV)/.demo
	$(BIN)/python -m novita_async demo

test: check tests coverage

test-browser: $(VENV)/.browser chromium
	$(BIN)/python -m pytest tests/browser

check: lint types

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/basedpyright

tests: $(VENV)/.dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses=auto --dist=worksteal

coverage: $(VENV)/.dev
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --include="$(EXACT)" --fail-under=100
	$(BIN)/coverage report --fail-under=95

# The long forms of tests that try to lose money or pictures: about half an hour.
soak: $(VENV)/.dev
	$(BIN)/python -m benchmarks.soak
	$(BIN)/python -m benchmarks.soak_journal --cuts

# Worlds of trouble from seeds: `make worlds SEEDS=10000 FIRST=5000`, for a night `make worlds MINUTES=480`.
# One of them again, with its trace, as small as it can be: `.venv/bin/python -m novita_async.testing.worlds 7 --shrink`.
SEEDS  ?= $(if $(MINUTES),,10000)
FIRST  ?= 0

worlds: $(VENV)/.dev
	$(BIN)/python -m novita_async.testing.worlds --map --first $(FIRST) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(MINUTES),--minutes $(MINUTES))

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cli,simulator]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/.demo

$(VENV)/.browser: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,browser]'
	touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	touch $@

# Debian's own browser and its driver, which always fit together.
chromium:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	  $(SUDO) apt-get update --quiet && $(SUDO) apt-get install --yes --quiet --no-install-recommends chromium chromium-driver; }

# Every table of benchmarks/results, beside the real packages of other clients: under a quarter of an hour.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

# Fewer rounds; fails where a ratio has slipped far.
bench-check: $(VENV)/.bench
	$(BIN)/python -m benchmarks --check

# One table, for example `make bench-submit`.
bench-%: $(VENV)/.bench
	$(BIN)/python -m benchmarks $*

clean:
	rm -rf $(VENV) demo-output .coverage* .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
