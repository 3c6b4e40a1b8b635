package upload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	// progressEvery is how often the outcome's stream says how far it is; it is also its heartbeat.
	progressEvery = 200 * time.Millisecond
	// bodyLimit bounds how long one request's body may take, so that a client that sends nothing holds no connection.
	bodyLimit = 5 * time.Minute
)

// Handler serves uploads to s.
func Handler(s Service) http.Handler {
	h := handler{s}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Path+"begin", h.begin)
	mux.HandleFunc("PUT "+Path+"chunk/{id}/{index}", h.put)
	mux.HandleFunc("POST "+Path+"finish/{id}", h.finish)
	return mux
}

type handler struct{ Service }

// body reads a request's bounded body.
func body(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyLimit)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, err
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		return nil, fmt.Errorf("read upload: %w", err)
	}
	return b, nil
}

func refuse(w http.ResponseWriter, err error) {
	code := http.StatusUnprocessableEntity
	if errors.Is(err, ErrBeginAgain) {
		code = http.StatusConflict
	}
	http.Error(w, err.Error(), code)
}

func (h handler) begin(w http.ResponseWriter, r *http.Request) {
	var in begin
	b, err := body(w, r, beginBytesMax)
	if err == nil {
		err = json.Unmarshal(b, &in)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	begun, err := h.Begin(r.Context(), in.Bytes, in.Sums)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(begun) // the client that is gone asks again
}

func (h handler) put(w http.ResponseWriter, r *http.Request) {
	index, err := strconv.ParseUint(r.PathValue("index"), 10, 32)
	if err != nil {
		http.Error(w, "index: want a number", http.StatusBadRequest)
		return
	}
	data, err := body(w, r, ChunkBytes)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := h.Put(r.Context(), r.PathValue("id"), uint32(index), data); err != nil {
		refuse(w, err)
	}
}

func (h handler) finish(w http.ResponseWriter, r *http.Request) {
	var in Finish
	b, err := body(w, r, finishBytesMax)
	if err == nil {
		err = json.Unmarshal(b, &in)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines, flusher := json.NewEncoder(w), http.NewResponseController(w)
	_ = flusher.SetReadDeadline(time.Time{})
	say := func(e event) {
		_ = lines.Encode(e) // a client that is gone cancels the context
		_ = flusher.Flush()
	}
	last := time.Time{}
	result, err := h.Finish(r.Context(), r.PathValue("id"), in, func(done, total uint64) {
		if now := time.Now(); now.Sub(last) >= progressEvery {
			last = now
			say(event{Done: done, Total: total})
		}
	})
	if err != nil {
		say(event{Error: err.Error(), Again: errors.Is(err, ErrBeginAgain)})
		return
	}
	say(event{Result: &result})
}
