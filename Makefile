# make search, detect, segment and test need nothing before them: the virtual environment is made on the first use.
PYTHON ?= python3
VENV   ?= .venv
# of search, detect or segment; each has a default of its own
CONFIG ?=
ARGS   ?=
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup search detect segment test sweep lint docs figures clean

setup: $(STAMP)

$(STAMP): setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

search: $(STAMP)
	$(BIN)/python tools/search_net.py --config-file $(or $(CONFIG),configs/search/digits.yaml) $(ARGS)

detect: $(STAMP)
	$(BIN)/python tools/train_detector.py --config-file $(or $(CONFIG),configs/detection/digit_scenes.yaml) $(ARGS)

segment: $(STAMP)
	$(BIN)/python tools/train_segmenter.py --config-file $(or $(CONFIG),configs/segmentation/digit_scenes.yaml) $(ARGS)

# Threads that wait give way: the tests run several programs at once, which would otherwise spin against each other.
test: export OMP_WAIT_POLICY ?= PASSIVE
# Two processes, of one thread each.
test: export OMP_NUM_THREADS ?= 1
test: $(STAMP)
	$(BIN)/python -m pytest -m fast -n 2 $(ARGS)
	$(BIN)/python -m pytest -m slow -n 2 $(ARGS)

sweep: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m sweep -n 2 $(ARGS)

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

# The site of docs/, in site/; a broken link or a name without docstring fails.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The pictures of README and docs/, of what make search, make detect and make segment left too.
figures: $(STAMP)
	$(BIN)/python benchmarks/draw_figures.py

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
