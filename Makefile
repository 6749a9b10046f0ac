# `make conformance` and `make test` do all of their own set-up, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CHECKED := impl reference conformance/kvlockstep

.PHONY: conformance test models ports lint bench bench-check fuzz clean

conformance: $(READY)
	@$(BIN)/kvlockstep run

test: $(READY)
	@$(BIN)/pytest -n auto

models: $(READY)
	@$(BIN)/pytest -n auto models_tests

# The gate on ports of others, each fetched by hash and kept apart; their pages are written anew.
ports: $(READY)
	@$(BIN)/python -m conformance.ports

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CHECKED)

bench: $(READY)
	$(BIN)/python bench/run.py

# Has the port lost speed since the commit BASE? The same benches on both, twice in turns, then
# their ratios.
BASE ?= HEAD
SHORT := --quick --benchmark-max-time=0.5 -k 'not harness and not files and not barrier'
bench-check: $(READY)
	rm -rf build/base && mkdir -p build/base
	git archive $(BASE) impl | tar -x -C build/base
	@for run in 1 2; do \
	  PYTHONPATH=$(CURDIR)/build/base/impl $(BIN)/python bench/run.py --results build/bench/base$$run $(SHORT) && \
	  $(BIN)/python bench/run.py --results build/bench/new$$run $(SHORT) || exit 2; \
	done
	$(BIN)/kvlockstep bench-check build/bench/base1/latest.json build/bench/new1/latest.json \
	  --also build/bench/base2/latest.json build/bench/new2/latest.json

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
