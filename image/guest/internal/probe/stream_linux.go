package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	maxConnections = 256
	echoIdle       = 2 * time.Minute
	// maxDatagram is the largest UDP payload in IPv4.
	maxDatagram = 65507
)

// errMismatch says that what came back is not what went out.
var errMismatch = errors.New("data came back changed")

// tcp connects; with data it also wants the same bytes back.
func (r *Runner) tcp(ctx context.Context, cmd Command) (Values, error) {
	address, err := target(cmd.Args[0], cmd.Args[1])
	if err != nil {
		return nil, err
	}
	if len(cmd.Args) == 3 {
		ms, err := number("timeout", cmd.Args[2], 1, int(MaxTimeout.Milliseconds()))
		if err != nil {
			return nil, err
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
		defer cancel()
	}
	start := time.Now()
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	values := Values{"connectMs": millis(time.Since(start)), "local": conn.LocalAddr().String()}
	data, ok := cmd.Options["data"]
	if !ok || data == "" {
		return values, nil
	}
	if _, err := io.WriteString(conn, data); err != nil {
		return values, err
	}
	back := make([]byte, len(data))
	if _, err := io.ReadFull(conn, back); err != nil {
		return values, err
	}
	if string(back) != data {
		return values, errMismatch
	}
	values["echoMs"] = millis(time.Since(start))
	return values, nil
}

// dial connects and gives the connection the context's deadline.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	return conn, nil
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r *Runner) tcpListen(ctx context.Context, cmd Command) (Values, error) {
	return r.serveTCP(ctx, cmd.Args[0], echoConn)
}

func (r *Runner) serveHash(ctx context.Context, cmd Command) (Values, error) {
	return r.serveTCP(ctx, cmd.Args[0], hashConn)
}

// serveTCP listens until "close" and gives each connection to handle.
func (r *Runner) serveTCP(ctx context.Context, portText string, handle func(net.Conn)) (Values, error) {
	port, err := number("port", portText, 1, 65535)
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	if err := r.keep("tcp/"+portText, l); err != nil {
		return nil, err
	}
	go acceptLoop(l, handle)
	return Values{"listening": l.Addr().String()}, nil
}

func acceptLoop(l net.Listener, handle func(net.Conn)) {
	slots := semaphore.NewWeighted(maxConnections)
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if !slots.TryAcquire(1) {
			conn.Close()
			continue
		}
		go func() {
			defer slots.Release(1)
			defer conn.Close()
			handle(conn)
		}()
	}
}

// echoConn returns what it receives until the peer closes or falls silent.
func echoConn(conn net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		conn.SetDeadline(time.Now().Add(echoIdle))
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := conn.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// udp sends one datagram of random bytes and wants it back. Beyond the MTU it travels in fragments, both ways.
func (r *Runner) udp(ctx context.Context, cmd Command) (Values, error) {
	address, err := target(cmd.Args[0], cmd.Args[1])
	if err != nil {
		return nil, err
	}
	size, err := number("size", cmd.Args[2], 1, maxDatagram)
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	out := make([]byte, size)
	rand.Read(out)
	start := time.Now()
	if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	back := make([]byte, maxDatagram+1)
	n, err := conn.Read(back)
	if err != nil {
		return Values{"sent": size}, err
	}
	if !bytes.Equal(back[:n], out) {
		return Values{"sent": size, "received": n}, errMismatch
	}
	return Values{"sent": size, "received": n, "rttMs": millis(time.Since(start))}, nil
}

func (r *Runner) udpEcho(ctx context.Context, cmd Command) (Values, error) {
	port, err := number("port", cmd.Args[0], 1, 65535)
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(ctx, "udp", ":"+strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	if err := r.keep("udp/"+cmd.Args[0], conn); err != nil {
		return nil, err
	}
	go echoPackets(conn)
	return Values{"listening": conn.LocalAddr().String()}, nil
}

func echoPackets(conn net.PacketConn) {
	buf := make([]byte, maxDatagram+1)
	for {
		n, from, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			// A datagram that cannot be answered, such as one too large, is lost as any other would be.
			_, _ = conn.WriteTo(buf[:n], from)
		}
	}
}

// StartEcho opens the default echo services. What is already open stays.
func (r *Runner) StartEcho(ctx context.Context, tcpPorts []uint16, udpPort uint16) error {
	var errs []error
	for _, port := range tcpPorts {
		if _, err := r.serveTCP(ctx, strconv.Itoa(int(port)), echoConn); err != nil {
			errs = append(errs, err)
		}
	}
	_, err := r.udpEcho(ctx, Command{Args: []string{strconv.Itoa(int(udpPort))}})
	if err = errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("start echo services: %w", err)
	}
	return nil
}
