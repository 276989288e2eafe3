# `make` alone lists the commands.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

# What the tests of web pages run in, and what emulates an older processor. Only `make setup` installs it.
CHROMIUM := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
QEMU := $(if $(filter x86_64,$(shell uname -m)),$(if $(shell command -v qemu-x86_64 || true),,qemu-user))
SYSTEM := $(if $(CHROMIUM),,chromium) $(if $(shell command -v npm || true),,npm) $(QEMU)
MODULES := onnxruntime-web accessibility-checker-engine
MISSING := $(filter-out $(notdir $(wildcard node_modules/*)),$(MODULES))
ROOT := $(if $(filter 0,$(shell id -u)),,sudo) env DEBIAN_FRONTEND=noninteractive

.PHONY: help demo setup test test-all lint docs benchmarks clean
.DEFAULT_GOAL := help

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/demo.installed ## from a base to a checked 4-step model, with images
	$(BIN)/python demo.py

setup: $(VENV)/test.installed ## the virtual environment; Chromium, npm, npm's packages and qemu-user for the tests
ifneq ($(strip $(SYSTEM)),)
	@echo "setup: installing system packages for the tests: $(strip $(SYSTEM))"
	-$(ROOT) apt-get -qq update && $(ROOT) apt-get -qq --yes --no-install-recommends install $(SYSTEM)
endif
ifneq ($(strip $(MISSING)),)
	@echo "setup: installing npm packages in node_modules/: $(strip $(MISSING))"
	-npm install --no-save --no-audit --no-fund --prefix . $(MODULES)
endif

test: lint docs ## what a day's change could break: at most 15 minutes on two cores
	$(PYTEST) --durations=20

test-all: lint docs ## every test: at most 60 minutes on two cores
	$(PYTEST) --durations=60 -m "not campaign"

lint: $(VENV)/test.installed ## style, format, and the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/test.installed ## the documentation site, in build/site; a broken link or an unknown name ends it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

benchmarks: $(VENV)/demo.installed ## the speed of training and of generation
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.generate

clean: ## remove the virtual environment, npm's packages and runs
	rm -rf $(VENV) node_modules runs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.installed: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[photos,export]'
	touch $@

$(VENV)/test.installed: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@
