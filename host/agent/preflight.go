package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// tunDevice makes taps.
const tunDevice = "/dev/net/tun"

// preflight refuses a machine that cannot be this host, before anything is made on it, and names what to do. What the
// driver itself needs is its Probe's to say.
func preflight(o Options, euid int, tun string) error {
	if o.Driver != DriverQEMU {
		return nil
	}
	if euid != 0 {
		return errors.New("real guests need root, for users, limits and networks of their own: run the agent as root, or with --driver fake for simulated guests")
	}
	if o.DataPath == nil {
		return nil
	}
	file, err := os.OpenFile(tun, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("guests' network needs %s, which is absent: run `modprobe tun`, or give the agent's container the device", tun)
	}
	if err != nil {
		return fmt.Errorf("guests' network needs %s: %w: give the agent the right to open it (in a container: the device and CAP_NET_ADMIN)", tun, err)
	}
	return file.Close()
}
