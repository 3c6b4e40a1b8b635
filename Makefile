# Nimbrel. A bare `make` prints this menu; the two commands of the README are `make demo` and `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo down test search-store build image generate lint cross fuzz bench-demo bench-compute bench-store bench-images bench-host torture bench-ec2 deb test-clients e2e-cloudinit clean

help: ## this menu
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## bring up a two-host cloud, launch two VMs with the aws CLI, prove what passes between them
	@scripts/demo.sh

down: ## end the cloud of `make demo` and remove everything it made
	@scripts/run.sh down

test: ## install what the tests need and run all of them, real VMs included
	@scripts/test.sh

search-store: ## the exhaustive search of the store's core, with one more late copy in each world (about 10 times the states)
	@scripts/run.sh search-store

test-clients: ## walk boto3, aws CLI, Go and JavaScript SDK, Terraform's sequences and Ansible through an instance's life
	@scripts/clients.sh $(CLIENTS)

e2e-cloudinit: ## build a Debian cloud-style image, boot it by BIOS and UEFI, look for cloud-init's traces
	@scripts/cloudinit.sh

build: ## build bin/nimbrel
	@scripts/run.sh build

image: ## build the guest image into build/image
	@scripts/run.sh image

generate: ## rebuild generated code: API codecs, BPF objects
	@scripts/run.sh generate

deb: ## build a Debian package into build/
	@scripts/run.sh deb

lint: ## go vet for every supported system, staticcheck
	@scripts/run.sh lint

cross: ## full builds for every supported system
	@scripts/run.sh cross

fuzz: ## fuzz every parser of docs/parsers.md for FUZZ_SECONDS (default 30) each
	@scripts/run.sh fuzz

bench-demo: ## boot and API figures of the demo, against plain QEMU and fsync
	@scripts/run.sh bench-demo

bench-compute: ## launches per second and conflicts of 64 concurrent launchers on fake hosts
	@scripts/run.sh bench-compute

bench-ec2: ## pages of 100,000 instances, and an account beside another's flood
	@scripts/run.sh bench-ec2

bench-store: ## the store's hot-key figures against its engine
	@scripts/run.sh bench-store

bench-images: ## what a second import of a disk stores of which 1 % changed
	@scripts/run.sh bench-images

bench-host: ## what an agent's end costs its guests: lost packets, time to take 100 guests over
	@scripts/run.sh bench-host

torture: ## mistreat a cloud of 2 real and 50 fake hosts for DURATION (default 30m), with kill -9 of everything
	@scripts/run.sh torture

clean: ## remove what builds made (never a running cloud)
	@rm -rf bin build
