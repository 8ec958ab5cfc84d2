# The commands of the house. Everything runs inside .venv, which is made on first use.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGE_FILES := $(shell find src -name '*.py' | LC_ALL=C sort)
STAMP := .make/installed-$(shell echo $(PACKAGE_FILES) $(CURDIR) | cksum | cut -d' ' -f1)

.PHONY: dev demo docs test test-interop interop-page fuzz mutate lint types bench coverage clean

dev: $(STAMP)

# The strict editable install lists the files of the package, so it is repeated when that list changes.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --config-settings editable_mode=strict
	mkdir -p .make && rm -f .make/installed-* && touch $@

demo: dev
	$(BIN)/python -m demo.run

test: dev
	$(BIN)/python -m pytest

# Servers that are not installed are unpacked into build/servers; what cannot be had is skipped, and said so.
test-interop: dev
	tests/interop/unpack-servers
	$(BIN)/python -m pytest tests/interop

# What the tests against real servers found, as a page of the documentation; of a run that passed as a whole.
interop-page: dev
	tests/interop/unpack-servers
	$(BIN)/python -m pytest tests/interop --ignore=tests/interop/test_page.py
	cp build/interop.md docs/interop.md

# Guided by coverage where Atheris can be had, by chance elsewhere; so many seconds for each target.
FUZZ_SECONDS ?= 20
fuzz: dev
	$(BIN)/python -c 'import atheris' 2> /dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[dev,fuzz]' --config-settings editable_mode=strict || echo 'Atheris cannot be had: fuzzing by chance'
	set -e; for target in client replies bodies messages tls; do \
		$(BIN)/python -m fuzz.run $$target --seconds $(FUZZ_SECONDS); \
	done

# Some hours for all of them; a module alone: make mutate MODULES=_body
MODULES ?= _state _connection _client _transaction _body
mutate: dev
	$(BIN)/python -m mutation.run $(MODULES)

coverage: dev
	$(BIN)/python -m pytest --cov --cov-report=term-missing $(TESTS)

lint: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: dev
	$(BIN)/mypy
	$(BIN)/pyright

# Any warning is an error; the pages are in build/docs.
docs: dev
	$(BIN)/python -m sphinx --fail-on-warning --quiet --builder html docs build/docs

bench: dev
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) .make build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
