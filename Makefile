# The program itself needs only cargo. The tests and the demonstration need Go as well, which builds the real parts of
# Kubernetes that they run against; the first time that takes ten minutes, later nothing.

CARGO ?= cargo
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test unit e2e trials image bench lint crds tools

help: ## Lists these targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Tells the story on a real API server: pushed, refused, released, admitted (KEEP=1 leaves it running)
	@e2e/demo.sh

test: unit image e2e ## All tests: the next three, in this order

unit: ## Unit, property and snapshot tests
	@echo "== unit, property and snapshot tests"
	$(CARGO) test --lib --bins --test suite

image: ## The Dockerfile's final stage, built and run by buildah
	@echo "== container image"
	$(CARGO) build --bin lazaretto
	@e2e/image.sh

e2e: tools ## End-to-end tests with kube-apiserver, etcd, controller-manager, registry and helm
	@echo "== end-to-end tests"
	$(CARGO) test --test e2e

trials: tools ## Long trials: replicas killed and frozen, installations half gone, adoption (minutes)
	$(CARGO) test --test trials

bench: ## A warm admission beside an echo server on the same stack (NAME=figure runs its part alone)
	MIMALLOC_PURGE_DELAY=1000 $(CARGO) bench --locked --bench admission -- $(NAME) # As in the Dockerfile.

lint: tools ## Format, clippy, helm lint, and cargo deny if it is installed
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	"$$(e2e/tools.sh)/helm" lint --strict charts/lazaretto
	@if $(CARGO) deny --version > /dev/null 2>&1; then $(CARGO) deny check; else echo "cargo deny is not installed: skipped"; fi

crds: ## Writes crds/ anew from the types
	$(CARGO) run --quiet --bin lazaretto -- crds --directory crds --directory charts/lazaretto/files/crds

tools: ## Builds the tools of the tests, unless they are there
	@e2e/tools.sh > /dev/null
