package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nimbrel/nimbrel/dev/internal/daemon"
	"github.com/nimbrel/nimbrel/dev/internal/fabric"
	"github.com/nimbrel/nimbrel/internal/statedir"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/svc/awsjson"
)

// How long Up waits for a process to answer.
const (
	serverLimit = 60 * time.Second
	hostLimit   = 120 * time.Second
	pollEvery   = 100 * time.Millisecond
)

// hostMetrics is where a real host's agent shows its metrics: on the loopback of its own namespace. Fake hosts share the
// machine's and show none.
const hostMetrics = "127.0.0.1:8775"

// UpOptions says what Up makes besides the processes.
type UpOptions struct {
	Plan   Plan
	Places bool   // the caller named Plan's places: a cloud that is elsewhere is refused and not resumed
	Image  string // raw disk to register as a public image; "" registers none
	// Name and Description of Image, shown to tenants.
	ImageName string
}

// Up brings the cloud up, or what is missing of it, and returns when every host is connected.
func (c *Cloud) Up(ctx context.Context, o UpOptions) error {
	if err := o.Plan.Validate(); err != nil {
		return err
	}
	if _, err := c.loadPlan(); errors.Is(err, os.ErrPermission) {
		return err // before anything of the other user's is touched
	}
	if err := c.makeDir(); err != nil {
		return err
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	plan, err := c.ensurePlan(o.Plan, o.Places)
	if err != nil {
		return err
	}
	if !plan.Fake {
		if err := c.ensureFabric(plan); err != nil {
			return err
		}
	}
	if err := c.ensureServer(ctx, plan); err != nil {
		return err
	}
	if err := c.ensureHosts(ctx, plan); err != nil {
		return err
	}
	if o.Image != "" {
		if err := c.ensureImage(ctx, o); err != nil {
			return err
		}
	}
	return c.ensureAccount(ctx, plan)
}

// makeDir makes the state directory. Others may pass through it to the folders that are theirs, and read nothing.
func (c *Cloud) makeDir() error {
	for dir, mode := range map[string]os.FileMode{c.Dir: 0o711, filepath.Join(c.Dir, "run"): 0o711, filepath.Join(c.Dir, "hosts"): 0o711} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return err
		}
		if err := os.Chmod(dir, mode); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cloud) ensureFabric(p Plan) error {
	if err := fabric.Unused(p.fabric()); err != nil {
		return err
	}
	if err := fabric.Ensure(p.fabric()); err != nil {
		return fmt.Errorf("make network fabric: %w", err)
	}
	c.say("network fabric: %d host namespaces on %s", p.Hosts, p.Underlay)
	return nil
}

func (c *Cloud) api() *operatorgen.Client {
	return operatorgen.NewClient(awsjson.UnixClient(c.socket()), "http://operator")
}

func (c *Cloud) ensureServer(ctx context.Context, p Plan) error {
	args := []string{
		"server", "--state-dir", c.Dir, "--region", p.Region, "--zones", strconv.Itoa(p.zoneCount()), "--listen", p.Listen, "--metrics", p.Metrics, "--link", p.linkAddress(),
	}
	if uid := os.Getenv("SUDO_UID"); uid != "" && os.Geteuid() == 0 {
		args = append(args, "--operator-uid", uid)
	}
	rec, started, err := c.daemons().Start(daemon.Spec{Name: "server", Path: c.Binary, Args: args, Env: daemonEnv()})
	if err != nil {
		return err
	}
	err = c.poll(ctx, serverLimit, rec, func() (bool, error) {
		_, err := c.api().GetStatus(ctx, &operatorgen.GetStatusInput{})
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the server: %w", err)
	}
	c.say("server: %s at http://%s", verb(started), p.Listen)
	return nil
}

func (c *Cloud) ensureHosts(ctx context.Context, p Plan) error {
	var records []daemon.Record
	var begun int
	for i := 1; i <= p.hosts(); i++ {
		rec, started, err := c.ensureHost(ctx, p, i)
		if err != nil {
			return fmt.Errorf("start %s: %w", hostName(i), err)
		}
		records = append(records, rec)
		if started {
			begun++
		}
	}
	for _, rec := range records {
		if err := c.poll(ctx, hostLimit, rec, func() (bool, error) { return c.hostUp(ctx, rec) }); err != nil {
			return fmt.Errorf("wait for %s to join: %w", rec.Name, err)
		}
	}
	c.say("hosts: %d up (%d started now)", p.Hosts, begun)
	return nil
}

func (c *Cloud) ensureHost(ctx context.Context, p Plan, i int) (daemon.Record, bool, error) {
	vcpus, memoryMi := p.offer(i)
	args := []string{
		"agent", "--state-dir", c.hostDir(i), "--name", hostName(i), "--zone", p.zone(i), "--region", p.Region, "--server", p.linkAddress(),
		"--vcpus", strconv.Itoa(vcpus), "--memory-mib", strconv.Itoa(memoryMi),
		"--image-source", filepath.Join(statedir.Server(c.Dir), "images"),
	}
	spec := daemon.Spec{Name: hostName(i), Path: c.Binary, Env: daemonEnv()}
	if p.pretends(i) {
		args = append(args, "--driver", "fake")
	} else {
		place := p.fabric().Host(i)
		args = append(args, "--driver", "qemu", "--uid-base", strconv.Itoa(p.uidBase(i)), "--underlay", place.Address.String(), "--underlay-device", place.Device, "--data-plane-namespace", place.DataPlane, "--metrics", hostMetrics)
		spec.Enter = func(start func() error) error { return fabric.Run(place.Namespace, start) }
	}
	if rec, err := c.daemons().Lookup(hostName(i)); err == nil && rec.Running() {
		return rec, false, nil
	}
	if _, err := os.Stat(filepath.Join(c.hostDir(i), "identity")); errors.Is(err, os.ErrNotExist) {
		ttl := int32(hostLimit / time.Second)
		token, err := c.api().CreateJoinToken(ctx, &operatorgen.CreateJoinTokenInput{Role: operatorgen.JoinRoleHost, TtlSeconds: &ttl})
		if err != nil {
			return daemon.Record{}, false, fmt.Errorf("make join token: %w", err)
		}
		// In the environment and not the arguments, which every user of the machine can list.
		spec.Env = append(spec.Env, "NIMBREL_JOIN="+token.Token)
	}
	spec.Args = args
	return c.daemons().Start(spec)
}

// hostUp says whether a host is connected by the process that runs now: the server believes for a while in one that died.
func (c *Cloud) hostUp(ctx context.Context, rec daemon.Record) (bool, error) {
	out, err := c.api().ListHosts(ctx, &operatorgen.ListHostsInput{})
	if err != nil {
		return false, nil //nolint:nilerr // the server may be starting; the poll's limit decides
	}
	for _, h := range out.Hosts {
		if h.Name == rec.Name && h.State == operatorgen.HostStateUp {
			return h.LastSeenAtMs != nil && *h.LastSeenAtMs >= rec.Started.UnixMilli(), nil
		}
	}
	return false, nil
}

func (c *Cloud) ensureImage(ctx context.Context, o UpOptions) error {
	path, err := filepath.Abs(o.Image)
	if err != nil {
		return err
	}
	out, err := c.api().ImportImage(ctx, &operatorgen.ImportImageInput{Path: path, Name: o.ImageName, Description: "Nimbrel's own guest image"})
	if err != nil {
		return fmt.Errorf("register image %s: %w", path, err)
	}
	c.say("image: %s (%s)", out.ImageId, o.ImageName)
	return nil
}

// ensureAccount makes the account that `nimbrel env` uses, once, and keeps its keys as AWS tools read them.
func (c *Cloud) ensureAccount(ctx context.Context, p Plan) error {
	dir := statedir.Environment(c.Dir)
	credentials := filepath.Join(dir, "credentials")
	if _, err := os.Stat(credentials); err == nil {
		return nil
	}
	out, err := c.api().CreateAccount(ctx, &operatorgen.CreateAccountInput{Name: fmt.Sprintf("dev-%d", time.Now().Unix())})
	if err != nil {
		return fmt.Errorf("make account: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	config := fmt.Sprintf("[default]\nregion = %s\nendpoint_url = http://%s\noutput = json\ncli_pager =\n", p.Region, p.Listen)
	keys := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", out.AccessKeyId, out.SecretAccessKey)
	for path, text := range map[string]string{filepath.Join(dir, "config"): config, credentials: keys} {
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	if err := giveToInvoker(dir, filepath.Join(dir, "config"), credentials); err != nil {
		return err
	}
	c.say("account: %s", out.AccountId)
	return nil
}

// giveToInvoker hands files to the person behind sudo, so that `nimbrel env` needs no sudo.
func giveToInvoker(paths ...string) error {
	uid, err := strconv.Atoi(os.Getenv("SUDO_UID"))
	if err != nil || os.Geteuid() != 0 {
		return nil
	}
	gid, err := strconv.Atoi(os.Getenv("SUDO_GID"))
	if err != nil {
		gid = -1
	}
	for _, p := range paths {
		if err := os.Chown(p, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// poll waits for ready while a process runs. A process that ends is reported with the end of its log.
func (c *Cloud) poll(ctx context.Context, limit time.Duration, rec daemon.Record, ready func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if ok, err := ready(); ok || err != nil {
			return err
		}
		if !rec.Running() {
			return fmt.Errorf("%s ended; the end of %s:\n%s", rec.Name, rec.Log, tail(rec.Log))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v; the end of %s:\n%s", rec.Name, limit, rec.Log, tail(rec.Log))
		}
	}
}

// tail is the end of a log for an error message.
func tail(path string) string {
	const keep = 2000
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-keep):])
}

// daemonEnv is the environment of the cloud's processes: nothing of the caller's but what programs need to be found.
func daemonEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range []string{"HOME", "TMPDIR", "LANG"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func verb(started bool) string {
	if started {
		return "started"
	}
	return "up already"
}
