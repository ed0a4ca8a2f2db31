# Two commands for everybody: `make demo` and `make test`. Each makes .venv, builds the kernels, and runs.
#
#   PYTHON   the interpreter that makes .venv                    make PYTHON=python3.12 demo
#   TORCH    what pip installs as torch                          make TORCH="torch==2.13.0 --index-url ..." demo
#   ARGS     passed on to the demo, pytest or the benchmarks     make test ARGS="-k drift"
#   WORKERS  processes that share the tests                      make WORKERS=8 test

PYTHON ?= python3
TORCH ?= torch==2.13.0
ARGS ?=
# auto: one for each core; 0 is pytest's own process, with all cores for torch.
WORKERS ?= auto

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Threads that wait spin for about 50 us and then give their core away: where other work shares the cores, endless
# spinning makes a training step ten times slower.
export GOMP_SPINCOUNT ?= 30000
PIP := $(BIN)/python -m pip --quiet install
# The constraints less torch: TORCH may name another build, and what is installed satisfies phasegrad.
PINS := .venv/constraints.txt
CSRC := $(wildcard src/phasegrad/ops/csrc/*)

# The compiler that CMake will find: CXX where somebody set it, else a usual name.
ifneq ($(filter default undefined,$(origin CXX)),)
  COMPILERS := c++ g++ clang++
else
  export CXX
  COMPILERS := $(CXX)
endif
ifneq ($(filter 0 OFF off FALSE false NO no,$(PHASEGRAD_NATIVE)),)
  export PHASEGRAD_NATIVE
  COMPILERS :=
endif
COMPILER := $(firstword $(foreach name,$(COMPILERS),$(shell command -v $(name) 2>/dev/null)))
# With a compiler and without are two installs: whoever adds one, or switches it off, gets the other.
RUN := .venv/.stamp-run$(if $(COMPILER),,-reference)

MATHJAX := $(if $(shell command -v npm 2>/dev/null),build/mathjax/node_modules/mathjax/es5/tex-svg.js)

PYTEST := $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

.PHONY: help demo test test-native test-reference lint format docs bench reproduce install develop neighbours clean
.DEFAULT_GOAL := help
# Each step uses all cores by itself.
.NOTPARALLEL:

help:
	@echo "make demo       train, convert, program and age a network (examples/mnist.py); pictures in out/demo"
	@echo "make test       the tests with the compiled kernels, then with the torch reference"
	@echo "make lint       ruff, pyright, import-linter, clang-format; make format repairs what it can"
	@echo "make docs       the documentation, in site/"
	@echo "make bench      the benchmarks, into benchmarks/results/"
	@echo "make reproduce  the reproductions of published results, into docs/results/"
	@echo "make install    only .venv with phasegrad; make develop adds the developers' tools"
	@echo "make neighbours the frameworks and formats that are tested beside phasegrad, some 300 MB"

demo: $(RUN)
	$(BIN)/python examples/mnist.py --out out/demo $(ARGS)

ifeq ($(COMPILER),)
test: test-reference
	@echo "no C++ compiler, or PHASEGRAD_NATIVE is off: the compiled kernels were not tested"
else
test: test-native test-reference
endif

# 'native' makes a missing library an error, so that this run cannot pass on the reference.
test-native: .venv/.stamp-dev
	PHASEGRAD_BACKEND=native $(PYTEST)

test-reference: .venv/.stamp-dev
	PHASEGRAD_BACKEND=reference $(PYTEST)

lint: .venv/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	PYTHONPATH=src $(BIN)/lint-imports --no-cache
	$(BIN)/clang-format --dry-run -Werror $(filter %.cpp %.h,$(CSRC))

format: .venv/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(filter %.cpp %.h,$(CSRC))

docs: .venv/.stamp-docs $(MATHJAX)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The site has a copy of its own. Without npm, formulas stay as TeX, which the build says.
$(MATHJAX):
	-npm install --no-save --silent --prefix build/mathjax mathjax@3

bench: $(RUN)
	mkdir -p benchmarks/results
	$(BIN)/python -m benchmarks $(ARGS)

reproduce: $(RUN)
	$(BIN)/python examples/mnist.py --out docs/results/mnist_pcm_inference $(ARGS)
	$(BIN)/python examples/reproduce.py --out docs/results --jobs 2
	for name in cifar10 char_lstm; do $(BIN)/python examples/$$name.py --out docs/results/$$name || exit 1; done

install: $(RUN)
develop: .venv/.stamp-dev .venv/.stamp-docs
neighbours: .venv/.stamp-neighbours

# torch stands alone and first, without its requirements: nothing chooses another build, and an index that
# has only torch will do. The packages it needs come pinned with phasegrad's own.
.venv/.stamp-base: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "phasegrad needs Python 3.10 or later; make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	grep -v '^torch==' constraints.txt > $(PINS)
	$(PIP) --no-deps $(TORCH)
	$(PIP) --constraint $(PINS) cmake ninja scikit-build-core
	@touch $@

$(RUN): .venv/.stamp-base pyproject.toml CMakeLists.txt $(CSRC)
	$(PIP) --constraint $(PINS) --no-build-isolation --config-settings=build-dir=build/editable --editable '.[examples]'
	@rm -f .venv/.stamp-run .venv/.stamp-run-reference
	@touch $@

# phasegrad is installed already, so that pip adds only the extra's packages.
.venv/.stamp-dev .venv/.stamp-docs .venv/.stamp-neighbours: .venv/.stamp-%: $(RUN)
	$(PIP) --constraint $(PINS) 'phasegrad[$*]'
	@touch $@

clean:
	rm -rf .venv build dist site out
