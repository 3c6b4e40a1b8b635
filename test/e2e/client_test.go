package e2e

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/ec2/sigv4"
)

// client calls a cloud's EC2 API as the account of `nimbrel env`.
type client struct {
	endpoint string
	signer   sigv4.Signer
}

// apiError is an error answer of the EC2 API.
type apiError struct{ Status, Code, Message string }

func (e *apiError) Error() string { return e.Code + ": " + e.Message + " (" + e.Status + ")" }

var setting = regexp.MustCompile(`(?m)^(\w+) *= *(.*)$`)

// openClient reads the configuration that `nimbrel env` points to.
func openClient(stateDir string) (*client, error) {
	values := map[string]string{}
	for _, name := range []string{"config", "credentials"} {
		raw, err := os.ReadFile(filepath.Join(stateDir, "env", name))
		if err != nil {
			return nil, err
		}
		for _, m := range setting.FindAllStringSubmatch(string(raw), -1) {
			values[m[1]] = m[2]
		}
	}
	return &client{values["endpoint_url"], sigv4.Signer{
		AccessKeyID: values["aws_access_key_id"], Secret: values["aws_secret_access_key"], Region: values["region"], Service: "ec2",
	}}, nil
}

// call sends a signed request; pairs are names and values. The answer is its XML.
func (c *client) call(action string, pairs ...string) ([]byte, error) {
	form := url.Values{"Action": {action}, "Version": {"2016-11-15"}}
	for i := 0; i+1 < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	body := []byte(form.Encode())
	r, err := http.NewRequest(http.MethodPost, c.endpoint+"/", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	if err := c.signer.Sign(r, body, time.Now()); err != nil {
		return nil, err
	}
	answer, err := (&http.Client{Timeout: commandLimit}).Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusOK {
		return raw, nil
	}
	var failure struct {
		Errors []apiError `xml:"Errors>Error"`
	}
	if err := xml.Unmarshal(raw, &failure); err != nil || len(failure.Errors) != 1 {
		return nil, fmt.Errorf("%s: status %s: %s", action, answer.Status, raw)
	}
	failure.Errors[0].Status = answer.Status
	return nil, &failure.Errors[0]
}

// ec2 calls the API and decodes the answer's XML.
func ec2[T any](c *cloud, action string, pairs ...string) T {
	c.t.Helper()
	v, err := tryEC2[T](c, action, pairs...)
	if err != nil {
		c.t.Fatalf("%s: %v", action, err)
	}
	return v
}

func tryEC2[T any](c *cloud, action string, pairs ...string) (T, error) {
	c.t.Helper()
	var v T
	api, err := openClient(c.dir())
	if err != nil {
		return v, err
	}
	raw, err := api.call(action, pairs...)
	if err != nil {
		return v, err
	}
	return v, xml.Unmarshal(raw, &v)
}

// code is an API error's code; "" for no such error.
func code(err error) string {
	var failure *apiError
	if errors.As(err, &failure) {
		return failure.Code
	}
	return ""
}

// launched is the part of RunInstances' and DescribeInstances' answers that tests look at.
type launched struct {
	ID        string `xml:"instanceId"`
	Address   string `xml:"privateIpAddress"`
	Subnet    string `xml:"subnetId"`
	Interface string `xml:"networkInterfaceSet>item>networkInterfaceId"`
	MAC       string `xml:"networkInterfaceSet>item>macAddress"`
	State     string `xml:"instanceState>name"`
	Reason    string `xml:"reason"`
	Cause     string `xml:"stateReason>code"`
	Volume    string `xml:"blockDeviceMapping>item>ebs>volumeId"`
}

type runAnswer struct {
	Instances []launched `xml:"instancesSet>item"`
}

type describeAnswer struct {
	Instances []launched `xml:"reservationSet>item>instancesSet>item"`
}

// image is the id of the image that `dev up --image` registered.
func (c *cloud) image() string {
	c.t.Helper()
	out := ec2[struct {
		IDs []string `xml:"imagesSet>item>imageId"`
	}](c, "DescribeImages", "Filter.1.Name", "name", "Filter.1.Value.1", "nimbrel-guest")
	if len(out.IDs) != 1 {
		c.t.Fatalf("images %v, want one", out.IDs)
	}
	return out.IDs[0]
}

// runInstances launches n instances; pairs are further parameters.
func (c *cloud) runInstances(n string, pairs ...string) []launched {
	c.t.Helper()
	pairs = append([]string{"ImageId", c.image(), "InstanceType", "nb1.tiny", "MinCount", n, "MaxCount", n}, pairs...)
	return ec2[runAnswer](c, "RunInstances", pairs...).Instances
}

func (c *cloud) describe(id string) launched {
	c.t.Helper()
	all := ec2[describeAnswer](c, "DescribeInstances", "InstanceId.1", id).Instances
	if len(all) != 1 {
		c.t.Fatalf("DescribeInstances %s: %d instances", id, len(all))
	}
	return all[0]
}

// change calls one of StartInstances and its like for one instance.
func (c *cloud) change(action, id string) {
	c.t.Helper()
	ec2[struct{}](c, action, "InstanceId.1", id)
}

func joinLines(list []string) string { return strings.Join(list, "\n") }
