package query

import (
	"bytes"
	"encoding/hex"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/wire"
	"github.com/nimbrel/nimbrel/internal/assert"
)

// request is a parsed form. params are the action's own: what belongs to the protocol has been taken out.
type request struct {
	action, version string
	params          url.Values
}

// parse reads the parameters of the query and of a form body together, as the protocol allows.
func parse(r *http.Request, body []byte) (request, error) {
	if r.URL.Path != "/" && r.URL.Path != "" {
		return request{}, errs.New(errs.InvalidAction, "The path %s has no service; the API is at /.", clip(r.URL.Path))
	}
	if r.Method != http.MethodPost && r.Method != http.MethodGet {
		return request{}, errs.New(errs.InvalidAction, "The method %s is not used; send POST or GET.", clip(r.Method))
	}
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return request{}, errs.New(errs.MalformedQueryString, "The query string cannot be read.")
	}
	for name := range params {
		if strings.HasPrefix(name, "X-Amz-") {
			delete(params, name) // of a presigned URL; verified and done with
		}
	}
	if err := addForm(params, r, body); err != nil {
		return request{}, err
	}
	parsed := request{params: params}
	if parsed.action, err = take(params, "Action", errs.MissingAction); err != nil {
		return request{}, err
	}
	if parsed.version, err = take(params, "Version", errs.MissingParameter); err != nil {
		return request{}, err
	}
	return parsed, nil
}

func addForm(params url.Values, r *http.Request, body []byte) error {
	if len(body) == 0 {
		return nil
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.Method != http.MethodPost || err != nil || media != "application/x-www-form-urlencoded" {
		return errs.New(errs.MalformedQueryString, "A body must be POSTed as application/x-www-form-urlencoded.")
	}
	if n := bytes.Count(body, []byte("&")) + 1; n > wire.MaxParameters {
		return errs.New(errs.InvalidParameterValue, "The request has %d parameters; at most %d are allowed. Send several requests.", n, wire.MaxParameters)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return errs.New(errs.MalformedQueryString, "The form in the body cannot be read.")
	}
	for name, values := range form {
		params[name] = append(params[name], values...) // a name in both places is refused as given twice
	}
	return nil
}

// claimedAction finds the action without reading the rest of the form, as far as that can be told at a glance: clients
// write it plainly. It is empty otherwise.
func claimedAction(r *http.Request, body []byte) string {
	for _, form := range []string{r.URL.RawQuery, string(body[:min(len(body), maxGlanceBytes)])} {
		for pair := range strings.SplitSeq(form, "&") {
			if action, found := strings.CutPrefix(pair, "Action="); found {
				return action
			}
		}
	}
	return ""
}

// maxGlanceBytes is how far the action is looked for.
const maxGlanceBytes = 4 << 10

// take removes a parameter of the protocol that must be there exactly once.
func take(params url.Values, name, missing string) (string, error) {
	values := params[name]
	delete(params, name)
	switch {
	case len(values) == 0 || values[0] == "":
		return "", errs.New(missing, "The request must contain the parameter %s", name)
	case len(values) > 1:
		return "", errs.Invalid(name, "...", "The parameter is given more than once.")
	}
	return values[0], nil
}

// checkVersion accepts our version and every older date: EC2 has only ever added. A newer one may mean what we do not know.
func checkVersion(version, newest string) error {
	if _, err := time.Parse(time.DateOnly, version); err != nil || version > newest {
		return errs.New(errs.NoSuchVersion, "The requested version (%s) of the service is not valid; use %s.", clip(version), newest)
	}
	return nil
}

// newRequestID makes a random UUID (version 4).
func newRequestID(random io.Reader) string {
	var raw [16]byte
	_, err := io.ReadFull(random, raw[:])
	assert.That(err == nil, "the random source never fails: %v", err)
	raw[6], raw[8] = raw[6]&0x0f|0x40, raw[8]&0x3f|0x80
	text := hex.EncodeToString(raw[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// clip bounds what a message repeats of the client's text.
func clip(s string) string {
	if len(s) > 128 {
		return s[:128] + "..."
	}
	return s
}
