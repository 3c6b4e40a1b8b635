package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/dispatch/enroll"
	"github.com/nimbrel/nimbrel/rpc"
	"github.com/nimbrel/nimbrel/store"
)

// MaxTokenLifetime bounds how long a join token may wait to be used.
const MaxTokenLifetime = 30 * 24 * time.Hour

// CreateToken makes a join token, used once within lifetime. target is a name, which the token may then take over from a
// host of that name, or a prefix that ends in a slash, as "host/", for any new name under it.
func CreateToken(ctx context.Context, db *store.DB, target string, lifetime time.Duration, now time.Time) (string, error) {
	if err := dispatch.ValidateName(target); err != nil {
		return "", fmt.Errorf("create join token: %w", err)
	}
	if lifetime <= 0 || lifetime > MaxTokenLifetime {
		return "", fmt.Errorf("create join token: lifetime %v: want up to %v", lifetime, MaxTokenLifetime)
	}
	token := enroll.NewToken()
	_, err := db.Transact(ctx, func(tx *store.Tx) error {
		if err := dispatchrows.CollectTokens(ctx, tx, now); err != nil {
			return err
		}
		dispatchrows.PutToken(tx, token, dispatchrows.Token{ExpiryMs: now.Add(lifetime).UnixMilli(), Target: target})
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("create join token: %w", err)
	}
	return token, nil
}

// joinHandler serves one who has no certificate yet: one method and nothing else.
type joinHandler struct{ s *Server }

func (h joinHandler) ServeRequest(ctx context.Context, c *rpc.Conn, method uint32, body []byte) ([]byte, error) {
	if method != enroll.MethodJoin {
		return nil, &rpc.Error{Code: rpc.CodeUnknownMethod, Message: "a joining target may only join"}
	}
	var r enroll.JoinRequest
	if err := cbor.Unmarshal(body, &r); err != nil {
		return nil, &rpc.Error{Code: rpc.CodeInvalid, Message: "decode join request: " + err.Error()}
	}
	der, err := h.s.join(ctx, r)
	switch {
	case errors.Is(err, dispatch.ErrTokenInvalid):
		err = &rpc.Error{Code: rpc.CodeDenied, Message: err.Error()}
	case errors.Is(err, dispatch.ErrTargetExists):
		err = &rpc.Error{Code: rpc.CodeExists, Message: err.Error()}
	}
	if err != nil {
		h.s.o.Log.Warn("refuse join", "target", r.Target, "peer", c.Peer().Addr.String(), "err", err)
	}
	return der, err
}

func (joinHandler) ServeOneway(*rpc.Conn, uint32, []byte)          {}
func (joinHandler) ServeStream(context.Context, *rpc.Stream) error { return rpc.ErrUnknownStream }

// join redeems the token and signs. A token that is worth nothing ends it before any work with keys; the signature comes
// before the token is used up, so that a bad request does not do that.
func (s *Server) join(ctx context.Context, r enroll.JoinRequest) ([]byte, error) {
	if err := s.lookUpToken(ctx, r); err != nil {
		return nil, fmt.Errorf("look up join token for %s: %w", r.Target, err)
	}
	cert, err := s.o.Authority.SignTarget(r.Target, r.CSR)
	if err != nil {
		return nil, &rpc.Error{Code: rpc.CodeInvalid, Message: err.Error()}
	}
	hash, err := enroll.KeyHash(cert.PublicKey)
	if err != nil {
		return nil, err
	}
	result, err := s.db.Transact(ctx, func(tx *store.Tx) error {
		return dispatchrows.Redeem(ctx, tx, r.Token, r.Target, hash, s.o.Clock.Now())
	})
	if err != nil {
		return nil, fmt.Errorf("redeem join token for %s: %w", r.Target, err)
	}
	if err := s.waitVersion(ctx, result.Version); err != nil { // the target connects next: its identity must be known
		return nil, err
	}
	s.o.Log.Info("target joined", "target", r.Target)
	return cert.Raw, nil
}

func (s *Server) lookUpToken(ctx context.Context, r enroll.JoinRequest) error {
	if err := dispatch.ValidateName(r.Target); err != nil {
		return &rpc.Error{Code: rpc.CodeInvalid, Message: err.Error()}
	}
	return s.db.View(ctx, func(reader store.Reader) error {
		return dispatchrows.LookUpToken(ctx, reader, r.Token, r.Target, s.o.Clock.Now())
	})
}

// renew signs the same key again for a target whose certificate is still good.
func (s *Server) renew(c *rpc.Conn, method uint32, csr []byte) ([]byte, error) {
	cert := c.Peer().Certificate
	if method != enroll.MethodRenew || cert == nil {
		return nil, &rpc.Error{Code: rpc.CodeUnknownMethod, Message: "unknown method"}
	}
	fresh, err := s.o.Authority.SignTarget(c.Peer().Name, csr)
	if err == nil {
		err = s.authorise(fresh)
	}
	if err != nil {
		return nil, &rpc.Error{Code: rpc.CodeDenied, Message: err.Error()}
	}
	return fresh.Raw, nil
}

// waitVersion waits until the documents in memory are at least as new.
func (s *Server) waitVersion(ctx context.Context, v store.Version) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		s.docs.RLock()
		at, advanced := s.version, s.advanced
		s.docs.RUnlock()
		if at >= v {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return fmt.Errorf("wait for version %d at %d: %w", v, at, ctx.Err())
		}
	}
}
