package query

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/auth"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/svc/obs"
)

const defaultBodyPatience = 20 * time.Second

// Version is the newest version of the API, and the only one with a model.
const Version = "2016-11-15"

// Authenticator tells who sent a request. *auth.Verifier is one.
type Authenticator interface {
	Verify(ctx context.Context, r *http.Request, body []byte) (auth.Identity, error)
}

// Options configure a Handler. Check, Errors, Shed, Admit and Done may be nil.
type Options struct {
	API  ec2gen.API
	Auth Authenticator
	Env  env.Env
	Log  *slog.Logger

	// Check is asked about the raw parameters before the action decodes them; its error is the answer.
	Check func(action string, params url.Values) error

	// Errors turns what an action returned into what the client sees. What is no *errs.Error afterwards is internal.
	Errors func(error) error

	// Shed is asked before the signature is verified, about what the request claims: its error is the answer. It must
	// count nothing against the key, which the sender may not hold.
	Shed func(accessKeyID, action string, readOnly bool) error

	// Admit is asked after authentication and before anything else, for actions that do not exist too; of the call it has
	// who and which action. Its error is the answer: errs.Throttled sheds the call, an UnauthorizedOperation forbids it. release, when not nil, is called when the action has ended.
	Admit func(ctx context.Context, call Call, readOnly bool) (release func(), err error)

	// Done is told of every request after its answer was made.
	Done func(Record)

	// BodyPatience bounds the time that a request's body may take to arrive. Default: 20 s.
	BodyPatience time.Duration
}

// Record is one finished request, for metrics and the audit log.
type Record struct {
	Call    Call // as far as it was known: the account is empty when authentication failed
	Service string
	Code    string // of the error; empty on success
	Status  int
	Took    time.Duration
}

// Handler serves the protocol. It is safe for concurrent use.
type Handler struct {
	options Options
	bodies  bodyRoom
}

// New makes a Handler.
func New(options Options) (*Handler, error) {
	if options.API == nil || options.Auth == nil || options.Env.Clock == nil || options.Env.Random == nil || options.Log == nil {
		return nil, errors.New("query: API, Auth, Env and Log are needed")
	}
	if options.BodyPatience == 0 {
		options.BodyPatience = defaultBodyPatience
	}
	return &Handler{options: options, bodies: bodyRoom{max: defaultBodyRoom}}, nil
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := h.options.Env.Clock.Now()
	keyID, service := auth.ClaimOf(r)
	record := Record{Service: service, Status: http.StatusOK}
	record.Call.RequestID = newRequestID(h.options.Env.Random)
	answer, err := h.serve(w, r, keyID, &record)
	if err != nil {
		retryAfter(w, err)
		answer = h.failure(err, &record)
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.Header().Set("X-Amzn-Requestid", record.Call.RequestID)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.WriteHeader(record.Status)
	_, _ = w.Write(answer)                    // the client may be gone; there is nobody left to tell
	_ = http.NewResponseController(w).Flush() // before the record is kept: the client need not wait for that
	if h.options.Done != nil {
		record.Took = h.options.Env.Clock.Now().Sub(began)
		h.options.Done(record)
	}
}

// serve runs the request's story: read, authenticate, parse, admit, act. It fills the record as it learns.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, keyID string, record *Record) (answer []byte, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			answer, err = nil, fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
		}
	}()
	arriving := h.bodies.begin(r)
	defer arriving.end()
	if err := arriving.read(w, r, h.options.BodyPatience); err != nil {
		return nil, err
	}
	body := arriving.bytes
	if action := claimedAction(r, body); h.options.Shed != nil && action != "" {
		if err := h.options.Shed(keyID, action, readOnly(action)); err != nil {
			record.Call.Action = action
			return nil, err
		}
	}
	identity, err := h.options.Auth.Verify(r.Context(), r, body)
	if err != nil {
		return nil, err
	}
	obs.Proven(r.Context())
	record.Service, record.Call.Account, record.Call.AccessKeyID = identity.Service, identity.Account, identity.AccessKeyID
	request, err := parse(r, body)
	if err != nil {
		return nil, err
	}
	record.Call.Action = request.action
	release, err := h.admit(r.Context(), record.Call, readOnly(request.action))
	if err != nil {
		return nil, err
	}
	defer release()
	switch identity.Service {
	case "ec2":
		return h.ec2(r.Context(), record, request)
	case "sts":
		return h.sts(record, request)
	}
	return nil, errs.New(errs.InvalidAction, "The service %s has no actions here.", identity.Service)
}

// RetryError is an error whose answer tells when to try again, in whole seconds.
type RetryError struct {
	Err   *errs.Error
	After time.Duration
}

func (e *RetryError) Error() string { return e.Err.Error() }

// Unwrap returns what the client is told.
func (e *RetryError) Unwrap() error { return e.Err }

func retryAfter(w http.ResponseWriter, err error) {
	if retry := (*RetryError)(nil); errors.As(err, &retry) {
		w.Header().Set("Retry-After", strconv.Itoa(int((retry.After+time.Second-1)/time.Second)))
	}
}

// ec2 runs an action of the table.
func (h *Handler) ec2(ctx context.Context, record *Record, request request) ([]byte, error) {
	action, ok := ec2gen.Actions[request.action]
	switch {
	case ok:
	case ec2gen.Known(request.action):
		return nil, errs.Unsupported(request.action)
	default:
		return nil, errs.New(errs.InvalidAction, "The action %s is not valid for this web service.", clip(request.action))
	}
	if err := checkVersion(request.version, Version); err != nil {
		return nil, err
	}
	record.Call.DryRun = action.DryRun && request.params.Get("DryRun") == "true"
	answer, err := h.act(ctx, action, record.Call, request.params)
	if err == nil && record.Call.DryRun {
		return nil, h.dryRunEnded(record.Call, action.ReadOnly)
	}
	return answer, err
}

func (h *Handler) act(ctx context.Context, action ec2gen.Action, call Call, params url.Values) ([]byte, error) {
	if h.options.Check != nil {
		if err := h.options.Check(action.Name, params); err != nil {
			return nil, err
		}
	}
	answer, err := action.Serve(WithCall(ctx, call), h.options.API, params, call.RequestID)
	if err != nil && h.options.Errors != nil {
		err = h.options.Errors(err)
	}
	return answer, err
}

// dryRunEnded is the answer to a dry run that a handler took to its end. For a read-only action that is as good as
// stopping before the effect. For another it is a defect: the handler did not look at Call.DryRun, and something changed.
func (h *Handler) dryRunEnded(call Call, readOnly bool) error {
	if !readOnly {
		return fmt.Errorf("handler of %s ignored DryRun", call.Action)
	}
	return errs.DryRun
}

// readOnly says whether an action, of whatever service, changes nothing. One that does not exist is not known to.
func readOnly(action string) bool {
	return ec2gen.Actions[action].ReadOnly || action == callerIdentity
}

func (h *Handler) admit(ctx context.Context, call Call, readOnly bool) (release func(), err error) {
	release = func() {}
	if h.options.Admit == nil {
		return release, nil
	}
	admitted, err := h.options.Admit(ctx, call, readOnly)
	if admitted != nil {
		release = admitted
	}
	return release, err
}

// failure writes the error's envelope and logs what the client is not shown.
func (h *Handler) failure(err error, record *Record) []byte {
	e := (*errs.Error)(nil)
	if !errors.As(err, &e) {
		h.options.Log.Error("request failed", "action", record.Call.Action, "account", string(record.Call.Account),
			"request", record.Call.RequestID, "err", err)
		e = errs.Internal(record.Call.RequestID)
	}
	record.Code, record.Status = e.Code, e.Status
	if record.Service == "sts" {
		return stsError(e, record.Call.RequestID)
	}
	return ec2Error(e, record.Call.RequestID)
}
