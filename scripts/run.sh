#!/usr/bin/env bash
# The Makefile's smaller targets, one function each.
. "$(dirname "$0")/lib.sh"

build() { find_go; build_nimbrel; say "built bin/nimbrel $(version)"; }

image() {
	find_go
	if is_root; then need_image; fi
	build_nimbrel
	as_builder bin/nimbrel image build --out build/image
}

down() { [ -x bin/nimbrel ] || build; bin/nimbrel dev down --yes; }

generate() { find_go; as_builder go generate ./...; }

lint() {
	find_go
	local target
	for target in linux/amd64 linux/arm64 darwin/arm64; do
		say "go vet for $target"
		as_builder env GOOS="${target%/*}" GOARCH="${target#*/}" go vet ./...
	done
	say "staticcheck"
	as_builder mkdir -p build
	as_builder go -C tools build -buildvcs=false -o "$ROOT/build/staticcheck" honnef.co/go/tools/cmd/staticcheck
	as_builder build/staticcheck ./...
}

cross() {
	find_go
	local target
	as_builder mkdir -p build/cross
	for target in linux/amd64 linux/arm64 darwin/arm64; do
		say "building for $target"
		as_builder env CGO_ENABLED=0 GOOS="${target%/*}" GOARCH="${target#*/}" go build -buildvcs=false -o "build/cross/nimbrel-${target/\//-}" ./cmd/nimbrel
	done
}

fuzz() { # fuzz [FOLDER...]
	find_go
	local package target
	as_builder grep -rl --include='*_test.go' '^func Fuzz' "${@:-.}" | xargs -n1 dirname | sort -u | while read -r package; do
		grep -ho '^func Fuzz[A-Za-z0-9_]*' "$package"/*_test.go | sed 's/^func //' | while read -r target; do
			say "$package $target"
			as_builder go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZ_SECONDS:-30}s" </dev/null
		done
	done
}

bench-compute() { find_go; build_binary bench-compute ./test/benchcompute; as_builder bin/bench-compute "$@"; }
bench-ec2() { find_go; build_binary bench-ec2 ./test/benchec2; as_builder bin/bench-ec2 "$@"; }
bench-demo() { find_go; need_guests; need_image; need_aws; build_nimbrel; build_binary bench-demo ./test/benchdemo; bin/bench-demo "$@"; }
# bench-host replaces agents by agents of another version: two builds that differ in what they say they are.
bench-host() {
	find_go; need_guests; need_image; need "to look at networks" iproute2
	build_nimbrel
	local disk n
	disk=$(as_builder bin/nimbrel image build --out build/image --json | sed -n 's/.*"disk": *"\([^"]*\)".*/\1/p')
	for n in 1 2; do
		as_builder env CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=bench-$n" -o "build/bench-host/nimbrel-$n" ./cmd/nimbrel
	done
	build_binary bench-host ./test/benchhost
	bin/bench-host --binaries build/bench-host/nimbrel-1,build/bench-host/nimbrel-2 --image "$disk" "$@"
}
bench-store() { find_go; as_builder go test ./store/embed -run '^$' -bench . -benchtime 3s; }

[ $# -ge 1 ] || die "usage: scripts/run.sh TARGET (see make help)"
"$@"
