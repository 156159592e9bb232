# writ: `make` lists what there is. Needs Go and a C compiler (for the race detector); the tests start their own servers.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# `go test ./...` from a workspace's root does not reach its modules, so everything loops over them.
MODULES  := $(shell go list -m -f '{{.Dir}}')
PACKAGES := $(addsuffix /...,$(MODULES))
BINARIES := ./cmd/writ ./services/api/cmd/api ./services/worker/cmd/worker ./services/auditor/cmd/auditor

# staticcheck and not golangci-lint: besides gofmt and go vet, which are run here by themselves, staticcheck is what
# golangci-lint would be switched on for, and it is built by the module proxy in seconds instead of minutes. Which of
# its checks are off, and why, is written in staticcheck.conf.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The tests of whole systems, and those of them that measure time or fill the machine.
SYSTEMS := $(patsubst %/,%,$(wildcard $(CURDIR)/test/*/))
ALONE   := $(addprefix $(CURDIR)/test/,attacks bench chaos)

# The PDP's binary also compiles and tests policies.
CERBOS := $(or $(WRIT_CERBOS_BIN),$(shell command -v cerbos),$(wildcard .tools/bin/cerbos))

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## build and run everything in one process: writ dev (ARGS="--data DIR …")
	@exec ./bin/writ dev $(ARGS)

.PHONY: build
build: ## build bin/writ and the three services
	@mkdir -p bin
	go build -o bin/ $(BINARIES)

.PHONY: test
test: build ## run every test with the race detector; WRIT_TEST_REQUIRE=all fails where a server is missing
	@if [ -n "$(CERBOS)" ] || [ "$${WRIT_TEST_REQUIRE:-}" = all ]; then $(MAKE) --no-print-directory policy-test; \
	else echo "policy-test: skipped, needs the Cerbos binary (WRIT_CERBOS_BIN)"; fi
	@status=0; parallel=$$(nproc 2>/dev/null || echo 2); \
	go test -race -count=1 -timeout=12m -p $$parallel $(filter-out $(CURDIR)/test/...,$(PACKAGES)) || status=1; \
	echo "== whole systems"; export WRIT_BIN_DIR=$(CURDIR)/bin; \
	go test -race -count=1 -timeout=12m -p $$parallel $(filter-out $(ALONE),$(SYSTEMS)) || status=1; \
	echo "== whole systems that go by the clock, one at a time"; \
	go test -race -count=1 -timeout=12m -p 1 $(ALONE) || status=1; \
	exit $$status

.PHONY: policy-test
policy-test: ## compile the policies and run their tests
	@if [ -z "$(CERBOS)" ]; then echo "policy-test needs the Cerbos binary: put cerbos on PATH or set WRIT_CERBOS_BIN" >&2; exit 1; fi
	CERBOS_NO_TELEMETRY=1 "$(CERBOS)" compile policies

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l $(MODULES)); if [ -n "$$unformatted" ]; then echo "gofmt:" >&2; echo "$$unformatted" >&2; exit 1; fi
	go vet $(PACKAGES)
	go run $(STATICCHECK) $(PACKAGES)

.PHONY: fmt
fmt: ## format the Go files
	gofmt -w $(MODULES)

.PHONY: bench
bench: build ## drive a local stack and print one table (ARGS for the driver)
	WRIT_BIN_DIR=$(CURDIR)/bin go run ./test/bench $(ARGS)

.PHONY: chaos
chaos: build ## break things at full length: kill -9 under load
	cd test && WRIT_BIN_DIR=$(CURDIR)/bin WRIT_CHAOS=full go test -count=1 -timeout=60m -v ./chaos/...

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (30s)
	@for module in $(MODULES); do \
		{ grep -rl --include='*_test.go' '^func Fuzz' $$module || true; } | xargs -r -n1 dirname | sort -u | while read -r dir; do \
			for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | awk '{print $$2}' | sort -u); do \
				echo "== $${dir#$(CURDIR)/} $$target"; \
				(cd $$dir && go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s .); \
			done; \
		done; \
	done

.PHONY: hooks
hooks: ## install the git pre-commit hook: lint of what changed
	@hook=$$(git rev-parse --git-path hooks)/pre-commit; \
	if [ -e "$$hook" ] && ! cmp -s "$$hook" hooks/pre-commit && ! grep -q 'writ pre-commit' "$$hook"; then \
		echo "$$hook exists and is not writ's: merge hooks/pre-commit by hand" >&2; exit 1; fi; \
	mkdir -p "$$(dirname "$$hook")" && install -m 755 hooks/pre-commit "$$hook" && echo "installed $$hook"

.PHONY: staticcheck
staticcheck: # used by the hook: make staticcheck PACKAGES="./pkg/events …"
	@go run $(STATICCHECK) $(PACKAGES)

.PHONY: tidy
tidy: ## go mod tidy in each module, as it stands outside the workspace
	@for module in $(MODULES); do echo "== $${module#$(CURDIR)/}"; (cd $$module && GOWORK=off go mod tidy); done
	go work sync

.PHONY: clean
clean: ## remove what was built (never .writ, the local stack's data)
	rm -rf bin
	find . -name '*.test' -type f -delete
