package awsjson

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/internal/assert"
)

// MaxBodyBytes bounds a request. MaxAnswerBytes bounds what a client reads.
const (
	MaxBodyBytes   = 1 << 20
	MaxAnswerBytes = 64 << 20
)

// Operation is one row of a generated dispatch table.
type Operation[API any] struct {
	ReadOnly bool
	Serve    func(ctx context.Context, api API, body []byte) ([]byte, error)
}

// Options are what a server may set. The zero value is usable.
type Options struct {
	Log *slog.Logger // slog.Default() when nil

	// Done, when set, is told of each request after its answer, for metrics and audit.
	Done func(operation string, status int, took time.Duration)
}

const contentType = "application/x-amz-json-1.1"

type handler[API any] struct {
	service    string
	api        API
	operations map[string]Operation[API]
	options    Options
}

// NewHandler serves the operations of a service: POST /, X-Amz-Target: Service.Operation.
func NewHandler[API any](service string, api API, operations map[string]Operation[API], options Options) http.Handler {
	if options.Log == nil {
		options.Log = slog.Default()
	}
	return &handler[API]{service: service, api: api, operations: operations, options: options}
}

func (h *handler[API]) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	requestID := rand.Text()
	operation := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), h.service+".")
	status, answer := http.StatusOK, []byte(nil)
	answer, err := h.serve(w, r, operation)
	if err != nil {
		status, answer = h.failure(err, operation, requestID)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Amzn-Requestid", requestID)
	w.WriteHeader(status)
	_, _ = w.Write(answer) // the client may be gone; there is nobody left to tell
	if h.options.Done != nil {
		h.options.Done(operation, status, time.Since(began))
	}
}

func (h *handler[API]) serve(w http.ResponseWriter, r *http.Request, name string) (answer []byte, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			answer, err = nil, fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
		}
	}()
	if r.Method != http.MethodPost || r.URL.Path != "/" {
		return nil, invalid("%s %s: an operation is called with POST /", r.Method, r.URL.Path)
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || (media != contentType && media != "application/json") {
		return nil, invalid("Content-Type is %q; send %s", r.Header.Get("Content-Type"), contentType)
	}
	operation, ok := h.operations[name]
	if !ok {
		return nil, Errorf(CodeUnknownOperation, http.StatusNotFound, Never, "no operation %q; X-Amz-Target is %s.<operation>", name, h.service)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBodyBytes))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, Errorf(CodeTooLarge, http.StatusRequestEntityTooLarge, Never, "the request is larger than %d bytes", MaxBodyBytes)
	}
	if err != nil {
		return nil, invalid("read request: %v", err)
	}
	return operation.Serve(r.Context(), h.api, body)
}

// failure turns an error into its wire form. What has none is logged and hidden.
func (h *handler[API]) failure(err error, operation, requestID string) (int, []byte) {
	e := (*Error)(nil)
	if !errors.As(err, &e) {
		h.options.Log.Error("operation failed", "service", h.service, "action", operation, "request", requestID, "err", err)
		e = Errorf(CodeInternal, http.StatusInternalServerError, Later, "internal error; the server's log has it under request id %s", requestID)
	}
	answer, marshalErr := json.Marshal(e)
	assert.That(marshalErr == nil, "an Error always marshals: %v", marshalErr)
	return e.Status, answer
}

// Conformer is a generated structure.
type Conformer interface {
	// Conform makes required lists non-nil and reports the first broken constraint.
	Conform() error
}

// Decode reads a request strictly: no unknown member, nothing after the object, every required member there.
func Decode(body []byte, in Conformer, required ...string) error {
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
	}
	var present map[string]json.RawMessage
	if err := json.Unmarshal(body, &present); err != nil {
		return invalid("the body must be one JSON object: %v", err)
	}
	for _, name := range required {
		if value, ok := present[name]; !ok || string(value) == "null" {
			return invalid("member %s is missing", name)
		}
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(in); err != nil {
		return invalid("%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if err := in.Conform(); err != nil {
		return invalid("%v", err)
	}
	return nil
}

// Encode writes an answer that conforms to its model.
func Encode(out Conformer) ([]byte, error) {
	if err := out.Conform(); err != nil {
		return nil, fmt.Errorf("answer breaks the model: %w", err)
	}
	return json.Marshal(out)
}

// Names returns the operations of a table in order, for help texts and tests.
func Names[API any](operations map[string]Operation[API]) []string {
	names := make([]string, 0, len(operations))
	for name := range operations {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
