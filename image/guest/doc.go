// Package guest names what the guest image promises to the outside: console markers, paths, ports, and the commands of
// its probe. The image is Nimbrel's own small Linux: Debian's cloud kernel, a static busybox and one Go program
// (image/guest/init) that is process 1, DHCP and metadata client, ssh server, network probe and sudo. The package holds
// constants only; image/pack builds the image, image/imagetest boots it in plain QEMU.
//
// # Booting
//
// The disk boots by BIOS (SeaBIOS) and UEFI (OVMF, a private copy of the variables file for each machine, 256 MiB of
// memory). Kernel and initramfs boot the same system without a disk, from memory, in half the time; 128 MiB are enough:
//
//	qemu-system-x86_64 -nodefaults -no-user-config -machine q35 -accel tcg,tb-size=32 -smp 1 -m 128 -display none \
//	  -kernel vmlinuz -initrd initrd.img -append "quiet panic=10 console=ttyS0 nimbrel.imds=off" \
//	  -chardev file,id=con,path=console -serial chardev:con \
//	  -chardev socket,id=ctl,path=control,server=on,wait=off -serial chardev:ctl \
//	  -netdev user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22 -device virtio-net-pci,netdev=net0,romfile= \
//	  -device virtio-rng-pci -qmp unix:qmp,server=on,wait=off
//
// For the disk, in place of -kernel, -initrd and -append (never together with them: bootindex=0 is then taken twice):
//
//	-drive if=none,id=root,format=qcow2,file=overlay.qcow2 -device virtio-blk-pci,drive=root,bootindex=0
//
// and for UEFI also:
//
//	-drive if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd \
//	-drive if=pflash,unit=1,format=raw,file=private-copy-of-OVMF_VARS_4M.fd -m 256
//
// Words of the kernel command line, which only a direct boot can set:
//
//	root=LABEL=x | root=/dev/x | root=ram   default: the disk labelled nimbrel-root if there is one, else memory
//	nimbrel.key=BASE64URL                   an authorized_keys line, base64 in the URL alphabet, without metadata
//	nimbrel.imds=URL | off                  default http://169.254.169.254
//	nimbrel.hostname=NAME                   overrides DHCP's and the metadata's
//	nimbrel.echo=off                        no echo services
//
// The guest boots in this order, and nothing in it waits for the network but what needs it: kernel modules; root
// partition and file system grown to the disk's size; control port, power button, DHCP on every Ethernet interface,
// echo services (TCP 7, 8080, 8081, 8082; UDP 7) and ssh (TCP 22) at once; then metadata with a session token:
// instance id, local-hostname, the launch key for ec2-user, user data. DHCP and metadata are retried for ever.
//
// # Console markers
//
// The console is the first serial port. Lines end in CR LF; a boot loader may leave escape codes before the first one.
//
//	nimbrel-guest: userspace
//	nimbrel-guest: root /dev/vda1                          or "ram"
//	nimbrel-guest: control ready                           the second serial port answers
//	nimbrel-guest: ssh ready
//	ec2: -----BEGIN SSH HOST KEY FINGERPRINTS-----         then "ec2: 256 SHA256:… root@NAME (ED25519)", and END
//	-----BEGIN SSH HOST KEY KEYS-----                      then the public host key, and END
//	nimbrel-guest: dhcp eth0 10.0.0.5/24 mtu 1500          again at each renewal
//	nimbrel-guest: instance-id i-…
//	nimbrel-guest: key SHA256:…                            the launch key is installed
//	user-data: LINE                                        each line of the script's output, also in user-data.log
//	nimbrel-guest: user-data exit 0
//	NAME login:                                            everything is done; nobody can log in here
//	nimbrel-guest: ssh login ec2-user from …
//	nimbrel-guest: poweroff | reboot                       by power button, or sudo poweroff, sudo reboot
//	nimbrel-guest: warning: WHAT: CAUSE                    something did not work; the guest goes on
//
// User data that begins with "#!" is run once per instance id, as root, by busybox's sh whatever interpreter it names.
// A line "# nimbrel: echo=off" in it closes the echo services.
//
// Logging in is possible as ec2-user (uid 1000) with the launch key or any other in ~/.ssh/authorized_keys. sudo needs no
// password. The host key is made at first boot and stays on the disk.
//
// # Probe
//
// A command is one line, and so is its answer. There are three ways in:
//
//   - the second serial port: "ping 10.0.1.5\n". One command at a time. Empty lines are ignored: send one before each
//     command, and tag the command, since firmware leaves noise on the port in both directions. Look for the tag anywhere
//     in the lines that come back.
//   - over ssh: probe ping 10.0.1.5. Exit status 0 ok, 1 fail, 2 not understood. No sudo is needed.
//   - inside the guest: the unix socket /run/nimbrel/probe.sock.
//
// Syntax: [#TAG] [probe] NAME ARGUMENT... [key=value...]. Double quotes keep blanks in a word. timeoutMs= is understood
// by every command: 1 to 600000, default 5000. The answer is, after the tag if there was one,
//
//	ok {"key":value,…}
//	fail {"error":"text","reason":"timeout|refused|unreachable|mtu|mismatch|usage|other",…}
//
// Commands (IP, SRC, DST: IPv4 addresses; count= up to 100000):
//
//	ping IP [SIZE] [df] [count=N]       ICMP echo; fails unless all are answered: sent, received, minMs, avgMs;
//	                                    df sets don't-fragment: reason mtu and the path's mtu when it is too small
//	tcp IP PORT [TIMEOUTMS] [data=TEXT] connects; with data wants it echoed: connectMs, echoMs, local
//	tcp-listen PORT                     echo server, until close
//	udp IP PORT SIZE                    one random datagram, wants it echoed: rttMs
//	udp-echo PORT                       echo server, until close
//	fragments IP PORT BYTES             the same as udp; BYTES beyond the MTU travel in fragments, both ways
//	serve-hash PORT                     server for send-hash, until close
//	send-hash IP PORT MIB [dir=send|recv|both]
//	                                    moves MIB mebibytes of random data and compares both ends' SHA-256:
//	                                    bytes, sentSha256, sendMs, receivedSha256, receiveMs; set timeoutMs
//	close tcp|udp PORT                  ends a listener, the default ones too
//	http URL [method=M] [header="K: V"] status, bytes, sha256, body (first 4 KiB), ms; ok for every status
//	imds PATH                           the same with a fresh session token, relative to the metadata service; "latest/" may
//	                                    be left out; fail unless 200
//	dns NAME|IP [server=IP]             addrs, or names
//	ntp IP                              offsetMs, stratum
//	addr [DEV], mtu [DEV], route        what the kernel has
//	lease, dhcp-renew [DEV]             what DHCP gave; renew now, by unicast
//	disk                                rootBytes, rootFreeBytes, rootType, disks{name: bytes}
//	counters                            kernel counters by name, such as "Tcp.InCsumErrors"; zeroes are left out, but not
//	                                    checksum errors, Ip.ReasmFails, Ip.FragCreates and Tcp.RetransSegs
//	sh "COMMAND"                        as root; output (last 16 KiB), exit
//	help                                all synopses
//
// Forgeries. That they were sent says nothing about what arrived: ask the receiver, or the host's counters.
//
//	spoof-ip SRC DST [count=N] [proto=udp|icmp] [dstPort=P]     packets from an address that is not ours
//	spoof-mac MAC DST [count=N] [dev=DEV]                       frames from a MAC that is not ours, to UDP port 7
//	arp-spoof IP [count=N] [dev=DEV]                            unasked ARP replies: IP is at our MAC
//	flood-dhcp-server-reply [count=N] [dev=DEV]                 broadcasts DHCP acknowledgements as a rogue server
//	raw-vxlan OUTERDST VNI INNERSRC INNERDST [gbp=N] [srcMac=M] [dstMac=M] [dstPort=P] [count=N]
//	                                                            VXLAN (UDP 4789) with a forged inner UDP packet
package guest
