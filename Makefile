# Thin targets; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-all test-npu mutate-npu environments test-floors chaos soak hostile images-test simulation bench-peers compare-drafts bench-doors demo-model demo-model-scores release-protos kernels protos clean

export VENV ?= .venv
BIN := $(VENV)/bin

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make the virtual environment
	@tools/setup.sh

demo: setup ## Start the whole system with the demo model and ask about a few images
	@$(BIN)/glm4v demo

RELEASED := protos/released.binpb

check: setup ## Formatting, lint, types, import rules, declared dependencies, contract, stubs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry glm4v gateway vision_worker lm_worker offline bench precision recipes/demo_model
	$(BIN)/deptry tools tests --ignore DEP002,DEP004
	$(BIN)/buf lint
	$(BIN)/buf breaking --against $(RELEASED)
	tools/check-stubs.sh
	$(BIN)/python -m tools.words

# The slowest files come first in the alphabet, and so run beside all others.
TESTS = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20

test: setup chart-tools ## The tests that this machine can run; the others say what they need
	$(TESTS)

chart-tools: setup ## Fetch Helm 3 and 4 for the tests of the chart; without them these are skipped
	@$(BIN)/python tools/kubernetes.py || echo "Helm cannot be fetched: tests of the chart are skipped" >&2

chart: setup ## Write the settings into the chart's schema, and its values into its README
	@$(BIN)/python -m tools.chart

ARGS ?=

test-all: setup ## All tests (or ARGS), after installing what they need; only what cannot be installed may be missing
	@tools/test-needs.sh
	$(TESTS) --no-skips $(ARGS)

test-npu: ## Run the NPU code as both chips on a pretend device, in an environment of its own
	@tools/test-npu.sh

SEED ?= 1
MUTANTS ?=

mutate-npu: ## Change the NPU code in small ways and count what its tests notice; half an hour (SEED, MUTANTS=200 a chip)
	@tools/mutate-npu.sh Ascend910B3 --seed $(SEED) $(if $(MUTANTS),--sample $(MUTANTS))
	@tools/mutate-npu.sh Ascend310P3 --seed $(SEED) $(if $(MUTANTS),--sample $(MUTANTS))
	@.venv-npu/bin/python -m tools.mutation.report --seed $(SEED) .mutation/Ascend910B3 .mutation/Ascend310P3

environments: setup ## Make the environments of test-npu and test-floors, and run nothing in them
	@tools/test-npu.sh --prepare
	@tools/test-floors.sh --prepare

test-floors: setup ## Unit, parity and integration tests (or ARGS) with the oldest versions that pyproject.toml allows
	@tools/test-floors.sh $(ARGS)

SECONDS ?= 60
CLIENTS ?= 32
ERASE ?=
TWO_MODELS ?=

chaos: setup ## Break every process while clients use the system (SECONDS, SEED, CLIENTS, ERASE=1, TWO_MODELS=1)
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED) --clients $(CLIENTS) $(if $(ERASE),--erase) $(if $(TWO_MODELS),--two-models)

REPORT ?= docs/benchmarks/soak

soak: setup ## Hours of load with faults, and what each process holds (SECONDS=7200 CLIENTS=8 SEED REPORT)
	@$(BIN)/python -m tests.soak --seconds $(SECONDS) --seed $(SEED) --clients $(CLIENTS) --report $(REPORT)

VALUES ?=

test-cluster: chart-tools ## Try the chart on the cluster of KUBECONFIG (VALUES=FILE with your images): kill, roll, scale
	@$(BIN)/python -m tests.cluster $(foreach file,$(VALUES),--values $(file))

BASE ?= docker.io/library/python:3.12-slim-bookworm
OPTIONS ?=

images-test: setup ## Build the images (BASE, OPTIONS for buildah) and run them until the demo model answers; as root
	@{ command -v buildah && command -v bwrap; } >/dev/null || tools/apt-install.sh "images are built and run" buildah bubblewrap
	@$(BIN)/python -m tests.images --base $(BASE) --options "$(OPTIONS)"

ATTACKS ?=

hostile: setup ## Attack a system on this machine with an honest client beside (ATTACKS="'no message' resets"), two minutes
	@$(BIN)/python -m tests.hostile $(ATTACKS)

SCHEDULES ?= 10000

simulation: setup ## Run the queue's protocol under seeded schedules of crashes and lost replies (SCHEDULES), five minutes
	SCHEDULES=$(SCHEDULES) $(BIN)/python -m pytest tests/simulation

SERVER ?= 127.0.0.1:8330
PEERS ?=

NAME ?= peers
COMPARE = $(BIN)/glm4v bench peers --server $(SERVER) $(foreach peer,$(PEERS),--peer $(peer)) --report docs/benchmarks/$(NAME)
IMAGE = --image 448 --tokens 64

bench-peers: setup ## Compare with running servers (SERVER=HOST:PORT PEERS="NAME=URL ..." NAME=peers): tables and plots in docs/benchmarks
	$(COMPARE)-text
	$(COMPARE)-new-images $(IMAGE) --concurrency 10
	$(COMPARE)-same-image $(IMAGE) --same-image --concurrency 1 --concurrency 10

compare-drafts: setup ## The tokens of 1000 sequences with drafts and without, by 1, 2 and 4 ranks
	DRAFTED_SEQUENCES=1000 $(BIN)/python -m pytest -q tests/parity/test_drafts.py

bench-doors: setup ## What a gateway spends on a token, for 500 streams over gRPC, KServe and HTTP; three minutes
	$(BIN)/glm4v bench doors

demo-model: setup ## Train the demo model from nothing (RUN=DIR, STEPS=N); hours on two cores
	@recipes/demo_model/make.sh

COUNT ?= 100

demo-model-scores: setup ## Score the demo model on images it was never trained on (COUNT of each skill)
	@$(BIN)/python -m recipes.demo_model.sources
	@$(BIN)/python -m recipes.demo_model.evaluate --count $(COUNT)
	@$(BIN)/python -m recipes.demo_model.agreement --count $(COUNT)

release-protos: setup ## Record the contract as released: `make check` then refuses changes that break clients or journals
	$(BIN)/buf build --exclude-source-info -o $(RELEASED)

kernels: setup ## Compile the CPU's kernels ahead, for a wheel or an image (CXX chooses the machine)
	$(BIN)/python -m glm4v.device.cpu.kernels.prebuild

protos: setup ## Generate the stubs again
	tools/protos.sh

clean: ## Remove what the other targets made
	rm -rf $(VENV) .venv-floors .venv-npu .mutation .venv-text-generation .kubernetes build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
