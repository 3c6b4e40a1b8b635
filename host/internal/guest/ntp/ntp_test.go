package ntp

import (
	"context"
	"encoding/binary"
	"net"
	"testing"
	"time"
)

type fixed struct{ now time.Time }

func (f fixed) Now() time.Time { return f.now }

func TestServe(t *testing.T) {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 500_000_000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { Serve(ctx, c, fixed{now}); close(done) }()
	client, err := net.Dial("udp4", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	request := make([]byte, packetBytes)
	request[0] = 4<<3 | modeClient
	copy(request[40:], "origin!!")
	if _, err := client.Write(request); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 512)
	_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := client.Read(reply)
	if err != nil || n != packetBytes {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	if reply[0] != 4<<3|modeServer || reply[1] != stratum || string(reply[24:32]) != "origin!!" {
		t.Errorf("reply % x", reply[:n])
	}
	transmit := binary.BigEndian.Uint64(reply[40:])
	if got := int64(transmit>>32) - epochOffset; got != now.Unix() || uint32(transmit) != 1<<31 {
		t.Errorf("transmit time %d.%08x, want %d and a half", got, uint32(transmit), now.Unix())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte{})
	f.Add(append([]byte{4<<3 | modeClient}, make([]byte, 47)...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		reply := answer(raw, time.Unix(1, 0), time.Unix(2, 0))
		client := len(raw) >= packetBytes && raw[0]&7 == modeClient && raw[0]>>3&7 >= 1 && raw[0]>>3&7 <= 4
		if client != (len(reply) == packetBytes) {
			t.Fatalf("request % x answered with %d bytes", raw, len(reply))
		}
	})
}
