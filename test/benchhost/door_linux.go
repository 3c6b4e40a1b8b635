package main

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
	"path/filepath"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/ec2/sigv4"
)

const (
	apiVersion   = "2016-11-15"
	answerMax    = 4 << 20
	instanceType = "nb1.tiny"
	openPort     = "8080" // where guests echo
	closedPort   = "8083" // where they serve pages, to nobody whom no rule lets in
)

// door is a client of the EC2 API.
type door struct {
	signer   sigv4.Signer
	endpoint string
}

// openDoor reads what `nimbrel env` prints.
func openDoor(ctx context.Context, c *cloud) (*door, error) {
	lines, err := printed[[]struct{ Name, Value string }](ctx, c, "env")
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for _, l := range lines {
		env[l.Name] = l.Value
	}
	f, err := os.Open(env["AWS_SHARED_CREDENTIALS_FILE"])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	keys := map[string]string{}
	for scan := bufio.NewScanner(f); scan.Scan(); {
		if name, value, ok := strings.Cut(scan.Text(), "="); ok {
			keys[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return &door{endpoint: env["AWS_ENDPOINT_URL"], signer: sigv4.Signer{
		AccessKeyID: keys["aws_access_key_id"], Secret: keys["aws_secret_access_key"], Region: env["AWS_REGION"], Service: "ec2",
	}}, nil
}

// answer is the part of answers that is looked at.
type answer struct {
	Key        string   `xml:"keyMaterial"`
	Group      string   `xml:"groupId"`
	Images     []string `xml:"imagesSet>item>imageId"`
	Zones      []string `xml:"availabilityZoneInfo>item>zoneName"`
	VPCs       []string `xml:"vpcSet>item>vpcId"`
	Launched   []guest  `xml:"instancesSet>item"`
	Found      []guest  `xml:"reservationSet>item>instancesSet>item"`
	Permission bool     `xml:"return"`
}

// guest is an instance.
type guest struct {
	ID      string `xml:"instanceId"`
	Address string `xml:"privateIpAddress"`
	State   string `xml:"instanceState>name"`
	Reason  string `xml:"stateReason>message"`
}

// call sends one action.
func (d *door) call(ctx context.Context, action string, parameters ...string) (out answer, err error) {
	form := url.Values{"Action": {action}, "Version": {apiVersion}}
	for i := 0; i < len(parameters); i += 2 {
		form.Set(parameters[i], parameters[i+1])
	}
	body := form.Encode()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.endpoint+"/", strings.NewReader(body))
	if err != nil {
		return out, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	if err := d.signer.Sign(r, []byte(body), time.Now()); err != nil {
		return out, err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return out, fmt.Errorf("%s: %w", action, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, answerMax))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, text)
	}
	if err == nil {
		err = xml.Unmarshal(text, &out)
	}
	if err != nil {
		return out, fmt.Errorf("%s: %w", action, err)
	}
	return out, nil
}

// launch starts a guest on each host, in one group that lets in pings, ssh and openPort, and returns when they run.
func (d *door) launch(ctx context.Context, b *bench) (guests []guest, key string, err error) {
	made, err := d.call(ctx, "CreateKeyPair", "KeyName", "bench", "KeyType", "ed25519")
	if err != nil {
		return nil, "", err
	}
	key = filepath.Join(b.dir, "key.pem")
	if err := os.WriteFile(key, []byte(made.Key), 0o600); err != nil {
		return nil, "", err
	}
	group, err := d.group(ctx)
	if err != nil {
		return nil, "", err
	}
	images, imagesErr := d.call(ctx, "DescribeImages", "Filter.1.Name", "state", "Filter.1.Value.1", "available")
	zones, zonesErr := d.call(ctx, "DescribeAvailabilityZones")
	if err := errors.Join(imagesErr, zonesErr); err != nil {
		return nil, "", err
	}
	if len(images.Images) != 1 || len(zones.Zones) < len(hosts) {
		return nil, "", fmt.Errorf("images %v and zones %v: want one, and one a host", images.Images, zones.Zones)
	}
	for i := range hosts {
		out, err := d.call(ctx, "RunInstances", "ImageId", images.Images[0], "InstanceType", instanceType, "MinCount", "1", "MaxCount", "1",
			"KeyName", "bench", "SecurityGroupId.1", group, "Placement.AvailabilityZone", zones.Zones[i])
		if err != nil {
			return nil, "", err
		}
		if len(out.Launched) != 1 {
			return nil, "", fmt.Errorf("RunInstances: %d instances, want 1", len(out.Launched))
		}
		b.guests = append(b.guests, out.Launched[0].ID)
		guests = append(guests, out.Launched[0])
	}
	for _, v := range guests {
		err := until(ctx, v.ID+" is running", func() (bool, error) {
			out, err := d.call(ctx, "DescribeInstances", "InstanceId.1", v.ID)
			return err == nil && len(out.Found) == 1 && out.Found[0].State == "running", err
		})
		if err != nil {
			return nil, "", err
		}
	}
	return guests, key, nil
}

func (d *door) group(ctx context.Context) (string, error) {
	vpcs, err := d.call(ctx, "DescribeVpcs")
	if err != nil || len(vpcs.VPCs) == 0 {
		return "", fmt.Errorf("default VPC: %w", errors.Join(err, errors.New("none found")))
	}
	out, err := d.call(ctx, "CreateSecurityGroup", "GroupName", "bench", "GroupDescription", "bench", "VpcId", vpcs.VPCs[0])
	if err != nil {
		return "", err
	}
	for _, rule := range [][3]string{{"icmp", "-1", "-1"}, {"tcp", openPort, openPort}, {"tcp", "22", "22"}} {
		_, err := d.call(ctx, "AuthorizeSecurityGroupIngress", "GroupId", out.Group, "IpPermissions.1.IpProtocol", rule[0],
			"IpPermissions.1.FromPort", rule[1], "IpPermissions.1.ToPort", rule[2], "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0")
		if err != nil {
			return "", err
		}
	}
	return out.Group, nil
}
