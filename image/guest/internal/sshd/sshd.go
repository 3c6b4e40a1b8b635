// Package sshd is the guest's ssh server: one account, public keys only, commands and interactive shells.
//
// Invariants: nobody logs in but the configured user with a key of Keys; connections, sessions per connection and the
// time to authenticate are bounded; a session's processes get a process group of their own, which ends with the session.
//
// Deliberately absent: passwords, forwarding of ports and agents, and subsystems (SFTP): they are not needed to look
// into a test guest, and each is a way in.
package sshd

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	maxConnections   = 32
	maxSessions      = 10 // per connection, as OpenSSH's MaxSessions
	handshakeTimeout = 60 * time.Second
	// maxEnvironment bounds what a client may set.
	maxEnvironment = 32
	// maxKeysFile bounds an authorized_keys file.
	maxKeysFile = 64 << 10
)

// LoadHostKey reads the key at path, or makes one and stores it there: it must outlive a reboot, or clients would warn.
func LoadHostKey(path string) (ssh.Signer, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		signer, err := ssh.ParsePrivateKey(text)
		if err != nil {
			return nil, fmt.Errorf("read host key %s: %w", path, err)
		}
		return signer, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := writeSynced(path, pem.EncodeToMemory(block)); err != nil {
		return nil, fmt.Errorf("store host key %s: %w", path, err)
	}
	return ssh.NewSignerFromKey(private)
}

// writeSynced replaces a file so that a crash leaves the old one or the new one.
func writeSynced(path string, data []byte) error {
	temp := path + ".new"
	file, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// AuthorizedKeys reads an authorized_keys file at each call, so that a key added later works at once. Lines that are no
// keys are skipped. A missing file holds no keys.
func AuthorizedKeys(path string) ([]ssh.PublicKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeysFile {
		return nil, fmt.Errorf("read %s: longer than %d bytes", path, maxKeysFile)
	}
	return ParseKeys(text), nil
}

// ParseKeys returns the keys of an authorized_keys text.
func ParseKeys(text []byte) []ssh.PublicKey {
	var keys []ssh.PublicKey
	for line := range bytes.Lines(text) {
		if key, _, _, _, err := ssh.ParseAuthorizedKey(line); err == nil {
			keys = append(keys, key)
		}
	}
	return keys
}
