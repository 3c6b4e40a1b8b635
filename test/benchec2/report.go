package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// report collects lines and failed checks.
type report struct {
	lines  []string
	failed []error
}

func (r *report) line(text string) {
	fmt.Println(text)
	r.lines = append(r.lines, text)
}

func (r *report) figure(name string, value float64, unit string) {
	r.line(fmt.Sprintf("figure ec2.%s %.4g %s", name, value, unit))
}

func (r *report) check(name string, ok bool, detail string) {
	if !ok {
		fmt.Printf("check bench-ec2.%s FAILED (%s)\n", name, detail)
		r.failed = append(r.failed, fmt.Errorf("check %s: %s", name, detail))
		return
	}
	fmt.Printf("check bench-ec2.%s ok (%s)\n", name, detail)
}

// finish writes the figures and returns what failed.
func (r *report) finish(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err := os.WriteFile(filepath.Join(dir, "ec2.txt"), []byte(strings.Join(r.lines, "\n")+"\n"), 0o644)
	return errors.Join(append(r.failed, err)...)
}
