package apigen

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/apigen/internal/awsjson"
	"github.com/nimbrel/nimbrel/apigen/internal/ec2model"
	"github.com/nimbrel/nimbrel/apigen/internal/ec2query"
	"github.com/nimbrel/nimbrel/apigen/internal/smithy"
)

// Output is what a generator writes: file name to content.
type Output map[string][]byte

// EC2 generates the codec of the actions from the EC2 model in modelFile. The package name is the base of importPath.
func EC2(modelFile string, actions []string, importPath string) (Output, error) {
	text, err := os.ReadFile(modelFile)
	if err != nil {
		return nil, fmt.Errorf("read EC2 model: %w", err)
	}
	model, err := ec2model.Parse(modelFile, text, actions)
	if err != nil {
		return nil, err
	}
	return ec2query.Generate(model, importPath)
}

// JSON generates the server and the client of the one service in a Smithy model.
func JSON(modelFile, importPath string) (Output, error) {
	text, err := os.ReadFile(modelFile)
	if err != nil {
		return nil, fmt.Errorf("read Smithy model: %w", err)
	}
	model, err := smithy.Parse(modelFile, text)
	if err != nil {
		return nil, err
	}
	return awsjson.Generate(model, importPath)
}

// ReadActions reads a list of action names, one a line; # begins a comment. Names are unique.
func ReadActions(file string) ([]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read action list: %w", err)
	}
	var actions []string
	lines := bufio.NewScanner(bytes.NewReader(text))
	for number := 1; lines.Scan(); number++ {
		name, _, _ := strings.Cut(lines.Text(), "#")
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if slices.Contains(actions, name) {
			return nil, fmt.Errorf("%s:%d: action %s is listed twice; remove one", file, number, name)
		}
		actions = append(actions, name)
	}
	return actions, lines.Err()
}

// Write puts the files into dir and removes generated files of an earlier run that are no longer made. A file counts as
// generated when its name begins with Prefix.
func (o Output) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if err := os.WriteFile(filepath.Join(dir, name), o[name], 0o644); err != nil {
			return err
		}
	}
	old, err := filepath.Glob(filepath.Join(dir, Prefix+"*.go"))
	if err != nil {
		return err
	}
	for _, file := range old {
		if _, made := o[filepath.Base(file)]; !made {
			if err := os.Remove(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// Prefix begins the name of every generated file.
const Prefix = "gen_"

// Where the EC2 model is: a module that the tools folder's go.mod pins, and the file inside it.
const (
	EC2Module    = "github.com/aws/aws-sdk-go"
	EC2ModelPath = "models/apis/ec2/2016-11-15/api-2.json"
)
