# Needs Python >= 3.11, git and make. All paths are relative and quoted, so the tree may lie below a path with spaces.
# Tools are run as modules of .venv/bin/python: the first line of a console script cannot hold such a path.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help venv demo kitt failover check test test-full fmt bench services services-stop images clean
.PHONY: secrets certs label doctor up update status rabbitmq redis scale logs backup restore down

# The first that runs and is new enough: a version manager's shim may exist and still fail.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$python" && break; done)

ARGS ?=
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet --quiet

# The stamps carry a checksum of the directory: an environment that was moved or copied points to the old place.
HERE := $(shell pwd | cksum | cut -d ' ' -f 1)
RUNTIME := .venv/.installed-runtime-$(HERE)
DEV := .venv/.installed-dev-$(HERE)

SCENARIOS := $(PY) -m pytest tests/swarm/test_scenarios.py

help: ## Print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s  %s\n", $$1, $$2 }' Makefile

demo: $(RUNTIME) ## Run the main job on real files, e.g. make demo ARGS="~/src --out results.jsonl"
	@$(PY) -m fogactors demo $(ARGS)

kitt: $(RUNTIME) ## Run the services of examples/kitt, with a broker inside or on a RabbitMQ
	@$(PY) -m examples.kitt

check: $(DEV)
	@echo "== format"
	@$(PY) -m ruff format --check .
	@echo "== lint"
	@$(PY) -m ruff check .
	@echo "== types"
	@$(PY) -m basedpyright

test: check ## Run every check: format, lint, types, tests (the import rule is one of them)
	@echo "== tests and the import rule, with RabbitMQ 4.3 and Redis 8"
	@$(PY) -m tests.services run -- $(PY) -m pytest -m "not slow and not swarm" $(ARGS)
	@echo "== what differs between versions of RabbitMQ, with 4.0"
	@$(PY) -m tests.services run --rabbitmq 4.0 --redis -- $(PY) -m pytest -m "versions and not slow and not swarm"
	@echo "== the stack with TLS on five Docker hosts of this machine: it forms; all brokers killed at once, twice"
	@FOG_SWARM_RATE=100 FOG_SWARM_TLS=on $(PY) -m pytest -m "swarm and not slow" -rs

test-full: check ## Run every check and every test, also those that take minutes, on both versions
	@$(PY) -m tests.services run -- $(PY) -m pytest -m "not swarm" $(ARGS)
	@$(PY) -m tests.services run --rabbitmq 4.0 --redis -- $(PY) -m pytest -m services $(ARGS)
	@$(PY) -m pytest --ignore tests/swarm/test_scenarios.py -m swarm $(ARGS)
	@$(MAKE) failover

failover: $(DEV) ## Break a Swarm of five hosts on this machine and write docs/failover.md (root, Linux)
	@export FOG_FAILOVER=docs/failover.json FOG_SWARM_RATE=$${FOG_SWARM_RATE:-100}; failed=0; \
	$(SCENARIOS) $(ARGS) || failed=1; \
	FOG_SWARM_RATE=500 $(SCENARIOS) -m overload $(ARGS) || failed=1; \
	FOG_SWARM_RABBITMQ=4.0 $(SCENARIOS) -m versions $(ARGS) || failed=1; \
	FOG_SWARM_TLS=on $(SCENARIOS) -m "not slow" $(ARGS) || failed=1; \
	$(PY) -m tests.swarm.failover docs/failover.json; exit $$failed

fmt: $(DEV) ## Format the code and repair what lint can repair
	@$(PY) -m ruff check --fix --quiet --exit-zero .
	@$(PY) -m ruff format .

bench: $(DEV) ## Run the benchmarks, beside a real RabbitMQ and a real Redis where they can be had
	@for file in bench/[!_]*.py; do \
		echo "== $$file"; $(PY) -m tests.services run -- $(PY) "$$file" || exit 1; done

services: $(DEV) ## Start a real RabbitMQ (RABBITMQ=4.0 for the older one) and a real Redis, print their URLs
	@$(PY) -m tests.services start

services-stop: $(DEV) ## Stop what `make services` started
	@$(PY) -m tests.services stop

images: $(DEV) ## Build the three container images; images/build names its settings
	@sh images/build

# The stack on a Docker Swarm; docs/swarm.md. Options go in ARGS, e.g. make label ARGS="--worker1 host4".
secrets: $(RUNTIME) ## Add strong passwords to .env where it has none
	@$(PY) -m fogactors swarm secrets $(ARGS)

certs: $(RUNTIME) ## Make a private CA and the servers' certificate, for TLS
	@$(PY) -m fogactors swarm certs $(ARGS)

label: $(RUNTIME) ## Label the swarm's nodes, so that each broker stays with its volume
	@$(PY) -m fogactors swarm label $(ARGS)

doctor: $(RUNTIME) ## Check the swarm before a deploy: labels, engines, CPU, memory, disk, ports
	@$(PY) -m fogactors swarm doctor $(ARGS)

up: $(RUNTIME) ## Deploy the stack of swarm/, and wait until it is up
	@$(PY) -m fogactors swarm deploy $(ARGS)

update: $(RUNTIME) ## Bring a change to the stack: one broker at a time, and all of them serve
	@$(PY) -m fogactors swarm update $(ARGS)

status: $(RUNTIME) ## Say which tasks of the stack run, and where
	@$(PY) -m fogactors swarm status $(ARGS)

rabbitmq: $(RUNTIME) ## Say whether the brokers' cluster is whole
	@$(PY) -m fogactors swarm rabbitmq $(ARGS)

redis: $(RUNTIME) ## Say whether Redis answers
	@$(PY) -m fogactors swarm redis $(ARGS)

scale: $(RUNTIME) ## Run more executors of a tier, e.g. make scale ARGS="fog-node-1=3"
	@$(PY) -m fogactors swarm scale $(ARGS)

logs: $(RUNTIME) ## Print what the stack's containers write, e.g. make logs ARGS="redis --follow"
	@$(PY) -m fogactors swarm logs $(ARGS)

backup: $(RUNTIME) ## Copy Redis' data and the broker's definitions to backups/
	@$(PY) -m fogactors swarm backup $(ARGS)

restore: $(RUNTIME) ## Bring a copy back, e.g. make restore ARGS="backups/20260101T000000Z --yes"
	@$(PY) -m fogactors swarm restore $(ARGS)

down: $(RUNTIME) ## Stop the stack; its volumes are kept
	@$(PY) -m fogactors swarm down $(ARGS)

venv: $(DEV) ## Create the environment in .venv, with the development tools

clean: ## Remove the environment and everything that was built or cached
	@rm -rf .venv build dist fogactors.egg-info .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	@find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
		echo "fogactors needs Python >= 3.11 and found none; name one with: make PYTHON=/path/to/python" >&2; exit 1; fi; \
	if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "$$python does not run or is older than Python 3.11; name another with: make PYTHON=/path/to/python" >&2; \
		exit 1; fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$python cannot create environments: venv or ensurepip is missing (Debian: apt install python3-venv)" >&2; \
		exit 1; fi; \
	echo "Creating the environment in .venv with $$("$$python" -V)"; \
	"$$python" -m venv --clear .venv || { rm -rf .venv; echo "the environment could not be created" >&2; exit 1; }

$(RUNTIME): $(PY) pyproject.toml constraints.txt
	@echo "Installing what fogactors needs into .venv"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(DEV): $(RUNTIME)
	@echo "Installing the development tools into .venv"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@
