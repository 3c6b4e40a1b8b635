package keypair

import (
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/nimbrel/nimbrel/account"
)

// The fingerprints were computed by ssh-keygen and openssl.
const (
	rsaLine     = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDBBn3s6behokZPwdTZzT43eHyXRPZEmA2xb4CQqfofqIc2ZMgqWnFItPr+9ZXaC/W4iP1L2eMc2huaA1EBOxrZtHXL0QnyqKusm1rzeoabMQpEmLdr/iv1P9j+4hM+2d25xB8uXDdpe0Y+Tn7+qghUNsyPDgDnp9VHY6XvYJzD5w== old@comment"
	rsaMD5      = "ed:f8:15:1d:3f:65:4f:03:2c:73:bc:61:9a:de:c6:40"
	edLine      = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG9L2gvoYW8dWhetX9AINwhBmHBhkNxU/6LW2aX5oLTB x"
	edSHA256    = "vCB4XFh8S1bXwby7X21d69vUkUUNDWckrortXXNVsQw="
	ecdsaLine   = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBM/aoOgOFB2DenyLkQ/tcq1bU68Qx7Oi0pxWSwGoKEYj2SB3zLzRcYwcWT4pDhZ0JuTWz0cN6vpZJvlRIxgHK1I= x"
	certificate = "ssh-ed25519-cert-v01@openssh.com AAAA x"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		in          string
		wantType    account.KeyType
		fingerprint string
	}{
		{rsaLine, account.KeyRSA, rsaMD5},
		{edLine + "\n", account.KeyEd25519, edSHA256},
		{"# a comment line\n" + edLine, account.KeyEd25519, edSHA256},
	} {
		got, err := Parse([]byte(test.in), "my key")
		if err != nil || got.Type != test.wantType || got.Fingerprint != test.fingerprint {
			t.Errorf("Parse(%.30q) = %+v, %v", test.in, got, err)
		}
		if !strings.HasSuffix(got.Line, " my key") || strings.Contains(got.Line, "\n") {
			t.Errorf("line %q", got.Line)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"empty":       "",
		"garbage":     "hello",
		"options":     `command="reboot" ` + edLine,
		"two keys":    edLine + "\n" + rsaLine,
		"ecdsa":       ecdsaLine,
		"certificate": certificate,
		"long":        edLine + strings.Repeat("x", account.MaxPublicKeyBytes),
	} {
		_, err := Parse([]byte(in), "n")
		var invalid *account.InvalidError
		if !errors.As(err, &invalid) || invalid.Param != "PublicKeyMaterial" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGenerateEd25519(t *testing.T) {
	public, private, err := Generate(account.KeyEd25519, "k")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey([]byte(private))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(ssh.MarshalAuthorizedKey(signer.PublicKey()), "k")
	if err != nil || again != public {
		t.Fatalf("private half gives %+v, public is %+v (%v)", again, public, err)
	}
}

func TestGenerateRSA(t *testing.T) {
	public, private, err := Generate(account.KeyRSA, "k")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(private))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha1.Sum(der); public.Fingerprint != colons(sum[:]) || len(public.Fingerprint) != 59 {
		t.Fatalf("fingerprint %s", public.Fingerprint)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Parse(ssh.MarshalAuthorizedKey(signer.PublicKey()), "k"); err != nil || again.Line != public.Line {
		t.Fatalf("private half gives %+v (%v)", again, err)
	}
}

func TestGenerateRefusesOtherTypes(t *testing.T) {
	var invalid *account.InvalidError
	if _, _, err := Generate("dsa", "k"); !errors.As(err, &invalid) || invalid.Param != "KeyType" {
		t.Fatalf("%v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{rsaLine, edLine, ecdsaLine, certificate, "", "ssh-rsa AAAA", "a b c\nd"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := Parse(in, "name")
		if err != nil {
			return
		}
		again, err := Parse([]byte(got.Line), "name")
		if err != nil || again != got {
			t.Fatalf("%q became %q, which reads as %+v, %v", in, got.Line, again, err)
		}
	})
}
