package probe

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

type noNetwork struct{}

func (noNetwork) Leases() map[string]any              { return map[string]any{"eth0": "lease"} }
func (noNetwork) Renew(context.Context, string) error { return nil }

func newRunner(t *testing.T) *Runner {
	r := New(noNetwork{}, "http://127.0.0.1:1")
	t.Cleanup(r.CloseAll)
	return r
}

// ask runs a command and splits its answer.
func ask(t *testing.T, r *Runner, line string) (word string, values map[string]any) {
	t.Helper()
	answer := r.Run(context.Background(), line)
	word, text, _ := strings.Cut(answer, " ")
	if strings.Contains(answer, "\n") || json.Unmarshal([]byte(text), &values) != nil {
		t.Fatalf("%s: answer %q is not one line of JSON", line, answer)
	}
	return word, values
}

// port finds one that is free for TCP and UDP for the moment.
func port(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestStreams(t *testing.T) {
	r := newRunner(t)
	echo, hash, udp := port(t), port(t), port(t)
	for _, c := range []struct{ line, word, key, want string }{
		{fmt.Sprintf("tcp 127.0.0.1 %d", echo), "fail", "reason", "refused"},
		{fmt.Sprintf("tcp-listen %d", echo), "ok", "", ""},
		{fmt.Sprintf("tcp 127.0.0.1 %d 2000 data=hello", echo), "ok", "", ""},
		{fmt.Sprintf("tcp-listen %d", echo), "fail", "reason", "other"},
		{fmt.Sprintf("serve-hash %d", hash), "ok", "", ""},
		{fmt.Sprintf("send-hash 127.0.0.1 %d 1 dir=both", hash), "ok", "bytes", "1.048576e+06"},
		{fmt.Sprintf("send-hash 127.0.0.1 %d 1 dir=up", hash), "fail", "reason", "usage"},
		{fmt.Sprintf("udp-echo %d", udp), "ok", "", ""},
		{fmt.Sprintf("udp 127.0.0.1 %d 1400", udp), "ok", "received", "1400"},
		{fmt.Sprintf("fragments 127.0.0.1 %d 60000", udp), "ok", "received", "60000"},
		{fmt.Sprintf("close tcp %d", echo), "ok", "", ""},
		{fmt.Sprintf("close tcp %d", echo), "fail", "reason", "usage"},
		{fmt.Sprintf("tcp 127.0.0.1 %d", echo), "fail", "reason", "refused"},
		{fmt.Sprintf("udp 127.0.0.1 %d 9 timeoutMs=200", echo), "fail", "", ""},
		{"lease", "ok", "eth0", "lease"},
		{"nonsense", "fail", "reason", "usage"},
		{"mtu a b c", "fail", "reason", "usage"},
	} {
		word, values := ask(t, r, c.line)
		if got := fmt.Sprint(values[c.key]); word != c.word || (c.key != "" && got != c.want) {
			t.Errorf("%s: %s %v, want %s %s=%s", c.line, word, values, c.word, c.key, c.want)
		}
	}
}

// TestSendHashNoticesDamage puts a peer in between that flips one bit.
func TestSendHashNoticesDamage(t *testing.T) {
	client, server := net.Pipe()
	damaged, peer := net.Pipe()
	go hashConn(peer)
	go func() { _, _ = io.Copy(server, damaged) }()
	go func() {
		buf := make([]byte, bulkChunk)
		for total := 0; ; {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			if total < 50_000 && total+n > 50_000 {
				buf[50_000-total] ^= 1
			}
			total += n
			if _, err := damaged.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	_, err := transfer(client, 's', 1<<20)
	if reason(err) != "mismatch" {
		t.Errorf("a flipped bit gives %v", err)
	}
	client.Close()
	server.Close()
	damaged.Close()
}

func TestHTTPAndIMDS(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.Method == http.MethodPut:
			io.WriteString(w, "tok")
		case req.URL.Path == "/latest/meta-data/instance-id" && req.Header.Get("X-aws-ec2-metadata-token") == "tok":
			io.WriteString(w, "i-1")
		case req.URL.Path == "/header":
			io.WriteString(w, req.Header.Get("X-A"))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	r := New(noNetwork{}, server.URL)
	for line, want := range map[string]string{
		"http " + server.URL + `/header header="X-A: b c"`: "ok 200 b c",
		"http " + server.URL + "/none":                     "ok 404 ",
		"imds meta-data/instance-id":                       "ok 200 i-1",
		"imds meta-data/none":                              "fail 404 ",
	} {
		word, values := ask(t, r, line)
		if got := fmt.Sprintf("%s %v %v", word, values["status"], values["body"]); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

func TestNTPStamp(t *testing.T) {
	now := time.Unix(1_795_000_000, 123_456_789)
	raw := binary.BigEndian.AppendUint64(nil, ntpStamp(now))
	if d := ntpTime(raw).Sub(now).Abs(); d > time.Microsecond {
		t.Errorf("round trip is off by %v", d)
	}
}

// TestServe sends what a serial port delivers: noise, blank lines, an endless line, and commands.
func TestServe(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	r := newRunner(t)
	go func() { _ = r.Serve(context.Background(), theirs) }()
	ours.SetDeadline(time.Now().Add(30 * time.Second))
	go func() {
		_, _ = io.WriteString(ours, "\x00\xff~~\n\n  \r\n"+strings.Repeat("x", 3*MaxLineBytes)+"\n#9 probe lease\r\n")
	}()
	in := bufio.NewReader(ours)
	for _, want := range []string{"fail ", "fail ", "#9 ok {\"eth0\":\"lease\"}\n"} {
		line, err := in.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, want) {
			t.Fatalf("got %q, %v, want %q", line, err, want)
		}
	}
}

func TestParseCounters(t *testing.T) {
	values := Values{}
	parseCounters("Tcp: InSegs InCsumErrors OutRsts\nTcp: 7 0 0\nUdp: A B\nUdp: 1\n", values)
	if len(values) != 2 || values["Tcp.InSegs"] != int64(7) || values["Tcp.InCsumErrors"] != int64(0) {
		t.Errorf("got %v", values)
	}
}
