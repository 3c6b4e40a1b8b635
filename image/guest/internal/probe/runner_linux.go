package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

const (
	maxConcurrent = 32
	maxListeners  = 64
)

// Network is what the probe asks of the guest's DHCP client.
type Network interface {
	// Leases returns one printable value per interface.
	Leases() map[string]any
	// Renew makes the interface's client renew at once.
	Renew(ctx context.Context, device string) error
}

// Runner executes commands. Its zero value is not usable; use New. All methods are safe for concurrent use.
type Runner struct {
	network Network
	imds    string
	slots   chan struct{}

	mu        sync.Mutex // guards listeners
	listeners map[string]io.Closer
}

// New returns a runner. The metadata URL is that of the instance metadata service, without a path.
func New(network Network, imdsURL string) *Runner {
	return &Runner{network: network, imds: imdsURL, slots: make(chan struct{}, maxConcurrent), listeners: map[string]io.Closer{}}
}

// handler does one command. It returns what the answer says; an error makes the answer a "fail" with the same values.
type handler func(*Runner, context.Context, Command) (Values, error)

// spec is a command's handler, its synopsis and how many arguments it takes.
type spec struct {
	run      handler
	synopsis string
	min, max int
}

// commands is filled by init: help lists it, so the map would otherwise refer to itself.
var commands map[string]spec

func init() {
	commands = map[string]spec{
		"addr":                    {(*Runner).addr, "addr [DEV]", 0, 1},
		"arp-spoof":               {(*Runner).arpSpoof, "arp-spoof IP [count=N] [dev=DEV]", 1, 1},
		"close":                   {(*Runner).closeListener, "close tcp|udp PORT", 2, 2},
		"counters":                {(*Runner).counters, "counters", 0, 0},
		"dhcp-renew":              {(*Runner).renew, "dhcp-renew [DEV]", 0, 1},
		"disk":                    {(*Runner).disk, "disk", 0, 0},
		"dns":                     {(*Runner).dns, "dns NAME [server=IP]", 1, 1},
		"flood-dhcp-server-reply": {(*Runner).forgeDHCP, "flood-dhcp-server-reply [count=N] [dev=DEV]", 0, 0},
		"fragments":               {(*Runner).udp, "fragments IP PORT BYTES", 3, 3},
		"help":                    {(*Runner).help, "help", 0, 0},
		"http":                    {(*Runner).http, "http URL [method=M] [header=\"K: V\"]", 1, 1},
		"imds":                    {(*Runner).imdsGet, "imds PATH", 1, 1},
		"lease":                   {(*Runner).lease, "lease", 0, 0},
		"mtu":                     {(*Runner).mtu, "mtu [DEV]", 0, 1},
		"ntp":                     {(*Runner).ntp, "ntp IP", 1, 1},
		"ping":                    {(*Runner).ping, "ping IP [SIZE] [df] [count=N]", 1, 3},
		"raw-vxlan":               {(*Runner).rawVXLAN, "raw-vxlan OUTERDST VNI INNERSRC INNERDST [gbp=N] [srcMac=M] [dstMac=M] [dstPort=P] [count=N]", 4, 4},
		"route":                   {(*Runner).route, "route", 0, 0},
		"send-hash":               {(*Runner).sendHash, "send-hash IP PORT MIB [dir=send|recv|both]", 3, 3},
		"serve-hash":              {(*Runner).serveHash, "serve-hash PORT", 1, 1},
		"sh":                      {(*Runner).shell, "sh \"COMMAND\"", 1, maxTokens},
		"spoof-ip":                {(*Runner).spoofIP, "spoof-ip SRC DST [count=N] [proto=udp|icmp] [dstPort=P]", 2, 2},
		"spoof-mac":               {(*Runner).spoofMAC, "spoof-mac MAC DST [count=N] [dev=DEV]", 2, 2},
		"tcp":                     {(*Runner).tcp, "tcp IP PORT [TIMEOUTMS] [data=TEXT]", 2, 3},
		"tcp-listen":              {(*Runner).tcpListen, "tcp-listen PORT", 1, 1},
		"udp":                     {(*Runner).udp, "udp IP PORT SIZE", 3, 3},
		"udp-echo":                {(*Runner).udpEcho, "udp-echo PORT", 1, 1},
	}
}

// Run executes one line and returns the answer, always one line.
func (r *Runner) Run(ctx context.Context, line string) string {
	cmd, err := Parse(line)
	if err != nil {
		return Answer(cmd.Tag, nil, usageError{err.Error()})
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	default:
		return Answer(cmd.Tag, nil, fmt.Errorf("%d commands are running", maxConcurrent))
	}
	values, err := r.dispatch(ctx, cmd)
	return Answer(cmd.Tag, values, err)
}

func (r *Runner) dispatch(ctx context.Context, cmd Command) (Values, error) {
	s, ok := commands[cmd.Name]
	if !ok {
		return nil, usagef("unknown command %q: try help", cmd.Name)
	}
	if n := len(cmd.Args); n < s.min || n > s.max {
		return nil, usagef("usage: %s", s.synopsis)
	}
	ctx, cancel := context.WithTimeout(ctx, cmd.Timeout)
	defer cancel()
	return s.run(r, ctx, cmd)
}

func (r *Runner) help(context.Context, Command) (Values, error) {
	all := Values{}
	for name, s := range commands {
		all[name] = s.synopsis
	}
	return all, nil
}

// Serve answers the lines of one channel in order until it ends. Lines that are too long are answered and skipped; empty
// ones get no answer, so that a caller may send one before each command to end whatever noise came before.
func (r *Runner) Serve(ctx context.Context, channel io.ReadWriter) error {
	in := bufio.NewReaderSize(channel, MaxLineBytes+2)
	for ctx.Err() == nil {
		text, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = in.ReadSlice('\n')
			}
			text = []byte(strings.Repeat("x", MaxLineBytes+1))
		}
		if err != nil {
			return err
		}
		line := strings.TrimRight(string(text), "\r\n")
		if strings.TrimSpace(line) == "" {
			continue
		}
		if _, err := io.WriteString(channel, r.Run(ctx, line)+"\n"); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// keep stores a listener under its name, which must be free.
func (r *Runner) keep(name string, l io.Closer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.listeners) >= maxListeners {
		l.Close()
		return fmt.Errorf("%d listeners are open", maxListeners)
	}
	r.listeners[name] = l
	return nil
}

func (r *Runner) closeListener(_ context.Context, cmd Command) (Values, error) {
	name := cmd.Args[0] + "/" + cmd.Args[1]
	r.mu.Lock()
	l, ok := r.listeners[name]
	delete(r.listeners, name)
	r.mu.Unlock()
	if !ok {
		return nil, usagef("no listener %s", name)
	}
	return nil, l.Close()
}

// CloseAll ends every listener.
func (r *Runner) CloseAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.listeners {
		l.Close()
	}
	clear(r.listeners)
}

// number reads a decimal or 0x number between lo and hi.
func number(what, text string, lo, hi int) (int, error) {
	n, err := strconv.ParseInt(text, 0, 64)
	if err != nil || n < int64(lo) || n > int64(hi) {
		return 0, usagef("%s %q is not a number between %d and %d", what, text, lo, hi)
	}
	return int(n), nil
}

// option reads a numeric option, with a default.
func (c Command) option(key string, otherwise, lo, hi int) (int, error) {
	text, ok := c.Options[key]
	if !ok {
		return otherwise, nil
	}
	return number(key, text, lo, hi)
}

// target reads an address and a port.
func target(host, port string) (string, error) {
	if _, err := number("port", port, 1, 65535); err != nil {
		return "", err
	}
	if net.ParseIP(host) == nil {
		return "", usagef("%q is not an IP address", host)
	}
	return net.JoinHostPort(host, port), nil
}
