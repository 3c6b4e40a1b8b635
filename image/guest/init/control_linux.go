package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/image/guest"
	"github.com/nimbrel/nimbrel/image/guest/internal/probe"
)

const (
	// retryPause is the pause before a channel that failed is opened again.
	retryPause = time.Second
	// maxProbeClients bounds connections to the probe's socket.
	maxProbeClients = 32
	// clockTolerance is how wrong the clock may be before it is set.
	clockTolerance = 500 * time.Millisecond
)

// serveControlPort answers probe commands on the second serial port for ever, one after the other.
func (m *machine) serveControlPort(ctx context.Context) {
	port, err := openSerial(guest.ControlPort)
	if err != nil {
		return // the machine has one serial port only
	}
	// Firmware may have used the port as a console: end its unfinished line.
	_, err = io.WriteString(port, "\n")
	warn("control port", err)
	say("%s", guest.MarkerControl)
	for ctx.Err() == nil {
		if err := m.probe.Serve(ctx, port); err != nil && !errors.Is(err, io.EOF) {
			warn("control port", err)
		}
		time.Sleep(retryPause)
	}
}

// openSerial opens a port without echo or translation. A port that is not there fails with EIO.
func openSerial(device string) (*os.File, error) {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
		t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		err = unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open %s: %w", device, err)
	}
	return os.NewFile(uintptr(fd), device), nil
}

// serveProbeSocket answers the same commands for programs in the guest. Everyone may ask: the only account can become
// root anyway.
func (m *machine) serveProbeSocket(ctx context.Context) {
	l, err := net.Listen("unix", guest.ProbeSocket)
	if err != nil {
		warn("probe socket", err)
		return
	}
	warn("probe socket", os.Chmod(guest.ProbeSocket, 0o666))
	slots := semaphore.NewWeighted(maxProbeClients)
	for {
		conn, err := l.Accept()
		if err != nil {
			warn("probe socket", err)
			return
		}
		if !slots.TryAcquire(1) {
			conn.Close()
			continue
		}
		go func() {
			defer slots.Release(1)
			defer conn.Close()
			_ = m.probe.Serve(ctx, conn) // ends when the client has gone
		}()
	}
}

// setClock sets the clock by the first time server that answers, if it is clearly wrong.
func setClock(servers []netip.Addr) {
	for _, server := range servers {
		ctx, cancel := context.WithTimeout(context.Background(), probe.DefaultTimeout)
		offset, _, err := probe.QueryNTP(ctx, server.String())
		cancel()
		if err != nil {
			continue
		}
		if offset.Abs() > clockTolerance {
			tv := unix.NsecToTimeval(time.Now().Add(offset).UnixNano())
			warn("clock", unix.Settimeofday(&tv))
		}
		return
	}
}
