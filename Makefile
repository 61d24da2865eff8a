# make demo     install with the compare extra, then: torchlosses compare digits
# make test     install with the dev extra, then lint, types, doctests and quick tests
# make slow     the tests marked slow
# make oldest   the quick tests on the oldest supported pair: Python 3.10 with torch 2.6
# make bench    install the peers, then the benchmark table
# make lock     resolve the constraints files anew
# make clean    remove the environments and everything built or cached
#
# PYTHON=python3.12      the interpreter that .venv is made with
# TORCH_ARGS=...         more arguments for the installation of torch; for the CPU build on Linux:
#                        TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"
# ARGS=...               more arguments for the command that demo, test, slow, oldest or bench runs
# JOBS=2                 test processes

PYTHON ?= python3
PYTHON310 ?= python3.10
VENV ?= .venv
OLDEST ?= .venv-oldest
TORCH ?= torch==2.13.0
TORCH_ARGS ?=
ARGS ?=
JOBS ?= 2

BIN = $(VENV)/bin
# One thread in each test process: JOBS of them already fill the cores.
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(1)/bin/python -m pytest -n $(JOBS) $(2) $(ARGS)
# Files that decide what is installed; each environment's own torch.txt keeps the torch that is there.
INPUTS = pyproject.toml constraints.txt $(VENV)/torch.txt
INSTALL = $(BIN)/python -m pip install --quiet -c constraints.txt -c $(VENV)/torch.txt
RECORD_TORCH = -c "import importlib.metadata as m; print('torch==' + m.version('torch'))"

.DELETE_ON_ERROR:
.PHONY: help demo test slow oldest bench lock clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: $(VENV)/compare.stamp
	$(BIN)/torchlosses compare digits $(ARGS)

test: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(call PYTEST,$(VENV),)

slow: $(VENV)/dev.stamp
	$(call PYTEST,$(VENV),-m slow)

bench: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks $(ARGS)

oldest: $(OLDEST)/test.stamp
	$(call PYTEST,$(OLDEST),)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and by itself: nothing installed later may replace it.
$(VENV)/torch.txt: | $(BIN)/python
	@$(BIN)/python -c "import torch" 2>/dev/null || { \
	    echo "Installing $(TORCH) (a large download, once)"; \
	    $(BIN)/python -m pip install --quiet -c constraints-torch.txt $(TORCH_ARGS) "$(TORCH)"; }
	@$(BIN)/python $(RECORD_TORCH) > $@

$(VENV)/compare.stamp: $(INPUTS)
	$(INSTALL) -e ".[compare]"
	@touch $@

$(VENV)/dev.stamp: $(INPUTS)
	$(INSTALL) -e ".[dev]"
	@touch $@

$(VENV)/bench.stamp: $(INPUTS)
	$(INSTALL) -c constraints-torch.txt -e ".[compare,bench]"
	@touch $@

$(OLDEST)/test.stamp: pyproject.toml constraints-oldest.txt
	test -x $(OLDEST)/bin/python || $(PYTHON310) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet $(TORCH_ARGS) torch==2.6.0
	$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt -e ".[test]"
	@touch $@

# constraints.txt: what the extras install, for Python 3.10 and later. constraints-torch.txt: what torch itself
# brings, apart so that an environment with another torch keeps it. constraints-oldest.txt: the least versions
# that the compare extra admits.
WITH_TORCH = filelock|fsspec|jinja2|markupsafe|mpmath|networkx|setuptools|sympy|torchvision|triton|typing-extensions
TORCH_ONLY = torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+|filelock|fsspec|mpmath|networkx|setuptools|sympy
TEST_TOOLS = exceptiongroup|execnet|hypothesis|iniconfig|pluggy|pytest|pytest-xdist|sortedcontainers
LOCK = $(BIN)/uv pip compile pyproject.toml --quiet --no-annotate --no-header --upgrade --python-version 3.10
LOCKED = $(VENV)/lock.txt

lock: | $(BIN)/python
	$(BIN)/python -m pip install --quiet uv
	echo "torch==2.6.0" > $(VENV)/lock.in
	$(LOCK) --resolution lowest-direct --python-platform linux --extra compare -c $(VENV)/lock.in -o $(VENV)/oldest.txt
	echo "$(TORCH)" > $(VENV)/lock.in
	$(LOCK) --universal --extra dev --extra bench -c $(VENV)/lock.in -o $(LOCKED)
	{ echo "# Made by make lock."; grep -Ev "^($(TORCH_ONLY))==" $(LOCKED); } > constraints.txt
	{ echo "# Made by make lock."; grep -E "^($(WITH_TORCH))==" $(LOCKED); } > constraints-torch.txt
	{ echo "# Made by make lock: Python 3.10, torch 2.6 and the least versions of the rest."; \
	  grep -Ev "^($(TORCH_ONLY))==" $(VENV)/oldest.txt; \
	  grep -E "^($(TEST_TOOLS))==" $(LOCKED) | grep -v ">= '3.11'" | sed "s/ ;.*//"; } > constraints-oldest.txt

clean:
	rm -rf $(VENV) $(OLDEST) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
