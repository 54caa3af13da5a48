# Works with .venv alone, which the first target that needs it sets up: no activated environment, nothing installed elsewhere.
.DEFAULT_GOAL := help
.NOTPARALLEL:
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV

PYTHON ?=
BUNDLE_PYTHON ?= 3.12
ARGS ?=

PY := .venv/bin/python

.PHONY: help
help: ## Show this list
	@echo 'Targets:'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo 'Variables:'
	@echo '  PYTHON=...         interpreter for .venv, 3.10 to 3.12 (default: the first that fits on PATH)'
	@echo '  BUNDLE_PYTHON=3.12 Python of the machine the bundle is for, 3.10 to 3.12'
	@echo '  ARGS=...           more arguments for the program behind run, test or bench'

.PHONY: setup
setup: ## Make .venv and install this checkout, Triton and the tools into it; quick when nothing changed
	@PYTHON='$(PYTHON)' sh packaging/setup.sh

.PHONY: run
run: setup ## Show what is here, then prove memory placement on a real Triton
	@.venv/bin/tritoncapi-harness demo $(ARGS)

.PHONY: test
test: setup ## Run all tests; those that need a GPU are skipped where there is none
	@$(PY) -m pytest $(ARGS)

.PHONY: check
check: setup ## Lint, check types, and run the tests that need no Triton
	@$(PY) -m ruff check
	@$(PY) -m mypy
	@$(PY) -m pytest -q -m 'not triton and not gpu'

.PHONY: sanitize
sanitize: setup ## Test the native library built for AddressSanitizer and ThreadSanitizer
	@$(PY) packaging/sanitize.py $(ARGS)

.PHONY: bench
bench: setup ## Run the benchmarks
	@test -d benchmarks || { echo 'make bench: this checkout has no benchmarks folder' >&2; exit 1; }
	@$(PY) -m benchmarks $(ARGS)

.PHONY: wheel
wheel: setup ## Build the wheel into dist/
	@mkdir -p build && rm -f dist/tritoncapi_harness-*.whl
	@echo 'wheel: building'
	@$(PY) -m build --wheel --outdir dist > build/wheel.log 2>&1 || { cat build/wheel.log >&2; exit 1; }
	@ls dist/tritoncapi_harness-*.whl

.PHONY: bundle
bundle: wheel ## Build one archive with a Triton for machines without a network into dist/
	@$(PY) packaging/bundle.py --python $(BUNDLE_PYTHON) dist/tritoncapi_harness-*.whl

.PHONY: clean
clean: ## Remove .venv, build, dist and all caches of this checkout
	@rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
