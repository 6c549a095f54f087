# The two commands that matter, from a bare clone: `make train` and `make test`. Both make .venv first, if need be.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
SUITE  ?= all
WORKERS ?= 2
FUZZ_FIELDS  ?= 10000000
FUZZ_SECONDS ?= 60

BIN := $(VENV)/bin
# The environment's own Python checks whether it is up to date (30 ms); $(PYTHON) does when there is none yet, or when
# it was asked for by name. -I -S: nothing of the user's, no site-packages.
ifneq ($(origin PYTHON),file)
  SETUP := $(PYTHON)
  GPU_PYTHON := $(PYTHON)
else
  GPU_PYTHON := $(BIN)/python
  SETUP := $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
endif
SETUP += -I -S tools/setup.py

export VENV
.NOTPARALLEL:

# By name, a Python is used as it is by gpu-check: where GPUs are, there may be no network to install from.
GPU_SETUP := $(if $(filter file,$(origin PYTHON)),env-test)

.PHONY: help train test bench gpu-check lint types floors test-only nightly fuzz docs fmt wheel clean env-run env-test env-fuzz

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12
	@echo 'Variables: ARGS="..."            more flags for train and pytest; TINY=1 for bench'
	@echo '           TORCH_INDEX=<url>     where torch comes from, if not from the usual index'
	@echo '           TORCH=2.12            another torch (2.11, 2.12, 2.13), with its TorchRec and fbgemm'
	@echo '           WORKERS=0             tests in one process (2 by default)'
	@echo '           DEVICE=cpu            which stack to install (cpu, cuda), if not what the machine has'
	@echo '           PYTHON=python3.12     another Python (3.11 to 3.13)'
	@echo '           VENV=<folder>         install into that environment instead of .venv'

train: env-run ## train a DLRM on synthetic click logs, or on yours: ARGS="--help"
	@$(BIN)/python -m intune_gpu.train $(ARGS)

test: lint types floors test-only ## everything that CI checks

bench: env-test ## all suites and a report, in 40 minutes: SUITE=cpu for one, TINY=1 for a quick look
	@$(BIN)/python -m bench --suite $(SUITE) $(if $(TINY),--tiny) $(ARGS)

gpu-check: $(GPU_SETUP) ## what only a GPU can show, in 10 minutes: PYTHON=python3 WHEELS=<folder>
	@PYTHONPATH=. $(GPU_PYTHON) tools/gpu_check.py $(if $(WHEELS),--wheels $(WHEELS)) $(ARGS)

lint: env-test ## formatting and lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: env-test ## mypy, strict
	$(BIN)/mypy

floors: env-test ## a room imports only from lower floors
	$(BIN)/lint-imports --no-logo

test-only: env-test ## pytest alone: ARGS="-k hash"
	$(BIN)/python -m pytest -m "not nightly" -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

nightly: env-test ## what takes minutes: rules over every float
	$(BIN)/python -m pytest -m nightly $(ARGS)

docs: env-test ## docs/hostile.md and docs/cuda_kernels.md, from what cases do and kernels take
	$(BIN)/python -m tests.hostile
	$(BIN)/python -m tests.cuda.resources

fuzz: env-fuzz ## random files and atheris: FUZZ_FIELDS=100000000 FUZZ_SECONDS=600
	@$(BIN)/python -m tests.fuzz --fields $(FUZZ_FIELDS) --seconds $(FUZZ_SECONDS) $(ARGS)

fmt: env-test ## format, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: env-test ## dist/*.whl
	$(BIN)/python -m hatchling build --target wheel

clean: ## remove builds and caches; .venv and runs/ stay
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

env-run env-test env-fuzz:
	@$(SETUP) $(@:env-%=%)
