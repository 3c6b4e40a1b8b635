package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/rpc"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/wire"
)

// Commit sends a commit, and the same bytes again when the connection broke before the answer. Only when its time is over
// with a copy under way is the outcome unknown.
func (c *Client) Commit(ctx context.Context, commit *store.Commit) (*store.Answer, error) {
	if err := c.begin(ctx); err != nil {
		return nil, err
	}
	defer c.end()
	body := wire.Encode(commit)
	if len(body) > wire.MaxCommitBytes {
		return store.Refuse(store.ReasonTooLarge, "the commit takes %d bytes, at most %d", len(body), wire.MaxCommitBytes), nil
	}
	s := &sending{c: c, body: body, long: len(body) > wire.MaxRequestBytes}
	a, err := s.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("commit %v: %w", commit.ID, err)
	}
	return a, nil
}

// sending is one commit on its way.
type sending struct {
	c    *Client
	body []byte
	long bool // over a stream
	// sent says that a copy may have reached the server of this history, and why its answer did not come.
	sent    error
	history store.HistoryID
}

func (s *sending) run(ctx context.Context) (*store.Answer, error) {
	patience, cancel := context.WithTimeout(ctx, s.c.o.RetryFor)
	defer cancel()
	for pause := backoffMin; ; {
		l, err := s.c.connection(patience)
		if err != nil {
			return nil, s.outcome(s.c.unavailable(ctx, err))
		}
		if s.sent != nil && l.history != s.history {
			return nil, s.outcome(store.ErrOtherHistory)
		}
		a, err := s.once(ctx, l)
		if err == nil && (s.sent == nil || !ofCopy(a)) {
			return a, nil
		}
		later := err == nil
		if err == nil {
			err = fmt.Errorf("refused, %v: %s", a.Reason, a.Detail)
			if a.Reason == store.ReasonExpired { // as will be every copy
				return nil, s.outcome(err)
			}
		} else if again, wait := s.failed(l, err); !again {
			return nil, s.outcome(local(err))
		} else {
			later = wait
		}
		if patience.Err() != nil {
			return nil, s.outcome(s.c.unavailable(ctx, err))
		}
		if later {
			pause = s.c.pause(patience, pause)
		}
	}
}

// failed notes what an error says of the copy just sent, and tells whether to send another.
func (s *sending) failed(l *link, err error) (again, later bool) {
	var e *rpc.Error
	if errors.As(err, &e) {
		switch uint32(e.Code) {
		case uint32(rpc.CodeDraining), uint32(rpc.CodeOverloaded):
			return retry(l, err)
		case wire.CodeTooLong:
			s.sent, s.history, s.long = err, l.history, true
			return true, false
		case wire.CodeUnknown:
		case wire.CodeClosed: // of a server about to go: another may come
			l.Close()
			return true, true
		default:
			if e.Code >= 1000 || e.Code == rpc.CodeInvalid || e.Code == rpc.CodeUnknownMethod {
				return false, false
			}
		}
	}
	s.sent, s.history = err, l.history
	return true, e != nil
}

// outcome is the error of a commit that is given up: unknown, once a copy was sent.
func (s *sending) outcome(err error) error {
	if s.sent == nil || errors.Is(err, store.ErrUnknown) {
		return err
	}
	return fmt.Errorf("%w: %w (sent before: %v)", store.ErrUnknown, err, s.sent)
}

// ofCopy tells whether an answer speaks of the copy that it answers, not of the commit: the engine refuses so before it looks
// for the commit's record.
func ofCopy(a *store.Answer) bool {
	if a.Outcome != store.OutcomeRefused {
		return false
	}
	switch a.Reason {
	case store.ReasonOverloaded, store.ReasonDiskFull, store.ReasonExpired:
		return true
	}
	return false
}

func (s *sending) once(ctx context.Context, l *link) (*store.Answer, error) {
	if s.long {
		return s.stream(ctx, l)
	}
	out, err := l.Call(ctx, wire.MethodCommit, s.body)
	if err != nil {
		return nil, err
	}
	return wire.Decode[store.Answer](out)
}

// stream sends the commit over a stream of its own.
func (s *sending) stream(ctx context.Context, l *link) (*store.Answer, error) {
	st, err := l.OpenStream(ctx, wire.StreamCommit, nil)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	defer context.AfterFunc(ctx, func() { _ = st.SetDeadline(time.Unix(1, 0)) })()
	if err := wire.WriteMessage(st, s.body); err != nil {
		return nil, err
	}
	body, err := wire.ReadMessage(st, wire.MaxMessageBytes)
	if err != nil {
		return nil, err
	}
	r, err := wire.Decode[wire.Reply](body)
	switch {
	case err != nil:
		return nil, err
	case r.Code != 0:
		return nil, &rpc.Error{Code: rpc.Code(r.Code), Message: r.Text}
	case r.Answer == nil:
		return nil, errors.New("the server's reply holds no answer")
	}
	return r.Answer, nil
}
