#!/bin/sh
# Units are neither enabled nor started: a machine may be to be a server, a host or both. A running server or agent is
# restarted into the new binary; guests do not notice. An upgrade restarts the server first, a way back the agent:
# docs/runbooks/upgrade-rollback.md does the same from machine to machine.
set -e
[ "$1" = configure ] && [ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
before=$2 # empty on a first installation
if [ -n "$before" ] && dpkg --compare-versions "$before" gt "$(dpkg-query -W -f='${Version}' nimbrel)"; then
	systemctl try-restart nimbrel-agent.service
	systemctl try-restart nimbrel-server.service
else
	systemctl try-restart nimbrel-server.service
	systemctl try-restart nimbrel-agent.service
fi
