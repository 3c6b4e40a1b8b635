package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nimbrel/nimbrel/image/guest"
	"github.com/nimbrel/nimbrel/image/guest/internal/metadata"
	"github.com/nimbrel/nimbrel/image/guest/internal/proc"
	"github.com/nimbrel/nimbrel/image/guest/internal/sshd"
)

const (
	authorizedKeys = guest.Home + "/.ssh/authorized_keys"
	instanceFile   = guest.StateDir + "/instance-id"
	userDataFile   = guest.StateDir + "/user-data"

	firstRetry = 250 * time.Millisecond
	maxRetry   = 8 * time.Second
	// scriptTime ends a user-data script that hangs.
	scriptTime = time.Hour
	// maxLog bounds the script's log; the console gets the rest too.
	maxLog = 1 << 20
)

// serveSSH opens port 22 as soon as there is a host key, which is before anyone may log in: the launch key comes later.
func (m *machine) serveSSH(ctx context.Context) {
	key, err := sshd.LoadHostKey(guest.HostKey)
	if err != nil {
		warn("ssh", err)
		return
	}
	l, err := net.Listen("tcp", ":22")
	if err != nil {
		warn("ssh", err)
		return
	}
	say("%s", guest.MarkerSSHReady)
	printHostKey(key.PublicKey())
	close(m.sshUp)
	server := &sshd.Server{
		HostKey: key, User: guest.User, Shell: "/bin/sh", Home: guest.Home, Env: []string{"PATH=" + path, "ENV=/etc/profile"},
		Keys:       func() ([]ssh.PublicKey, error) { return sshd.AuthorizedKeys(authorizedKeys) },
		Credential: &syscall.Credential{Uid: guest.UserID, Gid: guest.UserID},
		Log:        func(format string, args ...any) { say(guest.MarkerPrefix+format, args...) },
	}
	warn("ssh", server.Serve(ctx, l))
}

// printHostKey uses the words that tools for EC2 look for in the console output.
func printHostKey(key ssh.PublicKey) {
	host, _ := os.Hostname() // a fingerprint without a name is still one
	console.Lock()
	defer console.Unlock()
	fmt.Fprintf(console.File, "ec2: -----BEGIN SSH HOST KEY FINGERPRINTS-----\r\nec2: 256 %s root@%s (ED25519)\r\nec2: -----END SSH HOST KEY FINGERPRINTS-----\r\n",
		ssh.FingerprintSHA256(key), host)
	fmt.Fprintf(console.File, "-----BEGIN SSH HOST KEY KEYS-----\r\n%s root@%s\r\n-----END SSH HOST KEY KEYS-----\r\n",
		strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), host)
}

// initialise makes the guest this instance: its key, name and user data. Each step is retried until it succeeds.
func (m *machine) initialise(ctx context.Context) {
	if m.options.Key != "" {
		warn("key", installKey(m.options.Key))
	}
	if m.options.IMDS == "off" {
		m.sayLogin(ctx)
		return
	}
	select {
	case <-m.online:
	case <-ctx.Done():
		return
	}
	client := metadata.NewClient(m.options.IMDS)
	id := fetch(ctx, client, "meta-data/instance-id")
	say("%s%s", guest.MarkerInstanceID, id)
	if name := fetch(ctx, client, "meta-data/local-hostname"); name != "" && m.options.Hostname == "" {
		m.setHostname(firstName(name))
	}
	if key := fetch(ctx, client, "meta-data/public-keys/0/openssh-key"); key != "" {
		warn("key", installKey(key))
	}
	data := metadata.ParseUserData(fetch(ctx, client, "user-data"))
	if data.EchoOff {
		m.probe.CloseAll()
	}
	m.runUserData(ctx, id, data)
	m.sayLogin(ctx)
}

// sayLogin prints the line that ends a boot. Nobody can log in on the console: the launch key is the only way in.
func (m *machine) sayLogin(ctx context.Context) {
	select {
	case <-m.sshUp:
		say("%s login: ", hostname())
	case <-ctx.Done():
	}
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "nimbrel"
	}
	return name
}

// fetch asks until the service gives an answer. What it does not have is "".
func fetch(ctx context.Context, client *metadata.Client, item string) string {
	for wait := firstRetry; ; wait = min(wait*2, maxRetry) {
		text, err := client.Text(ctx, item)
		if err == nil {
			return strings.TrimSuffix(text, "\n")
		}
		if errors.Is(err, metadata.ErrNotFound) || ctx.Err() != nil {
			return ""
		}
		if wait == maxRetry { // now and then, not for a service that is a moment late
			warn("metadata", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// installKey adds a key to those that may log in. It is there already after a reboot.
func installKey(line string) error {
	keys := sshd.ParseKeys([]byte(line))
	if len(keys) == 0 {
		return errors.New("install launch key: not a public key")
	}
	known, err := sshd.AuthorizedKeys(authorizedKeys)
	if err != nil {
		return fmt.Errorf("install launch key: %w", err)
	}
	say("%s%s", guest.MarkerKey, ssh.FingerprintSHA256(keys[0]))
	for _, k := range known {
		if string(k.Marshal()) == string(keys[0].Marshal()) {
			return nil
		}
	}
	dir := filepath.Dir(authorizedKeys)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("install launch key: %w", err)
	}
	file, err := os.OpenFile(authorizedKeys, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("install launch key: %w", err)
	}
	_, err = fmt.Fprintln(file, strings.TrimSpace(line))
	err = errors.Join(err, file.Sync(), file.Close(),
		os.Chown(dir, guest.UserID, guest.UserID), os.Chown(authorizedKeys, guest.UserID, guest.UserID))
	if err != nil {
		return fmt.Errorf("install launch key: %w", err)
	}
	return nil
}

// runUserData runs the script once in an instance's life, not at each boot, as EC2 does. The instance is recorded
// first: a script that reboots the machine must not start over.
func (m *machine) runUserData(ctx context.Context, id string, data metadata.UserData) {
	last, err := os.ReadFile(instanceFile)
	if err == nil && strings.TrimSpace(string(last)) == id {
		return
	}
	warn("user data", os.WriteFile(instanceFile, []byte(id+"\n"), 0o644))
	if data.Script == "" {
		return
	}
	if err := os.WriteFile(userDataFile, []byte(data.Script), 0o700); err != nil {
		warn("user data", err)
		return
	}
	status, err := runScript(ctx)
	warn("user data", err)
	say("%s%d", guest.MarkerUserDataDone, status)
}

// runScript runs the stored script as root and returns its exit status. It always runs by the image's own shell: there
// is no other interpreter to name.
func runScript(ctx context.Context) (int, error) {
	log, err := os.Create(guest.UserDataLog)
	if err != nil {
		return -1, err
	}
	defer log.Close()
	ctx, cancel := context.WithTimeout(ctx, scriptTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", userDataFile)
	cmd.Dir, cmd.WaitDelay = "/", proc.WaitDelay
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		copyLines(log, reader)
	}()
	err = proc.Run(cmd)
	writer.Close()
	<-printed
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return -1, err
	}
	return 0, nil
}

// copyLines prints each line to the console and, up to maxLog bytes, to the log. It reads to the end in any case, so
// that the script never blocks.
func copyLines(log io.Writer, from io.Reader) {
	in, logged := bufio.NewReaderSize(from, 4096), 0
	for {
		line, _, err := in.ReadLine()
		if err != nil {
			return
		}
		say("%s%s", guest.UserDataPrefix, line)
		if logged += len(line) + 1; logged <= maxLog {
			fmt.Fprintf(log, "%s\n", line)
		}
	}
}
