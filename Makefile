# Every command that people type. `make` alone lists them.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first Python here that is new enough; `make install PYTHON=…` names another.
PYTHON ?= $(or $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	echo $$python && break; done),python3)

# Where to look for torch: an index URL or a folder of wheels. Empty: a wheel that pip finds on this
# machine without any index, else PyTorch's index of CPU builds, else what pip's own index has.
TORCH_INDEX ?=

BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt

.PHONY: FORCE help install demo compose-demo test proof lint proto bench images secrets clean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

install: .venv/installed-dev ## make .venv with everything pinned: to run, to test, to develop

demo: .venv/installed-local ## train CartPole on a real cluster of processes, then evaluate the policy
	@./scripts/demo.sh

compose-demo: ## the same in containers: train, fetch policy and curve, take everything down
	@./scripts/compose_demo.sh

test: .venv/installed-dev ## the test suite: 8 minutes at most
	$(BIN)/pytest -m "not slow" --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

proof: .venv/installed-dev ## every claim with its sabotage → docs/proof.md; as long as it needs, resumable
	$(BIN)/python scripts/proof.py --jobs 2 $(ARGS)

lint: .venv/installed-dev ## ruff, mypy, import rules, protocol files, generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy scripts
	$(BIN)/mypy benchmarks
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint services/*/Dockerfile
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	@tag=$$(git describe --tags --abbrev=0 2>/dev/null); \
	if [ -n "$$tag" ]; then \
		echo "buf breaking --against $$tag"; \
		$(BIN)/buf breaking --against "$$(git rev-parse --git-common-dir)#tag=$$tag"; \
	else \
		echo "no tag yet: nothing released that proto/ could break"; \
	fi
	$(BIN)/python scripts/generate_proto.py --check
	$(BIN)/python scripts/generate_docs.py --check
	$(BIN)/python scripts/generate_dashboards.py --check

proto: .venv/installed-dev ## generate code and reference pages from proto/ and the schemas
	$(BIN)/buf format --write
	$(BIN)/python scripts/generate_proto.py
	$(BIN)/python scripts/generate_docs.py
	$(BIN)/python scripts/generate_dashboards.py

bench: .venv/installed-local ## environment steps per second of a whole cluster on this machine
	@mkdir -p runs
	$(BIN)/pronk bench cluster --json runs/bench.json

secrets: .venv/installed-local ## certificates, tokens and passwords for docker-compose.secure.yml
	@$(BIN)/python scripts/make_secrets.py

images: ## build the images of the services, and print what each adds to its base
	@./scripts/images.sh

clean: ## remove .venv and caches; runs/ stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: nothing is installed again until a dependency changes. `dev` holds all of `local`.
.venv/installed-dev: .venv/torch pyproject.toml constraints.txt
	@echo "installing the dependencies of 'dev'"
	@$(BIN)/pip install -qq --editable '.[dev]'
	@touch .venv/installed-local $@

.venv/installed-local: .venv/torch pyproject.toml constraints.txt
	@echo "installing the dependencies of 'local'"
	@$(BIN)/pip install -qq --editable '.[local]'
	@touch $@

.venv/torch: .venv/torch-index constraints.txt scripts/install_torch.sh
	@./scripts/install_torch.sh $(BIN)/pip "$$(cat .venv/torch-index)"
	@touch $@

# The index that was asked for last; it changes when another one is named.
.venv/torch-index: .venv/pyvenv.cfg FORCE
	@[ -e $@ ] || : > $@
	@[ -z "$(TORCH_INDEX)" ] || [ "$$(cat $@)" = "$(TORCH_INDEX)" ] || echo "$(TORCH_INDEX)" > $@

FORCE:

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "pronk needs Python 3.11 or newer, with its venv module: make install PYTHON=python3.11" >&2; exit 1; }
	@echo "making .venv with $(PYTHON): some minutes the first time"
	@$(PYTHON) -m venv .venv
	@touch $@
