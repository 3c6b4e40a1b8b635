package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// bootLimit is how long a guest may take to its end of cloud-init: minutes under emulation on a loaded machine.
const bootLimit = 20 * time.Minute

// userData leaves a mark that only a shell which ran as root, with the metadata service in reach, can leave.
const userData = `#!/bin/sh
echo "user data ran as $(id -un)" > /var/lib/walk-mark
`

// walk is one run.
type walk struct {
	nimbrel, dir string
	env          []string // of the aws CLI
	endpoint     string
	image        struct{ ImageId, ImageLocation string }
	subnet       string
	failures     int
}

// run launches the image by both firmwares and looks into the guests.
func (w *walk) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{w.connect, w.network, w.key} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	bios, err := w.launch(ctx, w.image.ImageId)
	if err != nil {
		return err
	}
	w.guest(ctx, "bios", bios)
	uefiImage, err := w.registerUEFI(ctx)
	if err != nil {
		return err
	}
	uefi, err := w.launch(ctx, uefiImage)
	if err != nil {
		return err
	}
	w.guest(ctx, "uefi", uefi)
	if w.failures > 0 {
		return errFailed
	}
	return nil
}

// connect reads how the cloud is reached and finds the image.
func (w *walk) connect(ctx context.Context) error {
	out, err := output(exec.CommandContext(ctx, w.nimbrel, "env", "--json"))
	if err != nil {
		return err
	}
	var lines []struct{ Name, Value string }
	if err := json.Unmarshal(out, &lines); err != nil {
		return err
	}
	w.env = os.Environ()
	for _, l := range lines {
		w.env = append(w.env, l.Name+"="+l.Value)
		if l.Name == "AWS_ENDPOINT_URL" {
			w.endpoint = l.Value
		}
	}
	var found struct {
		Images []struct{ ImageId, ImageLocation string }
	}
	if err := w.aws(ctx, &found, "describe-images", "--filters", "Name=name,Values=debian"); err != nil {
		return err
	}
	if len(found.Images) != 1 {
		return fmt.Errorf("%d images are called debian", len(found.Images))
	}
	w.image = found.Images[0]
	return nil
}

// network makes a VPC and a subnet. They go with the cloud.
func (w *walk) network(ctx context.Context) error {
	var network struct{ Vpc struct{ VpcId string } }
	if err := w.aws(ctx, &network, "create-vpc", "--cidr-block", "10.41.0.0/16"); err != nil {
		return err
	}
	var subnet struct{ Subnet struct{ SubnetId string } }
	err := w.aws(ctx, &subnet, "create-subnet", "--vpc-id", network.Vpc.VpcId, "--cidr-block", "10.41.1.0/24")
	w.subnet = subnet.Subnet.SubnetId
	return err
}

func (w *walk) keyPath() string { return filepath.Join(w.dir, "key.pem") }

func (w *walk) key(ctx context.Context) error {
	if err := w.aws(ctx, nil, "delete-key-pair", "--key-name", "cloudinit"); err != nil {
		return err
	}
	var made struct{ KeyMaterial string }
	if err := w.aws(ctx, &made, "create-key-pair", "--key-name", "cloudinit", "--key-type", "ed25519"); err != nil {
		return err
	}
	if err := os.RemoveAll(w.keyPath()); err != nil {
		return err
	}
	return os.WriteFile(w.keyPath(), []byte(strings.TrimSpace(made.KeyMaterial)+"\n"), 0o600)
}

// registerUEFI makes a second image of the same content that boots by UEFI.
func (w *walk) registerUEFI(ctx context.Context) (string, error) {
	var made struct{ ImageId string }
	err := w.aws(ctx, &made, "register-image", "--name", fmt.Sprintf("debian-uefi-%d", time.Now().Unix()), "--image-location", w.image.ImageLocation, "--boot-mode", "uefi")
	return made.ImageId, err
}

func (w *walk) launch(ctx context.Context, image string) (string, error) {
	var made struct {
		Instances []struct{ InstanceId string }
	}
	err := w.aws(ctx, &made, "run-instances", "--image-id", image, "--instance-type", "t3.micro", "--key-name", "cloudinit", "--subnet-id", w.subnet,
		"--user-data", userData, "--block-device-mappings", "DeviceName=/dev/xvda,Ebs={VolumeSize=4}")
	if err != nil || len(made.Instances) != 1 {
		return "", fmt.Errorf("launch %s: %d instances: %w", image, len(made.Instances), err)
	}
	return made.Instances[0].InstanceId, nil
}

// guest checks one guest from its first login to its data source, and ends it.
func (w *walk) guest(ctx context.Context, firmware, id string) {
	begun, before := time.Now(), w.failures
	err := w.login(ctx, id)
	fmt.Printf("figure cloudinit.%s_login_s %.0f s\n", firmware, time.Since(begun).Seconds())
	w.check(firmware+"_ssh", err)
	if err != nil {
		w.showConsole(ctx, id)
	} else {
		w.inside(ctx, firmware, id)
	}
	if err := w.aws(ctx, nil, "terminate-instances", "--instance-ids", id); err != nil {
		w.check(firmware+"_terminate", err)
	}
	var sum error
	if w.failures > before {
		sum = fmt.Errorf("%d of its checks", w.failures-before)
	}
	w.check(firmware, sum)
}

// login waits until the launch key opens the guest to Debian's cloud user.
func (w *walk) login(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	for {
		who, err := w.ssh(ctx, id, "id -un")
		if err == nil {
			return same("user", who, "debian")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no login within %v: %w", bootLimit, err)
		case <-time.After(5 * time.Second):
		}
	}
}

// inside asks the guest what became of it.
func (w *walk) inside(ctx context.Context, firmware, id string) {
	status, err := w.ssh(ctx, id, "cloud-init status --wait --long || true")
	if err == nil {
		err = contains(status, "status: done")
	}
	w.check(firmware+"_finished", err)
	for _, c := range []struct{ check, command, want string }{
		{"_datasource", "cat /var/lib/cloud/instance/datasource", "DataSourceEc2"},
		{"_instance_id", "cat /var/lib/cloud/data/instance-id", id},
		{"_user_data", "cat /var/lib/walk-mark", "user data ran as root"},
		{"_hostname", "hostname", "ip-10-41-1-"},
		{"_disk_grown", "df --output=size -BM / | tail -n1", "3"}, // of 4 GiB: at least 3,000 MiB
		{"_firmware", "if [ -d /sys/firmware/efi ]; then echo uefi; else echo bios; fi", firmware},
	} {
		got, err := w.ssh(ctx, id, c.command)
		if err == nil {
			err = contains(got, c.want)
		}
		w.check(firmware+c.check, err)
	}
}

func (w *walk) showConsole(ctx context.Context, id string) {
	out, _ := output(exec.CommandContext(ctx, w.nimbrel, "console", id))
	fmt.Printf("the console of %s ends:\n%s\n", id, out[max(0, len(out)-6000):])
}

func (w *walk) check(name string, err error) {
	if err == nil {
		fmt.Printf("check cloudinit.%s ok\n", name)
		return
	}
	w.failures++
	fmt.Printf("check cloudinit.%s FAIL %v\n", name, err)
}

// ssh runs a shell command in a guest as Debian's cloud user.
func (w *walk) ssh(ctx context.Context, id, command string) (string, error) {
	out, err := output(exec.CommandContext(ctx, w.nimbrel, "ssh", "-i", w.keyPath(), "-l", "debian", id, "--", command))
	return strings.TrimSpace(string(out)), err
}

func (w *walk) aws(ctx context.Context, v any, args ...string) error {
	cmd := exec.CommandContext(ctx, "aws", append([]string{"--endpoint-url", w.endpoint, "--output", "json", "ec2"}, args...)...)
	cmd.Env = w.env
	out, err := output(cmd)
	if err != nil || v == nil {
		return err
	}
	return json.Unmarshal(out, v)
}

// output runs a command; its error holds what it said.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args[:min(len(cmd.Args), 7)], " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

func same(what, got, want string) error {
	if got != want {
		return fmt.Errorf("%s is %q, want %q", what, got, want)
	}
	return nil
}

func contains(got, want string) error {
	if !strings.Contains(got, want) {
		return fmt.Errorf("%q has no %q", got, want)
	}
	return nil
}
