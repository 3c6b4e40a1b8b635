# Nimbrel. A bare `make` prints this menu; the two commands of the README are `make demo` and `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo down test build image generate lint cross fuzz bench-demo bench-compute bench-ec2 bench-store bench-host clean

help: ## this menu
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## bring up a two-host cloud, launch two VMs with the aws CLI, prove what passes between them
	@scripts/demo.sh

down: ## end the cloud of `make demo` and remove everything it made
	@scripts/run.sh down

test: ## install what the tests need and run all of them, real VMs included
	@scripts/test.sh

build: ## build bin/nimbrel
	@scripts/run.sh build

image: ## build the guest image into build/image
	@scripts/run.sh image

generate: ## rebuild generated code: API codecs, BPF objects
	@scripts/run.sh generate

lint: ## go vet for every supported system, staticcheck
	@scripts/run.sh lint

cross: ## full builds for every supported system
	@scripts/run.sh cross

fuzz: ## fuzz every parser for FUZZ_SECONDS (default 30) each
	@scripts/run.sh fuzz

bench-demo: ## boot and API figures of the demo, against plain QEMU and fsync
	@scripts/run.sh bench-demo

bench-compute: ## launches per second and conflicts of 64 concurrent launchers on fake hosts
	@scripts/run.sh bench-compute

bench-ec2: ## pages of 100,000 instances, and an account beside another's flood
	@scripts/run.sh bench-ec2

bench-store: ## the store's hot-key figures against its engine
	@scripts/run.sh bench-store

bench-host: ## what an agent's end costs its guests: lost packets, time to take 100 guests over
	@scripts/run.sh bench-host

clean: ## remove what builds made (never a running cloud)
	@rm -rf bin build
