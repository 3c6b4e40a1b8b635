package sshd

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/semaphore"
)

// Server is configured by its fields, which do not change after Serve.
type Server struct {
	HostKey ssh.Signer
	// User is the only name that may log in. Keys is asked at each login.
	User string
	Keys func() ([]ssh.PublicKey, error)
	// Shell, Home and Env are what a session gets.
	Shell, Home string
	Env         []string
	// Credential is whom sessions run as; nil means as the server itself.
	Credential *syscall.Credential
	// Log is told about logins. It may be nil.
	Log func(format string, args ...any)
}

// Serve accepts connections until the listener is closed. Ending ctx ends every session.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	config := &ssh.ServerConfig{PublicKeyCallback: s.authorize, MaxAuthTries: 6, ServerVersion: "SSH-2.0-Nimbrel"}
	config.AddHostKey(s.HostKey)
	slots := semaphore.NewWeighted(maxConnections)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		if !slots.TryAcquire(1) {
			conn.Close()
			continue
		}
		go func() {
			defer slots.Release(1)
			s.connection(ctx, conn, config)
		}()
	}
}

var errDenied = errors.New("access denied")

func (s *Server) authorize(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	keys, err := s.Keys()
	if err != nil {
		return nil, err
	}
	offered := key.Marshal()
	known := slices.ContainsFunc(keys, func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), offered) })
	if meta.User() != s.User || !known {
		return nil, errDenied
	}
	return &ssh.Permissions{}, nil
}

// connection serves one client until it leaves.
func (s *Server) connection(ctx context.Context, raw net.Conn, config *ssh.ServerConfig) {
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(handshakeTimeout))
	conn, channels, requests, err := ssh.NewServerConn(raw, config)
	if err != nil {
		return // a stranger, a scanner or a lost connection
	}
	raw.SetDeadline(time.Time{})
	defer conn.Close()
	if s.Log != nil {
		s.Log("ssh login %s from %s", conn.User(), conn.RemoteAddr())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	go ssh.DiscardRequests(requests) // answers keep-alives
	slots := semaphore.NewWeighted(maxSessions)
	for channel := range channels {
		switch {
		case channel.ChannelType() != "session":
			_ = channel.Reject(ssh.UnknownChannelType, "only sessions are served")
		case !slots.TryAcquire(1):
			_ = channel.Reject(ssh.ResourceShortage, "too many sessions")
		default:
			go func() {
				defer slots.Release(1)
				s.session(ctx, channel)
			}()
		}
	}
}
