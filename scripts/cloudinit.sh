#!/usr/bin/env bash
# Builds a Debian image as Debian's own cloud image is made, launches it on a real host by BIOS and by UEFI, and proves from
# inside that cloud-init is at home. Needs root; without KVM each boot takes minutes.
. "$(dirname "$0")/lib.sh"

is_root || die "a Debian image is built and booted as root only: run  sudo make e2e-cloudinit"
WORK=$ROOT/build/cloudinit
export NIMBREL_STATE_DIR=$WORK/cloud
CLOUD=(--prefix nbc --port 18803 --underlay 198.18.103.0/24 --hosts 1)

# end_cloud also removes the cloud that an interrupted run left.
end_cloud() { [ ! -d "$NIMBREL_STATE_DIR" ] || bin/nimbrel dev down --yes >/dev/null; }

places
need_space "$ROOT/build" 6144
find_go
need_guests
need_image
need "to build a Debian image" debootstrap debian-archive-keyring
need "for the cloud" iproute2
need_aws
build_nimbrel
build_binary cloudinit ./test/cloudinit
mkdir -p "$WORK"
disk=$(NIMBREL_IMAGE_CACHE=$WORK/cache bin/cloudinit -build -dir "$WORK" ${DEBIAN_MIRROR:+-mirror "$DEBIAN_MIRROR"})
say "Debian image: $disk"
end_cloud
trap end_cloud EXIT
bin/nimbrel dev up "${CLOUD[@]}" --image "$disk" --image-name debian
bin/cloudinit -nimbrel bin/nimbrel -dir "$WORK"
