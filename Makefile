# Two commands on a fresh machine: `make demo` and `make test`. Each makes its environment if it is missing.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# What was tested is what is installed: `make CONSTRAINTS= ...` takes the newest of everything instead.
CONSTRAINTS ?= constraints.txt
PINNED  := $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PINNED) \
  $(if $(CONSTRAINTS),--build-constraint $(CONSTRAINTS),--upgrade --upgrade-strategy=eager)

# A machine that writes no byte code would compile every module again in each of the many programs that the suite
# starts, and that is most of their work.
unexport PYTHONDONTWRITEBYTECODE

# For installing a browser.
SUDO   := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Everything that is installed here beside the library and its extras.
GROUPS := build dev docs uvloop browser bench examples

# Here money and time are decided: every branch is tested.
EXACT := novita_async/_policy/*,novita_async/_policy/polling/*,novita_async/_api/*,novita_async/_purchase/*,novita_async/_submit/*,novita_async/_watch/*,novita_async/_journal/*,novita_async/_stream/*

.PHONY: demo demo-workers test examples test-browser test-newest test-uvloop test-aiohttp rows steady suite suite-uvloop dist check lint types coverage soak worlds bench bench-check chromium docs pins clean

demo: $(VENV)/.demo
	$(BIN)/python -m novita_async demo

# Four workers on one batch in a Postgres of its own; one of them is killed on the way.
demo-workers: $(VENV)/.dev
	PYTHONPATH=. $(BIN)/python examples/many_workers.py demo-workers

test: check suite

# The pages of docs/, in docs/_build: any warning fails, among them a link inside that leads nowhere.
docs: $(VENV)/.docs
	rm -rf docs/_build
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs docs/_build

test-browser: $(VENV)/.browser chromium
	$(BIN)/python -m pytest tests/browser

# The examples, for real, against a simulated service.
examples: $(VENV)/.examples
	$(BIN)/python -m pytest tests/examples

# The same with the newest of everything that its range allows.
test-newest:
	rm -f .venv-newest/.dev
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=

test-uvloop:
	$(MAKE) suite-uvloop VENV=.venv-uvloop

# With the newest aiohttp, and with a pre-release where there is one.
test-aiohttp: $(VENV)/.dev
	$(BIN)/python -m tools.rows aiohttp aiohttp-pre

# The suite on every Python that is installed, and all of the above, one after the other.
rows: $(VENV)/.dev
	$(BIN)/python -m tools.rows

# The suite ten times, with a busy loop on each core: what depends on luck shows.
TIMES ?= 10
steady: $(VENV)/.dev
	$(BIN)/python -m tools.steady --times $(TIMES)

SUITE := $(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

suite: $(VENV)/.dev
	$(SUITE)

suite-uvloop: $(VENV)/.uvloop
	$(SUITE) --uvloop

check: lint types

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# Benchmarks are run seldom: that they call this package as it is today, is asked here.
types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/mypy --config-file= --ignore-missing-imports --check-untyped-defs --implicit-reexport --follow-imports=silent \
		$(addprefix --disable-error-code=,misc arg-type list-item assignment operator union-attr method-assign) benchmarks
	$(BIN)/basedpyright

# The suite, measured. Tracing takes as long again as the suite itself (on Python 3.14 next to nothing), so that this
# is asked before a change lands, not at each `make test`.
coverage: $(VENV)/.dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses=auto --dist=worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --include="$(EXACT)" --fail-under=100
	$(BIN)/coverage report --fail-under=95

# The long forms of tests that try to lose money or pictures: about fifty minutes.
soak: $(VENV)/.dev
	$(BIN)/python -m benchmarks.soak
	$(BIN)/python -m benchmarks.soak_journal --cuts
	$(BIN)/python -m benchmarks.soak_workers --rows 100000
	$(BIN)/python -m benchmarks.soak_failover
	$(BIN)/python -m benchmarks.soak_traffic
	$(SUITE) --hypothesis-profile=long tests/api tests/journal tests/models tests/policy tests/purchase

# Worlds of trouble from seeds: `make worlds SEEDS=10000 FIRST=5000`, for a night `make worlds MINUTES=480`.
# One of them again, with its trace, as small as it can be: `.venv/bin/python -m novita_async.testing.worlds 7 --shrink`.
SEEDS  ?= $(if $(MINUTES),,10000)
FIRST  ?= 0

worlds: $(VENV)/.dev
	$(BIN)/python -m novita_async.testing.worlds --map --first $(FIRST) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(MINUTES),--minutes $(MINUTES))

# A bare environment, with a pip that knows dependency groups.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PINNED) --upgrade pip

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	$(INSTALL) -e '.[cli,simulator]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	$(INSTALL) -e '.[cli,simulator]' --group dev
	touch $@ $(VENV)/.demo

$(VENV)/.browser: $(VENV)/.dev
	$(INSTALL) --group browser
	touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(INSTALL) --group docs
	touch $@

$(VENV)/.examples: $(VENV)/.dev
	$(INSTALL) --group examples
	touch $@

$(VENV)/.uvloop: $(VENV)/.dev
	$(INSTALL) --group uvloop
	touch $@

$(VENV)/.build: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	$(INSTALL) --group build
	touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(INSTALL) --group bench
	touch $@

# What is published, built with the tested versions and tried in an environment of its own.
dist: $(VENV)/.build
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(PYTHON) -m venv --clear .venv-dist
	.venv-dist/bin/python -m pip install --quiet --disable-pip-version-check $(PINNED) "$$(echo dist/*.whl)[cli]"
	.venv-dist/bin/novita-async --version
	rm -r .venv-dist

# Make the constraints anew, for every Python and platform, from the newest releases that fit.
pins:
	$(PYTHON) -m venv --clear .venv-pins
	.venv-pins/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-pins/bin/uv pip compile pyproject.toml --quiet --universal --upgrade --all-extras $(GROUPS:%=--group %) \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make pins' --output-file constraints.txt
	rm -r .venv-pins

# Debian's own browser and its driver, which always fit together.
chromium:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	  $(SUDO) apt-get update --quiet && $(SUDO) apt-get install --yes --quiet --no-install-recommends chromium chromium-driver; }

# Every table of benchmarks/results but that of a million (`make bench-scale`), beside the real packages of other
# clients: half an hour.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

# Fewer rounds; fails where a ratio has slipped far.
bench-check: $(VENV)/.bench
	$(BIN)/python -m benchmarks --check

# One table, for example `make bench-submit`.
bench-%: $(VENV)/.bench
	$(BIN)/python -m benchmarks $*

clean:
	rm -rf .venv .venv-* dist docs/_build docs/made demo-output .coverage* .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
