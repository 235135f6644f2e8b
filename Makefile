# Two commands: `make demo` and `make test`. Both set up what they need in .venv first, in the
# versions that were tested together (constraints/, a file per Python). `make test-newest` runs the
# tests with the newest versions of everything, and `make constraints` then keeps those.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
VERSION = $(shell $(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# Empty for a Python without such a file, and in every other venv than .venv.
TESTED = $(if $(filter .venv,$(VENV)),$(wildcard constraints/python$(VERSION).txt))

.PHONY: demo test test-slow test-newest lint docs setup constraints freeze clean

demo: $(VENV)/.run
	$(BIN)/python -m madad_jax demo --out=runs/demo

# A file's tests share fixtures, so one worker takes them all (--dist=loadfile).
PYTEST = $(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder --durations=30

test: $(VENV)/.dev
	$(PYTEST) -m "not slow"

# Every test, and every program compiled as users compile it.
test-slow: $(VENV)/.dev
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PYTEST)

test-newest:
	rm -rf .venv-newest
	$(MAKE) VENV=.venv-newest test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The pages as a site in site/, by a venv of its own: nothing of it is needed to run or test.
docs: .venv-docs/.made
	.venv-docs/bin/mkdocs build --strict

.venv-docs/.made: requirements-docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

setup: $(VENV)/.dev

# pip and wheel are no part of a tested set; setuptools is: tests build the wheel with it.
constraints:
	$(MAKE) VENV=.venv-newest setup freeze

freeze:
	@echo "# Python $(VERSION): versions that were tested together. Made by: make test-newest constraints" \
	  > constraints/python$(VERSION).txt
	$(BIN)/python -m pip freeze --all --exclude=pip --exclude=wheel --disable-pip-version-check \
	  | grep '^[A-Za-z0-9._-]*==' >> constraints/python$(VERSION).txt

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "make: Python 3.11 or newer is needed (found %d.%d); set PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt $(wildcard constraints/*.txt) | $(VENV)/bin/python
	@$(if $(TESTED),,echo "make: no tested set for $(VENV) (Python $(VERSION)): taking the newest versions")
	$(INSTALL) $(TESTED:%=-c %) -r requirements.txt
	$(INSTALL) $(TESTED:%=-c %) --no-deps deepbet
	touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	$(INSTALL) $(TESTED:%=-c %) -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv .venv-newest .venv-docs site runs
