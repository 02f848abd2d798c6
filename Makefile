# make demo            install what the robot needs into .venv and complete the bundled drive through the real node
# make demo BAG=path   the same with a bag of your own
# make test            install everything into .venv-test; lint, type check, and test each promise of the README
# make test-slow       what takes longest: published experiments, worlds, stand-ins of GPUs, packages, documents, fuzzing
# make docs            build the documentation site into site/, in an environment of its own (.venv-docs)
# make dist            build the wheel and the sdist into dist/, by way of pyproject.toml
# make demo-of-wheel   the same, then install the wheel into an empty environment and run its demo in an empty folder
# make test-gpu        the tests of the GPU's kernels on a real one, then under compute-sanitizer; pycuda is installed in addition
#
# PYTHON=python3.12      the interpreter to build the environments with (3.10 to 3.13)
# TORCH_INDEX=URL        take torch from this index (a CPU-only one is much smaller); by default pip's own is used
# WORKERS=1              how many tests run at a time; by default two for a core, as far as memory goes, at most 8
# BUNDLE=street          the student of the demo, a name or a folder; by default kitti_student
# DEMO_ARGS=... PYTEST_ARGS=...   handed on
# A sourced ROS 2 distribution is used instead of the wheels of ROS 2.

PYTHON ?= python3
BAG ?=
BUNDLE ?= auto
TORCH_INDEX ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=
# Some tests compute, others wait for nodes that they started: four workers keep two cores at work. With what it starts,
# each takes up to four gigabytes.
WORKERS ?= $(shell $(PYTHON) -c 'import os; memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"); \
  print(max(1, min(8, len(os.sched_getaffinity(0)) * 2, memory >> 32)))')

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo dist demo-of-wheel test tests test-slow test-gpu docs lint format clean demo-environment test-environment

# Idle OpenMP threads sleep instead of spinning: the player, the node and the viewer share the cores.
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# A Python started from an environment with the ROS 2 wheels inherits their library path and the mark that it was set;
# another environment must set its own.
ifneq ($(_ROS_WHEELS_BOOTSTRAP_COMPLETE),)
unexport LD_LIBRARY_PATH
endif
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

PYTHON_TAG := $(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])')
ifeq ($(PYTHON_TAG),)
$(error "$(PYTHON)" does not run: name an interpreter, as in "make demo PYTHON=python3.12")
endif
CONSTRAINTS := constraints/pins.txt

# With a sourced distribution: its packages are visible in the environment, pip stays on the numpy generation that its
# message packages were compiled for, and the pinned versions, which are for the wheels, do not apply.
ifneq ($(ROS_DISTRO),)
DISTRIBUTION := $(shell $(PYTHON) -c 'import rclpy' 2>/dev/null && echo $(ROS_DISTRO))
endif
ifneq ($(DISTRIBUTION),)
VENV_FLAGS := --system-site-packages
FLAVOUR := $(PYTHON_TAG)-$(DISTRIBUTION)
DEMO_EXTRAS :=
TEST_EXTRAS := [train,test,lint,docs]
NUMPY_GENERATION := $(shell $(PYTHON) -c 'import numpy; print("numpy==" + numpy.__version__.split(".")[0] + ".*")')
else
FLAVOUR := $(PYTHON_TAG)
DEMO_EXTRAS := [ros]
TEST_EXTRAS := [ros,train,test,lint,docs]
endif

DEMO_STAMP := .venv/.installed-$(FLAVOUR)
TEST_STAMP := .venv-test/.installed-$(FLAVOUR)
DOCS_STAMP := .venv-docs/.installed-$(FLAVOUR)
DECLARED := setup.py setup.cfg $(CONSTRAINTS)

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//; p' Makefile

demo: $(DEMO_STAMP)
	.venv/bin/scene-completion replay $(if $(BAG),'$(BAG)') --bundle '$(BUNDLE)' --output demo_output --overwrite $(DEMO_ARGS)

dist:
	rm -rf dist
	$(PYTHON) -m venv --clear .venv-dist
	.venv-dist/bin/python -m pip install --quiet build
	.venv-dist/bin/python -m build --outdir dist .

# Nothing of the checkout may be needed: the folder is a new one, and no variable names another.
demo-of-wheel: dist
	$(PYTHON) -m venv --clear $(VENV_FLAGS) .venv-wheel
	@$(if $(NUMPY_GENERATION),echo '$(NUMPY_GENERATION)',cat $(CONSTRAINTS)) > .venv-wheel/constraints.txt
	.venv-wheel/bin/python -m pip install --quiet --constraint .venv-wheel/constraints.txt "$$(echo dist/*.whl)$(DEMO_EXTRAS)"
	folder="$$(mktemp -d)" && cd "$$folder" && env -u PYTHONPATH '$(CURDIR)/.venv-wheel/bin/scene-completion' replay --output demo_output $(DEMO_ARGS)

# Linters run in parallel with the tests.
test: $(TEST_STAMP)
	@$(MAKE) --no-print-directory --keep-going --jobs=2 lint tests

# A file stays with one worker, which then makes its fixtures once; tests/conftest.py has the longest files begin first.
tests: $(TEST_STAMP)
	$(call pytest,not slow)

test-slow: $(TEST_STAMP)
	$(call pytest,slow)

test-gpu: $(TEST_STAMP)
	.venv-test/bin/python -c 'import pycuda' 2>/dev/null || .venv-test/bin/python -m pip install --quiet pycuda
	SCENE_COMPLETION_GPU=1 .venv-test/bin/python -m pytest tests/inference/gpu/test_voxel_kernels.py $(PYTEST_ARGS)
	@command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer was not found: it is part of the CUDA toolkit" >&2; exit 1; }
	for tool in memcheck racecheck synccheck initcheck; do \
	  SCENE_COMPLETION_GPU=1 compute-sanitizer --tool $$tool --error-exitcode 9 \
	    .venv-test/bin/python -m pytest -k "random_cameras or complete_cells" --timeout 1200 tests/inference/gpu/test_voxel_kernels.py; done

docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "Open site/index.html"

lint: $(TEST_STAMP)
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	$(if $(filter py310,$(PYTHON_TAG)),@echo "types are checked with Python 3.11 and later",.venv-test/bin/mypy)
	.venv-test/bin/lint-imports

format: $(TEST_STAMP)
	.venv-test/bin/ruff check --fix .
	.venv-test/bin/ruff format .

demo-environment: $(DEMO_STAMP)
test-environment: $(TEST_STAMP)

clean:
	rm -rf .venv .venv-test .venv-docs .venv-dist .venv-wheel site build dist install log *.egg-info

# $(call install,FOLDER,EXTRAS): the package from this checkout (changed sources need no new installation).
define install
	@grep -qwF '$(subst py3,3.,$(PYTHON_TAG))' $(CONSTRAINTS) || { echo 'This Python is not supported: $(CONSTRAINTS)' \
		'has no versions for it. Use 3.10 to 3.13, as in "make demo PYTHON=python3.12".' >&2; exit 1; }
	@echo "Installing into $(1) ($(FLAVOUR)) ..."
	@test -e $@ || $(PYTHON) -m venv --clear $(VENV_FLAGS) $(1)
	@$(if $(NUMPY_GENERATION),echo '$(NUMPY_GENERATION)',cat $(CONSTRAINTS)) > $(1)/constraints.txt
	@$(1)/bin/python -m pip install --quiet --no-compile --constraint $(1)/constraints.txt 'setuptools>=70.1,<80'
	@$(3)
	@$(1)/bin/python -m pip install --quiet --no-compile --constraint $(1)/constraints.txt --no-build-isolation --editable '.$(2)'
	@touch $@
endef

pytest = .venv-test/bin/python -m pytest -m '$(1)' -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

TORCH = $(shell sed -n 's/.*"\(torch==[0-9.]*\)".*/\1/p' setup.py)

$(DEMO_STAMP): $(DECLARED)
	$(call install,.venv,$(DEMO_EXTRAS),true)

# Collecting the tests compiles what they import, and COMPILING has tests of most kernels: once, before the workers start.
COMPILING := tests/ros/health/test_diagnostics.py tests/commands/test_complete.py tests/mapping/test_clearing.py \
  tests/inference/test_cells.py tests/inference/test_label_query.py tests/training/evaluation/test_open_vocabulary.py
$(TEST_STAMP): $(DECLARED)
	$(call install,.venv-test,$(TEST_EXTRAS),$(if $(TORCH_INDEX),.venv-test/bin/python -m pip install --quiet --no-compile --no-deps --index-url '$(TORCH_INDEX)' '$(TORCH)',true))
	-@.venv-test/bin/python -m pytest --collect-only --quiet >/dev/null
	-@.venv-test/bin/python -m pytest -n 2 --dist loadfile --quiet $(COMPILING) >/dev/null

$(DOCS_STAMP): $(DECLARED)
	$(call install,.venv-docs,[docs],true)
