# Everything a fresh machine needs: Python 3.11 or newer, make and a C++17 compiler. `make help` lists the targets.

PYTHON ?= python3
PORT ?= 8000
MODEL ?=
# More arguments for pip, pytest (twice: ours, the clients'), `ostro serve` and `python -m benchmarks`.
PIP_ARGS ?=
PYTEST_ARGS ?=
# Processes that share the tests, a file at a time.
WORKERS ?= 2
CLIENTS_ARGS ?=
SERVE_ARGS ?=
BENCH_ARGS ?=
# Without an NVIDIA driver the small CPU build of PyTorch is taken; where this index cannot be reached, or is
# empty (TORCH_INDEX=), pip takes what its own index has.
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi),,https://download.pytorch.org/whl/cpu)

VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
# Whoever names tests wants those alone.
CLIENTS_TOO := $(if $(PYTEST_ARGS),,yes)
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
# Two names for one wish: the first is what older pips hand to the build environment, the second what newer ones do.
PIP := PIP_CONSTRAINT="$(CURDIR)/constraints.txt" PIP_BUILD_CONSTRAINT="$(CURDIR)/constraints.txt" \
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_ARGS)

.DEFAULT_GOAL := help
.PHONY: help serve test check bench slow clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

serve: $(VENV)/.base ## serve MODEL (default: the embedded one) on PORT (default: 8000)
	$(BIN)/ostro serve $(MODEL) --port $(PORT) $(SERVE_ARGS)

test: $(VENV)/.test $(if $(CLIENTS_TOO),$(CLIENTS)/.done) ## run the tests
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)
	$(if $(CLIENTS_TOO),$(CLIENTS)/bin/python -m pytest -c tests_clients/pytest.ini tests_clients -m "not slow" $(CLIENTS_ARGS))

check: $(VENV)/.test ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test ## benchmarks against other implementations, in one run
	$(BIN)/python -m benchmarks

slow: $(VENV)/.test $(if $(CLIENTS_TOO),$(CLIENTS)/.done) ## tests that take minutes and gigabytes
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)
	$(if $(CLIENTS_TOO),$(CLIENTS)/bin/python -m pytest -c tests_clients/pytest.ini tests_clients -m slow $(CLIENTS_ARGS))

clean: ## remove what was built (the environment too)
	rm -rf $(VENV) $(CLIENTS) build

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than Python 3.11; set PYTHON=/path/to/a/newer/one" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
		|| { echo "error: $(PYTHON) comes without its C headers; on Debian: apt-get install python3-dev" >&2; exit 1; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null \
		|| { echo "error: there is no C++17 compiler; on Debian: apt-get install g++" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	@if [ -n "$(TORCH_INDEX)" ]; then \
		echo "Installing PyTorch (CPU build, if its index can be reached)"; \
		$(PIP) --no-deps --index-url $(TORCH_INDEX) --retries 0 --timeout 15 torch 2>/dev/null || true; \
	fi
	@touch $@

# Editable, so that the code runs from src/; the native module is built by CMake into the environment.
$(VENV)/.base: $(SOURCES) $(VENV)/.torch
	@echo "Installing Ostro and building its native module; the first time takes minutes"
	@$(PIP) -e .
	@touch $@

$(VENV)/.test: $(SOURCES) $(VENV)/.torch
	@echo "Installing Ostro with what its tests need; the first time takes minutes"
	@$(PIP) -e ".[test]"
	@touch $@ $(VENV)/.base

# Client libraries whose pins clash with ours, to be tried against a live node.
$(CLIENTS)/.done: constraints-clients.txt | $(VENV)/bin/python
	@echo "Installing the clients that the tests try"
	@$(PYTHON) -m venv $(CLIENTS)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(CLIENTS)/bin/python -m pip install --quiet --no-deps $(PIP_ARGS) \
		-r constraints-clients.txt
	@touch $@
