package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/internal/ids"
)

var (
	errNoGuest   = errors.New("no such instance on this host")
	errNoNetwork = errors.New("this host has no network: its guests are simulated")
)

// serveConsole answers a StreamConsole: the tail of the console, and what follows if that was asked for.
func (a *agent) serveConsole(ctx context.Context, stream net.Conn, header []byte) error {
	request, err := host.Decode[host.ConsoleRequest](header)
	if err != nil {
		return err
	}
	if _, err := ids.Parse[ids.Instance](string(request.Instance)); err != nil {
		return err
	}
	dir := filepath.Join(a.o.StateDir, guestsFolder, string(request.Instance))
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("read console of %s: %w", request.Instance, errNoGuest)
	}
	machine := a.machine(request.Instance)
	if machine != nil && request.Follow {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() { // nothing is read but the reader's going away
			io.Copy(io.Discard, stream)
			cancel()
		}()
		return machine.FollowConsole(ctx, request.TailBytes, stream)
	}
	b, err := consoleOf(ctx, machine, dir, request.TailBytes)
	if err != nil {
		return err
	}
	_, err = stream.Write(b)
	return err
}

// consoleOf reads the console of a machine; nil is a guest that is off.
func consoleOf(ctx context.Context, machine vm.VM, dir string, tailBytes int) ([]byte, error) {
	if machine == nil {
		return vm.ReadConsole(dir, tailBytes)
	}
	return machine.Console(ctx, tailBytes)
}

func (a *agent) machine(id ids.Instance) vm.VM {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.workers[id]; w != nil {
		return w.shared
	}
	return nil
}

// serveDial answers a StreamDial: it joins the stream with a connection to the guest.
func (a *agent) serveDial(ctx context.Context, stream net.Conn, header []byte) error {
	request, err := host.Decode[host.DialRequest](header)
	if err != nil {
		return err
	}
	if a.o.Network == nil {
		return errNoNetwork
	}
	id, err := a.dialInterface(request)
	if err != nil {
		return fmt.Errorf("dial %s: %w", request.Instance, err)
	}
	guest, err := a.o.Network.DialGuest(ctx, id, int(request.Port))
	if err != nil {
		return fmt.Errorf("dial %s port %d: %w", request.Instance, request.Port, err)
	}
	defer guest.Close()
	a.o.Log.Info("guest dialled", "instance", request.Instance, "interface", id, "port", request.Port)
	join(ctx, stream, guest)
	return nil
}

// dialInterface finds the interface to dial: one of the instance's, the first unless it was named.
func (a *agent) dialInterface(request host.DialRequest) (ids.Interface, error) {
	s, _ := a.current()
	if s == nil {
		return "", errNoGuest
	}
	item, found := s.instances[request.Instance]
	if !found {
		return "", errNoGuest
	}
	for _, id := range item.Interfaces {
		if request.Interface == "" || request.Interface == id {
			return id, nil
		}
	}
	return "", errors.New("the instance has no such interface")
}

// join copies both ways until both directions have ended, one has failed, or ctx ends.
func join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() { a.Close(); b.Close() })
	defer stop()
	ended := make(chan error, 2)
	copyHalf := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		} else {
			to.Close()
		}
		ended <- err
	}
	go copyHalf(a, b)
	go copyHalf(b, a)
	if <-ended != nil {
		a.Close()
		b.Close()
	}
	<-ended
}
