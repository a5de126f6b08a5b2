# make demo       sets everything up, and shows the main job at work
# make test       sets everything up, and runs all tests (TESTS="tests/unit -k ledger" for some)
# make campaign   the fault tests in their long form, and a soak of ten minutes: about two hours
# make bench      measures it, in under ten minutes (PARTS="pickup idle" for some), on a machine with nothing else to do
# make check      ruff and mypy
# make docs       the documentation, in build/docs; a warning is an error
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests
PARTS ?=

.PHONY: demo test campaign bench check docs format clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[all]"
	touch $@

$(VENV)/developing: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

$(VENV)/measuring: $(VENV)/developing
	$(BIN)/python -m pip install --quiet --group bench
	touch $@

demo: $(VENV)/installed
	$(BIN)/mr-celery demo

test: $(VENV)/developing
	tools/install-servers.sh
	$(BIN)/pytest --numprocesses 4 --dist worksteal $(TESTS)

campaign: $(VENV)/developing
	tools/install-servers.sh
	MR_CELERY_FULL=1 MR_CELERY_JOBS=500 MR_CELERY_SECONDS=180 \
		$(BIN)/pytest --timeout 900 --numprocesses 3 --dist worksteal tests/faults
	MR_CELERY_WALK_EXAMPLES=3000 $(BIN)/pytest --timeout 3000 tests/unit/ledger/test_random_walk.py
	$(BIN)/python tests/soak.py --minutes 10

bench: $(VENV)/measuring
	tools/install-servers.sh
	$(BIN)/python benchmarks/run.py $(PARTS)

check: $(VENV)/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/developing
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet docs build/docs

format: $(VENV)/developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
