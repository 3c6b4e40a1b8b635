package sshd

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// start serves as the test's own user and returns a function that logs in.
func start(t *testing.T) (dial func(user string, signer ssh.Signer) (*ssh.Client, error), known ssh.Signer) {
	t.Helper()
	host, err := LoadHostKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	known = newSigner(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{HostKey: host, User: "someone", Shell: "/bin/sh", Home: t.TempDir(), Env: []string{"PATH=/usr/bin:/bin"},
		Keys: func() ([]ssh.PublicKey, error) { return []ssh.PublicKey{known.PublicKey()}, nil }}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		_ = s.Serve(ctx, l)
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return func(user string, signer ssh.Signer) (*ssh.Client, error) {
		return ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
			HostKeyCallback: ssh.FixedHostKey(host.PublicKey()), Timeout: 30 * time.Second})
	}, known
}

func TestLogin(t *testing.T) {
	dial, known := start(t)
	for name, c := range map[string]struct {
		user   string
		signer ssh.Signer
		ok     bool
	}{"known": {"someone", known, true}, "other user": {"root", known, false}, "other key": {"someone", newSigner(t), false}} {
		client, err := dial(c.user, c.signer)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			client.Close()
		}
	}
}

func TestExec(t *testing.T) {
	dial, known := start(t)
	client, err := dial("someone", known)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var out, errOut strings.Builder
	session.Stdout, session.Stderr, session.Stdin = &out, &errOut, strings.NewReader("input")
	if err := session.Setenv("LC_X", "value"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"PATH", "LD_PRELOAD"} {
		if err := session.Setenv(name, "/tmp"); err == nil {
			t.Errorf("a client may set %s", name)
		}
	}
	err = session.Run(`cat; echo " $LC_X $USER"; echo oops >&2; exit 4`)
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 4 || out.String() != "input value someone\n" || errOut.String() != "oops\n" {
		t.Errorf("out %q, err %q, %v", out.String(), errOut.String(), err)
	}
	session, err = client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Run("kill -TERM $$"); !errors.As(err, &exit) || exit.Signal() != "TERM" {
		t.Errorf("a killed program ends with %v", err)
	}
	if _, err := client.Dial("tcp", "127.0.0.1:1"); err == nil {
		t.Error("forwarding is open")
	}
}

// TestSessionEndsWithItsConnection: a program that waits for ever must not outlive its client.
func TestSessionEndsWithItsConnection(t *testing.T) {
	// Under nohup the signal is ignored, and a shell cannot trap what was ignored when it began.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	dial, known := start(t)
	client, err := dial("someone", known)
	if err != nil {
		t.Fatal(err)
	}
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	trace := filepath.Join(t.TempDir(), "out")
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start("trap 'echo gone >" + trace + "; exit' HUP; echo ready; while :; do sleep 0.05; done"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	client.Close()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if text, err := os.ReadFile(trace); err == nil && string(text) == "gone\n" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the program was not told")
		}
	}
}

func TestHostKeyIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etc", "key")
	first, err := LoadHostKey(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := LoadHostKey(path)
	if err != nil || string(second.PublicKey().Marshal()) != string(first.PublicKey().Marshal()) {
		t.Errorf("another key the second time: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key: %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadHostKey(path); err == nil {
		t.Error("a damaged key is replaced in silence")
	}
}

func TestParseKeys(t *testing.T) {
	line := string(ssh.MarshalAuthorizedKey(newSigner(t).PublicKey()))
	if keys := ParseKeys([]byte("# comment\n\ngarbage\n" + line + line)); len(keys) != 2 {
		t.Errorf("%d keys, want 2", len(keys))
	}
}
