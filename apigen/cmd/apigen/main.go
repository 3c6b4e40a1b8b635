// Command apigen generates Go from API models. It is run by go generate.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/nimbrel/nimbrel/apigen"
)

const usage = `usage:
  apigen ec2  -tools DIR -actions FILE -import PATH -out DIR
  apigen json -model FILE -import PATH -out DIR

ec2 reads the EC2 model of the module that DIR/go.mod pins. json reads a Smithy 2.0 model in JSON.
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "apigen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no kind is given\n%s", usage)
	}
	flags := flag.NewFlagSet("apigen "+args[0], flag.ContinueOnError)
	tools := flags.String("tools", "", "folder whose go.mod pins the module with the EC2 model")
	actions := flags.String("actions", "", "file with one action name a line")
	model := flags.String("model", "", "file with the Smithy model")
	importPath := flags.String("import", "", "import path of the generated package")
	out := flags.String("out", "", "folder of the generated package")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	output, err := generate(args[0], *tools, *actions, *model, *importPath)
	if err != nil {
		return err
	}
	return output.Write(*out)
}

func generate(kind, tools, actions, model, importPath string) (apigen.Output, error) {
	switch kind {
	case "ec2":
		names, err := apigen.ReadActions(actions)
		if err != nil {
			return nil, err
		}
		file, err := ec2Model(tools)
		if err != nil {
			return nil, err
		}
		return apigen.EC2(file, names, importPath)
	case "json":
		return apigen.JSON(model, importPath)
	}
	return nil, fmt.Errorf("unknown kind %q\n%s", kind, usage)
}

// ec2Model returns the model file of the pinned module, which the go command downloads if it must.
func ec2Model(tools string) (string, error) {
	download := exec.Command("go", "mod", "download", "-json", apigen.EC2Module)
	download.Dir = tools
	answer, err := download.Output()
	if err != nil {
		return "", fmt.Errorf("download module %s pinned by %s: %w\n%s", apigen.EC2Module, filepath.Join(tools, "go.mod"), err, answer)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(answer, &module); err != nil {
		return "", fmt.Errorf("read answer of go mod download: %w", err)
	}
	return filepath.Join(module.Dir, apigen.EC2ModelPath), nil
}
