package probe

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nimbrel/nimbrel/image/guest/internal/metadata"
)

const (
	// maxBody bounds what is read of a response, maxShown what the answer carries of it.
	maxBody  = 64 << 20
	maxShown = 4096

	ntpPort = "123"
	// ntpEpoch is 1970 in NTP's seconds since 1900.
	ntpEpoch = 2208988800
)

// http makes one request, without following redirections or keeping the connection.
func (r *Runner) http(ctx context.Context, cmd Command) (Values, error) {
	method := cmd.Options["method"]
	if method == "" {
		method = http.MethodGet
	}
	request, err := http.NewRequestWithContext(ctx, method, cmd.Args[0], nil)
	if err != nil {
		return nil, usagef("%v", err)
	}
	if header, ok := cmd.Options["header"]; ok {
		key, value, found := strings.Cut(header, ":")
		if !found {
			return nil, usagef("header=%q has no colon", header)
		}
		request.Header.Set(strings.TrimSpace(key), strings.TrimSpace(value))
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	start := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	values, err := describeBody(response.Body)
	values["status"], values["ms"] = response.StatusCode, millis(time.Since(start))
	return values, err
}

// describeBody tells length, hash and beginning of a body.
func describeBody(body io.Reader) (Values, error) {
	h := sha256.New()
	var shown strings.Builder
	n, err := io.Copy(io.MultiWriter(h, &headWriter{to: &shown, left: maxShown}), io.LimitReader(body, maxBody+1))
	values := Values{"bytes": n, "sha256": hex.EncodeToString(h.Sum(nil))}
	if text := shown.String(); utf8.ValidString(text) {
		values["body"] = text
	}
	if err == nil && n > maxBody {
		err = errors.New("body is too long")
	}
	return values, err
}

// headWriter keeps the first bytes and swallows the rest.
type headWriter struct {
	to   io.Writer
	left int
}

func (w *headWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	if _, err := w.to.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// imdsGet fetches a path of the metadata service with a fresh token, as IMDSv2 wants.
func (r *Runner) imdsGet(ctx context.Context, cmd Command) (Values, error) {
	client := metadata.NewClient(r.imds)
	status, body, err := client.Get(ctx, cmd.Args[0])
	if err != nil {
		return nil, err
	}
	values, err := describeBody(strings.NewReader(string(body)))
	values["status"] = status
	if err == nil && status != http.StatusOK {
		err = &metadata.StatusError{Path: cmd.Args[0], Status: status}
	}
	return values, err
}

// dns resolves a name to addresses through the configured resolver, or the one given.
func (r *Runner) dns(ctx context.Context, cmd Command) (Values, error) {
	resolver := &net.Resolver{PreferGo: true}
	if server, ok := cmd.Options["server"]; ok {
		address, err := target(server, "53")
		if err != nil {
			return nil, err
		}
		resolver.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, address)
		}
	}
	start := time.Now()
	if net.ParseIP(cmd.Args[0]) != nil {
		names, err := resolver.LookupAddr(ctx, cmd.Args[0])
		return Values{"names": names, "ms": millis(time.Since(start))}, err
	}
	addrs, err := resolver.LookupHost(ctx, cmd.Args[0])
	return Values{"addrs": addrs, "ms": millis(time.Since(start))}, err
}

// ntp asks a time server and tells how far its clock is ahead of ours.
func (r *Runner) ntp(ctx context.Context, cmd Command) (Values, error) {
	offset, stratum, err := QueryNTP(ctx, cmd.Args[0])
	if err != nil {
		return nil, err
	}
	return Values{"offsetMs": millis(offset), "stratum": stratum}, nil
}

// QueryNTP makes one SNTP exchange (RFC 4330).
func QueryNTP(ctx context.Context, server string) (offset time.Duration, stratum int, err error) {
	address, err := target(server, ntpPort)
	if err != nil {
		return 0, 0, err
	}
	conn, err := dial(ctx, "udp", address)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	request := make([]byte, 48)
	request[0] = 4<<3 | 3 // version 4, client
	sent := time.Now()
	binary.BigEndian.PutUint64(request[40:], ntpStamp(sent))
	if _, err := conn.Write(request); err != nil {
		return 0, 0, err
	}
	reply := make([]byte, 512)
	n, err := conn.Read(reply)
	if err != nil {
		return 0, 0, err
	}
	got := time.Now()
	if n < 48 || reply[0]&7 != 4 || string(reply[24:32]) != string(request[40:48]) || reply[1] == 0 {
		return 0, 0, errors.New("reply is not a server's answer to this question")
	}
	received, transmitted := ntpTime(reply[32:]), ntpTime(reply[40:])
	return (received.Sub(sent) + transmitted.Sub(got)) / 2, int(reply[1]), nil
}

// ntpStamp is 32 bits of seconds since 1900 and 32 bits of fraction.
func ntpStamp(t time.Time) uint64 {
	return uint64(t.Unix()+ntpEpoch)<<32 | uint64(t.Nanosecond())<<32/1_000_000_000
}

func ntpTime(raw []byte) time.Time {
	stamp := binary.BigEndian.Uint64(raw)
	return time.Unix(int64(stamp>>32)-ntpEpoch, int64(stamp&0xffffffff*1_000_000_000>>32))
}
