# Targets: `make demo`, `make test`, `make coverage`, `make docs`, `make faults`, `make lint`, `make setup`, `make clean`. The first call makes .venv.
# Variables: PYTHON (3.11 or newer), TORCH_INDEX (a package index for torch, e.g. one with CUDA builds).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_JOBS ?= 2
# One thread for each job: more would compete for the same cores.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS)

.PHONY: setup demo test coverage lint docs faults clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt setup.sh
	PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" VENV="$(VENV)" sh setup.sh
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/maptile demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(PYTEST)

coverage: $(STAMP)
	$(PYTEST) --cov --cov-report=term --cov-fail-under=85

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

faults: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faults.py --jobs $(TEST_JOBS)

clean:
	rm -rf $(VENV) demo site .pytest_cache .mypy_cache .ruff_cache .coverage*
