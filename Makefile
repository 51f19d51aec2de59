# `make search` finds a smaller network, `make test` runs the fast tests; each sets up what it needs.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=  # further arguments of pip, such as another index
ARGS ?=      # e.g. make search ARGS="experiment=digits seed=1"

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup search test test-slow lint type check bench report wandb-sync clean

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[dev,cmaes,joblib,slurm,optuna]'
	@touch $@

search: setup
	$(BIN)/python -m experiments.search $(ARGS)

test test-slow: export OMP_NUM_THREADS ?= 1
test: setup
	$(BIN)/python -m pytest -q -m "not slow" -n auto --maxprocesses 4 $(ARGS)

test-slow: setup
	$(BIN)/python -m pytest -q -m slow $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup
	$(BIN)/mypy

check: lint type test

bench: setup
	$(BIN)/python -m experiments.benchmarks $(ARGS)

# The papers' tables: make reproduce-table2 SEEDS=0,1,2 EPISODES=100 DATA=fashion_mnist LAUNCHER=local ROWS=plain20_gp
# also reproduce-figure2, -table3, -latency, -densities, -deep-compression, -detection; EPOCHS=1 shortens fine-tuning
reproduce-%: setup
	$(BIN)/python -m experiments.reproduce table=$(subst -,_,$*) $(if $(ROWS),'rows=[$(ROWS)]') \
	  $(if $(SEEDS),'seeds=[$(SEEDS)]') $(if $(EPISODES),episodes=$(EPISODES)) $(if $(EPOCHS),epochs=$(EPOCHS)) $(if $(DATA),'images=$(DATA)') \
	  $(if $(LAUNCHER),launcher=$(LAUNCHER)) $(ARGS)

wandb-sync: setup  # make wandb-sync RUNS=runs/mine: uploads the offline runs of W&B below a folder, the oldest first
	$(BIN)/python -m experiments.dashboard 'sync=$(or $(RUNS),runs)'

report: setup
	$(BIN)/python -m experiments.report $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
