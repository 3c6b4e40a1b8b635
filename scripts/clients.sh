#!/usr/bin/env bash
# Walks every common client through the life of an instance, against a cloud of fake hosts of its own:
# scripts/clients.sh [CLIENT...]. What the clients need is installed from Debian, the Go proxy and npm at pinned versions.
. "$(dirname "$0")/lib.sh"

ALL=(boto3 awscli gosdk terraform js ansible)
WALKS=("$@")
[ $# -gt 0 ] || WALKS=("${ALL[@]}")
WORK=$ROOT/build/clients
CLOUD=(--prefix nbc --port 18803 --underlay 198.18.103.0/24)

wanted() { [[ " ${WALKS[*]} " == *" $1 "* ]]; }

install_clients() {
	if wanted boto3; then need "for boto3" python3 python3-boto3; fi
	if wanted awscli; then need "for the aws CLI" awscli; fi
	if wanted ansible; then need "for Ansible" ansible python3-boto3; fi
	if wanted js; then install_js; fi
	for name in gosdk terraform; do
		if wanted $name; then
			as_builder env CGO_ENABLED=0 go -C test/clients build -buildvcs=false -o "$ROOT/bin/client-$name" "./$name"
		fi
	done
}

# install_js installs what package-lock.json pins, once for each content of it.
install_js() {
	command -v node >/dev/null || need "for JavaScript" nodejs
	command -v npm >/dev/null || need "to install the JavaScript SDK" npm
	local stamp=build/clients/js/installed sum
	as_builder mkdir -p build/clients/js
	sum=$(sha256sum test/clients/js/package-lock.json | cut -d' ' -f1)
	as_builder cp test/clients/js/{package.json,package-lock.json,walk.mjs} build/clients/js/
	[ "$(cat $stamp 2>/dev/null)" = "$sum" ] && return
	say "installing the JavaScript SDK from npm, as package-lock.json pins it"
	as_builder npm --prefix build/clients/js ci --ignore-scripts --no-audit --no-fund --loglevel=error
	echo "$sum" | as_builder tee $stamp >/dev/null
}

begin_cloud() {
	export NIMBREL_STATE_DIR=$WORK/cloud
	end_cloud
	truncate -s 1M "$WORK/simulated.raw"
	trap end_cloud EXIT
	bin/nimbrel dev up --fake "${CLOUD[@]}" --image "$WORK/simulated.raw"
	eval "$(bin/nimbrel env)"
}

# end_cloud also removes the cloud that an interrupted run left.
end_cloud() { [ ! -d "$NIMBREL_STATE_DIR" ] || bin/nimbrel dev down --yes >/dev/null; }

# walk runs one client. A new shell, for what a client is told about its cache and its Python concerns nobody else.
walk() (
	export PYTHONDONTWRITEBYTECODE=1 PATH=/usr/bin:$PATH
	case $1 in
	boto3 | awscli) /usr/bin/python3 "test/clients/$1/walk.py" ;;
	gosdk | terraform) "bin/client-$1" ;;
	js) NODE_NO_WARNINGS=1 node build/clients/js/walk.mjs ;;
	ansible) test/clients/ansible/walk.sh "$WORK/ansible" ;;
	*) die "there is no client $1; there are ${ALL[*]}" ;;
	esac
)

# nothing_left holds that the walks took back all they made, and that the cloud's own books agree.
nothing_left() {
	local live found
	live=$(bin/nimbrel instances --json | grep -Ec '"state": *"(pending|running|stopping|stopped)"' || true)
	found=$(bin/nimbrel check --json)
	if [ "$live" = 0 ] && bin/nimbrel check >/dev/null; then
		say "check clients.nothing_left ok"
	else
		say "check clients.nothing_left FAIL $live instances live; nimbrel check says $found"
		return 1
	fi
}

places
find_go
as_builder mkdir -p "$WORK"
build_nimbrel
install_clients
export NIMBREL_STATE_DIR=$WORK/cloud
begin_cloud
failed=()
for name in "${WALKS[@]}"; do
	walk "$name" || failed+=("$name")
done
nothing_left || failed+=(nothing_left)
[ ${#failed[@]} = 0 ] || die "failed: ${failed[*]}"
