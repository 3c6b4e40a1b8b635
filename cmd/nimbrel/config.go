package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nimbrel/nimbrel/internal/assert"
)

// A daemon's flag gets its value from the command line, else from its variable, else from the configuration file, else it
// keeps its default. The variable of --log-level is NIMBREL_LOG_LEVEL, its key in the file is log-level.

const (
	configFlag      = "config"
	printConfigFlag = "print-config"

	// variableNote and secretNote annotate flags: another variable than the usual one, and a value that is never shown.
	variableNote = "nimbrel-variable"
	secretNote   = "nimbrel-secret"

	redacted = "(redacted)"
)

// settings are the flags that configure a daemon: its own and those that its subcommands share.
type settings struct {
	flags []*pflag.Flag
}

// configurable gives a daemon's command its configuration file, and fills its flags and its subcommands' from there and
// from the environment before anything of it runs.
func configurable(cmd *cobra.Command) *settings {
	p := cmd.PersistentFlags()
	p.String(configFlag, "", "`file` of settings, in TOML: a key is a flag's name. Flags and NIMBREL_* variables go before it")
	cmd.Flags().Bool(printConfigFlag, false, "print the settings as such a file, and end")
	s := settingsOf(cmd)
	for _, f := range s.flags {
		f.Usage += " [" + variableOf(f) + "]"
	}
	cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		file, err := cmd.Flags().GetString(configFlag)
		if err != nil {
			return err
		}
		if file == "" {
			file = os.Getenv("NIMBREL_CONFIG")
		}
		return s.load(file, os.LookupEnv)
	}
	return s
}

// settingsOf lists a command's flags by name.
func settingsOf(cmd *cobra.Command) *settings {
	s := &settings{}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != configFlag && f.Name != printConfigFlag && f.Name != "help" {
			s.flags = append(s.flags, f)
		}
	})
	return s
}

// note annotates a flag.
func note(flags *pflag.FlagSet, name, key, value string) {
	err := flags.SetAnnotation(name, key, []string{value})
	assert.That(err == nil, "annotate flag: %v", err)
}

func variableOf(f *pflag.Flag) string {
	if other := f.Annotations[variableNote]; len(other) > 0 {
		return other[0]
	}
	return "NIMBREL_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

func secret(f *pflag.Flag) bool { return len(f.Annotations[secretNote]) > 0 }

// load fills the flags that the command line left. file may be "".
func (s *settings) load(file string, variable func(string) (string, bool)) error {
	written, err := s.read(file)
	if err != nil {
		return err
	}
	for _, f := range s.flags {
		value, inFile := written[f.Name]
		text, inEnvironment := variable(variableOf(f))
		switch {
		case f.Changed:
		case inEnvironment:
			if err := f.Value.Set(text); err != nil {
				return fmt.Errorf("read variable %s: %w", variableOf(f), err)
			}
			f.Changed = true
		case inFile:
			if err := assign(f, value); err != nil {
				return fmt.Errorf("read %s: key %s: %w", file, f.Name, err)
			}
			f.Changed = true
		}
	}
	return nil
}

// read parses the file and refuses a key that is no flag.
func (s *settings) read(file string) (map[string]any, error) {
	if file == "" {
		return nil, nil
	}
	written := map[string]any{}
	if _, err := toml.DecodeFile(file, &written); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	var errs []error
	for key := range written {
		if !slices.ContainsFunc(s.flags, func(f *pflag.Flag) bool { return f.Name == key }) {
			errs = append(errs, fmt.Errorf("read %s: unknown key %q: want one of %s", file, key, s.names()))
		}
	}
	return written, errors.Join(errs...)
}

func (s *settings) names() string {
	names := make([]string, len(s.flags))
	for i, f := range s.flags {
		names[i] = f.Name
	}
	return strings.Join(names, ", ")
}

// assign gives a flag a value of TOML: a list for a flag that takes several, else one of the flag's own type.
func assign(f *pflag.Flag, value any) error {
	list, isList := f.Value.(pflag.SliceValue)
	values, areSeveral := value.([]any)
	if isList && areSeveral {
		texts := make([]string, len(values))
		for i, v := range values {
			texts[i] = fmt.Sprint(v)
		}
		return list.Replace(texts)
	}
	if isList || areSeveral || !fits(f.Value.Type(), value) {
		return fmt.Errorf("%v: want a value of type %s", value, f.Value.Type())
	}
	return f.Value.Set(fmt.Sprint(value))
}

// fits says whether a value of TOML is of a flag's type.
func fits(kind string, value any) bool {
	switch value.(type) {
	case string:
		return kind == "string" || kind == "duration"
	case bool:
		return kind == "bool"
	case int64:
		return kind == "int"
	}
	return false
}

// effective is every setting with its value as TOML knows it, secrets as redact says.
func (s *settings) effective(redact bool) map[string]any {
	all := map[string]any{}
	for _, f := range s.flags {
		switch {
		case secret(f) && f.Value.String() == "":
		case secret(f) && redact:
			all[f.Name] = redacted
		default:
			all[f.Name] = valueOf(f)
		}
	}
	return all
}

func valueOf(f *pflag.Flag) any {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return append([]string{}, list.GetSlice()...)
	}
	var typed map[string]any
	switch f.Value.Type() {
	case "int", "bool": // written alike in flags and in TOML
		if _, err := toml.Decode("v = "+f.Value.String(), &typed); err == nil {
			return typed["v"]
		}
	}
	return f.Value.String()
}

// toml writes the settings as a file that load reads back. Secrets are left out, with a line that says so.
func (s *settings) toml() (string, error) {
	all := s.effective(false)
	var text bytes.Buffer
	for _, f := range s.flags {
		if _, set := all[f.Name]; set && secret(f) {
			delete(all, f.Name)
			fmt.Fprintf(&text, "# %s is set, and a secret: put it into %s\n", f.Name, variableOf(f))
		}
	}
	err := toml.NewEncoder(&text).Encode(all)
	return text.String(), err
}

// printed prints the settings when that is what the command line asks for.
func (s *settings) printed(cmd *cobra.Command) (bool, error) {
	if asked, err := cmd.Flags().GetBool(printConfigFlag); err != nil || !asked {
		return false, err
	}
	text, err := s.toml()
	if err != nil {
		return true, err
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), text)
	return true, err
}

// record logs the settings, once, at the start.
func (s *settings) record(log *slog.Logger) {
	log.Info("configuration", "version", version, "config", s.effective(true))
}
