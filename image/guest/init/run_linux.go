package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/image/guest"
	"github.com/nimbrel/nimbrel/image/guest/internal/boot"
	"github.com/nimbrel/nimbrel/image/guest/internal/metadata"
	"github.com/nimbrel/nimbrel/image/guest/internal/netconf"
	"github.com/nimbrel/nimbrel/image/guest/internal/probe"
	"github.com/nimbrel/nimbrel/image/guest/internal/proc"
)

const (
	path    = "/bin:/sbin:/usr/bin:/usr/sbin"
	newRoot = "/mnt"
	// secondStage is set in the environment of the process 1 that runs from the disk.
	secondStage = "NIMBREL_ROOT"
)

// console is where people and tests look. Each message is one write, so that lines stay whole.
var console = struct {
	sync.Mutex
	*os.File
}{File: os.Stdout}

// say prints a line to the console.
func say(format string, args ...any) {
	console.Lock()
	defer console.Unlock()
	fmt.Fprintf(console.File, format+"\r\n", args...)
}

func warn(what string, err error) {
	if err != nil {
		say("%swarning: %s: %v", guest.MarkerPrefix, what, err)
	}
}

// run is process 1. In the initramfs it prepares the root and executes the disk's own copy of itself; there, or without
// a disk, it starts the services.
func run() {
	root := os.Getenv(secondStage)
	if root == "" {
		root = firstStage()
	}
	os.Clearenv()
	for key, value := range map[string]string{"PATH": path, "HOME": "/root", "TERM": "vt100"} {
		warn("environment", os.Setenv(key, value))
	}
	say("%s%s", guest.MarkerRoot, root)
	serve(readOptions())
}

// firstStage returns "ram" when there is no disk to go on from.
func firstStage() string {
	mountErr := boot.MountVirtual()
	consoleErr := boot.OpenConsole()
	say("%s", guest.MarkerUserspace)
	warn("mount", mountErr)
	warn("console", consoleErr)
	warn("modules", boot.LoadModules(guest.ModuleOrder))
	options := readOptions()
	if options.Root == "ram" {
		return "ram"
	}
	device, err := boot.FindRoot(options.Root, guest.RootLabel)
	if err != nil {
		if options.Root != "" {
			warn("root", err)
		}
		return "ram"
	}
	if err := boot.MountRoot(device, newRoot, func(err error) { warn("grow", err) }); err != nil {
		warn("root", err)
		return "ram"
	}
	warn("root", boot.SwitchRoot(newRoot, "/sbin/init", []string{"init"}, []string{secondStage + "=" + device, "PATH=" + path}))
	return "ram"
}

func readOptions() boot.Options {
	text, err := os.ReadFile("/proc/cmdline")
	warn("command line", err)
	options := boot.ParseCmdline(string(text))
	if options.IMDS == "" {
		options.IMDS = metadata.DefaultURL
	}
	return options
}

// machine is everything that runs.
type machine struct {
	options boot.Options
	network *netconf.Network
	probe   *probe.Runner
	// online is closed with the first lease.
	online     chan struct{}
	onlineOnce sync.Once
	// sshUp is closed when port 22 listens.
	sshUp chan struct{}
}

// serve starts the services and then waits for the end. No service waits for another's outside world: the control
// port answers whatever the network does.
func serve(options boot.Options) {
	go proc.Reap()
	m := &machine{options: options, network: netconf.New(), online: make(chan struct{}), sshUp: make(chan struct{})}
	m.probe = probe.New(m.network, options.IMDS)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	warn("loopback", netconf.Loopback())
	warn("directories", os.MkdirAll("/run/nimbrel", 0o755))
	m.setHostname(firstName(options.Hostname))

	stop := make(chan bool, 4) // true: restart
	m.watchEnd(stop)
	go m.serveControlPort(ctx)
	go m.serveProbeSocket(ctx)
	m.network.Bound = m.bound
	m.network.Failed = func(device string, err error) { warn("network "+device, err) }
	go func() { warn("network", m.network.Run(ctx)) }()
	if !options.EchoOff {
		warn("echo", m.probe.StartEcho(ctx, guest.EchoTCPPorts, guest.EchoUDPPort))
	}
	go m.serveSSH(ctx)
	go m.initialise(ctx)

	restart := <-stop
	marker := guest.MarkerPowerOff
	if restart {
		marker = guest.MarkerReboot
	}
	say("%s", marker)
	warn("halt", boot.Halt(restart))
	select {} // process 1 must not end
}

// watchEnd listens to what may end the machine: the power button, and the signals that busybox's poweroff, halt and
// reboot send to process 1.
func (m *machine) watchEnd(stop chan<- bool) {
	end := func(restart bool) {
		select {
		case stop <- restart:
		default: // asked often enough
		}
	}
	warn("power", boot.WatchPowerButton(func() { end(false) }))
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM, unix.SIGINT)
	go func() {
		for s := range signals {
			end(s == unix.SIGTERM || s == unix.SIGINT)
		}
	}()
}

func firstName(names ...string) string {
	for _, name := range names {
		if netconf.ValidName(name) {
			return name
		}
	}
	text, err := os.ReadFile("/etc/hostname")
	if err != nil {
		return "nimbrel"
	}
	return strings.TrimSpace(string(text))
}

func (m *machine) setHostname(name string) {
	short, _, _ := strings.Cut(name, ".")
	short = short[:min(len(short), 63)]
	warn("hostname", unix.Sethostname([]byte(short)))
	warn("hostname", os.WriteFile("/etc/hostname", []byte(short+"\n"), 0o644))
}

// bound tells of a lease and puts the parts of it into force that concern the whole machine.
func (m *machine) bound(device string, lease netconf.Lease) {
	mtu := lease.MTU
	if link, err := net.InterfaceByName(device); err == nil {
		mtu = link.MTU
	}
	say("%s%s %s mtu %d", guest.MarkerDHCP, device, lease.Addr, mtu)
	if len(lease.DNS) > 0 {
		warn("resolver", netconf.WriteResolvConf("/etc/resolv.conf", lease))
	}
	if m.options.Hostname == "" && lease.Hostname != "" {
		m.setHostname(lease.Hostname)
	}
	m.onlineOnce.Do(func() { close(m.online) })
	go setClock(lease.NTP)
}
