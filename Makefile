# make search and make test need nothing before them: the virtual environment is made on the first use.
PYTHON ?= python3
VENV   ?= .venv
CONFIG ?= configs/search/digits.yaml
ARGS   ?=
# Threads that wait give way: two busy programs on two cores would otherwise spin against each other.
export OMP_WAIT_POLICY ?= PASSIVE
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup search test lint clean

setup: $(STAMP)

$(STAMP): setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

search: $(STAMP)
	$(BIN)/python tools/search_net.py --config-file $(CONFIG) $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
