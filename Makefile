PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests
RERUNS ?= 0
PROCESSES ?= 8
PARTS ?=
SESSIONS ?=
LOCK := requirements/dev.txt

# Tests with processes wait most of the time, so there are more of them than cores.
PYTEST = $(BIN)/pytest --numprocesses $(PROCESSES) --dist worksteal --durations 30 --reruns $(RERUNS) --rerun-show-tracebacks

# The levels of tests that start servers; tests/unit starts none.
SERVED := $(if $(filter tests%,$(TESTS)),$(filter-out tests/unit tests/unit/%,$(filter tests%,$(TESTS))),$(TESTS))

# pytest keeps the tests that it has rewritten: without them each run takes five seconds more.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help unit test coverage check docs format demo matrix lock campaign bench clean

help:  ## list these targets
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/installed: pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint $(LOCK) --editable ".[all]"
	touch $@

$(VENV)/developing: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint $(LOCK) --group dev
	touch $@

$(VENV)/measuring: $(VENV)/developing
	$(BIN)/python -m pip install --quiet --constraint $(LOCK) --group bench
	touch $@

unit: $(VENV)/developing  ## run the fast tests: no servers, about half a minute on two cores
	$(BIN)/pytest --numprocesses logical --dist worksteal tests/unit

test: $(VENV)/developing  ## run all tests (TESTS="tests/integration -k ledger" for some), with servers of their own
	$(if $(SERVED),tools/install-servers.sh)
	$(PYTEST) $(TESTS)

coverage: $(VENV)/developing  ## run tests (TESTS as above), and report which lines and branches of src they reach
	$(if $(SERVED),tools/install-servers.sh)
	$(PYTEST) --cov --cov-report term:skip-covered --cov-report html $(TESTS)

check: $(VENV)/developing  ## run ruff, mypy, the linter of imports, and the hooks for all files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	SKIP=ruff,ruff-format,mypy,layers $(BIN)/pre-commit run --all-files --show-diff-on-failure

docs: $(VENV)/developing  ## build the documentation in build/docs; a warning is an error
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet docs build/docs

format: $(VENV)/developing  ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(VENV)/installed  ## set everything up, and show the main job at work
	$(BIN)/mr-celery demo

matrix: $(VENV)/developing  ## run the fast tests and the main job with old and new Python, Celery, redis-py (SESSIONS=lowest for some)
	tools/install-servers.sh redis-server
	$(BIN)/nox $(if $(SESSIONS),--session $(SESSIONS))

lock: $(VENV)/developing  ## renew the lock file of the development environment
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --annotation-style line \
		--no-emit-index-url --no-emit-find-links --no-emit-package mr-celery --custom-compile-command "make lock" \
		--group dev --group bench requirements/dev.in --output-file $(LOCK)

campaign: $(VENV)/developing  ## run the fault tests in their long form, and two soaks of ten minutes: about two hours
	tools/install-servers.sh
	MR_CELERY_FULL=1 MR_CELERY_JOBS=500 MR_CELERY_SECONDS=180 \
		$(BIN)/pytest --timeout 900 --numprocesses 3 --dist worksteal tests/faults
	MR_CELERY_FUZZ=50 $(BIN)/pytest --timeout 3000 --numprocesses 2 tests/integration/ledger/test_random_walk.py \
		tests/integration/ledger/test_workflow_walk.py
	MR_CELERY_FUZZ=20 $(BIN)/pytest --timeout 3000 --numprocesses 3 --dist worksteal tests/integration \
		-k "random and not random_walk"
	$(BIN)/python tests/soak.py --minutes 10
	$(BIN)/python tests/soak.py --minutes 10 --lasting

bench: $(VENV)/measuring  ## measure, on an idle machine, in about twenty minutes (PARTS="pickup idle" for some)
	tools/install-servers.sh
	$(BIN)/python benchmarks/run.py $(PARTS)

clean:  ## remove what these targets made
	rm -rf $(VENV) build dist .import_linter_cache .mypy_cache .nox .ruff_cache .pytest_cache
