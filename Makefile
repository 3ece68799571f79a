# Modelyard. Bare `make` lists the commands.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
IMAGE   := .modelyard/contracts.binpb

# Settings of `make run`: make run PORT=9090 WORKERS=2
PORT    ?= 8080
WORKERS ?= 1
ACCESS  ?= off
TLS     ?= off
# Processes that run tests. Three keep two cores busy; more cost more processor time and are hardly faster.
TESTERS ?= 3
# Without bytecode on disk every process that the tests start compiles this project's modules again: half of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test quick demo lint types imports stubs unit load-generator protos lock format buf tools bench bench-compare capacity bench-hosts bench-registry bench-cache bench-assets bench-instrumentation bench-seen bench-interceptors bench-peers docs drill drill-assets drill-abuse drill-deploy drill-rolling drill-upgrade drill-tls check-coherence mutants check-access check-access-properties bench-access check-monitoring deploy-check image compose monitoring plans check-properties check-wheel clean bench-doors doors

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-21s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY) ## Start the whole suite on loopback (PORT=8080 WORKERS=1 ACCESS=off TLS=off)
	@exec $(BIN)/python -m embedded run --port $(PORT) --workers $(WORKERS) --access $(ACCESS) --tls $(TLS)

test: $(READY) lint types imports stubs buf docs unit ## Run everything that CI runs, against real servers

demo: $(READY) ## Run the main workflow on real data, every step verified, in under a minute
	@exec $(BIN)/python -m examples.demo

lint: $(READY) ## Style, format, and the terms of docs/glossary.md
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "files are not formatted: run \`make format\`"; exit 1; }
	@$(BIN)/python tools/check_language.py

types: $(READY)
	@$(BIN)/mypy

imports: $(READY) ## Check the import boundaries between the layers (pyproject.toml)
	@$(BIN)/lint-imports --no-cache 2>&1 | tail -n 25; exit $${PIPESTATUS[0]}

stubs: $(READY)
	@$(BIN)/python -m protos.generate --check
	@$(BIN)/python -m gateway.openapi --check

buf: $(READY)
	@mkdir -p $(dir $(IMAGE)) && $(BIN)/python -m protos.generate --image $(IMAGE)
	@$(BIN)/buf lint $(IMAGE) --path modelyard
	@$(BIN)/buf breaking $(IMAGE) --against protos/released.binpb --path modelyard

# Building ghz takes longer than many tests; without it, and without Go to build it, those that need it are skipped.
load-generator: $(READY)
	-@$(BIN)/python -m bench.tools

# A worker process that dies fails the run (conftest.py) and is not replaced: pytest-xdist may then wait for ever.
unit: $(READY) load-generator ## Run the tests only: make unit ARGS="services/cache -k near"
	@$(BIN)/pytest --quiet -n $(TESTERS) --no-loadscope-reorder --max-worker-restart=0 $(ARGS)

quick: $(READY) lint types imports ## Lint, types, import boundaries, and the tests affected by your changes since the main branch
	@$(BIN)/python -m tests.affected

protos: $(READY) ## Generate the stubs under modelyard/ and gateway/page/openapi.json from protos/
	@$(BIN)/python -m protos.generate
	@$(BIN)/python -m gateway.openapi

docs: $(READY) ## Build the documentation site into .modelyard/site; warnings and broken links fail
	@$(BIN)/python -m docs.site

format: $(READY) ## Format, and fix what the linter can
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

lock: ## Update the hash-locked dependencies from requirements/*.in
	@$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install --quiet uv
	@compile="$(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header"; \
	  $$compile --upgrade requirements/dev.in -o requirements/dev.txt || exit 1; \
	  for set in client services otlp gateway image; do rm -f requirements/$$set.txt; \
	    $$compile --constraint requirements/dev.txt requirements/$$set.in -o requirements/$$set.txt || exit 1; done; \
	  $$compile --upgrade requirements/stubs.in -o requirements/stubs.txt || exit 1; \
	  $$compile --upgrade requirements/docs.in -o requirements/docs.txt; \
	  for set in hub0 hub1 hub2; do $$compile --upgrade requirements/$$set.in -o requirements/$$set.txt || exit 1; done
	@rm -rf $(VENV)/lock

tools: $(READY) ## Provide ghz, the load generator
	@$(BIN)/python -m bench.tools

bench: $(READY) tools ## Load test with a verdict: PROFILE=smoke|load|stress|spike|soak SCENARIO=… SCALE=0.1 MODELS=… MODE=open TARGET=…
	@$(BIN)/python -m bench.run

bench-compare: $(READY) ## Compare two runs, with a confidence interval: A=bench/out/… B=bench/out/…
	@$(BIN)/python -m bench.run.compare

capacity: $(READY) ## Estimate pods and machines from measured numbers: make capacity ARGS="--models 2e6 --calls 5000" (docs/capacity.md)
	@$(BIN)/python -m bench.capacity $(ARGS)

bench-hosts: $(READY) tools ## Compare the Envoy host and the grpcio host (GetModel)
	@$(BIN)/python -m bench.hosts

bench-registry: $(READY) tools ## Measure the registry's calls at a given size, uncached (SCALE=10000,1000000 ROUNDS=3 SECONDS=4 PEERS=1)
	@$(BIN)/python -m bench.registry

bench-cache: $(READY) ## Measure the cache against baselines: hits, hit rate, stampede, memory (PARTS=compare,hit-rate,…)
	@$(BIN)/python -m bench.cache

bench-assets: $(READY) tools ## Compare transfers through the gateway with boto3 on the same S3 (PARTS=upload,… LARGEST=1073741824 ROUNDS=3)
	@$(BIN)/python -m bench.assets

bench-instrumentation: $(READY) tools ## Measure the overhead of instrumentation on an empty call (ROUNDS=15 SECONDS=1.5)
	@$(BIN)/python -m bench.instrumentation

bench-seen: $(READY) tools ## Compare client-side latency with the server's histogram, 256 calls in flight, both hosts (ROUNDS=5 SECONDS=4)
	@$(BIN)/python -m bench.seen

bench-interceptors: $(READY) ## Measure the CPU time of a call in Python: host, interceptors, token (ROUNDS=7 CALLS=20000)
	@$(BIN)/python -m bench.inproc

bench-access: $(READY) tools ## Measure access by namespace: a cached get, a decision, and how soon a revocation holds (ROUNDS=5 SECONDS=2)
	@$(BIN)/python -m bench.access

bench-peers: $(READY) tools ## Compare with MLflow, with a baseline, and host with host (PARTS=mlflow,hosts,cache,assets MODELS=10000)
	@$(BIN)/python -m bench.peers

bench-doors: $(READY) tools ## Measure the doors with real clients beside boto3, gRPC and MLflow (PARTS=download,many,head,mlflow,servers)
	@$(BIN)/python -m bench.doors

drill: $(READY) ## Kill the service and PostgreSQL during 10,000 writes by 64 writers (WRITES=10000)
	@MODELYARD_DRILL_WRITES=$(or $(WRITES),10000) $(BIN)/pytest --quiet services/registry/tests/test_drill.py

drill-tls: $(READY) ## Renew every certificate under load: no call fails (RENEWALS=20)
	@MODELYARD_DRILL_RENEWALS=$(or $(RENEWALS),20) $(BIN)/pytest --quiet -s tests/end_to_end/test_tls.py -k renewed

drill-assets: $(READY) ## Upload and download a sparse file of 5 GiB: memory, digest (MIB=5120)
	@MODELYARD_DRILL_ASSET_MIB=$(or $(MIB),5120) $(BIN)/pytest --quiet services/cdn/tests/drills/test_large.py
	@MODELYARD_DRILL_ASSET_MIB=200 $(BIN)/pytest --quiet gateway/tests/test_assets_outage.py

drill-rolling: $(READY) ## Zero-downtime rolling updates of two instances of everything under load (SECONDS=120 RATE=200)
	@MODELYARD_DRILL_ROLLING_SECONDS=$(or $(SECONDS),120) MODELYARD_DRILL_ROLLING_RATE=$(or $(RATE),200) \
	  $(BIN)/pytest --quiet --capture=no tests/drills/rolling/drill_rolling.py

drill-upgrade: $(READY) ## Upgrade from each earlier release and roll back, under load (RELEASES=99 RATE=40)
	@MODELYARD_DRILL_UPGRADE_RELEASES=$(or $(RELEASES),99) MODELYARD_DRILL_UPGRADE_RATE=$(or $(RATE),40) \
	  $(BIN)/pytest --quiet --capture=no tests/drills/upgrade

drill-deploy: $(READY) ## Run the overlays' pods without containers: demo, rolling updates under load, backup and restore (SECONDS=120 RATE=100)
	@MODELYARD_DRILL_DEPLOY_SECONDS=$(or $(SECONDS),120) MODELYARD_DRILL_DEPLOY_RATE=$(or $(RATE),100) \
	  $(BIN)/pytest --quiet --capture=no deploy/tests/outside

drill-abuse: $(READY) ## Measure how attacks on the gateway slow down other clients (SECONDS=5 ROUNDS=3)
	@$(BIN)/python -m bench.abuse

doors: $(READY) ## Run the unmodified clients of other registries against the suite: a table of flows (GENERATIONS=hub2 ACCESS=on)
	@$(BIN)/python -m tests.doors

check-coherence: $(READY) ## Check every cached response under writes and faults of every kind (MINUTES=10 SEED=… SCHEDULES=1000)
	@MODELYARD_CHECK_SECONDS=$$(( $(or $(MINUTES),10) * 60 )) MODELYARD_CHECK_SEED=$(SEED) MODELYARD_TEST_SEED=$(SEED) \
	  MODELYARD_TEST_SCHEDULES=$(or $(SCHEDULES),1000) $(BIN)/pytest --quiet services/cache/tests/test_schedules.py tests/drills/coherence/test_coherence.py

mutants: $(READY) ## Mutation tests: break the code in more than fifty ways; a test has to fail for each (ONLY=valid-ignores-tags,an-alias-*)
	@$(BIN)/python -m bench.mutants --only "$(ONLY)"

check-access: $(READY) ## Call every RPC with missing, expired, foreign, invalid and valid tokens, at the gateway and at the services
	@$(BIN)/pytest --quiet tests/end_to_end/access gateway/tests/test_access.py services/chassis/tests/test_access.py

check-access-properties: $(READY) ## Check reads against a model of policies under random changes and faults (SECONDS=600 SEED=…)
	@MODELYARD_CHECK_ACCESS_SECONDS=$(or $(SECONDS),600) MODELYARD_CHECK_SEED=$(SEED) MODELYARD_CHECK_EXAMPLE_SHARE=5 \
	  $(BIN)/pytest --quiet --capture=no --timeout 7200 tests/drills/access

deploy-check: $(READY) ## Check overlays, image and Terraform: builds, schemas of three Kubernetes versions, policies (part of `make test`)
	@$(BIN)/python -m deploy.checks
	@$(BIN)/pytest --quiet deploy/tests tests/end_to_end/test_deploy.py

image: ## Build the image, on a base image pinned by digest (TAG=modelyard:0.1.0 BASE=… DOCKER="docker buildx")
	@bash deploy/image.sh

compose: $(READY) ## Run the whole suite in containers, with Prometheus and Grafana (deploy/compose.yaml); needs a container engine
	@$(BIN)/python -m deploy.secrets deploy/secrets
	@MODELYARD_USER=$$(id -u):$$(id -g) bash -c 'bash deploy/image.sh && exec $${DOCKER:-docker} compose --file deploy/compose.yaml up'

check-monitoring: $(READY) ## Check the rules, their tests, and every panel's query (needs Debian's package prometheus)
	@$(BIN)/pytest --quiet deploy/monitoring

monitoring: $(READY) ## Generate the rules of the objectives and the dashboards in deploy/monitoring/
	@$(BIN)/python -m deploy.monitoring

plans: $(READY) ## Check with a million models that every statement uses an index (SCALE=1000000)
	@MODELYARD_PLANS_SCALE=$(or $(SCALE),1000000) $(BIN)/pytest --quiet --timeout 3600 services/registry/tests/test_plans.py services/registry/tests/test_vocabulary_plans.py

check-properties: $(READY) ## Run the property tests with all their examples and seeds (`make test` runs a part)
	@MODELYARD_CHECK_EXAMPLE_SHARE=1 MODELYARD_CHECK_SEEDS=3 MODELYARD_TEST_INTERLEAVINGS=80 MODELYARD_CONTENTION_SECONDS=3 \
	  $(BIN)/pytest --quiet --timeout 900 \
	  services/registry/tests/test_properties.py services/registry/tests/test_random_requests.py services/registry/tests/test_pins.py \
	  services/registry/tests/test_cards.py services/registry/tests/test_group_commit.py services/cdn/tests/test_interleavings.py \
	  services/cdn/tests/test_formats.py services/cdn/tests/test_safetensors.py services/cdn/tests/test_random_streams.py \
	  services/cdn/tests/test_contention.py services/registry/tests/test_contention.py

check-wheel: $(READY) ## Install the wheel with its newest and its oldest dependencies, and with protobuf < 7
	@MODELYARD_CHECK_WHEEL=1 $(BIN)/pytest --quiet --timeout 600 tests/client/test_wheel.py

clean: ## Remove the virtual environment and caches; keep the data in .modelyard/
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

# The virtual environment is recreated when the lock changes.
$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Modelyard needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	@echo "Installing the locked dependencies into $(VENV) (once; under a minute) …"
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot create a virtual environment. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
