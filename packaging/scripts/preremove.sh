#!/bin/sh
# On removal, not on upgrade. Guests stay, and so does all state: `nimbrel agent purge` before this ends them.
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl disable --now nimbrel-agent.service nimbrel-server.service
fi
