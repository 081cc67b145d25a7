# The tasks of development. Needs make and Python 3.11 or newer; everything else is installed into .venv.

VENV ?= .venv
# Arguments of pytest: four processes, each with its own redis-server. One process: make test TEST_ARGS=
TEST_ARGS ?= -n 4 --maxschedchunk 1
# The number of examples of make test-long, as a multiple (at least 2) of that of make test.
TIMES ?= 5
# The tests of the inner loop: those of the core, without the ones marked slow. "make test" runs all.
TEST_FAST_ARGS ?= -n 3 -m "not slow" tests/unit tests/delivery tests/usecases tests/node
# Size and seed of the sample: make mutate MUTATE_ARGS="--mutants 50 --seed 7 --only plan.claim".
MUTATE_ARGS ?=
# Arguments of pytest for each server of make test-servers. Shorter: make test-servers SERVER_ARGS="-n 2 -k faults".
SERVER_ARGS ?= $(TEST_ARGS)
# The linter of the OpenAPI document, run by npx. Newer versions need a newer Node.js than Debian 12 has.
REDOCLY = @redocly/cli@1.34.5
# Arguments of pytest for make test-ui: three browsers, each with the test files of its own.
UI_ARGS ?= -n 3 --dist loadfile
# Arguments of pytest for make test-kinds: make test-kinds KINDS_ARGS="-k amqp".
KINDS_ARGS ?=
# High availability tests run one after another, on an otherwise idle machine. Longer faults: HA_SECONDS=300.
HA_ARGS ?= -v
BENCH_ARGS ?=

# Tests start several hundred processes. Without stored bytecode each of them compiles the whole package.
unexport PYTHONDONTWRITEBYTECODE

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --no-input
LOCKS = requirements.lock requirements-build.lock requirements-dev.lock requirements-installer.lock requirements-mutation.lock
# Installs locks: by uv, or by pip where uv does not run or a network is set up for pip only.
INSTALL = $(BIN)/uv pip install --python $(BIN)/python --require-hashes $(1) || \
	{ echo "uv failed; installing with pip" >&2; $(PIP) install --progress-bar off --require-hashes $(1); }
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links --no-annotate $(LOCK_ARGS)

.DEFAULT_GOAL := help
.PHONY: help run test test-fast test-long test-servers test-ha test-openapi test-ui test-kinds test-rules mutate lint type fmt bench bench-docs lock install clean
.DELETE_ON_ERROR:

help: ## List of all targets
	@echo "Cronpost: cron for HTTP"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.runtime ## Start a server, embedded Redis, a demo runner and a job; print each fire until Ctrl-C
	@exec $(BIN)/cronpost demo

test: $(VENV)/.development ## Run all tests; for some: make test TEST_ARGS="tests/unit -k cron"
	$(BIN)/python -m pytest $(TEST_ARGS)

test-long: $(VENV)/.development ## Run the random tests with 5 times as many examples and a new seed; 50 times: make test-long TIMES=50
	TEST_LONG=$(TIMES) $(BIN)/python -m pytest --randomly-seed=default -m "hypothesis or random" $(TEST_ARGS)

test-fast: $(VENV)/.development ## Test the core (tests/{unit,delivery,usecases,node}) without tests marked slow; under a minute
	$(BIN)/python -m pytest $(TEST_FAST_ARGS)

mutate: $(VENV)/.mutation ## Mutation testing of a sample of plan, claim, deliver, settle and limits; at most 20 minutes
	$(BIN)/python -m tests.mutation $(MUTATE_ARGS)

test-servers: $(VENV)/.development ## Run tests that depend on the server with Redis 6.2, Redis 7 (on PATH) and Valkey 9; five minutes
	@$(BIN)/python -m tests.support.servers $(SERVER_ARGS)

test-ha: $(VENV)/.development ## Test high availability: nodes and Redis fail under load; twelve minutes. One fault: make test-ha HA_ARGS="-v -k sentinel"
	$(BIN)/python -m pytest tests/ha $(HA_ARGS)

test-openapi: $(VENV)/.development ## Lint openapi.json with redocly; needs npx (Debian: apt install npm)
	@command -v npx >/dev/null || { echo "make test-openapi needs npx, which comes with npm; on Debian and Ubuntu: apt install npm" >&2; exit 1; }
	@mkdir -p build
	$(BIN)/python -m tests.support.described > build/openapi.json
	npx --yes $(REDOCLY) lint --config redocly.yaml --max-problems 1000 build/openapi.json >build/openapi.lint 2>&1 || \
		{ cat build/openapi.lint; exit 1; }
	@cat build/openapi.lint
	@grep -q 'Your API description is valid' build/openapi.lint
	@! grep 'Warning was generated' build/openapi.lint || { echo "warnings count as errors" >&2; exit 1; }

test-kinds: $(VENV)/.development ## Test AMQP and Celery targets with a RabbitMQ and Celery workers (Debian: apt install rabbitmq-server)
	@test -x /usr/lib/rabbitmq/bin/rabbitmq-server || \
		{ echo "make test-kinds needs RabbitMQ; on Debian and Ubuntu: apt install rabbitmq-server" >&2; exit 1; }
	$(BIN)/python -m pytest tests/kinds $(KINDS_ARGS)

test-rules: $(VENV)/.development ## Check and test the alert rules with promtool (Debian: apt install prometheus)
	@command -v promtool >/dev/null || \
		{ echo "make test-rules needs promtool; on Debian and Ubuntu: apt install prometheus" >&2; exit 1; }
	$(BIN)/python -m pytest tests/rules

test-ui: $(VENV)/.development ## Test the dashboard and the documentation pages in a headless Chromium (Debian: apt install chromium)
	@command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		{ echo "make test-ui needs Chromium; on Debian and Ubuntu: apt install chromium" >&2; exit 1; }
	$(BIN)/python -m pytest tests/ui $(UI_ARGS)

screenshots: $(VENV)/.development ## Make the pictures of docs/dashboard.md from a real server, in a headless Chromium; some: NAMES="jobs run"
	$(BIN)/python -m tests.ui.screenshots $(NAMES)

lint: $(VENV)/.development ## Check style and common mistakes (ruff)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: $(VENV)/.development ## Check types (mypy, strict)
	$(BIN)/mypy

fmt: $(VENV)/.development ## Format, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.development ## Run benchmarks, also of comparable projects; 25 minutes on an idle machine. Short: BENCH_ARGS=--quick
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-docs: $(VENV)/.development ## Write the newest benchmark run into docs/performance.md, README.md and their charts; an older one: FILE=...
	$(BIN)/python -m benchmarks.publish $(FILE)

install: $(VENV)/.development ## Install .venv

lock: $(VENV)/.installer ## Update the lock files after a change of pyproject.toml; newer versions: LOCK_ARGS=--upgrade
	$(COMPILE) --group installer -o requirements-installer.lock
	$(COMPILE) --group build -o requirements-build.lock
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) pyproject.toml --all-extras --group build \
		-c requirements.lock -c requirements-build.lock -o requirements-dev.lock
	$(COMPILE) --group mutation -c requirements-dev.lock -o requirements-mutation.lock

clean: ## Remove .venv, caches and build results; never data
	rm -rf $(VENV) build dist mutants *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Find a suitable Python. 3.12 and 3.11 come first because Redis 6.2 can be installed for them (make test-servers).
$(VENV)/.python:
	@set -e; \
	if $(BIN)/python -c 'import pip' 2>/dev/null; then touch $@; exit 0; fi; \
	found=; \
	for python in $(PYTHON) python3.12 python3.11 python3 python3.13 python3.14; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Cronpost needs Python 3.11 or newer; python3 is $$(python3 --version 2>&1 | grep . || echo missing)." >&2; \
		echo "Install one, or select it: make PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi; \
	if ! $$found -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$found cannot make a virtual environment: venv or ensurepip is missing." >&2; \
		echo "On Debian and Ubuntu: apt install python3-venv" >&2; \
		exit 1; \
	fi; \
	echo "==> $(VENV) with $$($$found --version)"; \
	$$found -m venv --clear $(VENV); \
	touch $@

$(VENV)/.installer: requirements-installer.lock | $(VENV)/.python
	-@$(PIP) install --quiet --require-hashes -r requirements-installer.lock
	@touch $@

$(VENV)/.runtime: requirements.lock requirements-build.lock pyproject.toml | $(VENV)/.installer
	@echo "==> installing the dependencies of Cronpost (once)"
	@$(call INSTALL,-r requirements.lock -r requirements-build.lock)
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.mutation: requirements-mutation.lock $(VENV)/.development
	@$(call INSTALL,-r requirements-mutation.lock)
	@touch $@

$(VENV)/.development: requirements-dev.lock $(VENV)/.runtime
	@echo "==> installing the dependencies of its development (once)"
	@$(call INSTALL,-r requirements-dev.lock)
	@touch $@
