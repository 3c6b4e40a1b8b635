package guest_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nimbrel/nimbrel/image/guest"
	"github.com/nimbrel/nimbrel/image/imagetest"
	"github.com/nimbrel/nimbrel/image/pack"
)

// Limits are three times what a loaded machine of two cores needed.
const (
	directLimit = 60 * time.Second
	biosLimit   = 120 * time.Second
	uefiLimit   = 180 * time.Second
	stepLimit   = 60 * time.Second

	buildEnv = "NIMBREL_TEST_BUILD_IMAGE"
)

// TestMain is also the program that builds the image as another user; see built.
func TestMain(m *testing.M) {
	if text := os.Getenv(buildEnv); text != "" {
		os.Exit(buildChild(text))
	}
	status := m.Run()
	if builder.dir != "" {
		if err := os.RemoveAll(builder.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = max(status, 1)
		}
	}
	os.Exit(status)
}

// childAnswer crosses from the building process. An error keeps only what a test decides by.
type childAnswer struct {
	Result  pack.Result
	Cached  bool
	Seconds float64
	UID     int
	Error   string
	NoTools bool
}

func buildChild(text string) int {
	var opts pack.Options
	if err := json.Unmarshal([]byte(text), &opts); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	start := time.Now()
	result, err := pack.Build(context.Background(), opts)
	answer := childAnswer{Result: result, Cached: result.Cached, Seconds: time.Since(start).Seconds(), UID: os.Geteuid()}
	if err != nil {
		var missing *pack.MissingToolsError
		answer.Error, answer.NoTools = err.Error(), errors.As(err, &missing) || errors.Is(err, pack.ErrNoKernel)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		return 1
	}
	return 0
}

// options is pack.Options without the callback, which JSON cannot carry.
type options struct {
	OutDir, CacheDir, GoInit string
	Offline                  bool
}

var builder struct {
	sync.Once
	answer, again childAnswer
	dir           string
	err           error
}

// built returns the image that an unprivileged user made: nobody, when the tests run as root.
func built(t *testing.T) (first, second childAnswer) {
	t.Helper()
	imagetest.NeedQEMU(t)
	builder.Do(func() { builder.answer, builder.again, builder.err = buildTwice(t) })
	if builder.err != nil {
		t.Fatal(builder.err)
	}
	if builder.answer.NoTools {
		t.Skip("no image: ", builder.answer.Error)
	}
	if builder.answer.Error != "" {
		t.Fatal(builder.answer.Error)
	}
	return builder.answer, builder.again
}

// The directory outlives the first test that asks for it; TestMain removes it.
func buildTwice(t *testing.T) (first, second childAnswer, err error) {
	offline := os.Geteuid() != 0
	if kernels, _ := filepath.Glob(filepath.Join(pack.CacheDir(), "kernel-*")); offline && len(kernels) == 0 {
		first.NoTools, first.Error = true, "no kernel in "+pack.CacheDir()+", and an ordinary user's tests do not download: run `make image` or the tests as root"
		return first, second, nil
	}
	dir, err := os.MkdirTemp("", "image-test-")
	if err != nil {
		return first, second, err
	}
	builder.dir = dir
	program := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, "./init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		return first, second, fmt.Errorf("build guest program: %w: %s", err, out)
	}
	opts := options{OutDir: filepath.Join(dir, "out"), CacheDir: filepath.Join(dir, "cache"), GoInit: program, Offline: offline}
	if err := prepare(dir, opts); err != nil {
		return first, second, err
	}
	for _, answer := range []*childAnswer{&first, &second} {
		if *answer, err = buildAs(dir, opts); err != nil {
			return first, second, err
		}
	}
	return first, second, saveCache(opts.CacheDir)
}

// prepare gives the unprivileged user its directories, a copy of this program, and what the cache has.
func prepare(dir string, opts options) error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir(opts.OutDir, 0o755), os.Mkdir(opts.CacheDir, 0o755),
		os.WriteFile(filepath.Join(dir, "build.test"), self, 0o755), os.Chmod(dir, 0o755)); err != nil {
		return err
	}
	kernels, err := filepath.Glob(filepath.Join(pack.CacheDir(), "kernel-*"))
	if err != nil {
		return err
	}
	for _, kernel := range kernels {
		if err := os.CopyFS(filepath.Join(opts.CacheDir, filepath.Base(kernel)), os.DirFS(kernel)); err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, nobody, nobody))
	})
}

const nobody = 65534

// saveCache keeps a kernel that was downloaded, so that the next run needs no network.
func saveCache(dir string) error {
	kernels, err := filepath.Glob(filepath.Join(dir, "kernel-*"))
	if err != nil {
		return err
	}
	for _, kernel := range kernels {
		to := filepath.Join(pack.CacheDir(), filepath.Base(kernel))
		if _, err := os.Stat(to); err == nil {
			continue
		}
		temp := filepath.Join(pack.CacheDir(), ".saving-"+filepath.Base(kernel))
		err := errors.Join(os.RemoveAll(temp), os.CopyFS(temp, os.DirFS(kernel)))
		if err == nil {
			err = os.Rename(temp, to)
		}
		if _, statErr := os.Stat(to); err != nil && statErr != nil { // another test may have saved it first
			return err
		}
	}
	return nil
}

func buildAs(dir string, opts options) (answer childAnswer, err error) {
	text, err := json.Marshal(opts)
	if err != nil {
		return answer, err
	}
	cmd := exec.Command(filepath.Join(dir, "build.test"))
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", buildEnv + "=" + string(text), "HOME=/nonexistent", "TMPDIR=" + dir}
	cmd.Stderr = os.Stderr
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.Output()
	if err != nil {
		return answer, fmt.Errorf("build image: %w", err)
	}
	return answer, json.Unmarshal(out, &answer)
}

func TestBuildIsUnprivilegedAndCached(t *testing.T) {
	first, second := built(t)
	if first.UID == 0 {
		t.Error("the image was built as root")
	}
	if first.Cached || !second.Cached || first.Result.SHA256 != second.Result.SHA256 {
		t.Errorf("cached: first %v, second %v; hashes %s, %s", first.Cached, second.Cached, first.Result.SHA256, second.Result.SHA256)
	}
	t.Logf("build %.1f s, found again in %.1f s, as uid %d", first.Seconds, second.Seconds, first.UID)
}

// key is a launch key pair.
func key(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
}

// freePort is one that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// metadataStub serves what the guest asks for, with tokens, and counts nothing.
func metadataStub(t *testing.T, items map[string]string) (port int) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const token = "token-of-the-stub"
		item, found := items[strings.TrimPrefix(r.URL.Path, "/latest/")]
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
			io.WriteString(w, token)
		case r.Header.Get("X-aws-ec2-metadata-token") != token:
			w.WriteHeader(http.StatusUnauthorized)
		case !found:
			w.WriteHeader(http.StatusNotFound)
		default:
			io.WriteString(w, item)
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port
}

func login(t *testing.T, port int, user string, signer ssh.Signer) (*ssh.Client, error) {
	t.Helper()
	return ssh.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, Timeout: stepLimit, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
}

func command(t *testing.T, client *ssh.Client, stdin, line string) (string, int) {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	session.Stdin = strings.NewReader(stdin)
	out, err := session.CombinedOutput(line)
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		return string(out), exit.ExitStatus()
	}
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return string(out), 0
}

func TestDirectBoot(t *testing.T) {
	image, _ := built(t)
	signer, line := key(t)
	port := freePort(t)
	vm := imagetest.Start(t, imagetest.Machine{
		Kernel: image.Result.Kernel, Initrd: image.Result.Initrd, MemoryMiB: 128,
		Append: "quiet panic=10 console=ttyS0 nimbrel.imds=off nimbrel.key=" + base64.RawURLEncoding.EncodeToString([]byte(line)),
		Net:    fmt.Sprintf("hostfwd=tcp:127.0.0.1:%d-:22", port),
	})
	vm.Wait(guest.MarkerUserspace, 0, directLimit)
	t.Logf("direct boot to userspace %.1f s", time.Since(vm.Started).Seconds())
	if lease, _ := vm.Wait(guest.MarkerDHCP, 0, stepLimit); lease != "eth0 10.0.2.15/24 mtu 1500" {
		t.Errorf("lease %q", lease)
	}
	vm.Wait(" login: ", 0, stepLimit)
	t.Logf("direct boot to login %.1f s", time.Since(vm.Started).Seconds())
	t.Run("ssh", func(t *testing.T) { checkSSH(t, port, signer) })
	t.Run("probe", func(t *testing.T) { checkProbe(t, vm) })
	start := time.Now()
	vm.QMP("system_powerdown")
	vm.WaitExit(stepLimit)
	vm.Wait(guest.MarkerPowerOff, 0, 0)
	t.Logf("power off %.1f s", time.Since(start).Seconds())
}

func checkSSH(t *testing.T, port int, signer ssh.Signer) {
	stranger, _ := key(t)
	if client, err := login(t, port, guest.User, stranger); err == nil {
		client.Close()
		t.Error("a stranger's key logs in")
	}
	if client, err := login(t, port, "root", signer); err == nil {
		client.Close()
		t.Error("root logs in")
	}
	client, err := login(t, port, guest.User, signer)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, c := range []struct {
		stdin, line, want string
		status            int
	}{
		{"", "id -u; exit 7", "1000\n", 7},
		{"", "sudo id -u", "0\n", 0},
		{"typed", "cat; echo err >&2", "typederr\n", 0},
		{"", "probe bogus >/dev/null", "", 2},
		{"", "probe tcp 127.0.0.1 9 >/dev/null", "", 1},
		{"", "kill -9 $$", "", 0},
	} {
		out, status := command(t, client, c.stdin, c.line)
		if out != c.want || (status != c.status && !strings.HasPrefix(c.line, "kill")) {
			t.Errorf("%s: %q status %d, want %q status %d", c.line, out, status, c.want, c.status)
		}
	}
	checkTerminal(t, client)
}

// checkTerminal talks to an interactive shell and resizes its window.
func checkTerminal(t *testing.T, client *ssh.Client) {
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	in, err := session.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	session.Stdout = &out
	if err := errors.Join(session.RequestPty("xterm", 24, 80, ssh.TerminalModes{}), session.WindowChange(33, 101), session.Shell()); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(in, "tty; stty size; echo $TERM; exit 5\n")
	err = session.Wait()
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 5 {
		t.Errorf("shell ended with %v", err)
	}
	for _, want := range []string{"/dev/pts/", "33 101", "xterm"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("terminal does not show %q:\n%s", want, out.String())
		}
	}
}

func checkProbe(t *testing.T, vm *imagetest.VM) {
	for _, line := range []string{
		"ping 10.0.2.2 count=2", "addr eth0", "route", "mtu eth0", "counters", "lease", "dhcp-renew", "dns localhost",
		"tcp 127.0.0.1 8080 data=hello", "udp 127.0.0.1 7 1000", "fragments 127.0.0.1 7 20000",
		"serve-hash 9000", "send-hash 127.0.0.1 9000 2 dir=both timeoutMs=60000", "close tcp 9000",
		"tcp-listen 9001", "tcp 127.0.0.1 9001", "udp-echo 9002",
		"spoof-ip 192.0.2.1 10.0.2.2 count=3", "spoof-ip 192.0.2.1 10.0.2.2 proto=icmp", "spoof-mac 02:00:00:00:00:99 10.0.2.2",
		"raw-vxlan 10.0.2.2 77 10.0.0.1 10.0.0.2 gbp=5", "arp-spoof 10.0.2.77", "flood-dhcp-server-reply count=3",
		"sh \"sync; echo done\"",
	} {
		vm.MustProbe(line)
	}
	for line, reason := range map[string]string{
		"tcp 127.0.0.1 9":               "refused",
		"tcp 10.0.2.99 80 300":          "timeout",
		"ping 10.0.2.99 timeoutMs=300":  "timeout",
		"udp 10.0.2.2 9 10 timeoutMs=1": "timeout",
		"ping 10.0.2.2 1473 df":         "mtu",
		"tcp nowhere 1":                 "usage",
		"ping":                          "usage",
	} {
		ok, values := vm.Probe(line)
		// Without a neighbour the kernel may learn before the time-out that nobody is there.
		if got := values["reason"]; ok || (got != reason && !(reason == "timeout" && (got == "unreachable" || got == "refused"))) {
			t.Errorf("%s: ok %v, %v, want reason %s", line, ok, values, reason)
		}
	}
}

// TestDiskBoot boots the disk by each firmware, on an overlay that is larger than the image.
func TestDiskBoot(t *testing.T) {
	t.Run("bios", func(t *testing.T) { bootDisk(t, false, biosLimit) })
	t.Run("uefi", func(t *testing.T) { bootDisk(t, true, uefiLimit) })
}

func bootDisk(t *testing.T, uefi bool, limit time.Duration) {
	image, _ := built(t)
	signer, line := key(t)
	const id = "i-0123456789abcdef0"
	stub := metadataStub(t, map[string]string{
		"meta-data/instance-id": id, "meta-data/local-hostname": "ip-10-0-0-5.nimbrel.internal",
		"meta-data/public-keys/0/openssh-key": line + "\n",
		"user-data":                           "#!/bin/sh\necho hello from $(id -u)\necho x >> /var/lib/nimbrel/runs\nexit 3\n",
	})
	port := freePort(t)
	const grown = 3 << 30
	// The user network is made to hold the metadata address, which is then forwarded to the stub.
	vm := imagetest.Start(t, imagetest.Machine{
		Disk: imagetest.Overlay(t, image.Result.Disk, image.Result.DiskFormat, grown), UEFI: uefi,
		Net: fmt.Sprintf("net=169.254.0.0/16,hostfwd=tcp:127.0.0.1:%d-:22,guestfwd=tcp:169.254.169.254:80-cmd:/bin/busybox nc 127.0.0.1 %d", port, stub),
	})
	vm.Wait(guest.MarkerUserspace, 0, limit)
	t.Logf("disk boot (uefi %v) to userspace %.1f s", uefi, time.Since(vm.Started).Seconds())
	if root, _ := vm.Wait(guest.MarkerRoot, 0, stepLimit); root != "/dev/vda1" {
		t.Errorf("root %q", root)
	}
	if got, _ := vm.Wait(guest.MarkerInstanceID, 0, stepLimit); got != id {
		t.Errorf("instance id %q", got)
	}
	if text, _ := vm.Wait(guest.UserDataPrefix, 0, stepLimit); text != "hello from 0" {
		t.Errorf("user data says %q", text)
	}
	if status, _ := vm.Wait(guest.MarkerUserDataDone, 0, stepLimit); status != "3" {
		t.Errorf("user data ended with %q", status)
	}
	_, end := vm.Wait("ip-10-0-0-5 login: ", 0, stepLimit)
	t.Logf("disk boot (uefi %v) to login %.1f s", uefi, time.Since(vm.Started).Seconds())
	disk := vm.MustProbe("disk")
	if size := disk["rootBytes"].(float64); size < 0.9*(grown-128<<20) || disk["rootType"] != "ext4" {
		t.Errorf("root was not grown: %v", disk)
	}
	hostKey := vm.MustProbe("sh \"cat /etc/ssh/ssh_host_ed25519_key\"")["output"]

	start := time.Now()
	client, err := login(t, port, guest.User, signer)
	if err != nil {
		t.Fatal(err)
	}
	command(t, client, "", "sudo reboot")
	client.Close()
	_, end = vm.Wait(guest.MarkerReboot, end, stepLimit)
	_, end = vm.Wait("ip-10-0-0-5 login: ", end, limit)
	t.Logf("reboot (uefi %v) %.1f s", uefi, time.Since(start).Seconds())
	if runs := vm.MustProbe("sh \"cat /var/lib/nimbrel/runs\"")["output"]; runs != "x\n" {
		t.Errorf("user data ran again: %q", runs)
	}
	if again := vm.MustProbe("sh \"cat /etc/ssh/ssh_host_ed25519_key\"")["output"]; again != hostKey || hostKey == "" {
		t.Error("host key changed over a reboot")
	}
	if strings.Contains(vm.Console(), "warning") {
		t.Error("the guest warns")
	}
	start = time.Now()
	vm.QMP("system_powerdown")
	vm.WaitExit(stepLimit)
	vm.Wait(guest.MarkerPowerOff, end, 0)
	t.Logf("power off (uefi %v) %.1f s", uefi, time.Since(start).Seconds())
}
