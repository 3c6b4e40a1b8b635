// Package inventory lists what a cloud could leave behind on a machine, so that a test can compare before and after.
//
// It looks at processes, named network namespaces, links, routes, rules and addresses of the caller's namespace, mounts,
// BPF pins, cgroups, sysctls under net, and files below the folders that it is given.
//
// Deliberately absent: judging what belongs to whom. Other software may change a machine too; Diff shows what changed. And
// what has no name of its own: an unnamed namespace, a BPF program or map lives no longer than the process, the mount,
// the pin or the link that holds it, and those are listed.
package inventory

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// Inventory maps "kind name" to a value; two inventories of an unchanged machine are equal.
type Inventory map[string]string

// Options says what Take looks at beyond what it always does.
type Options struct {
	// Folders are searched for files; one that does not exist has none.
	Folders []string
	// Programs are the beginnings of the names of the programs whose processes are listed; none lists every process.
	Programs []string
}

// CloudPrograms are what a cloud's processes run.
func CloudPrograms() []string { return []string{"nimbrel", "qemu-system"} }

// Take lists the machine as it is now.
func Take(o Options) Inventory {
	inv := Inventory{}
	inv.processes(o.Programs)
	inv.names("namespace", "/run/netns")
	inv.lines("link", linkName, "ip", "-o", "link")
	inv.lines("address", firstFields(4), "ip", "-o", "address")
	inv.lines("route", wholeLine, "ip", "route", "show", "table", "all")
	inv.lines("rule", wholeLine, "ip", "rule")
	inv.mounts()
	inv.names("pin", "/sys/fs/bpf")
	inv.cgroups("/sys/fs/cgroup")
	inv.sysctls("/proc/sys/net")
	for _, folder := range o.Folders {
		inv.files(folder)
	}
	return inv
}

// Diff lists what is in one inventory and not, or otherwise, in the other, sorted, "+" for what came.
func Diff(before, after Inventory) []string {
	var diff []string
	for k, v := range before {
		if now, ok := after[k]; !ok {
			diff = append(diff, "- "+k)
		} else if now != v {
			diff = append(diff, "~ "+k+": "+v+" is now "+now)
		}
	}
	for k := range after {
		if _, ok := before[k]; !ok {
			diff = append(diff, "+ "+k)
		}
	}
	sort.Strings(diff)
	return diff
}

// processes lists those that are alive: a zombie holds nothing, and its parent will have it.
func (inv Inventory) processes(programs []string) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range paths {
		raw, err := os.ReadFile(p)
		if err != nil || len(raw) == 0 { // ended meanwhile, a zombie, or the kernel's own
			continue
		}
		argv := strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
		if wanted(filepath.Base(argv[0]), programs) {
			inv["process "+filepath.Base(filepath.Dir(p))+" "+strings.Join(argv, " ")] = ""
		}
	}
}

func wanted(program string, programs []string) bool {
	for _, p := range programs {
		if strings.HasPrefix(program, p) {
			return true
		}
	}
	return len(programs) == 0
}

func (inv Inventory) names(kind, dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		inv[kind+" "+filepath.Join(dir, e.Name())] = ""
	}
}

// lines runs a program and takes each line of its output, reduced by key.
func (inv Inventory) lines(kind string, key func(string) string, program string, args ...string) {
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		inv[kind+" (cannot list)"] = err.Error()
		return
	}
	for line := range strings.Lines(string(out)) {
		if k := key(strings.TrimSpace(line)); k != "" {
			inv[kind+" "+k] = ""
		}
	}
}

func wholeLine(line string) string { return line }

// linkName leaves out a link's index, flags and counters.
func linkName(line string) string {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return ""
	}
	return strings.TrimSuffix(fields[1], ":")
}

func firstFields(n int) func(string) string {
	return func(line string) string {
		fields := strings.Fields(line)
		return strings.Join(fields[:min(n, len(fields))], " ")
	}
}

func (inv Inventory) mounts() {
	raw, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 2 {
			inv["mount "+f[1]+" "+f[2]] = ""
		}
	}
}

// cgroups lists groups down to the third level, where a cloud would make its own.
func (inv Inventory) cgroups(root string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		inv["cgroup "+path] = ""
		if strings.Count(strings.TrimPrefix(path, root), "/") >= 3 {
			return fs.SkipDir
		}
		return nil
	})
}

// sysctls reads settings, except those of single links and neighbours, which come and go with them, and counters.
func (inv Inventory) sysctls(root string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if d.IsDir() {
			parent := filepath.Base(filepath.Dir(path))
			if (parent == "conf" || parent == "neigh") && d.Name() != "all" && d.Name() != "default" {
				return fs.SkipDir
			}
			return nil
		}
		if raw, err := os.ReadFile(path); err == nil && !strings.Contains(path, "nf_conntrack_count") {
			inv["sysctl "+path] = strings.TrimSpace(string(raw))
		}
		return nil
	})
}

func (inv Inventory) files(folder string) {
	_ = filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			inv["file "+path] = ""
		}
		return nil
	})
}
