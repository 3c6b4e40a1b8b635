package probe

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// The bulk protocol. The client sends a header: magic, direction ('s', 'r' or 'b'), a seed, and a length in bytes. For
// 's' and 'b' the client's stream and then the server's SHA-256 of it follow; for 'r' and 'b' the server's stream and
// then its own SHA-256 of it. Streams are ChaCha8 output, which no device can compress or guess.
const (
	hashMagic  = "NBH1"
	hashHeader = 4 + 1 + 8 + 8
	maxBulk    = 4 << 30
	bulkChunk  = 64 << 10
	hashIdle   = 30 * time.Second
)

// stream returns the generator for one direction of one transfer.
func stream(seed uint64, direction byte) io.Reader {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	key[8] = direction
	return rand.NewChaCha8(key)
}

// sendHash moves MIB mebibytes and compares the hashes that both ends computed.
func (r *Runner) sendHash(ctx context.Context, cmd Command) (Values, error) {
	address, err := target(cmd.Args[0], cmd.Args[1])
	if err != nil {
		return nil, err
	}
	size, err := number("MIB", cmd.Args[2], 1, maxBulk>>20)
	if err != nil {
		return nil, err
	}
	direction, ok := map[string]byte{"": 's', "send": 's', "recv": 'r', "both": 'b'}[cmd.Options["dir"]]
	if !ok {
		return nil, usagef("dir=%s is none of send, recv, both", cmd.Options["dir"])
	}
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return transfer(conn, direction, int64(size)<<20)
}

func transfer(conn net.Conn, direction byte, size int64) (Values, error) {
	seed := rand.Uint64()
	header := append([]byte(hashMagic), direction)
	header = binary.BigEndian.AppendUint64(header, seed)
	header = binary.BigEndian.AppendUint64(header, uint64(size))
	if _, err := conn.Write(header); err != nil {
		return nil, err
	}
	values, start := Values{"bytes": size}, time.Now()
	if direction != 'r' {
		ours, err := pump(conn, stream(seed, 's'), size)
		if err != nil {
			return values, fmt.Errorf("send: %w", err)
		}
		if err := compare(conn, ours); err != nil {
			return values, fmt.Errorf("send: %w", err)
		}
		values["sentSha256"] = hex.EncodeToString(ours)
		values["sendMs"] = millis(time.Since(start))
	}
	if direction != 's' {
		start = time.Now()
		ours, err := pump(io.Discard, conn, size)
		if err != nil {
			return values, fmt.Errorf("receive: %w", err)
		}
		if err := compare(conn, ours); err != nil {
			return values, fmt.Errorf("receive: %w", err)
		}
		values["receivedSha256"] = hex.EncodeToString(ours)
		values["receiveMs"] = millis(time.Since(start))
	}
	return values, nil
}

// pump copies size bytes and returns their SHA-256.
func pump(to io.Writer, from io.Reader, size int64) ([]byte, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(h, to), struct{ io.Reader }{io.LimitReader(from, size)}, make([]byte, bulkChunk))
	if err != nil {
		return nil, err
	}
	if n < size {
		return nil, io.ErrUnexpectedEOF
	}
	return h.Sum(nil), nil
}

// compare reads the peer's hash.
func compare(conn io.Reader, ours []byte) error {
	theirs := make([]byte, sha256.Size)
	if _, err := io.ReadFull(conn, theirs); err != nil {
		return err
	}
	if string(theirs) != string(ours) {
		return fmt.Errorf("%w: SHA-256 here %x, there %x", errMismatch, ours, theirs)
	}
	return nil
}

// idleConn gives every read and write a deadline of its own: a transfer may be long, but not silent.
type idleConn struct{ net.Conn }

func (c idleConn) Read(p []byte) (int, error) {
	c.SetReadDeadline(time.Now().Add(hashIdle))
	return c.Conn.Read(p)
}

func (c idleConn) Write(p []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(hashIdle))
	return c.Conn.Write(p)
}

// hashConn is the server's end.
func hashConn(raw net.Conn) {
	conn := idleConn{raw}
	header := make([]byte, hashHeader)
	if _, err := io.ReadFull(conn, header); err != nil || string(header[:4]) != hashMagic {
		return
	}
	direction, seed := header[4], binary.BigEndian.Uint64(header[5:])
	size := binary.BigEndian.Uint64(header[13:])
	if size > maxBulk {
		return
	}
	if direction != 'r' {
		sum, err := pump(io.Discard, conn, int64(size))
		if err != nil {
			return
		}
		if _, err := conn.Write(sum); err != nil {
			return
		}
	}
	if direction != 's' {
		sum, err := pump(conn, stream(seed, 'r'), int64(size))
		if err != nil {
			return
		}
		_, _ = conn.Write(sum) // the peer notices a missing hash by itself
	}
}
