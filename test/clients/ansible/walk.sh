#!/usr/bin/env bash
# Runs the play twice and its end twice: the second run of each must change nothing. walk.sh FOLDER; FOLDER takes Ansible's files.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export ANSIBLE_HOME=$1 ANSIBLE_LOCAL_TEMP=$1/tmp ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_INVENTORY_UNPARSED_WARNING=false
export ANSIBLE_RETRY_FILES_ENABLED=false ANSIBLE_NOCOLOR=1 ANSIBLE_DEPRECATION_WARNINGS=false
mkdir -p "$1"

# play NAME FILE CHANGED [OPTION...] runs a play; CHANGED is a pattern of how many tasks may change something.
play() {
	local name=$1 file=$2 wanted=$3 log="$ANSIBLE_HOME/$1.log" got
	shift 3
	if ansible-playbook -e ansible_python_interpreter=/usr/bin/python3 "$@" "$here/$file" >"$log" 2>&1; then
		got=$(grep -Eo 'changed=[0-9]+' "$log" | tail -n1)
		if [[ $got =~ ^changed=$wanted$ ]]; then
			echo "check clients.ansible_$name ok"
			return
		fi
		echo "check clients.ansible_$name FAIL $got, want changed=$wanted:"
	else
		echo "check clients.ansible_$name FAIL:"
	fi
	grep -E '^(TASK|changed|fatal|failed|ERROR)' "$log" || tail -n 20 "$log"
	return 1
}

# run stops at the first play that fails: a list of &&, for inside `||` the shell does not stop by itself.
run() {
	play play play.yml '[1-9][0-9]*' &&
	play again play.yml 0 &&
	play end end.yml '[1-9][0-9]*' &&
	play end_again end.yml 0
}

if run; then
	echo "check clients.ansible ok"
else
	ansible-playbook -e ansible_python_interpreter=/usr/bin/python3 "$here/end.yml" >"$ANSIBLE_HOME/cleanup.log" 2>&1 || true
	echo "check clients.ansible FAIL"
	exit 1
fi
