package admin

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/backup"
)

// lineMax bounds one line of an answer: a transaction with its values in base64, or half a million files.
const lineMax = 64 << 20

// Client asks a server's store.
type Client struct {
	HTTP *http.Client // to the operators' socket
	URL  string       // of its root, without a slash at the end
}

// call sends a request and returns its answer when that is a good one. The caller closes it.
func (c *Client) call(ctx context.Context, method, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.URL+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := c.HTTP.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if err != nil || len(text) == 0 {
		text = []byte(answer.Status)
	}
	if answer.StatusCode == http.StatusNotFound {
		return nil, errors.New("the server is of a version that does not have this: use its own program")
	}
	return nil, fmt.Errorf("the server says: %s", strings.TrimSpace(string(text)))
}

// Stats asks for the counts.
func (c *Client) Stats(ctx context.Context) (*Stats, error) {
	answer, err := c.call(ctx, http.MethodGet, pathStats)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var s Stats
	return &s, json.NewDecoder(io.LimitReader(answer.Body, lineMax)).Decode(&s)
}

// Watch calls fn with what is committed after a version, until ctx ends or fn returns an error. From nil means from now.
func (c *Client) Watch(ctx context.Context, from *store.Version, prefix []byte, values bool, fn func(Event) error) error {
	q := url.Values{"prefix": {hex.EncodeToString(prefix)}}
	if from != nil {
		q.Set("from", strconv.FormatUint(uint64(*from), 10))
	}
	if values {
		q.Set("values", "1")
	}
	answer, err := c.call(ctx, http.MethodGet, pathWatch+"?"+q.Encode())
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, lineMax)
	for lines.Scan() {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		if e.Error != "" {
			return errors.New(e.Error)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF // a watch does not end by itself
}

// Backup asks for a backup's files. Paused tells for how long the server's commits rested.
func (c *Client) Backup(ctx context.Context) (_ backup.Source, paused time.Duration, err error) {
	answer, err := c.call(ctx, http.MethodPost, pathBackup)
	if err != nil {
		return nil, 0, err
	}
	s := &received{answer: answer, in: bufio.NewReaderSize(answer.Body, chunkBytes)}
	var head header
	if err := s.line(&head); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("begin backup: %w", err), answer.Body.Close())
	}
	history, err := hex.DecodeString(head.History)
	if err != nil || len(history) != len(s.d.History) {
		return nil, 0, errors.Join(fmt.Errorf("begin backup: history %.40q", head.History), answer.Body.Close())
	}
	copy(s.d.History[:], history)
	s.d.Version, s.d.StoreFormat, s.d.Files = head.Version, head.StoreFormat, head.Files
	return s, time.Duration(head.PausedUs) * time.Microsecond, nil
}

// received is a backup that a server sends.
type received struct {
	answer *http.Response
	in     *bufio.Reader
	d      backup.Description
	next   int // file
	sums   []backup.Digest
}

func (s *received) Describe() backup.Description { return s.d }

// line reads one line of JSON.
func (s *received) line(into any) error {
	var line []byte
	for {
		part, err := s.in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > lineMax:
			return errors.New("the server's line is too long")
		case err == nil:
			return json.Unmarshal(line, into)
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != bufio.ErrBufferFull:
			return err
		}
	}
}

// Open returns the next file's bytes.
func (s *received) Open(name string) (io.ReadCloser, error) {
	if s.next >= len(s.d.Files) || s.d.Files[s.next].Name != name {
		return nil, fmt.Errorf("file %s is not the next that the server sends", name)
	}
	f := s.d.Files[s.next]
	s.next++
	s.sums = append(s.sums, backup.NewDigest())
	return &receivedFile{s: s, in: io.LimitReader(s.in, f.Bytes), left: f.Bytes, last: s.next == len(s.d.Files)}, nil
}

func (s *received) Close() error { return s.answer.Body.Close() }

// whole compares what came with what the server says that it sent.
func (s *received) whole() error {
	var tail trailer
	if err := s.line(&tail); err != nil {
		return fmt.Errorf("end of backup: %w", err)
	}
	if len(tail.SHA256) != len(s.sums) {
		return fmt.Errorf("end of backup: %d digests of %d files", len(tail.SHA256), len(s.sums))
	}
	for i, sum := range s.sums {
		if sum.Text() != tail.SHA256[i] {
			return fmt.Errorf("file %s: %w: it changed on its way", s.d.Files[i].Name, backup.ErrDamaged)
		}
	}
	return nil
}

// receivedFile is one file on its way. The last one's end is that of the backup.
type receivedFile struct {
	s    *received
	in   io.Reader
	left int64
	last bool
}

func (f *receivedFile) Read(b []byte) (int, error) {
	n, err := f.in.Read(b)
	f.left -= int64(n)
	_, _ = f.s.sums[len(f.s.sums)-1].Write(b[:n]) // never fails
	return n, err
}

func (f *receivedFile) Close() error {
	if f.left > 0 || !f.last {
		return nil // what was not read is missed by who reads
	}
	return f.s.whole()
}
