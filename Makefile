# Tidegate. `make run` and `make test` need only Go and make; the rest says what it needs.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
# Seconds since 1970 of the commit: the same commit gives the same bytes.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
LDFLAGS = -s -w -buildid= \
	-X tidegate/platform/buildinfo.version=$(VERSION) \
	-X tidegate/platform/buildinfo.commit=$(COMMIT) \
	-X tidegate/platform/buildinfo.date=$(SOURCE_DATE_EPOCH)
GOBUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
TOOL    = go tool -modfile=scripts/tools/go.mod
TARGETS = linux/arm64 linux/arm/7 linux/arm/6 linux/amd64 linux/riscv64

.PHONY: run test build cross lint bench fuzz e2e crash package sbom container image e2e-image help fleet-sim

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

run: build ## build, then run the example project on a device with a temporary data folder
	@exec bin/tidectl dev --demo-backend --try examples/meters

test: ## run the tests
	go test ./...

build: ## build both programs into bin/
	$(GOBUILD) -o bin/ ./cmd/tidegate ./cmd/tidectl

cross: ## build both programs for every target into dist/
	@set -e; for t in $(TARGETS); do \
		os=$${t%%/*}; rest=$${t#*/}; arch=$${rest%%/*}; arm=; \
		case $$rest in */*) arm=$${rest#*/};; esac; \
		out=dist/$$os-$$arch$${arm:+v$$arm}; \
		echo "$$out"; \
		GOOS=$$os GOARCH=$$arch GOARM=$$arm $(GOBUILD) -o $$out/ ./cmd/tidegate ./cmd/tidectl; \
	done

lint: ## vet, golangci-lint, govulncheck (builds the tools on first use)
	go vet ./...
	$(TOOL) golangci-lint run ./...

fuzz: ## run each fuzz target for FUZZTIME (default 30s)
	scripts/fuzz.sh $(or $(FUZZTIME),30s)

bench: ## the parts of a call, then the comparison with nginx and HAProxy (BENCH=-full: everything)
	go test -run '^$$' -bench . -benchmem -benchtime $(or $(BENCHTIME),50ms) ./appliance/wire ./appliance/gateway ./appliance/cache ./policy/route ./policy/auth ./policy/throttle ./policy/cors ./policy/schema ./policy/transform ./store/counters ./store/events
	scripts/bench/run.sh $(BENCH)

e2e: ## end-to-end runs: kill loop, real broker, real service manager where they can be had
	scripts/e2e.sh

crash: ## power cuts on a simulated disk (needs root, FUSE and loop devices)
	scripts/crash.sh

package: ## packages of all formats and processors, with SBOM and checksums, into dist/packages
	VERSION='$(VERSION)' COMMIT='$(COMMIT)' SOURCE_DATE_EPOCH='$(SOURCE_DATE_EPOCH)' scripts/package.sh $(ARCHES)

sbom: build ## what is linked into the programs (CycloneDX), into dist/
	mkdir -p dist
	for p in tidegate tidectl; do $(TOOL) cyclonedx-gomod bin -json -noserial -notimestamp -version '$(VERSION)' -output dist/$$p.cdx.json bin/$$p; done

container: ## container image for amd64, arm64 and arm/v7 into dist/container (needs buildah)
	VERSION='$(VERSION)' COMMIT='$(COMMIT)' SOURCE_DATE_EPOCH='$(SOURCE_DATE_EPOCH)' scripts/container.sh

image: ## flash image for BOARD (arm64, rpi3, armv7, armv6) into dist/image
	VERSION='$(VERSION)' COMMIT='$(COMMIT)' SOURCE_DATE_EPOCH='$(SOURCE_DATE_EPOCH)' scripts/mkimage.sh $(or $(BOARD),arm64)

e2e-image: ## boot the flash images in QEMU and use them: sticks, power cuts, updates, fallback
	scripts/image.sh

fleet-sim: ## 10,000 light devices against one Mosquitto, two collectors and a publisher: figures
	go run ./scripts/fleetsim $(FLEETSIM)
