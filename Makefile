# make demo: from photos to a checked 4-step model, with pictures.   make test: everything that CI runs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint benchmarks clean

demo: $(VENV)/demo.installed
	$(BIN)/python demo.py

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

benchmarks: $(VENV)/demo.installed
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.generate

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.installed: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[photos,export]'
	touch $@

$(VENV)/test.installed: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) runs
