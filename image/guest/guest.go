package guest

// Console markers, each at the start of a line unless a boot loader left escape codes before it. Match them anywhere.
const (
	MarkerPrefix = "nimbrel-guest: "
	// MarkerUserspace is the first line of process 1.
	MarkerUserspace = MarkerPrefix + "userspace"
	// MarkerRoot is followed by where the root lies: a device, or "ram".
	MarkerRoot = MarkerPrefix + "root "
	// MarkerDHCP is followed by "eth0 10.0.0.5/24 mtu 1500".
	MarkerDHCP = MarkerPrefix + "dhcp "
	// MarkerInstanceID is followed by the id from the metadata service.
	MarkerInstanceID = MarkerPrefix + "instance-id "
	// MarkerSSHReady says that port 22 listens. The launch key may still be on its way.
	MarkerSSHReady = MarkerPrefix + "ssh ready"
	// MarkerKey says that the launch key is installed; it is followed by the key's fingerprint.
	MarkerKey = MarkerPrefix + "key "
	// MarkerControl says that the control port answers.
	MarkerControl = MarkerPrefix + "control ready"
	// MarkerUserDataDone is followed by the script's exit status.
	MarkerUserDataDone = MarkerPrefix + "user-data exit "
	// MarkerPowerOff and MarkerReboot are the last lines before the machine stops or restarts.
	MarkerPowerOff = MarkerPrefix + "poweroff"
	MarkerReboot   = MarkerPrefix + "reboot"
	// UserDataPrefix begins each line that the user-data script prints.
	UserDataPrefix = "user-data: "
)

// Paths in the guest.
const (
	// ControlPort is the second serial port.
	ControlPort = "/dev/ttyS1"
	// ProbeSocket carries the same commands as ControlPort for programs inside the guest.
	ProbeSocket = "/run/nimbrel/probe.sock"
	// StateDir keeps what must outlive a reboot.
	StateDir    = "/var/lib/nimbrel"
	UserDataLog = StateDir + "/user-data.log"
	HostKey     = "/etc/ssh/ssh_host_ed25519_key"
	// ModuleOrder lists the kernel modules to load, one path a line.
	ModuleOrder = "/lib/modules/load.order"
	RootLabel   = "nimbrel-root"
)

// The one account that may log in.
const (
	User   = "ec2-user"
	UserID = 1000
	Home   = "/home/ec2-user"
)

// EchoTCPPorts and EchoUDPPort answer with what they receive unless echo is off.
var EchoTCPPorts = []uint16{7, 8080, 8081, 8082}

// EchoUDPPort is the UDP port of the echo service.
const EchoUDPPort = 7
