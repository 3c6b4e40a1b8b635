// Package source compiles the data path's kernel programs and names their sources, for the generator and for the test
// that finds a stale object. Start reading at Compile.
package source

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Compile builds dir/datapath.c into output, a path relative to dir. It needs clang, llvm-strip and libbpf's headers.
func Compile(dir, output string) error {
	// -g is for the maps' types; the strip keeps those and drops the rest, which would hold paths of the build.
	for _, command := range [][]string{
		{"clang", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3", "-fdebug-compilation-dir=.", "-I/usr/include/x86_64-linux-gnu", "-c", "datapath.c", "-o", output},
		{"llvm-strip", "-g", output},
	} {
		run := exec.Command(command[0], command[1:]...)
		run.Dir = dir
		if out, err := run.CombinedOutput(); err != nil {
			return fmt.Errorf("run %s: %w\n%s", command[0], err, out)
		}
	}
	return nil
}

// Digest is the SHA-256 of all C sources in dir with their names, in hexadecimal.
func Digest(dir string) (string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.[ch]"))
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, name := range names { // Glob sorts
		content, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("read source: %w", err)
		}
		fmt.Fprintf(sum, "%s %d\n", filepath.Base(name), len(content))
		sum.Write(content)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
