#!/usr/bin/env bash
# The first run: installs what is missing, builds, brings a two-host cloud up and drives it with the aws CLI. Again: resumes.
. "$(dirname "$0")/lib.sh"

places
[ -x bin/demo ] || space 1536 # later runs fill little
find_go
real=no
if is_root && [ "$(uname -s)" = Linux ]; then
	real=yes
	need_guests
	need_image
	need "to look at networks" iproute2
	need_aws
else
	command -v aws >/dev/null || die "no aws CLI on the PATH: install it (Debian: sudo apt-get install -y awscli)"
fi

say "building"
build_nimbrel
build_binary demo ./test/demo
# build_image prints the disk's path. Package lists whose kernel is gone from the mirror are fetched anew, once.
build_image() {
	local found
	found=$(as_builder bin/nimbrel image build --out build/image --json) || {
		say "building the image again with new package lists" >&2
		apt update
		found=$(as_builder bin/nimbrel image build --out build/image --json)
	}
	sed -n 's/.*"disk": *"\([^"]*\)".*/\1/p' <<<"$found"
}

as_builder mkdir -p build/demo
if [ $real = yes ]; then
	disk=$(build_image)
else
	disk=build/demo/simulated.raw
	truncate -s 1M "$disk"
fi
bin/nimbrel dev up --image "$disk"
as_builder bin/demo # the person behind sudo uses the cloud without it
