package admin

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/backup"
	"github.com/nimbrel/nimbrel/store/embed"
)

// Path is where the handler is mounted.
const Path = "/store/"

// StallLimit is how long a client may leave what was sent unread.
const StallLimit = time.Minute

const (
	pathBackup = Path + "backup"
	pathStats  = Path + "stats"
	pathWatch  = Path + "watch"
	// chunkBytes is sent between two looks at the clock.
	chunkBytes = 256 << 10
)

// Audit notes what an operator did.
type Audit func(ctx context.Context, action, subject string, err error)

// Handler serves a store.
func Handler(e *embed.Engine, audit Audit) http.Handler {
	h := &handler{engine: e, audit: audit}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathBackup, h.backup)
	mux.HandleFunc("GET "+pathStats, h.stats)
	mux.HandleFunc("GET "+pathWatch, h.watch)
	return mux
}

type handler struct {
	engine *embed.Engine
	audit  Audit
}

// refuse answers an error before anything was sent.
func refuse(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, embed.ErrBusy):
		code = http.StatusConflict
	case errors.Is(err, store.ErrCompacted), errors.Is(err, store.ErrOtherHistory):
		code = http.StatusGone
	}
	http.Error(w, err.Error(), code)
}

// header is the first line of a backup; then come the files' bytes, in order, and a trailer in one more line.
type header struct {
	History     string        `json:"history"`
	Version     store.Version `json:"version"`
	StoreFormat uint64        `json:"storeFormat"`
	Files       []backup.File `json:"files"`
	PausedUs    int64         `json:"pausedUs"` // for how long commits rested
}

// trailer tells the digests of what was sent.
type trailer struct {
	SHA256 []string `json:"sha256"`
}

func (h *handler) backup(w http.ResponseWriter, r *http.Request) {
	c, err := h.engine.Checkpoint(r.Context())
	if err != nil {
		h.audit(r.Context(), "StoreBackup", "", err)
		refuse(w, err)
		return
	}
	s := backup.OfCheckpoint(c)
	d := s.Describe()
	err = io.ErrUnexpectedEOF // of a handler that is ended
	defer func() {
		h.audit(r.Context(), "StoreBackup", "version "+strconv.FormatUint(uint64(d.Version), 10), errors.Join(err, s.Close()))
	}()
	err = send(w, header{History: d.History.String(), Version: d.Version, StoreFormat: d.StoreFormat, Files: d.Files, PausedUs: c.Paused.Microseconds()}, s)
}

// send writes a whole backup. After an error the answer has no trailer, so that nobody takes it for whole.
func send(w http.ResponseWriter, head header, s backup.Source) error {
	out := &patient{w: w, c: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := json.NewEncoder(out).Encode(head); err != nil {
		return err
	}
	var tail trailer
	for _, f := range head.Files {
		sum, err := sendFile(out, s, f)
		if err != nil {
			return err
		}
		tail.SHA256 = append(tail.SHA256, sum)
	}
	return json.NewEncoder(out).Encode(tail)
}

func sendFile(out io.Writer, s backup.Source, f backup.File) (sum string, err error) {
	from, err := s.Open(f.Name)
	if err != nil {
		return "", err
	}
	defer from.Close()
	digest := backup.NewDigest()
	n, err := io.CopyBuffer(io.MultiWriter(out, digest), onlyReader{io.LimitReader(from, f.Bytes)}, make([]byte, chunkBytes))
	if err == nil && n != f.Bytes {
		err = io.ErrUnexpectedEOF
	}
	return digest.Text(), err
}

// onlyReader hides what would let io.Copy use another buffer.
type onlyReader struct{ io.Reader }

// patient gives each write its own time limit.
type patient struct {
	w io.Writer
	c *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.c.SetWriteDeadline(time.Now().Add(StallLimit)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return p.w.Write(b)
}

func (h *handler) stats(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(Summarize(h.engine)) // a client that is gone asks again
}

// watch streams what is committed, one Event a line, until the client goes.
func (h *handler) watch(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	values := q.Get("values") == "1"
	prefix, err := hex.DecodeString(q.Get("prefix"))
	if err != nil {
		http.Error(w, "prefix: want hexadecimal digits", http.StatusBadRequest)
		return
	}
	feed, err := h.feed(r.Context(), q.Get("from"), prefix)
	if values {
		h.audit(r.Context(), "StoreWatch", "values under "+q.Get("prefix"), err)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	defer feed.Close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	c := http.NewResponseController(w)
	out := json.NewEncoder(&patient{w: w, c: c})
	told := time.Now()
	for first := true; ; first = false {
		b, err := feed.Next(r.Context())
		if err != nil {
			_ = out.Encode(Event{Error: err.Error()})
			return
		}
		if b.Progress && !first && time.Since(told) < time.Second {
			continue
		}
		told = time.Now()
		if out.Encode(eventOf(b, values)) != nil || c.Flush() != nil {
			return
		}
	}
}

// feed begins at a version, or at the newest.
func (h *handler) feed(ctx context.Context, from string, prefix []byte) (store.Feed, error) {
	s, err := h.engine.Snapshot(ctx, 0)
	if err != nil {
		return nil, err
	}
	at := s.Version()
	s.Release()
	if from != "" {
		n, err := strconv.ParseUint(from, 10, 64)
		if err != nil {
			return nil, err
		}
		at = store.Version(n)
	}
	if len(prefix) == 0 {
		return h.engine.Watch(ctx, at)
	}
	return h.engine.Watch(ctx, at, prefix)
}
