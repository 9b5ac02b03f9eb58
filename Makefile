VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
PROTOS := $(notdir $(wildcard proto/*.proto))
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --retries 5 -c constraints-cpu.txt

.PHONY: help up down status test test-slow check proto pages format bench doctor clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(STAMP)  ## install, start a local cluster on the bundled model, print the URLs, and stay
	$(BIN)/baton up $(ARGS)

down: $(STAMP)  ## stop the cluster that runs on this host
	$(BIN)/baton down

status: $(STAMP)  ## what the local cluster is doing
	$(BIN)/baton status

test: $(DEV_STAMP)  ## install what the tests need and run them
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(DEV_STAMP)  ## the tests that are too long for every run
	$(BIN)/python -m pytest -m slow

check: $(DEV_STAMP)  ## format, lint, types, import floors, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory proto
	git diff --exit-code -- wire/gen

proto: $(DEV_STAMP)  ## write wire/gen again from proto/
	$(BIN)/python -m grpc_tools.protoc -I wire/gen=proto --python_out=. --pyi_out=. --grpc_python_out=. $(addprefix wire/gen/,$(PROTOS))

pages: $(DEV_STAMP)  ## write the reference, the chart's pages and the dashboards again from the code
	PYTHONPATH=. $(BIN)/python tools/reference.py
	PYTHONPATH=. $(BIN)/python tools/helm_chart.py
	$(BIN)/python tools/grafana.py

format: $(DEV_STAMP)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## measured figures as JSON rows in bench.json; NAME=engine, router, gateway, kv, flip, planner, control and so on
	$(BIN)/baton bench $(or $(NAME),engine) --json bench.json

doctor: $(STAMP)  ## what works on this host
	$(BIN)/baton doctor

clean:  ## remove the virtual environment
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints-cpu.txt | $(BIN)/python
	@echo 'Installing into $(VENV) (1.3 GB with torch); the first time this takes minutes.'
	$(INSTALL) torch
	$(INSTALL) -e .
	touch $@

$(DEV_STAMP): $(STAMP)
	$(INSTALL) -e '.[dev,ucx]'
	$(INSTALL) --no-deps 'nixl-cu12>=1.5.1,<2'  # its dependencies are for CUDA
	touch $@
