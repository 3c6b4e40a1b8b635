#!/bin/sh
# Units are neither enabled nor started: a machine may be to be a server, a host or both. A running server or agent is
# restarted into the new binary; guests do not notice.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart nimbrel-server.service nimbrel-agent.service
fi
