# `make conformance` and `make test` do all of their own set-up, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CHECKED := impl reference conformance/kvlockstep

.PHONY: conformance test models lint bench fuzz clean

conformance: $(READY)
	@$(BIN)/kvlockstep run

test: $(READY)
	@$(BIN)/pytest -n auto

models: $(READY)
	@$(BIN)/pytest -n auto models_tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CHECKED)

bench: $(READY)
	$(BIN)/python bench/run.py

# Files that a reader must load or refuse, for three minutes; a finding is left in fuzz/.
fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[cpu,fuzz]'
	$(BIN)/python fuzz/fuzz_prompt_cache.py -max_total_time=180 -artifact_prefix=fuzz/

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache kvlockstep-report

$(READY): pyproject.toml $(wildcard reference/kvreference/pins/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, got: $$($(PYTHON) --version). Name one: make PYTHON=python3.13 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24'
	$(BIN)/python -m pip install --quiet --editable '.[cpu,dev]'
	$(BIN)/python -m kvreference sync
	@touch $@
