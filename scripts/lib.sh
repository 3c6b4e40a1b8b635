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

# places makes the folders that builds write to, as the builder. What root once made there stops later builds.
places() {
	local user place; user=$(builder)
	[ -z "${TMPDIR:-}" ] || [ -w "$TMPDIR" ] || die "TMPDIR is $TMPDIR, which is no folder that can be written to: unset TMPDIR, or make the folder"
	for place in bin build; do
		as_builder mkdir -p "$ROOT/$place" && as_builder test -w "$ROOT/$place" ||
			die "$user cannot write to $ROOT/$place: run  sudo chown -R $user '$ROOT'"
	done
}

# need_space FOLDER MIB stops early where a full disk would stop later with less to say.
need_space() {
	local folder=$1 want=$2 have
	while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
	have=$(df -Pm "$folder" | awk 'NR == 2 {print $4}')
	[ "$have" -ge "$want" ] || die "only $have MiB are free for $1, and this needs about $want: free some on that disk ($folder)"
}

# space MIB checks the disks that a first run fills: Go's caches with MIB, the guest image, the cloud's state.
space() {
	local home; home=$(home_of_builder)
	need_space "$home/.cache" "$1"
	need_space "$ROOT/build" 1024
	if is_root; then need_space /var/lib/nimbrel 2048; fi
}

home_of_builder() { if command -v getent >/dev/null; then getent passwd "$(builder)" | cut -d: -f6; else echo "${HOME:-/}"; fi; }

# find_go puts Go on the PATH. sudo resets the PATH, so the usual places and the builder's login shell are looked at too.
find_go() {
	local home dir found have seen=; home=$(home_of_builder)
	found=$(command -v go || true)
	for dir in "${found%/go}" /usr/local/go/bin "$home/go/bin" "$home/sdk/go$GO_WANTED/bin" "$home/.local/go/bin" /usr/lib/go-$GO_WANTED/bin /snap/bin "$(login_go)"; do
		[ -n "$dir" ] && [ -x "$dir/go" ] || continue
		have=$(as_builder "$dir/go" env GOVERSION 2>/dev/null | sed 's/^go//') || true
		if go_new_enough "$have"; then
			export PATH="$dir:$PATH" CGO_ENABLED=0
			return
		fi
		seen="$seen, $dir/go is ${have:-broken}"
	done
	die "no Go $GO_WANTED or newer found${seen/,/:}. Install it from https://go.dev/dl/ to /usr/local/go, or put its bin folder on the PATH of $(builder)"
}

# login_go is the folder of the go that the person behind sudo has in a login shell.
login_go() {
	local go; [ "$(builder)" != "$(id -un)" ] || return 0
	go=$(sudo -u "$(builder)" -i sh -c 'command -v go' </dev/null 2>/dev/null | tail -n1) || true
	echo "${go%/go}"
}

go_new_enough() { [ -n "$1" ] && [ "$(printf '%s\n%s\n' "$GO_WANTED" "$1" | sort -V | head -n1)" = "$GO_WANTED" ]; }

# need installs Debian packages that are missing: need WHY PACKAGE...
need() {
	local why=$1 package missing=(); shift
	command -v dpkg-query >/dev/null || die "this needs the packages ($*) $why, and only Debian's package manager is known here: install them and run again"
	for package in "$@"; do
		[[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == *'ok installed' ]] || missing+=("$package")
	done
	[ ${#missing[@]} = 0 ] && return
	is_root || die "missing Debian packages $why: run  sudo apt-get install -y ${missing[*]}"
	say "installing $why: ${missing[*]}"
	apt_lists
	apt install -y --no-install-recommends "${missing[@]}" || mend_apt "${missing[@]}" ||
		{ tail -5 build/apt.log >&2; die "apt-get could not install ${missing[*]}: see build/apt.log"; }
}

# apt runs apt-get without questions into build/apt.log, and waits when another program, as on a new machine, holds its lock.
apt() {
	as_builder touch build/apt.log
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq "$@" </dev/null >>build/apt.log 2>&1
}

# mend_apt tries again after what usually stops an installation: an earlier one that was interrupted, and lists so old that
# the versions in them are gone.
mend_apt() {
	say "installing again with new package lists"
	DEBIAN_FRONTEND=noninteractive dpkg --configure -a </dev/null >>build/apt.log 2>&1 || true
	apt install -y -f || true
	apt update && apt install -y --no-install-recommends "$@"
}

# apt_lists fetches package lists once when there are none.
apt_lists() {
	[[ $(apt-cache policy qemu-system-x86 2>/dev/null) != *'Candidate: '[0-9]* ]] || return 0
	say "fetching Debian's package lists"
	apt update || { tail -5 build/apt.log >&2; die "apt-get update failed: is the network there? See build/apt.log"; }
}

need_guests() { need "for virtual machines" qemu-system-x86 qemu-utils seabios ovmf; }
need_image() { need "to build the guest image" e2fsprogs fdisk mtools grub-common grub-pc-bin grub-efi-amd64-bin busybox-static dpkg; apt_lists; }
need_aws() { command -v aws >/dev/null || need "to drive the cloud" awscli; }

# version is asked as the builder: git distrusts a folder of another user, and root would leave an index of its own.
version() { as_builder git describe --tags --always --dirty 2>/dev/null || echo unknown; }

# build_binary NAME PACKAGE builds bin/NAME as the builder.
build_binary() {
	places
	as_builder env CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=$(version)" -o "bin/$1" "$2"
}

build_nimbrel() { build_binary nimbrel ./cmd/nimbrel; }
