package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/internal/statedir"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

// environment prints shell lines that point AWS tools at this cloud and nowhere else.
func (c *client) environment() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "env", Short: "Print shell lines that point AWS tools at this cloud",
		Long: "Env prints lines for `eval \"$(nimbrel env)\"`: configuration and credentials files of this cloud alone, its region and endpoint, no\npager, and for an aws CLI too old to read an endpoint variable a shell function that adds it.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := c.api().GetStatus(cmd.Context(), &operatorgen.GetStatusInput{})
			if err != nil {
				return c.explain(err)
			}
			lines, err := environmentLines(dir, status.Endpoint, status.Region)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(lines)
			}
			for _, line := range lines {
				fmt.Fprintf(c.out, "export %s=%s\n", line.Name, quote(line.Value))
			}
			if path, old := oldAWS(); old {
				fmt.Fprintf(c.out, "aws() { %s --endpoint-url %s \"$@\"; }\n", quote(path), quote(status.Endpoint))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", statedir.Environment(statedir.Default()), "`directory` of the cloud's AWS configuration")
	return cmd
}

// variable is one line of the environment.
type variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func environmentLines(dir, endpoint, region string) ([]variable, error) {
	config, credentials := filepath.Join(dir, "config"), filepath.Join(dir, "credentials")
	if _, err := os.Stat(credentials); err != nil {
		return nil, fmt.Errorf("no credentials at %s: make an account with `nimbrel account create`, or run `nimbrel dev up` (%w)", credentials, err)
	}
	return []variable{
		{"AWS_CONFIG_FILE", config},
		{"AWS_SHARED_CREDENTIALS_FILE", credentials},
		{"AWS_PROFILE", "default"},
		{"AWS_REGION", region},
		{"AWS_DEFAULT_REGION", region},
		{"AWS_ENDPOINT_URL", endpoint},
		{"AWS_PAGER", ""},
		{"AWS_EC2_METADATA_DISABLED", "true"},
	}, nil
}

// quote makes one word of a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

var awsVersion = regexp.MustCompile(`aws-cli/(\d+)\.(\d+)\.`)

// oldAWS says whether the aws CLI on the PATH ignores AWS_ENDPOINT_URL: version 1 before 1.29 and version 2 before 2.13.
func oldAWS() (path string, old bool) {
	path, err := exec.LookPath("aws")
	if err != nil {
		return "", false
	}
	out, err := exec.Command(path, "--version").CombinedOutput()
	if err != nil {
		return path, false
	}
	return path, tooOld(string(out))
}

func tooOld(version string) bool {
	m := awsVersion.FindStringSubmatch(version)
	if m == nil {
		return false
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return major == 1 && minor < 29 || major == 2 && minor < 13
}
