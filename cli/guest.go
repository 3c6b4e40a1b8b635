package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/internal/statedir"
	"github.com/nimbrel/nimbrel/operator/stream"
)

// ExitError carries the exit status of a command that ran in a guest.
type ExitError struct{ Status int }

func (e *ExitError) Error() string {
	return fmt.Sprintf("the command in the guest exited with %d", e.Status)
}

func (c *client) console() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Annotations: map[string]string{rawNote: ""},
		Use:         "console INSTANCE", Short: "Print a guest's serial console", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			instance, err := ids.Parse[ids.Instance](args[0])
			if err != nil {
				return err
			}
			conn, err := stream.Open(cmd.Context(), c.dial, stream.Request{Kind: stream.Console, Instance: instance, Follow: follow})
			if err != nil {
				return c.explain(err)
			}
			defer conn.Close()
			stop := context.AfterFunc(cmd.Context(), func() { _ = conn.Close() })
			defer stop()
			_, err = io.Copy(cmd.OutOrStdout(), conn)
			if cmd.Context().Err() != nil {
				return nil
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what the guest writes")
	return cmd
}

func (c *client) forward() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Annotations: map[string]string{rawNote: ""},
		Use:         "forward INSTANCE PORT", Short: "Forward a local port, or standard input and output, to a guest's TCP port",
		Long: "Forward dials the guest through its host, outside the security groups. Without --listen it joins standard input and output,\nwhich suits `ssh -o ProxyCommand=\"nimbrel forward %h 22\"`.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			instance, err := ids.Parse[ids.Instance](args[0])
			if err != nil {
				return err
			}
			port, err := strconv.ParseUint(args[1], 10, 16)
			if err != nil || port == 0 {
				return fmt.Errorf("port %q: want 1 to 65535", args[1])
			}
			open := func(ctx context.Context) (net.Conn, error) {
				return stream.Open(ctx, c.dial, stream.Request{Kind: stream.Dial, Instance: instance, Port: uint16(port)})
			}
			if listen == "" {
				conn, err := open(cmd.Context())
				if err != nil {
					return c.explain(err)
				}
				stream.Join(standardStreams{cmd.InOrStdin(), cmd.OutOrStdout()}, conn)
				return nil
			}
			return c.forwardListener(cmd, listen, open)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "local `address:port` to listen on, loopback unless you say otherwise")
	return cmd
}

// forwardListener serves until the command is interrupted. Each connection gets a stream of its own.
func (c *client) forwardListener(cmd *cobra.Command, listen string, open func(context.Context) (net.Conn, error)) error {
	if strings.HasPrefix(listen, ":") {
		listen = "127.0.0.1" + listen
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "listening on %s\n", l.Addr())
	stop := context.AfterFunc(cmd.Context(), func() { _ = l.Close() })
	defer stop()
	for {
		near, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			far, err := open(cmd.Context())
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), c.explain(err))
				_ = near.Close()
				return
			}
			stream.Join(near, far)
		}()
	}
}

type standardStreams struct {
	in  io.Reader
	out io.Writer
}

func (s standardStreams) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s standardStreams) Write(p []byte) (int, error) { return s.out.Write(p) }
func (s standardStreams) Close() error                { return nil }

func (c *client) ssh() *cobra.Command {
	var keyFile, user string
	cmd := &cobra.Command{
		Annotations: map[string]string{rawNote: ""},
		Use:         "ssh INSTANCE [-- COMMAND...]", Short: "Log in to a guest, or run a command in it",
		Long: "Ssh dials the guest's port 22 through its host, outside the security groups. The guest's host key is remembered at the first\nlogin and must not change afterwards.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			instance, err := ids.Parse[ids.Instance](args[0])
			if err != nil {
				return err
			}
			key, err := readKey(keyFile)
			if err != nil {
				return err
			}
			session, closeAll, err := c.login(cmd.Context(), instance, user, key)
			if err != nil {
				return c.explain(err)
			}
			defer closeAll()
			return runSession(cmd, session, args[1:])
		},
	}
	cmd.Flags().StringVarP(&keyFile, "identity", "i", "", "private key `file` of the launch key pair (required)")
	cmd.Flags().StringVarP(&user, "login", "l", "ec2-user", "log in as this `user`")
	_ = cmd.MarkFlagRequired("identity")
	return cmd
}

func readKey(path string) (ssh.Signer, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(raw)
	if err != nil {
		return nil, fmt.Errorf("read private key %s: %w", path, err)
	}
	return key, nil
}

func (c *client) login(ctx context.Context, instance ids.Instance, user string, key ssh.Signer) (*ssh.Session, func(), error) {
	conn, err := stream.Open(ctx, c.dial, stream.Request{Kind: stream.Dial, Instance: instance, Port: 22})
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	transport, channels, requests, err := ssh.NewClientConn(conn, string(instance), &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: rememberHostKey,
	})
	if err != nil {
		stop()
		return nil, nil, errors.Join(fmt.Errorf("log in to %s: %w", instance, err), conn.Close())
	}
	client := ssh.NewClient(transport, channels, requests)
	session, err := client.NewSession()
	if err != nil {
		stop()
		return nil, nil, errors.Join(err, client.Close())
	}
	return session, func() { stop(); _ = client.Close() }, nil
}

// rememberHostKey trusts a guest's key at the first login and insists on it later. An instance id is never used twice, so
// a changed key is never a new machine's. Keys are kept with the cloud's environment, and go with it.
func rememberHostKey(instance string, _ net.Addr, key ssh.PublicKey) error {
	path := filepath.Join(statedir.Environment(statedir.Default()), "hostkeys", instance)
	line := ssh.FingerprintSHA256(key)
	known, err := os.ReadFile(path)
	switch {
	case err == nil && strings.TrimSpace(string(known)) == line:
		return nil
	case err == nil:
		return fmt.Errorf("the host key of %s changed from %s to %s: if the instance really made a new one, remove %s", instance, strings.TrimSpace(string(known)), line, path)
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(line+"\n"), 0o644)
}

func runSession(cmd *cobra.Command, session *ssh.Session, command []string) error {
	session.Stdout, session.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
	var err error
	if len(command) > 0 {
		session.Stdin = cmd.InOrStdin()
		err = session.Run(strings.Join(command, " "))
	} else {
		err = runShell(cmd, session)
	}
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		return &ExitError{exit.ExitStatus()}
	}
	return err
}

// runShell runs a login shell with this terminal put through.
func runShell(cmd *cobra.Command, session *ssh.Session) error {
	session.Stdin = cmd.InOrStdin()
	fd := int(os.Stdin.Fd())
	if term.IsTerminal(fd) {
		width, height, err := term.GetSize(fd)
		if err != nil {
			return err
		}
		if err := session.RequestPty(os.Getenv("TERM"), height, width, ssh.TerminalModes{}); err != nil {
			return err
		}
		before, err := term.MakeRaw(fd)
		if err != nil {
			return err
		}
		defer func() { _ = term.Restore(fd, before) }()
		stop := followWindow(fd, session)
		defer stop()
	}
	if err := session.Shell(); err != nil {
		return err
	}
	return session.Wait()
}

// followWindow tells the guest when this terminal's size changes.
func followWindow(fd int, session *ssh.Session) (stop func()) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	go func() {
		for range changes {
			if width, height, err := term.GetSize(fd); err == nil {
				_ = session.WindowChange(height, width)
			}
		}
	}()
	return func() { signal.Stop(changes); close(changes) }
}
