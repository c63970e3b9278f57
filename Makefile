# One command each, on a fresh clone: `make demo`, `make test`, `make check`, `make docs`.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
NATIVE = setup.py $(wildcard dyngraph/ops/kernels/native/cpp/*)

.PHONY: demo test test-slow test-pyg test-floor package fuzz recipes lint types docs links check clean

demo: $(VENV)/.train
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

# Whole runs, killed processes, compiled and exported models, second derivatives.
test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 2 -m slow

# What PyG computes, with torch_scatter and torch_sparse, in an environment of its own on top of the
# other. Nothing else calls them.
test-pyg: $(VENV)/.dev
	PYTHON=$(BIN)/python sh tests/pyg_extensions.sh $(VENV)-pyg
	$(VENV)-pyg/bin/python -m pytest -q -n 2 tests/nn/conv tests/test_neighborhood.py
	$(VENV)-pyg/bin/python -m pytest -q -n 2 tests/ops tests/nn/block -k pyg

# The operators and layers with the oldest PyTorch that is supported, in an environment of its own.
# The interpreter of its Triton does not work with NumPy 2.4.
test-floor: $(VENV)-floor/.done
	$(VENV)-floor/bin/python -m pytest -q -m "not slow" tests/ops tests/nn tests/samplers \
		tests/test_grid.py tests/test_neighborhood.py
	$(VENV)-floor/bin/python -m pytest -q -m slow tests/ops tests/nn tests/test_grid.py \
		tests/test_neighborhood.py -k "gradgradcheck or second_order or equal_bits or half_types or \
		without_atomics or compiling or test_dgmn_block or program"

# The sdist and the wheel, checked; the wheel is tried in an environment of its own.
package: setup.cfg $(NATIVE)
	rm -rf build dist $(VENV)-package
	$(PYTHON) -m venv $(VENV)-package
	$(VENV)-package/bin/pip install --quiet build twine
	$(VENV)-package/bin/python -m build
	$(VENV)-package/bin/twine check --strict dist/*
	$(VENV)-package/bin/pip install --quiet dist/*.whl
	$(VENV)-package/bin/python packaging/smoke.py

# Drawn cases, new ones in every run.
fuzz: $(VENV)/.dev
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-2000} $(BIN)/python -m pytest -q -n 2 tests/fuzz

# Two iterations of every recipe, on generated data.
recipes: $(VENV)/.dev
	ALL_RECIPES=1 $(BIN)/python -m pytest -q -n 2 tests/papers

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# Runs the notebooks. Links between pages are checked here, those to other sites by `make links`.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

links: $(VENV)/.docs
	$(BIN)/sphinx-build -q -D nb_execution_mode=off -b linkcheck docs docs/_build/links

check: lint types docs test test-slow test-pyg

clean:
	rm -rf $(VENV) $(VENV)-pyg $(VENV)-floor $(VENV)-package build dist docs/_build \
		docs/reference/generated runs .pytest_cache .mypy_cache .ruff_cache

$(VENV)-floor/.done: setup.cfg $(NATIVE)
	$(PYTHON) -m venv $(VENV)-floor
	$(VENV)-floor/bin/pip install --quiet 'torch==2.8.*' 'torchvision==0.23.*' 'torch_geometric==2.7.*' \
		'numpy<2.4' pytest hypothesis onnx onnxscript transformers
	$(VENV)-floor/bin/pip install --quiet --editable .
	touch $@

# An environment is made once, and made up to date when what it installs changes.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(VENV)/bin/python setup.cfg $(NATIVE)
	$(BIN)/pip install --quiet --editable '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python setup.cfg $(NATIVE)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@
