package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/host/doctor"
	imagetool "github.com/nimbrel/nimbrel/image/tool"
	"github.com/nimbrel/nimbrel/internal/statedir"
	"github.com/nimbrel/nimbrel/operator/bundle"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/svc/awsjson"
)

// bundleFlags are the flags of `nimbrel bundle`.
type bundleFlags struct {
	out, stateDir, agentDir, configDir, metrics string
	json                                        bool
}

func bundleCommand() *cobra.Command {
	var f bundleFlags
	cmd := &cobra.Command{
		Use: "bundle", Short: "Collect what a supporter needs to see into one archive, without secrets", Args: cobra.NoArgs,
		Long: "Bundle writes versions, settings, metrics, logs, lists, counts of rows, the checker's and the doctor's findings into a .tar.gz.\nKeys, tokens, user data and what guests wrote stay out. A server that is down is no hindrance. Look through it before you send it.",
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	cmd.Flags().StringVar(&f.out, "out", "", "the archive's `file`; default nimbrel-bundle-TIME.tar.gz here")
	cmd.Flags().StringVar(&f.stateDir, "state-dir", statedir.Default(), "`directory` of the server, or of a cloud of `nimbrel dev up`")
	cmd.Flags().StringVar(&f.agentDir, "agent-state-dir", "/var/lib/nimbrel-agent", "`directory` of this machine's agent")
	cmd.Flags().StringVar(&f.configDir, "config-dir", "/etc/nimbrel", "`directory` of server.toml and agent.toml")
	cmd.Flags().StringVar(&f.metrics, "metrics", "127.0.0.1:8775", "`address` of the server's metrics; empty leaves them out")
	cmd.Flags().BoolVar(&f.json, "json", false, "print the manifest as JSON")
	return cmd
}

func (f *bundleFlags) run(cmd *cobra.Command) error {
	now := time.Now()
	if f.out == "" {
		f.out = "nimbrel-bundle-" + now.UTC().Format("20060102T150405Z") + ".tar.gz"
	}
	file, err := os.OpenFile(f.out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("write bundle: %s exists: remove it, or name another file with --out", f.out)
	}
	if err != nil {
		return fmt.Errorf("write bundle: %w: name another file with --out", err)
	}
	manifest, err := bundle.Write(cmd.Context(), file, f.options(now))
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(f.out))
	}
	if f.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(manifest)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %d entries\n", f.out, len(manifest.Entries))
	for name, why := range manifest.Left {
		fmt.Fprintf(cmd.OutOrStdout(), "left out %s: %s\n", name, why)
	}
	return nil
}

func (f *bundleFlags) options(now time.Time) bundle.Options {
	o := bundle.Options{
		API:      operatorgen.NewClient(awsjson.UnixClient(statedir.OperatorSocket(f.stateDir)), "http://operator"),
		StateDir: f.stateDir, Version: version, Now: now, Journal: []string{"nimbrel-server", "nimbrel-agent"},
	}
	if f.metrics != "" {
		o.MetricsURLs = []string{"http://" + f.metrics + "/metrics"}
	}
	o.AgentStateDirs, _ = filepath.Glob(filepath.Join(f.stateDir, "hosts", "*")) // of `nimbrel dev up`
	if _, err := os.Stat(f.agentDir); err == nil {
		o.AgentStateDirs = append(o.AgentStateDirs, f.agentDir)
	}
	o.SecretFiles, _ = filepath.Glob(filepath.Join(f.configDir, "*.env"))
	o.Parts = map[string]func(context.Context) ([]byte, error){
		"version.json": func(context.Context) ([]byte, error) {
			return json.Marshal(map[string]string{"version": version, "go": runtime.Version(), "system": runtime.GOOS + "/" + runtime.GOARCH})
		},
		"doctor.json": func(ctx context.Context) ([]byte, error) {
			return json.MarshalIndent(doctor.Examine(ctx, doctor.Options{StateDir: f.stateDir, Port: 8773, Serving: true, Convert: imagetool.ProbeWorker}), "", "  ")
		},
		"config/server.json": func(ctx context.Context) ([]byte, error) { return f.settings(ctx, "server") },
		"config/agent.json":  func(ctx context.Context) ([]byte, error) { return f.settings(ctx, "agent") },
	}
	return o
}

// settings are a daemon's, as `nimbrel config` shows them.
func (f *bundleFlags) settings(ctx context.Context, daemon string) ([]byte, error) {
	args := []string{daemon, "--json"}
	if path := filepath.Join(f.configDir, daemon+".toml"); exists(path) {
		args = append(args, "--config", path)
	}
	cmd := configCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	return out.Bytes(), err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
