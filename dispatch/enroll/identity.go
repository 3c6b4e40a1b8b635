package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/rpc"
)

// ALPN is the protocol a joining target offers: the one that needs no client certificate.
const ALPN = "nimbrel-join/0"

// Methods of the two calls.
const (
	MethodJoin  uint32 = 1 // over ALPN: JoinRequest, answered by a certificate in DER
	MethodRenew uint32 = 2 // over rpc.ALPN: certificate request in DER, answered by a certificate in DER
)

// JoinRequest asks for a certificate.
type JoinRequest struct {
	Token  string `cbor:"1,keyasint"`
	Target string `cbor:"2,keyasint"`
	CSR    []byte `cbor:"3,keyasint"`
}

// Join gets a certificate for a target and keeps it in dir. caFingerprint is the authority's, as printed with the token.
// It may be repeated after a lost answer: the key is kept from the first attempt. A directory that holds a certificate
// for the target already is left alone. Errors: dispatch.ErrTokenInvalid, dispatch.ErrTargetExists.
func Join(ctx context.Context, addr, token, caFingerprint, dir, target string) error {
	if err := dispatch.ValidateName(target); err != nil {
		return fmt.Errorf("join %s: %w", addr, err)
	}
	if have, err := LoadIdentity(dir); err == nil {
		if have.Target() != target {
			return fmt.Errorf("join %s as %s: %s holds the identity of %s: use another directory", addr, target, dir, have.Target())
		}
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("join %s: %w", addr, err)
	}
	key, err := readKey(filepath.Join(dir, "target.key"))
	if errors.Is(err, fs.ErrNotExist) {
		key, err = newKey(filepath.Join(dir, "target.key"))
	}
	if err != nil {
		return fmt.Errorf("join %s: %w", addr, err)
	}
	cert, ca, err := requestCertificate(ctx, addr, token, caFingerprint, target, key)
	if err != nil {
		return fmt.Errorf("join %s as %s: %w", addr, target, err)
	}
	err = writePEM(filepath.Join(dir, "ca.pem"), "CERTIFICATE", ca.Raw, 0o644)
	if err == nil {
		err = writePEM(filepath.Join(dir, "target.pem"), "CERTIFICATE", cert.Raw, 0o644)
	}
	if err != nil {
		return fmt.Errorf("join %s as %s: keep certificate: %w", addr, target, err)
	}
	return nil
}

// requestCertificate trusts the server only when its chain ends in the authority of the fingerprint.
func requestCertificate(ctx context.Context, addr, token, want, target string, key *ecdsa.PrivateKey) (cert, ca *x509.Certificate, err error) {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN}, ServerName: ServerName,
		InsecureSkipVerify: true, // there is no authority to verify with yet: VerifyConnection does it by fingerprint
		VerifyConnection: func(s tls.ConnectionState) error {
			ca, err = verifyByFingerprint(s, want)
			return err
		},
	}
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	conn, err := rpc.Client(ctx, tls.Client(nc, config), rpc.Options{Name: target})
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	csr, err := request(target, key)
	if err != nil {
		return nil, nil, err
	}
	body, err := cbor.Marshal(JoinRequest{Token: token, Target: target, CSR: csr})
	if err != nil {
		return nil, nil, err
	}
	der, err := conn.Call(ctx, MethodJoin, body)
	if err != nil {
		return nil, nil, joinError(err)
	}
	cert, err = checkIssued(der, ca, target, key)
	return cert, ca, err
}

func joinError(err error) error {
	var e *rpc.Error
	if errors.As(err, &e) {
		switch e.Code {
		case rpc.CodeDenied:
			return dispatch.ErrTokenInvalid
		case rpc.CodeExists:
			return dispatch.ErrTargetExists
		}
	}
	return err
}

func verifyByFingerprint(s tls.ConnectionState, want string) (*x509.Certificate, error) {
	want = strings.ToLower(strings.ReplaceAll(want, ":", ""))
	for _, c := range s.PeerCertificates {
		if fingerprint(c.Raw) != want {
			continue
		}
		pool := x509.NewCertPool()
		pool.AddCert(c)
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, DNSName: ServerName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		return c, err
	}
	return nil, fmt.Errorf("server has another authority than the fingerprint %.16s… given: check address and fingerprint", want)
}

func request(target string, key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: target}}, key)
}

func checkIssued(der []byte, ca *x509.Certificate, target string, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse certificate issued: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return nil, fmt.Errorf("verify certificate issued: %w", err)
	}
	if cert.Subject.CommonName != target || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("certificate issued is for %q or for another key", cert.Subject.CommonName)
	}
	return cert, nil
}

// Identity is a target's key and certificate, with the authority it trusts. It is safe for concurrent use.
type Identity struct {
	dir    string
	target string
	key    *ecdsa.PrivateKey
	ca     *x509.Certificate

	mu   sync.Mutex
	cert *x509.Certificate
}

// LoadIdentity reads what Join kept.
func LoadIdentity(dir string) (*Identity, error) {
	certDER, err := readPEM(filepath.Join(dir, "target.pem"), "CERTIFICATE")
	if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	caDER, err := readPEM(filepath.Join(dir, "ca.pem"), "CERTIFICATE")
	if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	id := &Identity{dir: dir}
	if id.key, err = readKey(filepath.Join(dir, "target.key")); err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	if id.cert, err = x509.ParseCertificate(certDER); err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	if id.ca, err = x509.ParseCertificate(caDER); err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	id.target = id.cert.Subject.CommonName
	return id, nil
}

// Target is the name the certificate gives.
func (id *Identity) Target() string { return id.target }

// NotAfter is when the certificate ends.
func (id *Identity) NotAfter() time.Time {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.cert.NotAfter
}

// TLS is the configuration for dialling a server of the cluster; a renewed certificate is taken up.
func (id *Identity) TLS() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(id.ca)
	return rpc.ClientTLS(func() (*tls.Certificate, error) {
		id.mu.Lock()
		defer id.mu.Unlock()
		return &tls.Certificate{Certificate: [][]byte{id.cert.Raw}, PrivateKey: id.key, Leaf: id.cert}, nil
	}, pool, ServerName)
}

// Dial makes a function that connects to one of the addresses, each in turn.
func (id *Identity) Dial(addrs ...string) func(context.Context) (net.Conn, error) {
	config, next := id.TLS(), 0
	return func(ctx context.Context) (net.Conn, error) {
		if len(addrs) == 0 {
			return nil, errors.New("no server address")
		}
		addr := addrs[next%len(addrs)]
		next++
		nc, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		return tls.Client(nc, config), nil
	}
}

// RenewAfter is when Renew begins to ask: when two thirds of the certificate's time are over.
func (id *Identity) RenewAfter() time.Time {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.cert.NotAfter.Add(-id.cert.NotAfter.Sub(id.cert.NotBefore) / 3)
}

// Renew replaces the certificate over an open connection, when its time has come. The key stays.
func (id *Identity) Renew(ctx context.Context, conn *rpc.Conn, now time.Time) error {
	if now.Before(id.RenewAfter()) {
		return nil
	}
	csr, err := request(id.target, id.key)
	if err != nil {
		return fmt.Errorf("renew certificate of %s: %w", id.target, err)
	}
	der, err := conn.Call(ctx, MethodRenew, csr)
	if err != nil {
		return fmt.Errorf("renew certificate of %s: %w", id.target, err)
	}
	cert, err := checkIssued(der, id.ca, id.target, id.key)
	if err == nil {
		err = writePEM(filepath.Join(id.dir, "target.pem"), "CERTIFICATE", cert.Raw, 0o644)
	}
	if err != nil {
		return fmt.Errorf("renew certificate of %s: %w", id.target, err)
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.cert = cert
	return nil
}
