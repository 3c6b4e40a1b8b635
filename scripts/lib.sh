# Shared by the scripts: where things are, who builds, and which Debian packages a step needs. Sourced, not run.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
GO_WANTED=1.26

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

is_root() { [ "$(id -u)" = 0 ]; }

# builder is who builds: the person behind sudo, so that caches and binaries stay theirs.
builder() { if is_root && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then echo "$SUDO_USER"; else id -un; fi; }

# as_builder runs a command as the builder with their home.
as_builder() {
	local user; user=$(builder)
	if [ "$user" = "$(id -un)" ]; then "$@"; else sudo -u "$user" -H env "PATH=$PATH" "$@"; fi
}

# find_go puts Go on the PATH. sudo resets the PATH, so the usual places are looked at too.
find_go() {
	local home dir; home=$(getent passwd "$(builder)" | cut -d: -f6)
	for dir in "$(dirname "$(command -v go 2>/dev/null || echo /nowhere/go)")" /usr/local/go/bin "$home/go/bin" "$home/sdk/go$GO_WANTED/bin" "$home/.local/go/bin" /usr/lib/go-$GO_WANTED/bin; do
		if [ -x "$dir/go" ] && go_new_enough "$dir/go"; then
			export PATH="$dir:$PATH" CGO_ENABLED=0
			return
		fi
	done
	die "no Go $GO_WANTED or newer found: install it from https://go.dev/dl/ to /usr/local/go, or put its bin folder on the PATH"
}

go_new_enough() {
	local have; have=$("$1" env GOVERSION 2>/dev/null | sed 's/^go//')
	[ "$(printf '%s\n%s\n' "$GO_WANTED" "$have" | sort -V | head -n1)" = "$GO_WANTED" ]
}

# need installs Debian packages that are missing: need WHY PACKAGE...
need() {
	local why=$1 package missing=(); shift
	command -v dpkg-query >/dev/null || die "this needs the packages ($*) $why, and only Debian's package manager is known here: install them and run again"
	for package in "$@"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
	done
	[ ${#missing[@]} = 0 ] && return
	is_root || die "missing Debian packages $why: run  sudo apt-get install -y ${missing[*]}"
	say "installing $why: ${missing[*]}"
	apt_lists
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$ROOT/build/apt.log" 2>&1 ||
		{ tail -5 "$ROOT/build/apt.log" >&2; die "apt-get could not install ${missing[*]}: see build/apt.log"; }
}

# apt_lists fetches package lists once when there are none.
apt_lists() {
	mkdir -p "$ROOT/build"
	apt-cache policy qemu-system-x86 2>/dev/null | grep -q 'Candidate: [0-9]' && return
	say "fetching Debian's package lists"
	apt-get update -qq >"$ROOT/build/apt.log" 2>&1 || { tail -5 "$ROOT/build/apt.log" >&2; die "apt-get update: see build/apt.log"; }
}

need_guests() { need "for virtual machines" qemu-system-x86 qemu-utils seabios ovmf; }
need_image() { need "to build the guest image" e2fsprogs fdisk mtools grub-common grub-pc-bin grub-efi-amd64-bin busybox-static dpkg; apt_lists; }
need_aws() { command -v aws >/dev/null || need "to drive the cloud" awscli; }

version() { git describe --tags --always --dirty 2>/dev/null || echo unknown; }

# build_binary NAME PACKAGE builds bin/NAME as the builder.
build_binary() {
	as_builder mkdir -p bin
	as_builder env CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=$(version)" -o "bin/$1" "$2"
}

build_nimbrel() { build_binary nimbrel ./cmd/nimbrel; }
