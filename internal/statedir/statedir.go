// Package statedir says where a cloud keeps its files on a machine, so that server, agents, `nimbrel dev` and the command
// line agree without being told.
package statedir

import (
	"os"
	"path/filepath"
)

// Variable overrides Default.
const Variable = "NIMBREL_STATE_DIR"

// Default is the state directory of the calling user: /var/lib/nimbrel for root, and below the user's own state folder
// for others, who may only run fake hosts. A user who is not root but may enter root's cloud (the one that `sudo make
// demo` brought up) gets that one.
func Default() string {
	const system = "/var/lib/nimbrel"
	if dir := os.Getenv(Variable); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return system
	}
	own := filepath.Join(userState(), "nimbrel")
	if _, err := os.Stat(own); err == nil {
		return own
	}
	if _, err := os.Stat(OperatorSocket(system)); err == nil {
		return system
	}
	return own
}

func userState() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return os.TempDir()
	}
	return filepath.Join(home, ".local", "state")
}

// OperatorSocket is the unix socket of the operators' API.
func OperatorSocket(stateDir string) string { return filepath.Join(stateDir, "run", "operator.sock") }

// Server is where the control plane keeps its store, keys and images.
func Server(stateDir string) string { return filepath.Join(stateDir, "server") }

// Environment is where a person's AWS configuration and credentials files of this cloud are.
func Environment(stateDir string) string { return filepath.Join(stateDir, "env") }
