# The two commands of the README. Each makes .venv by itself; nothing but Python is needed before.
#
#   make test PYTHON=python3.11    with this Python, instead of the newest supported one
#   make test VENV=.venv-3.11      in another folder, which leaves .venv as it is
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
# What the tests are installed with. With torch added they compare with PyTorch too (4 GB on Linux).
EXTRAS ?= tfds,dev

.PHONY: demo test check clean FORCE

demo: $(VENV)/installed  ## trains ResNet-20 on handwritten digits and draws its curves
	@echo "== Training ResNet-20 on 1,257 handwritten digits (about a minute) in runs/demo"
	rm -rf runs/demo
	$(BIN)/resnet-jax train --config digits --workdir runs/demo
	@echo "== Drawing the curves"
	$(BIN)/resnet-jax report runs/demo --output runs/demo/report
	@echo "== Measuring on the 360 digits of the test split, which nothing has seen so far"
	$(BIN)/resnet-jax evaluate --workdir runs/demo --split test

test: check  ## checks style and types, and runs the tests
	@echo "== Running the tests (about twelve minutes on two cores)"
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: $(VENV)/installed-$(EXTRAS)
	@echo "== Checking style and types"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Runs always, and changes only if the environment does: then make installs again.
$(VENV)/made-with: FORCE
	@PYTHON='$(PYTHON)' sh tools/make_environment.sh $(VENV)

$(VENV)/installed: setup.cfg pyproject.toml requirements.txt $(VENV)/made-with
	@echo "== Installing resnet_jax and what it needs into $(VENV) (about a minute)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

# One file for each choice of extras, or a second choice would not be installed.
$(VENV)/installed-$(EXTRAS): $(VENV)/installed
	@echo "== Installing the development tools"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

clean:  ## removes .venv and what the tools left; runs stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
