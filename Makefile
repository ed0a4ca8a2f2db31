# The two main commands are `make demo` and `make test`. Each creates .venv, builds the kernels, and runs.
#
#   PYTHON   the interpreter that creates .venv                       make PYTHON=python3.12 demo
#   TORCH    the requirement that pip installs as torch               make TORCH="torch==2.13.0 --index-url ..." demo
#   ARGS     arguments of the demo, pytest or the benchmarks          make test ARGS="-k drift"
#   WORKERS  processes among which pytest distributes the tests       make WORKERS=8 test

PYTHON ?= python3
TORCH ?= torch==2.13.0
ARGS ?=
# auto: one per core; 0: only pytest's own process, where torch uses all cores.
WORKERS ?= auto

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Idle threads spin for about 50 us and then yield their core: where other work shares the cores, endless spinning
# makes a training step ten times slower.
export GOMP_SPINCOUNT ?= 30000
PIP := $(BIN)/python -m pip --quiet install
# The constraints without torch: TORCH may name another build, and the installed one satisfies phasegrad.
PINS := .venv/constraints.txt
CSRC := $(wildcard src/phasegrad/ops/csrc/*)

# The compiler that CMake finds: CXX if it is set, otherwise the usual names.
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
# Installs with and without a compiler have different stamps, so that adding or disabling one reinstalls.
RUN := .venv/.stamp-run$(if $(COMPILER),,-reference)

PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
# Every test but whole examples (marked `example`) runs on the compiled kernels, and tests/ops compares each kernel with
# the torch reference there. The second, slower pass of `make test` covers what only a run on the reference shows: that
# the ops, the tiles and the layers work without kernels, and one path through each way of training and inference. Tests
# marked `slow` are left out of it. In `.ci/run`, it has every test but those of BACKEND_FREE.
REFERENCE_TESTS := tests/ops tests/crossbar tests/nn tests/cells tests/optim/test_analog_sgd.py \
  tests/inference/test_program.py tests/hwa/test_calibrate.py
# The subject of these does not depend on what computes the ops: files, conversion and its bookkeeping, states that are
# refused, several processes, exported graphs, writes that are noticed, the spread that is fitted to programmed cells,
# drawings, and what pages print.
BACKEND_FREE := tests/fuzz tests/examples tests/plot tests/checkpoint tests/conversion tests/distributed tests/presets \
  tests/nn/test_corrupt_states.py tests/nn/test_failed_loads.py tests/nn/test_meta_device.py \
  tests/inference/test_noiseless.py tests/inference/test_plot.py tests/hwa/test_fine_tune_batches.py \
  tests/hwa/test_fine_tune_stopped.py tests/hwa/test_programming_noise.py tests/stores/test_aliases.py \
  tests/stores/test_refused_weights.py tests/stores/test_written_scenarios.py tests/stores/test_written_weights.py \
  tests/ops/test_profiling.py tests/test_benchmarks.py tests/test_configuration.py tests/test_docs.py \
  tests/test_drawing.py tests/test_errors.py tests/test_field_types.py tests/test_progress.py tests/test_repository.py \
  tests/test_writing.py
# Most of tests/ops calls torch.ops, which is the dispatcher, in every pass. In the following, all ops that the library
# calls past the dispatcher are called so.
DISPATCH_TESTS := tests/nn tests/crossbar tests/cells tests/optim/test_analog_sgd.py \
  tests/optim/test_mixed_precision.py tests/inference/test_program.py tests/stores/test_single_rows.py \
  tests/stores/test_stores.py tests/ops/test_learned_past_zero.py tests/ops/test_repeated_update.py \
  tests/ops/test_second_gradients.py tests/ops/test_workspace.py
WITHOUT_BACKEND_FREE := $(addprefix --ignore=,$(BACKEND_FREE))
MATHJAX := $(if $(shell command -v npm 2>/dev/null),build/mathjax/node_modules/mathjax/es5/tex-svg.js)

.PHONY: help demo test test-native test-most test-reference test-reference-all test-dispatch test-cuda test-interpreted \
  sanitize-cuda lint format docs bench bench-cuda reproduce install develop integrations neighbours packages release-check clean
.DEFAULT_GOAL := help
# Each step uses all cores.
.NOTPARALLEL:

help:
	@echo "make demo       train, convert, program and age a network (examples/mnist.py); pictures in out/demo"
	@echo "make test       all tests but whole examples, then those that matter on the torch reference"
	@echo "make lint       ruff, pyright, import-linter, clang-format; make format fixes what it can"
	@echo "make docs       the documentation, in site/"
	@echo "make bench      the benchmarks, into benchmarks/results/"
	@echo "make test-cuda  the tests that need a GPU; make bench-cuda measures one, into benchmarks/results/"
	@echo "make reproduce  the reproductions of published results, into docs/results/"
	@echo "make install    only .venv with phasegrad; make develop adds the development tools"
	@echo "make integrations   frameworks and formats that phasegrad is tested with, some 300 MB"
	@echo "make packages       wheel and source distribution, installed and tried without compiler and matplotlib"
	@echo "make release-check  whether the checkout can be released as the version that it states"

demo: $(RUN)
	$(BIN)/python examples/mnist.py --out out/demo $(ARGS)

ifeq ($(COMPILER),)
test: test-reference-all
	@echo "no C++ compiler, or PHASEGRAD_NATIVE is off: the compiled kernels were not tested"
else
test: test-most test-reference
endif

# 'native' makes a missing library an error, so that this run cannot pass on the reference.
test-native: .venv/.stamp-dev
	PHASEGRAD_BACKEND=native $(PYTEST) $(ARGS)

test-most: .venv/.stamp-dev
	PHASEGRAD_BACKEND=native $(PYTEST) -m 'not example' $(ARGS)

test-reference: .venv/.stamp-dev
	PHASEGRAD_BACKEND=reference $(PYTEST) -m 'not slow' $(WITHOUT_BACKEND_FREE) $(REFERENCE_TESTS) $(ARGS)

# Where there are no kernels, no other pass runs the tests that do not depend on the backend.
test-reference-all: .venv/.stamp-dev
	PHASEGRAD_BACKEND=reference $(PYTEST) $(if $(COMPILER),$(WITHOUT_BACKEND_FREE)) $(ARGS)

# Every op through torch's dispatcher, where calls otherwise bypass it.
test-dispatch: .venv/.stamp-dev
	PHASEGRAD_BACKEND=native PHASEGRAD_DISPATCH=always \
	  $(PYTEST) -m 'not slow' $(WITHOUT_BACKEND_FREE) $(DISPATCH_TESTS) $(ARGS)

# What needs a GPU, and the kernels compiled for it, in one run that reports both: a few minutes. Each worker takes
# half a GB of the GPU's memory.
test-cuda: WORKERS := $(WORKERS:auto=6)
test-cuda: .venv/.stamp-dev
	$(PYTEST) --timeout 120 tests/cuda tests/ops -k 'cuda or triton' $(ARGS)

# Layers and optimizers on the CUDA kernels, without a GPU, in Triton's interpreter.
test-interpreted: .venv/.stamp-dev
	PHASEGRAD_BACKEND=triton $(PYTEST) tests/cuda $(ARGS)

# Memory errors and races of the kernels; compute-sanitizer comes with the CUDA toolkit.
sanitize-cuda: .venv/.stamp-dev
	compute-sanitizer --error-exitcode 1 $(BIN)/python -m pytest -x -n 0 tests/ops -k 'test_triton_equals_reference' $(ARGS)
	compute-sanitizer --tool racecheck --error-exitcode 1 $(BIN)/python -m pytest -x -n 0 tests/ops \
	  -k 'test_triton_equals_reference and long' $(ARGS)

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

bench-cuda: $(RUN)
	$(BIN)/python -m benchmarks.cuda $(ARGS)

reproduce: $(RUN)
	$(BIN)/python examples/mnist.py --out docs/results/mnist_pcm_inference $(ARGS)
	$(BIN)/python examples/reproduce.py --out docs/results --jobs 2
	$(BIN)/python examples/reproduce_costs.py --out docs/results/published-chips
	for name in cifar10 char_lstm; do $(BIN)/python examples/$$name.py --out docs/results/$$name || exit 1; done

install: $(RUN)
develop: .venv/.stamp-dev .venv/.stamp-docs
integrations: .venv/.stamp-integrations
# The name of release 0.1.0; removed in 0.3.0.
neighbours: integrations

packages: .venv/.stamp-dev
	.ci/packages

release-check: develop packages docs
	$(BIN)/python .ci/check_release.py

# torch is installed first and without its requirements, so that no other package chooses its build and an index that
# has only torch suffices. Its requirements are pinned and installed with phasegrad's; builds for CUDA pin Triton.
.venv/.stamp-base: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "phasegrad needs Python 3.10 or later; make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	grep -v '^torch==' constraints.txt > $(PINS)
	$(PIP) --no-deps $(TORCH)
	@! $(BIN)/python -c 'from importlib.metadata import requires; assert "triton" in str(requires("torch"))' 2> /dev/null || \
	  sed -i '/^triton==/d' $(PINS)
	$(PIP) --constraint $(PINS) cmake ninja scikit-build-core
	@touch $@

$(RUN): .venv/.stamp-base pyproject.toml CMakeLists.txt $(CSRC)
	$(PIP) --constraint $(PINS) --no-build-isolation --config-settings=build-dir=build/editable --editable '.[examples]'
	@rm -f .venv/.stamp-run .venv/.stamp-run-reference
	@touch $@

# phasegrad is already installed, so pip adds only the packages of the extra.
.venv/.stamp-dev .venv/.stamp-docs .venv/.stamp-integrations: .venv/.stamp-%: $(RUN)
	$(PIP) --constraint $(PINS) 'phasegrad[$*]'
	@touch $@

clean:
	rm -rf .venv build dist site out
