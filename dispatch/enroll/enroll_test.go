package enroll

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/internal/env"
)

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := OpenAuthority(dir, env.Real{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAuthorityStaysTheSame(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	a := open(t, dir)
	if b := open(t, dir); a.Fingerprint() != b.Fingerprint() || !a.key.Equal(b.key) {
		t.Fatal("opened twice, two authorities")
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "ca.key"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, %v", path, info.Mode().Perm(), err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir, env.Real{}); err == nil || !strings.Contains(err.Error(), "restore") {
		t.Fatalf("a lost key was replaced: %v", err)
	}
}

// xor is a sealer that a test can see through.
type xor byte

func (x xor) Seal(secret []byte, purpose string) []byte {
	out := append([]byte(purpose), secret...)
	for i := range out {
		out[i] ^= byte(x)
	}
	return out
}

func (x xor) Unseal(sealed []byte, purpose string) ([]byte, error) {
	out := x.Seal(sealed, "")
	rest, ok := bytes.CutPrefix(out, []byte(purpose))
	if !ok {
		return nil, errors.New("wrong key")
	}
	return rest, nil
}

func TestSealedAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	plain := open(t, dir)
	sealed, err := OpenSealedAuthority(dir, env.Real{}, xor(7))
	if err != nil || !sealed.key.Equal(plain.key) {
		t.Fatalf("take over an unsealed key: %v", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "ca.key"))
	if err != nil || !strings.Contains(string(b), sealedKind) {
		t.Fatalf("key on disk is %.40q, %v", b, err)
	}
	if again, err := OpenSealedAuthority(dir, env.Real{}, xor(7)); err != nil || !again.key.Equal(plain.key) {
		t.Fatalf("open sealed: %v", err)
	}
	if _, err := OpenSealedAuthority(dir, env.Real{}, xor(8)); err == nil || !strings.Contains(err.Error(), "another root key") || !strings.Contains(err.Error(), "restore") {
		t.Fatalf("another root key: %v", err)
	}
	if _, err := OpenAuthority(dir, env.Real{}); err == nil {
		t.Fatal("it opened without the root key")
	}
}

func TestSignTakesOnlyTheKey(t *testing.T) {
	a := open(t, t.TempDir())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := request("host/someone-else", key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.SignTarget("host/h-1", csr)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "host/h-1" || cert.URIs[0].String() != "nimbrel://target/host/h-1" || cert.IsCA {
		t.Fatalf("certificate for %q, %v", cert.Subject.CommonName, cert.URIs)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Fatal("a target's certificate may stand for a server")
	}
	bad := bytes.Clone(csr)
	bad[len(bad)-4] ^= 1
	if _, err := a.SignTarget("host/h-1", bad); err == nil {
		t.Fatal("a request whose signature is wrong was signed")
	}
	if _, err := a.SignTarget("host h 1", csr); err == nil {
		t.Fatal("a malformed name was signed")
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Skipf("make an RSA key: %v", err)
	}
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak)
	if err != nil {
		t.Skipf("make an RSA request: %v", err)
	}
	if _, err := a.SignTarget("host/h-1", csr); err == nil || !strings.Contains(err.Error(), "P-256") {
		t.Fatalf("RSA key: %v", err)
	}
}

func FuzzParseRequest(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	csr, err := request("host/h-1", key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRequest(b); err == nil && r.CheckSignature() != nil {
			t.Fatal("a request with a wrong signature passed")
		}
	})
}
