# Two commands for a newcomer: `make demo` and `make test`. Both install what is missing.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DEPS := $(VENV)/.installed

.PHONY: help demo test test-long test-arm64 check format wheel docs bench bench-rack cuts clean system test-system

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: system $(DEPS) ## Run the main job: R on a real Spark-on-YARN cluster on this machine
	$(BIN)/rpicluster demo --yes

test: test-system check ## Check style, types and imports, then run all tests but the long ones
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

test-long: test-system $(DEPS) ## Long matrices; resumable, results in docs/reference
	$(BIN)/python tests/long/run.py

test-arm64: system $(DEPS) ## Daemons, a job and native libraries on Debian arm64, emulated: 10 to 20 minutes; needs root
	$(BIN)/python -m pytest -m arm64 -s tests/arm64

check: system $(DEPS) ## ruff, mypy, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict examples

format: $(DEPS) ## Rewrite the sources the way `check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(DEPS) ## Build the wheel alone, for pipx or uv tool
	$(BIN)/python -m pip wheel -q --no-deps --wheel-dir dist .

docs: $(DEPS) ## Write the generated reference pages again
	$(BIN)/python docs/generate.py

bench: system $(DEPS) ## Measure what README and docs claim
	$(BIN)/python benchmarks/run.py

bench-rack: test-system $(DEPS) ## Measure what the docs claim of real nodes, on virtual Pis; needs root
	$(BIN)/python benchmarks/rack.py

cuts: test-system $(DEPS) ## Cut R off from a session in every way; LIBRARY has sparklyr and rpicluster; needs root
	$(BIN)/python tests/r/cuts.py $(LIBRARY)

system: ## Java 17, R and its Debian packages, by apt where that is allowed
	@PYTHON=$(PYTHON) ./scripts/system-packages

test-system: ## What `system` has, and the tools that tests boot virtual Pis with
	@PYTHON=$(PYTHON) ./scripts/system-packages --tests

$(DEPS): pyproject.toml
	@./scripts/venv $(PYTHON) $(VENV)
	$(BIN)/python -m pip install -q -e '.[dev,pyspark]'
	@touch $@

clean: ## Remove what this Makefile made; clusters and their data stay
	rm -rf $(VENV) dist build
