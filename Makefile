# The two commands of the README. Each makes .venv by itself; nothing but Python is needed before.
#
#   make test PYTHON=python3.11    with this Python, instead of the newest supported one
#   make test VENV=.venv-3.11      in another folder, which leaves .venv as it is
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
# Extras to install for the tests. With torch (4 GB on Linux), they also compare with PyTorch.
EXTRAS ?= tfds,dev
# Folders or files of tests; all of them if empty.
TESTS ?=
PYTEST = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: demo test test-unbounded upgraded-test check clean FORCE

demo: $(VENV)/installed  ## trains ResNet-20 on handwritten digits and draws its curves
	@echo "== Training ResNet-20 on 1,257 handwritten digits (about a minute) in runs/demo"
	rm -rf runs/demo
	$(BIN)/resnet-jax train --config digits --workdir runs/demo
	@echo "== Drawing the curves"
	$(BIN)/resnet-jax report runs/demo --output runs/demo/report
	@echo "== Measuring on the 360 digits of the test split, which nothing has seen so far"
	$(BIN)/resnet-jax evaluate --workdir runs/demo --split test

test: check  ## checks style and types, and runs the tests
	@echo "== Running the tests (all take about twenty-five minutes on two cores)"
	$(PYTEST) $(TESTS)

check: $(VENV)/installed-$(EXTRAS)
	@echo "== Checking style and types"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Shows what new releases of the dependencies break, before the bounds in setup.cfg admit them.
test-unbounded:  ## tests with the newest releases of everything, whatever setup.cfg allows
	$(MAKE) upgraded-test VENV=.venv-unbounded

upgraded-test: $(VENV)/installed-$(EXTRAS)
	@echo "== Upgrading beyond the bounds of setup.cfg"
	$(BIN)/python tools/unbounded_requirements.py $(EXTRAS) > $(VENV)/unbounded.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --upgrade --upgrade-strategy eager -r $(VENV)/unbounded.txt
	@echo "== With these versions:"
	$(BIN)/python -m pip freeze --exclude-editable
	@echo "== Checking types and running the tests"
	status=0; $(BIN)/mypy || status=1; $(PYTEST) || status=1; exit $$status

# The rule always runs, but changes the file only if the environment changes; then make reinstalls.
$(VENV)/made-with: FORCE
	@PYTHON='$(PYTHON)' sh tools/make_environment.sh $(VENV)

$(VENV)/installed: setup.cfg pyproject.toml requirements.txt $(VENV)/made-with
	@echo "== Installing resnet_jax and what it needs into $(VENV) (about a minute)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

# One file per choice of extras; otherwise a second choice would not be installed.
$(VENV)/installed-$(EXTRAS): $(VENV)/installed
	@echo "== Installing the development tools"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

clean:  ## removes the environments and what the tools left; runs stay
	rm -rf .venv .venv-newest .venv-oldest .venv-unbounded build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
