// Package keypair makes, reads and fingerprints SSH keys as EC2 does. It is pure but for the randomness of generation.
package keypair

import (
	"crypto/ed25519"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/nimbrel/nimbrel/account"
)

// rsaBits is the size of a created RSA key, as in EC2.
const rsaBits = 2048

// Public is a key as it is stored.
type Public struct {
	Type        account.KeyType
	Fingerprint string
	Line        string // authorized_keys line: type, base64, name
}

// Generate makes a key pair and returns its public form and the private half in PEM.
func Generate(t account.KeyType, name string) (Public, string, error) {
	switch t {
	case account.KeyRSA:
		return generateRSA(name)
	case account.KeyEd25519:
		return generateEd25519(name)
	}
	return Public{}, "", &account.InvalidError{Param: "KeyType", Value: string(t), Reason: "want rsa or ed25519"}
}

func generateRSA(name string) (Public, string, error) {
	key, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return Public{}, "", fmt.Errorf("generate RSA key: %w", err)
	}
	pub, err := ssh.NewPublicKey(&key.PublicKey)
	if err != nil {
		return Public{}, "", fmt.Errorf("encode RSA public key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Public{}, "", fmt.Errorf("encode RSA key: %w", err)
	}
	sum := sha1.Sum(der) // the field's fingerprint, not a protection
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	return Public{Type: account.KeyRSA, Fingerprint: colons(sum[:]), Line: line(pub, name)}, string(private), nil
}

func generateEd25519(name string) (Public, string, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Public{}, "", fmt.Errorf("generate ed25519 key: %w", err)
	}
	pub, err := ssh.NewPublicKey(public)
	if err != nil {
		return Public{}, "", fmt.Errorf("encode ed25519 public key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, name)
	if err != nil {
		return Public{}, "", fmt.Errorf("encode ed25519 key: %w", err)
	}
	return Public{Type: account.KeyEd25519, Fingerprint: wireSHA256(pub), Line: line(pub, name)}, string(pem.EncodeToMemory(block)), nil
}

// Parse reads one public key in OpenSSH's format. The comment is replaced by the key's name. Errors are
// *account.InvalidError.
func Parse(material []byte, name string) (Public, error) {
	if len(material) > account.MaxPublicKeyBytes {
		return Public{}, refuse(fmt.Sprintf("it is longer than %d bytes", account.MaxPublicKeyBytes))
	}
	pub, _, options, rest, err := ssh.ParseAuthorizedKey(material)
	switch {
	case err != nil:
		return Public{}, refuse("want one line in OpenSSH's public key format")
	case len(options) > 0:
		return Public{}, refuse("options before the key type are not accepted")
	case strings.TrimSpace(string(rest)) != "":
		return Public{}, refuse("it holds more than one key")
	}
	fingerprint, err := importedFingerprint(pub)
	if err != nil {
		return Public{}, refuse(err.Error())
	}
	t := account.KeyEd25519
	if pub.Type() == ssh.KeyAlgoRSA {
		t = account.KeyRSA
	}
	return Public{Type: t, Fingerprint: fingerprint, Line: line(pub, name)}, nil
}

func importedFingerprint(pub ssh.PublicKey) (string, error) {
	held, ok := pub.(ssh.CryptoPublicKey)
	if !ok {
		return "", fmt.Errorf("keys of type %s are not accepted: want ssh-rsa or ssh-ed25519", pub.Type())
	}
	switch key := held.CryptoPublicKey().(type) {
	case *rsa.PublicKey:
		return rsaFingerprint(key)
	case ed25519.PublicKey:
		if pub.Type() == ssh.KeyAlgoED25519 { // not the variant that lives on a token
			return wireSHA256(pub), nil
		}
	}
	return "", fmt.Errorf("keys of type %s are not accepted: want ssh-rsa or ssh-ed25519", pub.Type())
}

func rsaFingerprint(key *rsa.PublicKey) (string, error) {
	if bits := key.N.BitLen(); bits < 1024 || bits > 8192 {
		return "", fmt.Errorf("an RSA key of %d bits is not accepted: want 1024 to 8192", bits)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", errors.New("the RSA key cannot be encoded")
	}
	sum := md5.Sum(der) // the field's fingerprint, not a protection
	return colons(sum[:]), nil
}

func refuse(reason string) error {
	return &account.InvalidError{Param: "PublicKeyMaterial", Reason: reason}
}

func line(pub ssh.PublicKey, name string) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(pub)), "\n") + " " + name
}

// wireSHA256 is OpenSSH's SHA-256 fingerprint with base64's padding kept, as EC2 shows it.
func wireSHA256(pub ssh.PublicKey) string {
	sum := sha256.Sum256(pub.Marshal())
	return base64.StdEncoding.EncodeToString(sum[:])
}

func colons(sum []byte) string {
	pairs := make([]string, len(sum))
	for i, b := range sum {
		pairs[i] = hex.EncodeToString([]byte{b})
	}
	return strings.Join(pairs, ":")
}
