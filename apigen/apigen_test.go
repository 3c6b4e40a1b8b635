package apigen

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOperatorFresh holds the committed operator API to its model.
func TestOperatorFresh(t *testing.T) {
	output, err := JSON("../operator/model/operator.json", "github.com/nimbrel/nimbrel/operator/operatorgen")
	if err != nil {
		t.Fatal(err)
	}
	compare(t, output, "../operator/operatorgen")
}

// TestEC2Fresh holds the committed EC2 codec to the pinned model, where the module cache has it.
func TestEC2Fresh(t *testing.T) {
	actions, err := ReadActions("../ec2/actions.txt")
	if err != nil {
		t.Fatal(err)
	}
	output, err := EC2(cachedModel(t), actions, "github.com/nimbrel/nimbrel/ec2/ec2gen")
	if err != nil {
		t.Fatal(err)
	}
	compare(t, output, "../ec2/ec2gen")
}

// cachedModel asks the go command without the network.
func cachedModel(t *testing.T) string {
	t.Helper()
	download := exec.Command("go", "mod", "download", "-json", EC2Module)
	download.Dir = "../tools"
	download.Env = append(os.Environ(), "GOPROXY=off", "GOFLAGS=", "GOWORK=off")
	answer, err := download.Output()
	if err != nil {
		t.Skipf("module %s is not in the module cache (fetch it with: cd tools && go mod download): %v", EC2Module, err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(answer, &module); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(module.Dir, EC2ModelPath)
}

// compare checks that a folder holds exactly the generated files.
func compare(t *testing.T, output Output, dir string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(output)) {
		committed, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(committed, output[name]) {
			t.Errorf("%s/%s is not what the model gives (read: %v); run go generate there and commit", dir, name, err)
		}
	}
	committed, err := filepath.Glob(filepath.Join(dir, Prefix+"*"))
	if err != nil || len(committed) != len(output) {
		t.Errorf("%s holds %d generated files, the generator makes %d; run go generate there", dir, len(committed), len(output))
	}
}

// TestModelDefects checks that a defect in a model is told with the file, the shape and what to do.
func TestModelDefects(t *testing.T) {
	const service = `"n#S":{"type":"service","version":"1","operations":[{"target":"n#Go"}],"traits":{"aws.protocols#awsJson1_1":{}}},`
	const operation = `"n#Go":{"type":"operation","input":{"target":"n#GoInput"},"output":{"target":"n#GoOutput"},"traits":{"smithy.api#documentation":"d"}},"n#GoOutput":{"type":"structure","members":{}},`
	for _, c := range []struct{ shapes, want string }{
		{operation + `"n#GoInput":{"type":"structure","members":{}}`, "found 0 services"},
		{service + operation + `"n#GoInput":{"type":"structure","members":{"a":{"target":"n#L"}}},"n#L":{"type":"list","member":{"target":"smithy.api#String"}}`, "shape n#L: the list has no bound; add"},
		{service + operation + `"n#GoInput":{"type":"structure","members":{"a":{"target":"n#Missing"}}}`, "shape n#Missing: not defined, but n#GoInput$a uses it"},
		{service + operation + `"n#GoInput":{"type":"structure","members":{"a":{"target":"smithy.api#String","traits":{"smithy.api#pattern":"x"}}}}`, "shape n#GoInput$a: the trait smithy.api#pattern has no effect"},
		{service + operation + `"n#GoInput":{"type":"union","members":{}}`, `type "union" is outside the subset`},
		{service + operation + `"n#GoInput":{"type":"structure","members":{"a":{"target":"smithy.api#Timestamp"}}}`, "use a long of milliseconds"},
		{service + operation + `"n#GoInput":{"type":"structure","members":{"ab":{"target":"smithy.api#String"},"aB":{"target":"smithy.api#String"}}}`, "rename one"},
		{service + operation + `"n#GoInput":{"type":"structure","members":{}},"n#Lost":{"type":"structure","members":{}}`, "shape n#Lost: nothing uses it"},
		{service + operation + `"n#GoInput":{"type":"structure","members":{"a":{"target":"n#Client"}}},"n#Client":{"type":"structure","members":{}}`, "needs the Go name Client"},
	} {
		file := filepath.Join(t.TempDir(), "model.json")
		if err := os.WriteFile(file, []byte(`{"smithy":"2.0","shapes":{`+c.shapes+`}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := JSON(file, "x/y")
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), file) {
			t.Errorf("got %v, want the file and %q", err, c.want)
		}
	}
}

func TestEC2ModelDefects(t *testing.T) {
	const head = `{"metadata":{"apiVersion":"1","protocol":"ec2"},"operations":{"Go":{"input":{"shape":"GoRequest"}}},"shapes":{`
	for _, c := range []struct{ model, action, want string }{
		{head + `}}`, "Go", "shape GoRequest, used by Go, is not defined"},
		{head + `}}`, "Stop", "no action Stop"},
		{`{"metadata":{"protocol":"query"}}`, "Go", `protocol is "query"`},
		{head + `"GoRequest":{"type":"map"}}}`, "Go", `shape GoRequest has type "map"`},
		{head + `"GoRequest":{"type":"structure","members":{"A":{"shape":"L"}}},"L":{"type":"list","member":{"shape":"L"}}}}`, "Go", "list shape L holds lists"},
		{head + `"GoRequest":{"type":"structure","members":{"A":{"shape":"L"}}},"L":{"type":"list","member":{"shape":"I"}},"I":{"type":"integer"}}}`, "Go", "list shape L holds integer"},
		{head + `"GoRequest":{"type":"structure","members":{"A":{"shape":"E"}}},"E":{"type":"string","enum":["a-b","aB"]}}}`, "Go", "needs the Go name EAB"},
	} {
		file := filepath.Join(t.TempDir(), "api-2.json")
		if err := os.WriteFile(file, []byte(c.model), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := EC2(file, []string{c.action}, "x/y")
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), file) {
			t.Errorf("got %v, want the file and %q", err, c.want)
		}
	}
}

func TestReadActions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "actions.txt")
	if err := os.WriteFile(file, []byte("A # first\n\n# none\nB\nA\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadActions(file); err == nil || !strings.Contains(err.Error(), file+":5: action A is listed twice") {
		t.Errorf("got %v", err)
	}
}
