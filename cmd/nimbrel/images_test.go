package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/account/rootkey"
	accounts "github.com/nimbrel/nimbrel/account/server"
	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/client"
	links "github.com/nimbrel/nimbrel/dispatch/server"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/image"
	images "github.com/nimbrel/nimbrel/image/server"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/rpc"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
)

type ignore struct{}

func (ignore) Desired(client.Desired) {}

// imageLink registers content and answers its image, and a host's link to a server that serves images.
func imageLink(t *testing.T, content []byte) (*image.Image, *client.Client) {
	t.Helper()
	db := store.New(storetest.NewMemory(), store.Options{Tenant: "t"})
	key, err := rootkey.New(make([]byte, 32), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tags := accounts.New(db, key, accounts.Options{}).Tags()
	catalog := images.New(db, images.Options{Dir: filepath.Join(t.TempDir(), "images"), Tags: tags, Env: env.System()})
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	registered, err := catalog.RegisterLocal(t.Context(), image.Registration{Path: path, Owner: "111111111111", Name: "disk", Architecture: "x86_64"})
	if err != nil {
		t.Fatal(err)
	}
	server := links.New(db, links.Options{Plain: true, Streams: map[string]links.StreamHandler{host.StreamImage: serveImages(catalog)}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	link := client.New(client.Options{
		Target: "host/h-1", Dir: t.TempDir(), Handler: ignore{},
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	for _, run := range []func() error{
		func() error { return server.Run(ctx) }, func() error { return server.Serve(ctx, l) }, func() error { return link.Run(ctx) },
	} {
		wg.Go(func() {
			if err := run(); err != nil {
				t.Error(err)
			}
		})
	}
	for deadline := time.Now().Add(time.Minute); !link.Status().Connected; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no session")
		}
	}
	return registered, link
}

func TestServeImages(t *testing.T) {
	content := make([]byte, 3<<20)
	rand.Read(content)
	disk, link := imageLink(t, content)
	fetch := func(header []byte) ([]byte, error) {
		s, err := link.OpenStream(t.Context(), host.StreamImage, header)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		return io.ReadAll(s)
	}
	size := disk.Bytes
	for _, c := range []struct{ offset, bytes uint64 }{{0, size}, {0, 1}, {1 << 20, size - 1<<20}, {12345, 1 << 20}, {size - 1, 1}} {
		got, err := fetch(host.Encode(host.ImageRequest{SHA256: disk.SHA256, Offset: c.offset, Bytes: c.bytes}))
		if err != nil || !bytes.Equal(got, content[c.offset:c.offset+c.bytes]) {
			t.Errorf("%d bytes at %d: got %d, %v", c.bytes, c.offset, len(got), err)
		}
	}
	for name, c := range map[string]struct {
		header []byte
		code   rpc.Code
	}{
		"unknown digest": {host.Encode(host.ImageRequest{SHA256: strings.Repeat("0", 64), Bytes: 1}), host.ErrorImageAbsent},
		"path":           {host.Encode(host.ImageRequest{SHA256: "../disk.raw", Bytes: 1}), rpc.CodeInvalid},
		"beyond the end": {host.Encode(host.ImageRequest{SHA256: disk.SHA256, Bytes: size + 1}), rpc.CodeInvalid},
		"after the end":  {host.Encode(host.ImageRequest{SHA256: disk.SHA256, Offset: size, Bytes: 1}), rpc.CodeInvalid},
		"nothing":        {host.Encode(host.ImageRequest{SHA256: disk.SHA256}), rpc.CodeInvalid},
		"no request":     {[]byte("hello"), rpc.CodeInvalid},
	} {
		var answer *rpc.Error
		if got, err := fetch(c.header); !errors.As(err, &answer) || answer.Code != c.code || len(got) != 0 {
			t.Errorf("%s: %d bytes, %v; want code %d", name, len(got), err, c.code)
		}
	}
	if _, err := link.OpenStream(t.Context(), "images", nil); !errors.Is(err, dispatch.ErrUnknownStream) {
		t.Errorf("another stream: %v", err)
	}
}
