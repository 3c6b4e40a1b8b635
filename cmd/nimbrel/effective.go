package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Sources of a setting's value.
const (
	fromDefault  = "default"
	fromFlag     = "flag"
	fromVariable = "variable"
	fromFile     = "file"
)

// shownSetting is one setting with its value and where it comes from.
type shownSetting struct {
	Name     string `json:"name"`
	Value    any    `json:"value"`
	From     string `json:"from"`
	Variable string `json:"variable"`
	Default  string `json:"default,omitempty"`
}

// configCommand is `nimbrel config`. Its subcommands take a daemon's own flags, so that what they show is what the daemon
// would run with.
func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Show the settings that a daemon would run with, and where each comes from", Args: cobra.NoArgs,
		Long: "A setting comes from its flag, else from its variable, else from the file, else it has its default. Config shows which, and refuses\nwhat the daemon would refuse. Give it the daemon's own flags and environment.",
	}
	server, agent := serverCommand(), agentCommand()
	server.Short, agent.Short = "Show the server's settings", "Show a host agent's settings"
	for _, daemon := range []*cobra.Command{server, agent} {
		daemon.Long = ""
		daemon.RemoveCommand(daemon.Commands()...)
		showInstead(daemon)
		cmd.AddCommand(daemon)
	}
	return cmd
}

// showInstead makes a daemon's command show its settings.
func showInstead(daemon *cobra.Command) {
	s := settingsOf(daemon)
	asJSON := daemon.Flags().Bool("json", false, "print JSON")
	daemon.RunE = func(cmd *cobra.Command, _ []string) error {
		shown := s.shown()
		if *asJSON {
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "  ")
			return enc.Encode(shown)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "SETTING\tVALUE\tFROM\tVARIABLE")
		for _, one := range shown {
			fmt.Fprintf(w, "%s\t%v\t%s\t%s\n", one.Name, one.Value, one.From, one.Variable)
		}
		return w.Flush()
	}
}

// shown lists the settings by name, secrets hidden.
func (s *settings) shown() []shownSetting {
	values := s.effective(true)
	var all []shownSetting
	for _, f := range s.flags {
		value, set := values[f.Name]
		if !set {
			value = ""
		}
		all = append(all, shownSetting{Name: f.Name, Value: value, From: source(f), Variable: variableOf(f), Default: f.DefValue})
	}
	return all
}

// source says where a flag's value comes from, once the settings are loaded.
func source(f *pflag.Flag) string {
	if from := f.Annotations[sourceNote]; len(from) > 0 {
		return from[0]
	}
	if f.Changed {
		return fromFlag
	}
	return fromDefault
}
