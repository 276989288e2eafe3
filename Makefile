# make demo: from photos to a checked 4-step model, with pictures.   make test: everything that CI runs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

APT := DEBIAN_FRONTEND=noninteractive apt-get --quiet --quiet --yes --no-install-recommends

.PHONY: demo test lint browser benchmarks clean

demo: $(VENV)/demo.installed
	$(BIN)/python demo.py

test: lint browser
	$(BIN)/python -m pytest --durations=60

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

# What the pages of export.web are tested with. Where it cannot be had, their tests say so and are skipped.
browser:
	-command -v chromium > /dev/null || { apt-get --quiet --quiet update && $(APT) install chromium; }
	-command -v npm > /dev/null || { apt-get --quiet --quiet update && $(APT) install npm; }
	-test -d node_modules/onnxruntime-web || npm install --no-save --no-audit --no-fund --prefix . onnxruntime-web

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
	rm -rf $(VENV) node_modules runs
