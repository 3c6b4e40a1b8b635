package enroll

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/internal/env"
)

const (
	// ServerName is what every server's certificate names; targets check it, whatever address they dial.
	ServerName = "server.nimbrel.internal"

	authorityLifetime = 10 * 365 * 24 * time.Hour
	serverLifetime    = 30 * 24 * time.Hour
	targetLifetime    = 90 * 24 * time.Hour // a host away for the last third of it must join again, by a token for its name
	backdate          = 5 * time.Minute     // for clocks that differ a little
	maxCSRBytes       = 8 << 10
)

// Authority signs certificates of servers and targets. It is safe for concurrent use.
type Authority struct {
	clock  env.Clock
	sealer Sealer // nil: none
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey

	mu     sync.Mutex
	server *tls.Certificate // issued anew when half its time is over
}

// Sealer encrypts what is kept on disk; the cluster's root key is one.
type Sealer interface {
	Seal(secret []byte, purpose string) []byte
	Unseal(sealed []byte, purpose string) ([]byte, error)
}

// sealPurpose binds a sealed key to what it is for.
const sealPurpose = "dispatch/authority"

// OpenSealedAuthority is OpenAuthority with the authority's key encrypted. A key that an unsealed authority left is sealed
// in place.
func OpenSealedAuthority(dir string, clock env.Clock, sealer Sealer) (*Authority, error) {
	return openAuthority(dir, clock, sealer)
}

// OpenAuthority loads the authority in a directory, or creates both. The key is protected by its file mode alone.
func OpenAuthority(dir string, clock env.Clock) (*Authority, error) {
	return openAuthority(dir, clock, nil)
}

func openAuthority(dir string, clock env.Clock, sealer Sealer) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open authority %s: %w", dir, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open authority %s: %w", dir, err)
	}
	a := &Authority{clock: clock, sealer: sealer}
	err := a.load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = a.create(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open authority %s: %w", dir, err)
	}
	return a, nil
}

func (a *Authority) load(dir string) error {
	// The certificate is written last: a key without one is an attempt that never signed anything.
	certDER, err := readPEM(filepath.Join(dir, "ca.pem"), "CERTIFICATE")
	if err != nil {
		return err
	}
	if a.cert, err = x509.ParseCertificate(certDER); err != nil {
		return err
	}
	path := filepath.Join(dir, "ca.key")
	a.key, err = a.readSealed(path)
	if errors.Is(err, errSealedByAnother) {
		return err
	}
	if err != nil && a.sealer != nil && !errors.Is(err, fs.ErrNotExist) {
		if a.key, err = readKey(path); err == nil {
			err = a.writeSealed(path)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ca.pem is there and ca.key is not: restore it; a new authority would lock every host out")
	}
	return err
}

func (a *Authority) create(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	a.key = key
	if err := a.writeSealed(filepath.Join(dir, "ca.key")); err != nil {
		return err
	}
	now := a.clock.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Nimbrel cluster authority"},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLifetime),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	return writePEM(filepath.Join(dir, "ca.pem"), "CERTIFICATE", der, 0o644)
}

const sealedKind = "SEALED PRIVATE KEY"

// errSealedByAnother says that the authority's key is sealed and does not open.
var errSealedByAnother = errors.New("it was sealed with another root key, or is damaged")

func (a *Authority) writeSealed(path string) error {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return err
	}
	if a.sealer == nil {
		return writePEM(path, "PRIVATE KEY", der, 0o600)
	}
	return writePEM(path, sealedKind, a.sealer.Seal(der, sealPurpose), 0o600)
}

func (a *Authority) readSealed(path string) (*ecdsa.PrivateKey, error) {
	if a.sealer == nil {
		return readKey(path)
	}
	sealed, err := readPEM(path, sealedKind)
	if err != nil {
		return nil, err
	}
	der, err := a.sealer.Unseal(sealed, sealPurpose)
	if err != nil {
		return nil, fmt.Errorf("unseal %s: %w: restore the root key that goes with this directory (%w)", path, errSealedByAnother, err)
	}
	return parseKey(path, der)
}

// Certificate is the authority's own.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Pool holds the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Fingerprint is what a joining target is given to know the authority by.
func (a *Authority) Fingerprint() string { return fingerprint(a.cert.Raw) }

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// ServerCertificate is a certificate for ServerName with the authority's in its chain. Its key is never written down.
func (a *Authority) ServerCertificate() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock.Now()
	if a.server != nil && now.Add(serverLifetime/2).Before(a.server.Leaf.NotAfter) {
		return a.server, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, err := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: ServerName}, DNSNames: []string{ServerName},
		NotAfter: now.Add(serverLifetime), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key.Public())
	if err != nil {
		return nil, fmt.Errorf("issue server certificate: %w", err)
	}
	a.server = &tls.Certificate{Certificate: [][]byte{leaf.Raw, a.cert.Raw}, PrivateKey: key, Leaf: leaf}
	return a.server, nil
}

// SignTarget issues a target's certificate for the key of a certificate request; nothing else of the request counts.
func (a *Authority) SignTarget(target string, csr []byte) (*x509.Certificate, error) {
	if err := dispatch.ValidateName(target); err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	request, err := ParseRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("sign certificate for %s: %w", target, err)
	}
	return a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: target}, URIs: []*url.URL{{Scheme: "nimbrel", Host: "target", Path: "/" + target}},
		NotAfter: a.clock.Now().Add(targetLifetime), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, request.PublicKey)
}

// ParseRequest checks a certificate request: its size, its signature, and that its key is ECDSA P-256.
func ParseRequest(csr []byte) (*x509.CertificateRequest, error) {
	if len(csr) > maxCSRBytes {
		return nil, fmt.Errorf("certificate request of %d bytes, limit %d", len(csr), maxCSRBytes)
	}
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("parse certificate request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check certificate request: %w", err)
	}
	if key, ok := request.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("certificate request: want an ECDSA P-256 key")
	}
	return request, nil
}

func (a *Authority) sign(template *x509.Certificate, key any) (*x509.Certificate, error) {
	template.SerialNumber = serial()
	template.NotBefore = a.clock.Now().Add(-backdate)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// KeyHash is what a server remembers of a target's public key.
func KeyHash(publicKey any) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(publicKey)
	if err != nil {
		return nil, fmt.Errorf("hash public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return sum[:], nil
}

// NewToken makes the text of a join token: 192 random bits.
func NewToken() string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails
	return "nbj-" + hex.EncodeToString(b[:])
}

func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

func newKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(path, "PRIVATE KEY", der, 0o600)
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	der, err := readPEM(path, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	return parseKey(path, der)
}

func parseKey(path string, der []byte) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("parse %s: want an ECDSA key", path)
	}
	return key, nil
}

func readPEM(path, kind string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("parse %s: want a PEM block %q", path, kind)
	}
	return block.Bytes, nil
}

// writePEM replaces a file whole: a crash leaves the old or the new.
func writePEM(path, kind string, der []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = errors.Join(f.Chmod(mode), pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
