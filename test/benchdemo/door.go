package main

import (
	"bufio"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/ec2/sigv4"
)

const (
	apiVersion   = "2016-11-15"
	answerMax    = 4 << 20
	instanceType = "nb1.tiny"
	pollEvery    = 20 * time.Millisecond
	runningLimit = 2 * time.Minute
)

// door is a client of the EC2 API that keeps its connection: what it times is the server and not a client's start.
type door struct {
	signer   sigv4.Signer
	endpoint string
	client   *http.Client
	bench    *bench
}

// openDoor reads what `nimbrel env` prints.
func openDoor(ctx context.Context, c *cloud) (*door, error) {
	type variable struct{ Name, Value string }
	lines, err := printed[[]variable](ctx, c.bench.built.dir, c.env(), c.binary(), "env", "--json")
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for _, l := range lines {
		env[l.Name] = l.Value
	}
	keys, err := readKeys(env["AWS_SHARED_CREDENTIALS_FILE"])
	if err != nil {
		return nil, err
	}
	return &door{
		signer: sigv4.Signer{
			AccessKeyID: keys["aws_access_key_id"], Secret: keys["aws_secret_access_key"], Region: env["AWS_REGION"], Service: "ec2",
		},
		endpoint: env["AWS_ENDPOINT_URL"],
		client:   &http.Client{Timeout: time.Minute},
		bench:    c.bench,
	}, nil
}

// readKeys reads a credentials file of one profile.
func readKeys(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	keys := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok {
			keys[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return keys, lines.Err()
}

// call sends one action and decodes the answer into v. It returns the time between the first byte out and the last in;
// signing is the client's own and is not in it.
func (d *door) call(ctx context.Context, v any, action string, parameters ...string) (time.Duration, error) {
	form := url.Values{"Action": {action}, "Version": {apiVersion}}
	for i := 0; i < len(parameters); i += 2 {
		form.Set(parameters[i], parameters[i+1])
	}
	body := form.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.endpoint+"/", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	if err := d.signer.Sign(r, []byte(body), time.Now()); err != nil {
		return 0, err
	}
	begin := time.Now()
	answer, err := d.client.Do(r)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", action, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerMax))
	took := time.Since(begin)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	if err == nil {
		err = xml.Unmarshal(text, v)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", action, err)
	}
	return took, nil
}

// instances is the part of answers about instances that is looked at.
type instances struct {
	Launched []instance `xml:"instancesSet>item"`
	Found    []instance `xml:"reservationSet>item>instancesSet>item"`
}

type instance struct {
	ID     string `xml:"instanceId"`
	State  string `xml:"instanceState>name"`
	Reason string `xml:"stateReason>message"`
}

// image is the id of the image that the cloud was brought up with.
func (d *door) image(ctx context.Context) (string, error) {
	var found struct {
		IDs []string `xml:"imagesSet>item>imageId"`
	}
	if _, err := d.call(ctx, &found, "DescribeImages", "Filter.1.Name", "state", "Filter.1.Value.1", "available"); err != nil {
		return "", err
	}
	if len(found.IDs) != 1 {
		return "", fmt.Errorf("%d images: want the one that the cloud was brought up with", len(found.IDs))
	}
	return found.IDs[0], nil
}

// launch starts one instance in the default VPC and says how long the server took to accept it.
func (d *door) launch(ctx context.Context, image string) (id string, took time.Duration, err error) {
	var out instances
	took, err = d.call(ctx, &out, "RunInstances", "ImageId", image, "InstanceType", instanceType, "MinCount", "1", "MaxCount", "1")
	if err != nil {
		return "", 0, err
	}
	if len(out.Launched) != 1 {
		return "", 0, fmt.Errorf("RunInstances: %d instances, want 1", len(out.Launched))
	}
	d.bench.guests = append(d.bench.guests, out.Launched[0].ID)
	return out.Launched[0].ID, took, nil
}

// await waits until an instance is in a state.
func (d *door) await(ctx context.Context, id, state string) error {
	return until(ctx, pollEvery, runningLimit, id+" is "+state, func() (bool, error) {
		var out instances
		if _, err := d.call(ctx, &out, "DescribeInstances", "InstanceId.1", id); err != nil {
			return false, err
		}
		if len(out.Found) != 1 {
			return false, fmt.Errorf("%d instances %s, want 1", len(out.Found), id)
		}
		i := out.Found[0]
		if i.State != state && i.State == "terminated" {
			return false, fmt.Errorf("%s is terminated: %s", id, i.Reason)
		}
		return i.State == state, nil
	})
}

func (d *door) terminate(ctx context.Context, id string) error {
	var out instances
	if _, err := d.call(ctx, &out, "TerminateInstances", "InstanceId.1", id); err != nil {
		return err
	}
	return d.await(ctx, id, "terminated")
}
