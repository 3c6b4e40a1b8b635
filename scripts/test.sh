#!/usr/bin/env bash
# Installs what the tests need and runs all of them. As root nothing is skipped: real VMs, real kernel data path.
. "$(dirname "$0")/lib.sh"

places
space 4096
find_go
export GOFLAGS=-trimpath # as a release is built: all parts share what is compiled
if is_root && [ "$(uname -s)" = Linux ]; then
	need_guests
	need_image
	need "for the network tests" iproute2 tcpdump
	need_aws
else
	say "not root on Linux: tests of virtual machines and the kernel data path skip themselves"
fi

started=$SECONDS
part() { # part NAME COMMAND... runs one part and prints its share of the time
	local name=$1 from=$SECONDS; shift
	"$@" || die "test part $name failed"
	printf 'part %-10s %4d s\n' "$name" $((SECONDS - from))
}

# vet is one list of &&: inside a part's `||` the shell does not stop at a command that fails.
vet() {
	go vet ./... &&
	GOOS=darwin GOARCH=arm64 go vet ./... &&
	GOOS=linux GOARCH=arm64 go vet ./... &&
	formatted
}

formatted() {
	local bad; bad=$(as_builder git ls-files '*.go' | grep -v 'gen/' | xargs gofmt -l)
	[ -z "$bad" ] || die "gofmt: run gofmt -w on $(tr '\n' ' ' <<<"$bad")"
}

# The generators' input: with it in the cache, the freshness tests do not skip.
go -C tools mod download || say "the generators' input is not downloaded: freshness tests will skip"

part vet vet
part build build_nimbrel
part packages go test -count=1 -timeout 15m -p 2 ./...
part search go test -count=1 -v -timeout 15m ./store/internal/core -run '^TestSearch$' -search.whole
part mutants go run ./test/mutants
printf 'all parts passed in %d s\n' $((SECONDS - started))
