package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nimbrel/nimbrel/internal/runbook"
)

const (
	// commandTimeout bounds what is asked of other programs.
	commandTimeout = 10 * time.Second
	syncs          = 32
	// syncSlow is the median time of a sync beyond which launches are felt to be slow: each waits for one or two.
	syncSlow = 20 * time.Millisecond
	// releaseYear is when this was written: an earlier clock is wrong.
	releaseYear = 2026
	// simulated is what a machine that cannot be a real host is good for.
	simulated = "simulated hosts: `nimbrel dev up --fake`"
)

func system(context.Context, Options) Finding {
	found := runtime.GOOS + "/" + runtime.GOARCH
	if runtime.GOOS != "linux" {
		return fallback(found, simulated, "run hosts on Linux")
	}
	return ok("%s", found)
}

func root(context.Context, Options) Finding {
	if uid := os.Geteuid(); uid != 0 {
		return fallback(fmt.Sprintf("uid %d", uid), simulated+"; findings below may need root too", "run with sudo")
	}
	return ok("uid 0")
}

// program looks for a program of a Debian package.
func program(name, pkg string, otherwise Verdict, instead string) func(context.Context, Options) Finding {
	return func(ctx context.Context, _ Options) Finding {
		path, err := exec.LookPath(name)
		if err != nil {
			return Finding{Verdict: otherwise, Found: "no " + name + " on the PATH", Instead: instead, Fix: "apt-get install " + pkg}
		}
		ctx, cancel := context.WithTimeout(ctx, commandTimeout)
		defer cancel()
		out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
		if err != nil {
			return Finding{Verdict: otherwise, Found: oneLine(path + " --version: " + err.Error()), Instead: instead, Fix: "apt-get install --reinstall " + pkg}
		}
		line, _, _ := strings.Cut(string(out), "\n")
		return ok("%s, %s", path, oneLine(line))
	}
}

// firmware looks for the first of some files of a Debian package.
func firmware(pkg string, otherwise Verdict, instead string, paths ...string) func(context.Context, Options) Finding {
	return func(context.Context, Options) Finding {
		for _, path := range paths {
			if _, err := os.Stat(path); err == nil {
				return ok("%s", path)
			}
		}
		return Finding{Verdict: otherwise, Found: "no " + paths[0], Instead: instead, Fix: "apt-get install " + pkg}
	}
}

var awsVersion = regexp.MustCompile(`aws-cli/(\d+)\.(\d+)\.`)

// awsCLI looks for AWS's own command line, and for one too old to read an endpoint variable.
func awsCLI(ctx context.Context, o Options) Finding {
	f := program("aws", "awscli", Fallback, "any other EC2 client")(ctx, o)
	m := awsVersion.FindStringSubmatch(f.Found)
	if f.Verdict != OK || m == nil {
		return f
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	if major == 1 && minor < 29 || major == 2 && minor < 13 {
		return fallback(f.Found+" ignores AWS_ENDPOINT_URL", "a shell function that `nimbrel env` defines", `eval "$(nimbrel env)" in each shell, or a newer aws CLI`)
	}
	return f
}

// diskSync measures what every commit waits for.
func diskSync(_ context.Context, o Options) Finding {
	dir := existing(o.StateDir, isDir)
	median, worst, err := syncTimes(dir)
	switch {
	case errors.Is(err, os.ErrPermission):
		return fallback("no permission to write to "+dir, "not measured", "run as the user that the server runs as")
	case errors.Is(err, syscall.ENOSPC):
		return missing("the disk of "+dir+" is full", "free some space there: see "+runbook.DiskFull.String())
	case err != nil:
		return missing(err.Error(), "look at the disk of "+dir+", and at the kernel's log (dmesg)")
	}
	found := fmt.Sprintf("median %s, worst %s of %d syncs in %s", median.Round(time.Microsecond), worst.Round(time.Microsecond), syncs, dir)
	if median > syncSlow {
		return fallback(found, "commits as slow as the disk", "put the state directory on a disk with a faster sync (an SSD with power-loss protection)")
	}
	return ok("%s", found)
}

func syncTimes(dir string) (median, worst time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".nimbrel-doctor-")
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		_ = f.Close()
		err = errors.Join(err, os.Remove(f.Name()))
	}()
	block := make([]byte, 4096)
	times := make([]time.Duration, syncs)
	for i := range times {
		begun := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, 0, err
		}
		times[i] = time.Since(begun)
	}
	slices.Sort(times)
	return times[syncs/2], times[syncs-1], nil
}

// conversion has a disk of one sector converted by what imports run: a process under limits and a system call filter.
func conversion(ctx context.Context, o Options) Finding {
	if o.Convert == nil {
		return fallback("not tried: no converter was given", "imports as they turn out", "`nimbrel doctor` tries it")
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	switch err := o.Convert(ctx); {
	case err == nil:
		return ok("a confined process converted a disk")
	case errors.Is(err, syscall.ENOSPC):
		return missing(err.Error(), "make room in the folder for temporary files, or set TMPDIR")
	default:
		return missing("no image can be imported: "+err.Error(), "use a kernel built with CONFIG_SECCOMP_FILTER; in a container, allow seccomp, setrlimit and, for root, new namespaces and users (CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID); mount /proc")
	}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func clock(context.Context, Options) Finding {
	now := time.Now()
	if now.Year() < releaseYear {
		return missing("it is "+now.UTC().Format(time.DateOnly)+" here", "set the clock (`timedatectl set-ntp true`): certificates and signatures are refused by a wrong one")
	}
	return clockSync(now)
}

// ports tries the server's addresses.
func ports(_ context.Context, o Options) Finding {
	var taken []string
	for offset, what := range []string{"EC2 API", "host link", "metrics"} {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(o.Port+offset))
		l, err := net.Listen("tcp", address)
		if err != nil {
			taken = append(taken, address+" ("+what+")")
			continue
		}
		_ = l.Close()
	}
	switch {
	case len(taken) == 0:
		return ok("127.0.0.1:%d to %d are free", o.Port, o.Port+2)
	case o.Serving:
		return ok("the running server has %s", strings.Join(taken, ", "))
	}
	return missing("in use: "+strings.Join(taken, ", "), fmt.Sprintf("stop what uses them (`ss -ltnp` names it), or choose others: --listen, --link and --metrics of `nimbrel server`, --port of `nimbrel dev up` (tried: %d)", o.Port))
}
