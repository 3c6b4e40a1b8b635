package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs testdata/*.txtar, each with a place for one cloud. Variables: PORT, LINK, METRICS (ports), STATE (the
// cloud's state directory), IMAGES (packed disk images). Commands beside testscript's own:
//
//	up [ARG...]              nimbrel dev up --fake with the script's places; its stderr is checked with stderr
//	ec2 ACTION [K=V...]      a signed call of the EC2 API; its XML is checked with stdout, an error's text with stderr
//	launch NAME              RunInstances of one nb1.tiny; its id becomes the variable NAME
//	until PATTERN ARG...     runs nimbrel ARG... until its output matches
//	crash NAME               kill -9 of a process of `dev status`
//	sole PATTERN FILE        FILE's only group of PATTERN becomes the variable SOLE
//	empty                    no process or file of the cloud is left
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true, RequireUniqueNames: true, Setup: setUpScript(t),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"up": scriptUp, "ec2": scriptEC2, "launch": scriptLaunch, "until": scriptUntil, "crash": scriptCrash, "sole": scriptSole, "empty": scriptEmpty,
		},
	})
}

func setUpScript(t *testing.T) func(*testscript.Env) error {
	return func(e *testscript.Env) error {
		at := claimPlace(t)
		state := filepath.Join(e.WorkDir, "state")
		images, err := filepath.Abs(filepath.Join("..", "..", "image", "convert", "testdata"))
		if err != nil {
			return err
		}
		for name, value := range map[string]string{
			"IMAGES": images,
			"PORT":   strconv.Itoa(at.port), "LINK": strconv.Itoa(at.port + 1), "METRICS": strconv.Itoa(at.port + 2), "PREFIX": at.prefix, "UNDERLAY": at.underlay,
			"STATE": state, "NIMBREL_STATE_DIR": state, "BIN": binaries, "PATH": binaries + ":" + os.Getenv("PATH"), "PYENV_ROOT": os.Getenv("PYENV_ROOT"),
		} {
			e.Setenv(name, value)
		}
		e.Defer(func() {
			if err := endScript(e.Vars, state); err != nil {
				t.Error(err)
			}
		})
		return os.WriteFile(filepath.Join(e.WorkDir, "disk.raw"), make([]byte, 1<<20), 0o644)
	}
}

// endScript takes down what a script, perhaps one that failed, has left up.
func endScript(env []string, state string) error {
	if _, err := os.Stat(filepath.Join(state, "dev.json")); err != nil {
		return nil
	}
	cmd := nimbrelCommand("dev", "down", "--yes")
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("dev down --yes: %w: %s", err, out)
	}
	if left := leftovers(state); len(left) > 0 {
		return fmt.Errorf("left behind: %s", joinLines(left))
	}
	return nil
}

func scriptUp(ts *testscript.TestScript, neg bool, args []string) {
	args = append([]string{"dev", "up", "--fake", "--port", ts.Getenv("PORT"), "--prefix", ts.Getenv("PREFIX"), "--underlay", ts.Getenv("UNDERLAY")}, args...)
	verdict(ts, neg, ts.Exec(nimbrelPath(), args...))
}

func verdict(ts *testscript.TestScript, neg bool, err error) {
	if (err != nil) != neg {
		ts.Fatalf("error %v, negated: %v", err, neg)
	}
}

func scriptEC2(ts *testscript.TestScript, neg bool, args []string) {
	api, err := openClient(ts.Getenv("STATE"))
	ts.Check(err)
	var pairs []string
	for _, a := range args[1:] {
		name, value, _ := strings.Cut(a, "=")
		pairs = append(pairs, name, value)
	}
	out, err := api.call(args[0], pairs...)
	fmt.Fprintf(ts.Stdout(), "%s", out)
	if err != nil {
		fmt.Fprintln(ts.Stderr(), err)
	}
	verdict(ts, neg, err)
}

var instanceID = regexp.MustCompile(`<instanceId>(i-[0-9a-f]+)</instanceId>`)
var imageID = regexp.MustCompile(`<imageId>(ami-[0-9a-f]+)</imageId>`)

func scriptLaunch(ts *testscript.TestScript, _ bool, args []string) {
	api, err := openClient(ts.Getenv("STATE"))
	ts.Check(err)
	images, err := api.call("DescribeImages", "Filter.1.Name", "name", "Filter.1.Value.1", "nimbrel-guest")
	ts.Check(err)
	out, err := api.call("RunInstances", "ImageId", only(ts, imageID, images), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1")
	ts.Check(err)
	ts.Setenv(args[0], only(ts, instanceID, out))
}

func only(ts *testscript.TestScript, pattern *regexp.Regexp, in []byte) string {
	found := pattern.FindAllSubmatch(in, -1)
	if len(found) != 1 {
		ts.Fatalf("%d matches of %v in %s", len(found), pattern, in)
	}
	return string(found[0][1])
}

func scriptUntil(ts *testscript.TestScript, _ bool, args []string) {
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	ts.Check(within(eventLimit, func() error {
		cmd := nimbrelCommand(args[1:]...)
		cmd.Env = []string{"NIMBREL_STATE_DIR=" + ts.Getenv("NIMBREL_STATE_DIR"), "HOME=" + ts.Getenv("HOME"), "PATH=" + ts.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		return expect(pattern.Match(out), "no %v in the output of %v (%v): %s", pattern, args[1:], err, out)
	}))
}

func scriptCrash(ts *testscript.TestScript, _ bool, args []string) {
	raw := ts.ReadFile(filepath.Join(ts.Getenv("STATE"), "daemons", args[0]+".json"))
	var d daemon
	ts.Check(json.Unmarshal([]byte(raw), &d))
	ts.Check(syscall.Kill(d.PID, syscall.SIGKILL))
	scriptUntil(ts, false, []string{args[0] + ` +` + strconv.Itoa(d.PID) + ` +false`, "dev", "status"})
}

func scriptSole(ts *testscript.TestScript, _ bool, args []string) {
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	ts.Setenv("SOLE", only(ts, pattern, []byte(ts.ReadFile(args[1]))))
}

func scriptEmpty(ts *testscript.TestScript, _ bool, _ []string) {
	if left := leftovers(ts.Getenv("STATE")); len(left) > 0 {
		ts.Fatalf("left behind:\n%s", joinLines(left))
	}
}
