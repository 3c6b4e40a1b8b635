package metadata

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/host/internal/guest"
	"github.com/nimbrel/nimbrel/internal/env"
)

// The headers of version 2, and the longest life of a token.
const (
	tokenHeader    = "X-Aws-Ec2-Metadata-Token"
	tokenTTLHeader = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	tokenTTLMax    = 21600 * time.Second
)

// connectionsPerGuest bounds what one guest has open, connectionsMax what all have.
const connectionsPerGuest, connectionsMax = 64, 4096

// versions are the dated paths that the service lists, oldest first, as EC2 does.
var versions = []string{
	"1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01", "2009-04-04",
	"2011-01-01", "2011-05-01", "2012-01-12", "2014-02-25", "2014-11-05", "2015-10-20", "2016-04-19", "2016-06-30",
	"2016-09-02", "2018-03-28", "2018-08-17", "2018-09-24", "2019-10-01", "2020-10-27", "2021-01-03", "2021-03-23",
	"2021-07-15", "2022-09-24", "2024-04-11", "latest",
}

// Server answers metadata requests. It is safe for concurrent use.
type Server struct {
	directory guest.Directory
	clock     env.Clock
	key       []byte
	known     map[string]bool
}

// New returns a server. key makes tokens and has KeyBytes bytes.
func New(d guest.Directory, clock env.Clock, key []byte) (*Server, error) {
	if len(key) != KeyBytes {
		return nil, fmt.Errorf("metadata token key has %d bytes, want %d", len(key), KeyBytes)
	}
	known := map[string]bool{}
	for _, v := range versions {
		known[v] = true
	}
	return &Server{directory: d, clock: clock, key: key, known: known}, nil
}

// Serve answers on l until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(guest.Limit(l, connectionsPerGuest, connectionsMax)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metadata: %w", err)
	}
	return nil
}

// ServeHTTP answers one request of the guest that the remote address stands for.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "EC2ws")
	g, ok := s.guestOf(r.RemoteAddr)
	switch {
	case !ok:
		http.Error(w, "Not Found", http.StatusNotFound)
	case g.Instance.MetadataDisabled:
		http.Error(w, "Forbidden", http.StatusForbidden)
	case r.Method == http.MethodPut:
		s.putToken(w, r, g)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		s.get(w, r, g)
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT")
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	}
}

func (s *Server) guestOf(remote string) (guest.Guest, bool) {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return guest.Guest{}, false
	}
	return s.directory.Guest(peer.Addr().Unmap())
}

// putToken begins a session. A request that came through a proxy is refused, so that an open proxy in the guest cannot
// be talked into fetching a token.
func (s *Server) putToken(w http.ResponseWriter, r *http.Request, g guest.Guest) {
	version, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if !s.known[version] || path != "api/token" {
		http.Error(w, "Not Found", http.StatusNotFound)
		return
	}
	if r.Header.Get("X-Forwarded-For") != "" {
		http.Error(w, "Forbidden", http.StatusForbidden)
		return
	}
	seconds, err := strconv.Atoi(r.Header.Get(tokenTTLHeader))
	ttl := time.Duration(seconds) * time.Second
	if err != nil || ttl < time.Second || ttl > tokenTTLMax {
		http.Error(w, "Bad Request: "+tokenTTLHeader+" must be 1 to 21600", http.StatusBadRequest)
		return
	}
	w.Header().Set(tokenTTLHeader, strconv.Itoa(seconds))
	writeText(w, issue(s.key, g.Instance.ID, s.clock.Now().Add(ttl)))
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, g guest.Guest) {
	token := r.Header.Get(tokenHeader)
	refused := token == "" && g.Instance.MetadataTokensRequired
	if refused || (token != "" && !valid(s.key, g.Instance.ID, token, s.clock.Now())) {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	version, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if version == "" {
		writeText(w, strings.Join(versions, "\n"))
		return
	}
	if value, ok := build(g).get(path, g.Instance.KeyName); ok && s.known[version] {
		writeText(w, value)
		return
	}
	http.Error(w, "Not Found", http.StatusNotFound)
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	_, _ = w.Write([]byte(text)) // a guest that went away is nobody's error
}
