package guest

import (
	"net"
	"net/netip"
	"sync"
)

// Limit returns a listener for connections of guests, of which it closes at once those beyond perGuest that one source
// address has open, and those beyond total. Guests are not trusted: without a bound, one that opens connections and says
// nothing takes every descriptor of the agent, which every other guest depends on.
func Limit(l net.Listener, perGuest, total int) net.Listener {
	return &limited{Listener: l, perGuest: perGuest, total: total, open: map[netip.Addr]int{}}
}

type limited struct {
	net.Listener
	perGuest, total int

	mu   sync.Mutex
	open map[netip.Addr]int // mu; by source, never 0
	sum  int                // mu; of open
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err == nil && l.take(peer.Addr()) {
			return &counted{Conn: c, leave: sync.OnceFunc(func() { l.give(peer.Addr()) })}, nil
		}
		_ = c.Close() // the guest hears that much, and asks again
	}
}

func (l *limited) take(source netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[source] >= l.perGuest || l.sum >= l.total {
		return false
	}
	l.open[source]++
	l.sum++
	return true
}

func (l *limited) give(source netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum--
	if l.open[source]--; l.open[source] == 0 {
		delete(l.open, source)
	}
}

// counted gives its place back when it is closed.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
