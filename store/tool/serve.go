package tool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/client"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/store/server"
)

// drainLimit bounds how long a server that is told to end waits for what is under way.
const drainLimit = 10 * time.Second

func serveCommand() *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use: "serve DIRECTORY", Short: "Serve a store on a unix socket until interrupted", Args: cobra.ExactArgs(1),
		Long: "Serve opens the store in a directory, or creates it, and serves it to clients of store/client and to --connect.\n" +
			"The socket is its owner's alone; who may connect may read and write everything.",
		Example: "  nimbrel store serve /srv/counters --listen unix:/run/counters.sock",
		RunE: func(c *cobra.Command, args []string) (err error) {
			path, err := socketOf("--listen", listen)
			if err != nil {
				return err
			}
			e, err := embed.Open(args[0], embed.Options{})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, e.Close()) }()
			l, err := listenUnix(path)
			if err != nil {
				return err
			}
			return serve(c, e, l)
		},
	}
	c.Flags().StringVar(&listen, "listen", "", "`unix:PATH` of the socket")
	return c
}

// listenUnix listens on a socket that only its owner may use. A socket that a killed server left is replaced; the
// directory's lock, which the caller holds, says nothing about a socket of another store.
func listenUnix(path string) (net.Listener, error) {
	if nc, err := net.Dial("unix", path); err == nil {
		nc.Close()
		return nil, fmt.Errorf("listen on %s: another server answers there", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove socket that a server left: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func serve(c *cobra.Command, e store.Engine, l net.Listener) error {
	s, err := server.New(c.Context(), e, server.Options{})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	fmt.Fprintf(c.OutOrStdout(), "serving on unix:%v\n", l.Addr())
	err = s.Serve(c.Context(), l)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context()), drainLimit)
	defer cancel()
	return errors.Join(err, s.Close(ctx))
}

// socketOf is the path of an address.
func socketOf(flag, address string) (string, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok || path == "" {
		return "", fmt.Errorf("%s %q: name a socket as unix:PATH", flag, address)
	}
	return path, nil
}

// remote is the engine behind --connect.
func (p *place) remote(ctx context.Context) (store.Engine, error) {
	path, err := socketOf("--connect", p.connect)
	if err != nil {
		return nil, err
	}
	return client.New(ctx, client.Options{RetryFor: 10 * time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}), nil
}
