package probe

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for line, want := range map[string]Command{
		"mtu":                           {Name: "mtu"},
		"  probe ping 10.0.0.5 100 df ": {Name: "ping", Args: []string{"10.0.0.5", "100", "df"}},
		"#7 tcp 10.0.0.5 80":            {Tag: "7", Name: "tcp", Args: []string{"10.0.0.5", "80"}},
		`http http://h/?a=b header="X-A: b c" timeoutMs=250`: {Name: "http", Args: []string{"http://h/?a=b"},
			Options: map[string]string{"header": "X-A: b c", "timeoutMs": "250"}, Timeout: 250 * time.Millisecond},
		`sh "echo a=1; ls"`: {Name: "sh", Args: []string{"echo a=1; ls"}},
		`sh ""`:             {Name: "sh", Args: []string{""}},
	} {
		if want.Options == nil {
			want.Options = map[string]string{}
		}
		if want.Timeout == 0 {
			want.Timeout = DefaultTimeout
		}
		if got, err := Parse(line); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q:\n got %+v, %v\nwant %+v", line, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, line := range []string{
		"", "   ", "#7", "probe", `sh "open`, "tcp a\x00b", "\x1b[2J", strings.Repeat("a ", maxTokens+1), strings.Repeat("a", MaxLineBytes+1),
		"mtu timeoutMs=0", "mtu timeoutMs=-1", "mtu timeoutMs=x", "mtu timeoutMs=99999999999999999999", "mtu timeoutMs=600001",
	} {
		if cmd, err := Parse(line); err == nil {
			t.Errorf("%.40q: accepted as %+v", line, cmd)
		}
	}
}

func TestQuoteComesBack(t *testing.T) {
	for _, text := range []string{"plain", "two words", "", "#x", "probe", "a=b c"} {
		cmd, err := Parse("sh " + Quote(text))
		if err != nil || len(cmd.Args) != 1 || cmd.Args[0] != text {
			t.Errorf("%q: %+v, %v", text, cmd, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, line := range []string{"#1 probe tcp 10.0.0.1 80 timeoutMs=5", `http u header="a: b"`, "\xff\xfe#", `"`, "# #"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		cmd, err := Parse(line)
		if err != nil {
			return
		}
		if cmd.Name == "" && !strings.Contains(line, `"`) || cmd.Timeout <= 0 || cmd.Timeout > MaxTimeout || len(cmd.Tag) > maxTag {
			t.Errorf("%q: %+v", line, cmd)
		}
		for key := range cmd.Options {
			if !optionKeys[key] {
				t.Errorf("%q: unknown option %q", line, key)
			}
		}
	})
}
