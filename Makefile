# make demo    apply the rewrites to a copy of the examples, show the diff, verify it
# make test    the whole test suite, with the pinned development set
# make lint    ruff, and mypy --strict on the installed wheel
# make golden  write the golden trees of the examples and the generated parts of the README anew
# make clean   remove what the others made
#
# PYTHON chooses the interpreter (3.10 to 3.13). Everything is installed in VENV and nowhere else.

PYTHON ?= python3
VENV ?= .venv
DEVICE ?= auto
PYTEST_ARGS ?= -n 2 --dist loadfile

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
SOURCES := pyproject.toml $(shell find refactor transforms verify -type f -not -path '*/__pycache__/*')
# What the tests and the linters use beside the tool and torch.
DEVELOPMENT := build jinja2 jsonschema mypy numpy pytest pytest-xdist ruff tomli_w

.DEFAULT_GOAL := test
.PHONY: demo test lint golden clean

$(VENV)/.made: constraints.txt
	$(PYTHON) examples/environment.py $(VENV)
	$(INSTALL) setuptools wheel
	@touch $@

# The wheel, not an editable install: what is tested is what users get.
$(VENV)/.tool: $(VENV)/.made $(SOURCES)
	rm -rf build/lib build/bdist.*
	$(INSTALL) --no-build-isolation .
	@touch $@

$(VENV)/.torch: $(VENV)/.made
	$(BIN)/python -c "import torch" 2>/dev/null || $(INSTALL) torch==2.13.0 numpy
	@touch $@

$(VENV)/.development: $(VENV)/.made
# torch by its exact release, always: a range would let pip choose another build than the one that is pinned
	$(INSTALL) torch==2.13.0
# into the environment even if the interpreter has them: their commands are needed here
	$(INSTALL) --ignore-installed $(DEVELOPMENT)
	@touch $@

demo: $(VENV)/.tool $(VENV)/.torch
	$(BIN)/python examples/demo.py --device $(DEVICE)

test: $(VENV)/.tool $(VENV)/.development
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PYTEST_ARGS)

lint: $(VENV)/.tool $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(VENV) && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p refactor

golden: $(VENV)/.tool $(VENV)/.development
	$(BIN)/python tests/examples/golden.py --write
	$(BIN)/python tests/docs/readme.py --write

clean:
	rm -rf $(VENV) build
