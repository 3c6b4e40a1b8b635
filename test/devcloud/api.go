package devcloud

import (
	"bufio"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/ec2/sigv4"
)

// answerMax bounds an answer, in bytes.
const answerMax = 64 << 20

// API is one account's view of the EC2 API. It may be used by many goroutines.
type API struct {
	Endpoint string // a URL without a path
	Signer   sigv4.Signer
	// Client keeps its connections: what is timed is the server and not a client's start.
	Client *http.Client
}

// NewAPI is the API at an endpoint for the holder of a key. A call takes at most patience.
func NewAPI(endpoint, region, keyID, secret string, patience time.Duration) *API {
	return &API{
		Endpoint: endpoint, Client: &http.Client{Timeout: patience},
		Signer: sigv4.Signer{AccessKeyID: keyID, Secret: secret, Region: region, Service: "ec2"},
	}
}

// API is the cloud's for the account that `nimbrel env` is of.
func (c *Cloud) API(ctx context.Context, patience time.Duration) (*API, error) {
	lines, err := Ask[[]struct{ Name, Value string }](ctx, c, "env")
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for _, l := range lines {
		env[l.Name] = l.Value
	}
	keys, err := readSettings(env["AWS_SHARED_CREDENTIALS_FILE"])
	if err != nil {
		return nil, err
	}
	return NewAPI(env["AWS_ENDPOINT_URL"], env["AWS_REGION"], keys["aws_access_key_id"], keys["aws_secret_access_key"], patience), nil
}

// readSettings reads a configuration file of one profile.
func readSettings(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	settings := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok {
			settings[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return settings, lines.Err()
}

// Refusal is an error answer: the server has decided.
type Refusal struct {
	Status  int    // of HTTP
	Code    string `xml:"Code"`
	Message string `xml:"Message"`
}

func (r *Refusal) Error() string { return fmt.Sprintf("%s (%d): %s", r.Code, r.Status, r.Message) }

// Code is a refusal's code; "" for any other error, which says nothing of what became of a request.
func Code(err error) string {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}

// Call sends one action once; pairs are names and values. It decodes the answer's XML into out, and returns the time
// between the first byte out and the last in: signing is the client's own and is not in it.
func (a *API) Call(ctx context.Context, out any, action string, pairs ...string) (time.Duration, error) {
	r, err := a.request(ctx, action, pairs)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	answer, err := a.Client.Do(r)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", action, err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, answerMax))
	took := time.Since(begin)
	switch {
	case err != nil:
	case answer.StatusCode != http.StatusOK:
		err = refusal(answer.StatusCode, raw)
	default:
		err = xml.Unmarshal(raw, out)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", action, err)
	}
	return took, nil
}

func (a *API) request(ctx context.Context, action string, pairs []string) (*http.Request, error) {
	form := url.Values{"Action": {action}, "Version": {"2016-11-15"}}
	for i := 0; i+1 < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	body := form.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.Endpoint+"/", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	return r, a.Signer.Sign(r, []byte(body), time.Now())
}

// refusal reads an error answer. One that is none of EC2's is no refusal.
func refusal(status int, raw []byte) error {
	var failure struct {
		Errors []Refusal `xml:"Errors>Error"`
	}
	if err := xml.Unmarshal(raw, &failure); err != nil || len(failure.Errors) != 1 {
		return fmt.Errorf("status %d: %.4096s", status, raw)
	}
	failure.Errors[0].Status = status
	return &failure.Errors[0]
}

// Instance is what the API says of an instance, as far as benchmarks and torture look at it.
type Instance struct {
	ID      string `xml:"instanceId"`
	Address string `xml:"privateIpAddress"`
	Subnet  string `xml:"subnetId"`
	State   string `xml:"instanceState>name"`
	Reason  string `xml:"stateReason>message"`
}

// Launched is the answer of RunInstances.
type Launched struct {
	Instances []Instance `xml:"instancesSet>item"`
}

// Described is the answer of DescribeInstances: one page.
type Described struct {
	Instances []Instance `xml:"reservationSet>item>instancesSet>item"`
	Next      string     `xml:"nextToken"`
}

// Image is the id of the one image that a cloud was brought up with.
func (a *API) Image(ctx context.Context) (string, error) {
	var found struct {
		IDs []string `xml:"imagesSet>item>imageId"`
	}
	if _, err := a.Call(ctx, &found, "DescribeImages", "Filter.1.Name", "state", "Filter.1.Value.1", "available"); err != nil {
		return "", err
	}
	if len(found.IDs) != 1 {
		return "", fmt.Errorf("%d images: want the one that the cloud was brought up with", len(found.IDs))
	}
	return found.IDs[0], nil
}

// Await waits until an instance is in a state, asking every interval.
func (a *API) Await(ctx context.Context, id, state string, interval, limit time.Duration) error {
	return Until(ctx, interval, limit, id+" is "+state, func() (bool, error) {
		var out Described
		if _, err := a.Call(ctx, &out, "DescribeInstances", "InstanceId.1", id); err != nil {
			return false, Final(err)
		}
		if len(out.Instances) != 1 {
			return false, Final(fmt.Errorf("%d instances %s, want 1", len(out.Instances), id))
		}
		i := out.Instances[0]
		if i.State != state && i.State == "terminated" {
			return false, Final(fmt.Errorf("it is terminated: %s", i.Reason))
		}
		return i.State == state, fmt.Errorf("it is %s", i.State)
	})
}
