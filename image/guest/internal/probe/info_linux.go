package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/image/guest/internal/proc"
)

// maxShellOutput bounds what "sh" puts into one answer.
const maxShellOutput = 16 << 10

func (r *Runner) mtu(_ context.Context, cmd Command) (Values, error) {
	name := ""
	if len(cmd.Args) > 0 {
		name = cmd.Args[0]
	}
	link, err := device(name)
	if err != nil {
		return nil, err
	}
	return Values{"dev": link.Attrs().Name, "mtu": link.Attrs().MTU}, nil
}

func (r *Runner) addr(_ context.Context, cmd Command) (Values, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	values := Values{}
	for _, link := range links {
		a := link.Attrs()
		if len(cmd.Args) > 0 && cmd.Args[0] != a.Name {
			continue
		}
		list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		texts := []string{}
		for _, address := range list {
			texts = append(texts, address.IPNet.String())
		}
		values[a.Name] = map[string]any{"mac": a.HardwareAddr.String(), "mtu": a.MTU, "state": a.OperState.String(), "addrs": texts}
	}
	if len(values) == 0 {
		return nil, errors.New("no such device")
	}
	return values, nil
}

func (r *Runner) route(context.Context, Command) (Values, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	list := []map[string]any{}
	for _, route := range routes {
		entry := map[string]any{"dst": "default", "metric": route.Priority}
		if ones, _ := maskSize(route.Dst); ones > 0 {
			entry["dst"] = route.Dst.String()
		}
		if route.Gw != nil {
			entry["via"] = route.Gw.String()
		}
		if link, err := netlink.LinkByIndex(route.LinkIndex); err == nil {
			entry["dev"] = link.Attrs().Name
		}
		list = append(list, entry)
	}
	return Values{"routes": list}, nil
}

// maskSize is 0 for a default route, which is nil or of length 0.
func maskSize(dst *net.IPNet) (ones, bits int) {
	if dst == nil {
		return 0, 0
	}
	return dst.Mask.Size()
}

func (r *Runner) lease(context.Context, Command) (Values, error) {
	return Values(r.network.Leases()), nil
}

func (r *Runner) renew(ctx context.Context, cmd Command) (Values, error) {
	name := ""
	if len(cmd.Args) > 0 {
		name = cmd.Args[0]
	}
	link, err := device(name)
	if err != nil {
		return nil, err
	}
	if err := r.network.Renew(ctx, link.Attrs().Name); err != nil {
		return nil, err
	}
	return Values{"dev": link.Attrs().Name}, nil
}

// disk tells the sizes of the root file system and of every disk, in bytes.
func (r *Runner) disk(context.Context, Command) (Values, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		return nil, fmt.Errorf("stat root file system: %w", err)
	}
	block := uint64(fs.Bsize)
	values := Values{"rootBytes": fs.Blocks * block, "rootFreeBytes": fs.Bfree * block, "rootType": rootType(), "disks": disks()}
	return values, nil
}

// rootType is the type of what is mounted last on "/".
func rootType() string {
	text, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return "unknown"
	}
	kind := "unknown"
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "/" {
			kind = f[2]
		}
	}
	return kind
}

// disks maps each block device to its size in bytes.
func disks() map[string]uint64 {
	sizes := map[string]uint64{}
	files, _ := filepath.Glob("/sys/class/block/*/size") // the pattern is well formed
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && sectors > 0 {
			sizes[filepath.Base(filepath.Dir(file))] = sectors * 512
		}
	}
	return sizes
}

// alwaysShown are counters that mean something even at zero.
var alwaysShown = []string{"Tcp.InCsumErrors", "Udp.InCsumErrors", "Icmp.InCsumErrors", "Ip.ReasmFails", "Ip.FragCreates", "Tcp.RetransSegs"}

// counters tells the kernel's protocol counters, without the ones that are zero and uninteresting.
func (r *Runner) counters(context.Context, Command) (Values, error) {
	values := Values{}
	for _, file := range []string{"/proc/net/snmp", "/proc/net/netstat"} {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		parseCounters(string(text), values)
	}
	return values, nil
}

// parseCounters reads pairs of lines: names, then numbers, both after the protocol's name.
func parseCounters(text string, into Values) {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, numbers := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if len(names) != len(numbers) || len(names) == 0 || names[0] != numbers[0] {
			continue
		}
		for j := 1; j < len(names); j++ {
			name := strings.TrimSuffix(names[0], ":") + "." + names[j]
			if n, err := strconv.ParseInt(numbers[j], 10, 64); err == nil && (n != 0 || slices.Contains(alwaysShown, name)) {
				into[name] = n
			}
		}
	}
}

// shell runs a command as root. Its standard output and error come back together, cut at maxShellOutput.
func (r *Runner) shell(ctx context.Context, cmd Command) (Values, error) {
	c := exec.CommandContext(ctx, "/bin/sh", "-c", strings.Join(cmd.Args, " "))
	out := &proc.Tail{Max: maxShellOutput}
	c.Stdout, c.Stderr = out, out
	c.WaitDelay = proc.WaitDelay
	err := proc.Run(c)
	values := Values{"output": out.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		values["exit"] = exit.ExitCode()
		err = fmt.Errorf("exit status %d", exit.ExitCode())
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return values, err
}
