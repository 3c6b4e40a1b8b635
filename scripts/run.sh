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

# fuzzers prints every fuzz target of the tree, one "FOLDER NAME" a line; fuzz runs what this prints.
fuzzers() { # fuzzers [FOLDER...]
	grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' "${@:-.}" | sed -E 's|^(\./)?(.*)/[^/]*:func |./\2 |' | sort -u
}

# fuzz runs each target for FUZZ_SECONDS with FUZZ_WORKERS workers, all of them even when one fails, and names the failed.

deb() {
	find_go
	build_nimbrel
	as_builder rm -rf build/man
	as_builder mkdir -p build/man
	as_builder bin/nimbrel man build/man
	as_builder gzip -9n build/man/*.1
	as_builder go -C tools build -buildvcs=false -o "$ROOT/build/nfpm" github.com/goreleaser/nfpm/v2/cmd/nfpm
	as_builder env "VERSION=$(deb_version)" "ARCH=$(go env GOARCH)" build/nfpm package --config packaging/nfpm.yaml --packager deb --target build/
}

# deb_version is the version in the form of Debian, which begins with a digit and sorts: a tag, or the day and the commit.
deb_version() {
	local v; v=$(version); v=${v#v}
	case $v in
	[0-9]*.*) printf '%s' "$v" | tr -- - + ;;
	*) printf '0~%s+%s' "$(as_builder git log -1 --format=%cd --date=format:%Y%m%d)" "$(printf '%s' "$v" | tr -- - +)" ;;
	esac
}

fuzz() { # fuzz [FOLDER...]
	find_go
	local folder target log failed=()
	log=$(as_builder mktemp)
	while read -r folder target; do
		say "$folder $target"
		# Without its own bound Go minimizes each new input of a concurrent target for a minute, and runs nothing else.
		as_builder go test "$folder" -run '^$' -fuzzminimizetime 100x -fuzz "^$target\$" -fuzztime "${FUZZ_SECONDS:-30}s" -parallel "${FUZZ_WORKERS:-$(nproc)}" </dev/null 2>&1 | tee "$log" | tail -n 25 && continue
		# Go's fuzzer reports its own end of time as a failure now and then (go.dev/issue/75804); a finding writes an input.
		if grep -q '^ *context deadline exceeded$' "$log" && ! grep -q 'Failing input written' "$log"; then
			say "$folder $target: ended by the clock"
		else
			failed+=("$folder $target")
		fi
	done < <(fuzzers "$@")
	rm -f "$log"
	[ ${#failed[@]} = 0 ] || die "failed: ${failed[*]}"
}

bench-compute() { find_go; build_binary bench-compute ./test/benchcompute; as_builder bin/bench-compute "$@"; }
bench-images() { find_go; build_binary bench-images ./test/benchimages; as_builder bin/bench-images "$@"; }
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

# torture needs root: real hosts are part of it.
torture() {
	find_go
	is_root || die "torture needs real hosts: run it with sudo"
	need_guests
	need_image
	build_nimbrel
	build_binary torture ./test/torture
	local disk
	disk=$(as_builder bin/nimbrel image build --out build/image --json | sed -n 's/.*"disk": *"\([^"]*\)".*/\1/p')
	bin/torture -image "$disk" -duration "${DURATION:-30m}" ${SEED:+-seed "$SEED"} "$@"
}

search-store() { find_go; as_builder go test -count=1 -timeout 2h ./store/internal/core -run '^TestSearch$' -search.deep; }

bench-store() { find_go; build_binary bench-store ./test/benchstore; as_builder bin/bench-store "$@"; }

[ $# -ge 1 ] || die "usage: scripts/run.sh TARGET (see make help)"
"$@"
