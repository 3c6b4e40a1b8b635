package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/enroll"
	"github.com/nimbrel/nimbrel/dispatch/session"
	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/rpc"
	"github.com/nimbrel/nimbrel/store"
)

// Options of a Server. The zero value of each field means the default named.
type Options struct {
	Cell     uint32
	Observer dispatch.Observer // hears from targets; nobody by default
	// Authority signs targets and proves the server to them. Without one there is no TLS and every peer is believed the
	// name it gives: for tests over loopback, and only with Plain set.
	Authority *enroll.Authority
	Plain     bool
	// Streams are served to targets that have a session, by name. Nothing is served by default.
	Streams map[string]StreamHandler

	Clock            env.Clock // the machine's
	Log              *slog.Logger
	MaxTargets       int // sessions at once; 16384
	MaxTargetStreams int // of Streams that one target has open at once, beyond which it is refused; 16

	SuspectAfter time.Duration // dispatch.SuspectAfter
	DeadAfter    time.Duration // dispatch.DeadAfter
	ResendPeriod time.Duration // dispatch.ResendPeriod; negative: never
	// HandshakeTimeout is how long a connection may take to say who it is; 5 s.
	HandshakeTimeout time.Duration

	ProbeTimeout time.Duration // how long a session may take to prove that it lives when its name is claimed; 3 s
	JoinTimeout  time.Duration // how long one without a certificate may stay; 30 s
	Tick         time.Duration // how often silence is judged and tombstones are looked at; 1 s
}

// Validate reports options that contradict each other.
func (o Options) Validate() error {
	if o.Authority == nil && !o.Plain {
		return errors.New("dispatch server: needs an authority, or Plain for tests")
	}
	if o.Authority != nil && o.Plain {
		return errors.New("dispatch server: has an authority and is told to go without")
	}
	if err := validateStreams(o.Streams); err != nil {
		return fmt.Errorf("dispatch server: %w", err)
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Clock == nil {
		o.Clock = env.Real{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.MaxTargets <= 0 {
		o.MaxTargets = 16384
	}
	if o.MaxTargetStreams <= 0 {
		o.MaxTargetStreams = 16
	}
	for field, value := range map[*time.Duration]time.Duration{
		&o.SuspectAfter: dispatch.SuspectAfter, &o.DeadAfter: dispatch.DeadAfter, &o.ResendPeriod: dispatch.ResendPeriod,
		&o.HandshakeTimeout: 5 * time.Second, &o.ProbeTimeout: 3 * time.Second, &o.JoinTimeout: 30 * time.Second, &o.Tick: time.Second,
	} {
		if *field == 0 {
			*field = value
		}
	}
	return o
}

// Server is the control plane's end. It is safe for concurrent use.
type Server struct {
	db *store.DB
	o  Options

	docs     sync.RWMutex
	lib      *session.Library
	version  store.Version
	history  string
	advanced chan struct{} // closed and replaced at each batch
	ready    chan struct{} // closed once lib and history are known

	mu         sync.Mutex
	epochs     map[string]uint64 // raises
	identities map[string][]byte
	targets    map[string]*target
	interest   map[string]map[*link]struct{} // by document
	conns      map[*rpc.Conn]struct{}
	joining    int            // of conns: have no certificate yet
	greeting   map[string]int // handshakes under way, by address
	closing    bool

	handlers sync.WaitGroup // of Options.Streams
}

// target is what is remembered of a target while this server runs.
type target struct {
	name  string
	calls sync.Mutex // serialises the observer

	// Under Server.mu:
	live      *link
	streams   int // being served to it
	liveness  dispatch.Liveness
	since     time.Time
	lastHeard time.Time
	bootID    string
	info      []byte

	mu    sync.Mutex // of the sessions' cores, and of:
	state *session.Target
}

// New makes a server over a store handle. It panics on options that Validate refuses.
func New(db *store.DB, o Options) *Server {
	err := o.Validate()
	assert.That(err == nil, "%v", err)
	return &Server{db: db, o: o.withDefaults(), lib: session.NewLibrary(), ready: make(chan struct{}), advanced: make(chan struct{}), epochs: map[string]uint64{},
		identities: map[string][]byte{}, targets: map[string]*target{}, interest: map[string]map[*link]struct{}{}, conns: map[*rpc.Conn]struct{}{}, greeting: map[string]int{}}
}

// Ready is closed once the documents have been read and sessions can begin.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run follows the store and watches over targets until ctx ends or the store's feed fails.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { s.watchOver(ctx) })
	err := s.follow(ctx)
	cancel()
	wg.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// handshakes bounds the connections that have not said who they are, and handshakesPerAddress those from one address:
// who holds connections open and says nothing keeps nobody else waiting.
const (
	handshakes           = 128
	handshakesPerAddress = 32
)

// maxJoining bounds the connections without a certificate: strangers can hold no more, and none for long, so that they
// never take the place of targets.
const maxJoining = 64

// Serve accepts targets until ctx ends, then closes their connections and waits for the handlers of their streams. It
// waits for Ready first.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var wg sync.WaitGroup
	defer s.handlers.Wait()
	defer wg.Wait()
	defer s.closeAll()
	limit := make(chan struct{}, handshakes)
	for {
		limit <- struct{}{}
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			var transient interface{ Temporary() bool }
			if errors.As(err, &transient) && transient.Temporary() { // out of file descriptors: it passes
				s.o.Log.Warn("accept target", "err", err)
				<-limit
				time.Sleep(50 * time.Millisecond)
				continue
			}
			return fmt.Errorf("accept targets on %v: %w", l.Addr(), err)
		}
		address := addressOf(nc)
		if !s.greet(address, 1) {
			nc.Close()
			<-limit
			continue
		}
		wg.Go(func() {
			s.serveConn(ctx, nc, func() {
				s.greet(address, -1)
				<-limit
			})
		})
	}
}

// greet counts a handshake that begins (1) or ends (-1); false when the address has no room for one that begins.
func (s *Server) greet(address string, change int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if change > 0 && s.greeting[address] >= handshakesPerAddress {
		return false
	}
	if s.greeting[address] += change; s.greeting[address] == 0 {
		delete(s.greeting, address)
	}
	return true
}

// addressOf is a peer's address without its port.
func addressOf(nc net.Conn) string {
	if tcp, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.IP.String()
	}
	return nc.RemoteAddr().String()
}

// serveConn begins a connection and holds it in the table until it is over.
func (s *Server) serveConn(ctx context.Context, nc net.Conn, begun func()) {
	conn, joining, err := s.begin(ctx, nc)
	begun()
	if err != nil {
		s.o.Log.Debug("begin connection", "peer", nc.RemoteAddr().String(), "err", err)
		return
	}
	defer conn.Close()
	if !s.admit(conn, joining) {
		return
	}
	if joining {
		defer time.AfterFunc(s.o.JoinTimeout, func() { conn.Close() }).Stop()
	}
	<-conn.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
	s.joining -= count(joining)
}

// admit takes a connection into the table if there is room.
func (s *Server) admit(conn *rpc.Conn, joining bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	room := len(s.conns)-s.joining < s.o.MaxTargets
	if joining {
		room = s.joining < maxJoining
	}
	if s.closing || !room {
		return false
	}
	s.conns[conn] = struct{}{}
	s.joining += count(joining)
	return true
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// begin completes the handshakes. joining tells that the peer has no certificate, and may do nothing but get one.
func (s *Server) begin(ctx context.Context, nc net.Conn) (conn *rpc.Conn, joining bool, err error) {
	o := rpc.Options{Handler: peerHandler{s}, Name: "server", HelloTimeout: s.o.HandshakeTimeout}
	if s.o.Authority == nil {
		conn, err = rpc.Server(ctx, nc, o)
		return conn, false, err
	}
	tc := tls.Server(nc, s.tlsConfig())
	handshake, cancel := context.WithTimeout(ctx, s.o.HandshakeTimeout)
	defer cancel()
	if err := tc.HandshakeContext(handshake); err != nil {
		nc.Close()
		return nil, false, err
	}
	if joining = tc.ConnectionState().NegotiatedProtocol == enroll.ALPN; joining {
		o.Handler, o.MaxRequests = joinHandler{s}, 1
	}
	conn, err = rpc.Server(ctx, tc, o)
	return conn, joining, err
}

func (s *Server) closeAll() {
	s.mu.Lock()
	s.closing = true
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// tlsConfig wants a registered client certificate, except of one who comes to join.
func (s *Server) tlsConfig() *tls.Config {
	pool := s.o.Authority.Pool()
	config := rpc.ServerTLS(s.o.Authority.ServerCertificate, pool, s.authorise)
	join := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{enroll.ALPN}, GetCertificate: config.GetCertificate}
	config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(h.SupportedProtos, enroll.ALPN) {
			return join, nil
		}
		return nil, nil
	}
	return config
}

// authorise compares the certificate's key with the target's identity row.
func (s *Server) authorise(cert *x509.Certificate) error {
	hash, err := enroll.KeyHash(cert.PublicKey)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registered(cert.Subject.CommonName, hash)
}

// registered needs Server.mu.
func (s *Server) registered(target string, hash []byte) error {
	if want := s.identities[target]; len(want) == 0 || !slices.Equal(want, hash) {
		return fmt.Errorf("%w: %q", dispatch.ErrNotAuthorised, target)
	}
	return nil
}

// Targets lists the targets heard since this server started, by name.
func (s *Server) Targets() []dispatch.TargetStatus {
	s.mu.Lock()
	names := slices.Sorted(maps.Keys(s.targets))
	s.mu.Unlock()
	out := make([]dispatch.TargetStatus, 0, len(names))
	for _, name := range names {
		if st, ok := s.Target(name); ok {
			out = append(out, st)
		}
	}
	return out
}

// Target is one target's status; false when it was never heard.
func (s *Server) Target(name string) (dispatch.TargetStatus, bool) {
	s.mu.Lock()
	t := s.targets[name]
	if t == nil {
		s.mu.Unlock()
		return dispatch.TargetStatus{}, false
	}
	st := dispatch.TargetStatus{Target: name, Connected: t.live != nil, Liveness: t.liveness, Since: t.since, LastHeartbeat: t.lastHeard,
		Epoch: s.epochs[name] + 1, BootID: t.bootID, Info: t.info}
	s.mu.Unlock()
	st.Sections = s.sections(t)
	return st, true
}

func (s *Server) sections(t *target) []dispatch.SectionStatus {
	var out []dispatch.SectionStatus
	for id, m := range t.marks() {
		out = append(out, dispatch.SectionStatus{ID: id, Received: m.Received, Durable: m.Durable, Applied: m.Applied})
	}
	s.docs.RLock()
	defer s.docs.RUnlock()
	for i := range out {
		if src := s.lib.Section(out[i].ID); src != nil {
			out[i].Seq = src.Seq()
		}
	}
	slices.SortFunc(out, func(a, b dispatch.SectionStatus) int { return compareID(a.ID, b.ID) })
	return out
}

// Applied is the sequence up to which a section of the target's own document is applied; zero when it was not said.
func (s *Server) Applied(target, section string) uint64 {
	return s.AppliedTopic(target, target, section)
}

// AppliedTopic is the same for any document that the target is subscribed to.
func (s *Server) AppliedTopic(target, doc, section string) uint64 {
	s.mu.Lock()
	t := s.targets[target]
	s.mu.Unlock()
	if t == nil {
		return 0
	}
	return t.marks()[dispatch.SectionID{Doc: doc, Section: section}].Applied
}

type nobody struct{}

func (nobody) TargetUp(string, []byte)                                {}
func (nobody) TargetDown(string, time.Time)                           {}
func (nobody) Applied(string, string, uint64, []dispatch.Failure)     {}
func (nobody) Actual(string, string, bool, []dispatch.Item, []string) {}
