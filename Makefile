# Every target works on a fresh Debian/Ubuntu machine with Python 3.11 or newer.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 5000
TEST_PROCESSES ?= 3
RUN_DIR ?= .run
HANDWRITING ?= yes
PRINT_ALONE := $(filter no,$(HANDWRITING))
LOCK := requirements/$(if $(PRINT_ALONE),run,handwriting).txt
IMAGE ?= localhost/tollgate:latest
# Language data beyond eng and osd that image and bundle bring, as "deu fra"; the key that signs the bundle, else an
# evaluation key below RUN_DIR; both are read by the scripts.
LANGUAGES ?=
RELEASE_KEY ?=
export LANGUAGES RELEASE_KEY

# A shell that forbids .pyc files makes each process compile the whole project anew: a third of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# ---- what is needed -------------------------------------------------------------------------------------------------

.PHONY: system-packages test-packages bench-packages image-packages appliance-packages
system-packages:
	@scripts/system-packages run

test-packages:
	@scripts/system-packages test

bench-packages:
	@scripts/system-packages bench

image-packages:
	@scripts/system-packages image

appliance-packages:
	@scripts/system-packages appliance

$(VENV)/.run-installed: requirements/run.txt pyproject.toml scripts/make-venv
	@PYTHON=$(PYTHON) scripts/make-venv $(VENV) requirements/run.txt
	@touch $@

# Without the extra there is still a service, which reads print alone: no reason not to start.
$(VENV)/.handwriting-installed: requirements/handwriting.txt pyproject.toml scripts/make-venv
	@PYTHON=$(PYTHON) scripts/make-venv $(VENV) requirements/handwriting.txt || { \
	    echo "Handwriting could not be installed; going on without. To try again: rm $@" >&2; \
	    PYTHON=$(PYTHON) scripts/make-venv $(VENV) requirements/run.txt; }
	@touch $(VENV)/.run-installed $@

$(VENV)/.dev-installed: requirements/dev.txt pyproject.toml scripts/make-venv
	@PYTHON=$(PYTHON) scripts/make-venv $(VENV) requirements/dev.txt
	@touch $(VENV)/.run-installed $(VENV)/.handwriting-installed $@

$(VENV)/.clients-installed: $(VENV)/.dev-installed requirements/clients.txt scripts/make-clients
	@scripts/make-clients $(VENV) requirements/clients.txt
	@touch $@

$(VENV)/.peers-installed: requirements/peers.txt scripts/make-peers
	@mkdir -p $(VENV)
	@PYTHON=$(PYTHON) scripts/make-peers $(VENV)/peers requirements/peers.txt && touch $@ || \
	    echo "The peers could not be installed; the benchmarks leave them out." >&2

.PHONY: dev
dev: test-packages $(VENV)/.clients-installed ## Install everything needed to work on the code

.PHONY: lock
lock: $(VENV)/.dev-installed ## Resolve requirements/*.txt anew (needs a package index)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header $(LOCK_ARGS) \
	    pyproject.toml requirements/build.in -o requirements/run.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header $(LOCK_ARGS) \
	    --extra handwriting -c requirements/run.txt pyproject.toml requirements/build.in -o requirements/handwriting.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header $(LOCK_ARGS) \
	    --extra deploy -c requirements/handwriting.txt pyproject.toml requirements/build.in -o requirements/deploy.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header $(LOCK_ARGS) \
	    --extra authority -c requirements/run.txt pyproject.toml requirements/build.in -o requirements/authority.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header $(LOCK_ARGS) \
	    --extra dev --extra handwriting --extra deploy --extra authority -c requirements/handwriting.txt \
	    -c requirements/deploy.txt -c requirements/authority.txt pyproject.toml requirements/build.in \
	    -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header $(LOCK_ARGS) \
	    requirements/peers.in -o requirements/peers.txt

# ---- run ------------------------------------------------------------------------------------------------------------

.PHONY: run
run: system-packages $(VENV)/.$(if $(PRINT_ALONE),run,handwriting)-installed ## Serve on http://127.0.0.1:$PORT with an evaluation licence until Ctrl+C
	@PORT=$(PORT) exec scripts/run-evaluation $(BIN) $(RUN_DIR) $(if $(PRINT_ALONE),Core:SecondEngine=off)

.PHONY: verifier
verifier: ## Build dist/usage-verify.pyz, the auditor's check in one file (needs Python and cryptography alone)
	@$(PYTHON) scripts/build-verifier dist/usage-verify.pyz

.PHONY: image
image: image-packages $(VENV)/.dev-installed ## Build the container image $IMAGE, with no network but for what is not in build/wheelhouse yet
	@BIN=$(BIN) RUN_DIR=$(RUN_DIR) scripts/make-image $(IMAGE) $(LOCK)

.PHONY: bundle
bundle: image ## Make dist/tollgate-VERSION-x86_64.tar for a site without a network, signed by $RELEASE_KEY; LANGUAGES="deu fra" adds models
	@BIN=$(BIN) RUN_DIR=$(RUN_DIR) $(BIN)/python scripts/make-bundle $(IMAGE) dist $(LOCK) requirements/deploy.txt

# ---- checks ---------------------------------------------------------------------------------------------------------

.PHONY: lint
lint: $(VENV)/.dev-installed ## Formatting, ruff, mypy --strict, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(VENV)/.dev-installed ## Let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: test
test: test-packages $(VENV)/.clients-installed ## All tests that need no container engine
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder tests

.PHONY: test-swaps
test-swaps: test-packages $(VENV)/.dev-installed ## The long form: 1000 licence files exchanged under load
	HOT_SWAPS=1000 $(BIN)/python -m pytest -s tests/e2e/test_hot_swap.py

.PHONY: test-faults
test-faults: test-packages $(VENV)/.dev-installed ## The long forms: kills, I/O faults at every call, power cuts, mutations; takes hours
	FAULTS=full $(BIN)/python -m pytest -s \
	    tests/integration/sidecar/test_io_faults.py \
	    tests/integration/sidecar/test_power_cuts.py \
	    tests/integration/sidecar/test_output_faults.py \
	    tests/integration/licenses/test_mutations.py \
	    tests/integration/licenses/test_bundle_mutations.py \
	    tests/integration/licenses/test_honest_histories.py \
	    tests/integration/licenses/authority/test_intake_faults.py \
	    tests/e2e/test_kills.py

.PHONY: test-hostile
test-hostile: test-packages $(VENV)/.dev-installed ## The long forms: every hostile document, and normal pages during a storm of them
	HOSTILE=full $(BIN)/python -m pytest -s tests/integration/ocr_core/test_hostile.py tests/e2e/test_storm.py

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: $(VENV)/.dev-installed ## Fuzz the document room for FUZZ_SECONDS; finds go to build/fuzz
	$(BIN)/python -m tests.fuzzing --seconds $(FUZZ_SECONDS) --out build/fuzz

.PHONY: test-geometry
test-geometry: test-packages $(VENV)/.dev-installed ## The long form: where words are told to be, in many types, sizes and angles
	GEOMETRY=full $(BIN)/python -m pytest -s tests/integration/ocr_core/test_polygons.py

.PHONY: test-fairness
test-fairness: test-packages $(VENV)/.dev-installed ## The long form: single pictures beside a book of 2,000 pages
	FAIRNESS=full $(BIN)/python -m pytest -s tests/e2e/test_fairness.py

.PHONY: test-schemas
test-schemas: test-packages $(VENV)/.dev-installed ## The long form: schemathesis over every OpenAPI document, drawn anew
	SCHEMAS=full $(BIN)/python -m pytest -s tests/e2e/test_schemas.py tests/e2e/test_authority_schemas.py

.PHONY: test-appliance
test-appliance: test-packages appliance-packages $(VENV)/.clients-installed ## Real containers and a real boot of systemd; takes minutes
	APPLIANCE=1 $(BIN)/python -m pytest -s tests/unit/test_units.py tests/appliance

.PHONY: test-deploy
test-deploy: test-packages appliance-packages $(VENV)/.clients-installed ## The long form: sidecar deploy against a real engine, docs/deploy.md
	APPLIANCE=full $(BIN)/python -m pytest -s tests/appliance/test_deploy.py tests/appliance/test_docs_deploy.py

.PHONY: bench
bench: bench-packages $(VENV)/.dev-installed $(VENV)/.peers-installed ## Speed and memory against baselines and peers measured in the same run
	$(BIN)/python -m benchmarks

.PHONY: accuracy
accuracy: system-packages $(VENV)/.dev-installed ## Error rates by kind of page against plain Tesseract, written to docs/accuracy.md
	$(BIN)/python -m benchmarks.accuracy

.PHONY: clean
clean: ## Remove what the targets made, but neither .run/ nor .venv/
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
