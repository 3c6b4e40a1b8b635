// Package probe is the guest's network probe: commands that show, from inside, what the network lets pass.
//
// A command is one line of text and so is its answer, which makes it usable over a serial port, a socket and a shell
// alike. Runner executes commands in process 1, which has the privileges that raw sockets need and lets listeners
// outlive the call that started them. The list of commands and their syntax is in the documentation of package guest.
//
// Invariants: every command has a deadline; lines, tokens, packets, listeners and concurrent commands are bounded; a
// command never blocks the ones from other channels.
//
// Deliberately absent: anything that changes the guest's configuration, except through the command "sh".
//
// Start reading at Parse and Runner.Run.
package probe

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Bounds of a command line.
const (
	MaxLineBytes = 4096
	maxTokens    = 64
	maxTag       = 32

	DefaultTimeout = 5 * time.Second
	MaxTimeout     = 10 * time.Minute
)

// Command is a parsed line.
type Command struct {
	// Tag is what followed '#' at the line's start; the answer repeats it, so that a caller can tell answers apart.
	Tag  string
	Name string
	Args []string
	// Options are the key=value tokens with a known key.
	Options map[string]string
	Timeout time.Duration
}

// optionKeys are the keys that make a token an option. Any other token with '=' in it is an argument.
var optionKeys = map[string]bool{
	"timeoutMs": true, "count": true, "size": true, "df": true, "data": true, "header": true, "method": true, "server": true,
	"type": true, "dir": true, "dev": true, "srcPort": true, "dstPort": true, "gbp": true, "srcMac": true, "dstMac": true, "proto": true,
}

// Errors of Parse that are no command at all, such as the noise a serial port delivers first.
var ErrEmpty = errors.New("empty line")

// Parse reads one line. Tokens are separated by blanks; double quotes keep blanks in a token, and there is no escape
// for a quote. A leading "probe" is dropped, so the same text works in a shell.
func Parse(line string) (Command, error) {
	if len(line) > MaxLineBytes {
		return Command{}, fmt.Errorf("line of %d bytes is longer than %d", len(line), MaxLineBytes)
	}
	tokens, err := split(line)
	if err != nil {
		return Command{}, err
	}
	cmd := Command{Options: map[string]string{}, Timeout: DefaultTimeout}
	if len(tokens) > 0 && strings.HasPrefix(tokens[0], "#") {
		cmd.Tag = tokens[0][1:min(len(tokens[0]), maxTag+1)]
		tokens = tokens[1:]
	}
	if len(tokens) > 0 && tokens[0] == "probe" {
		tokens = tokens[1:]
	}
	if len(tokens) == 0 {
		return cmd, ErrEmpty
	}
	cmd.Name = tokens[0]
	for _, token := range tokens[1:] {
		if key, value, ok := strings.Cut(token, "="); ok && optionKeys[key] {
			cmd.Options[key] = value
		} else {
			cmd.Args = append(cmd.Args, token)
		}
	}
	if text, ok := cmd.Options["timeoutMs"]; ok {
		ms, err := strconv.Atoi(text)
		if err != nil || ms < 1 || time.Duration(ms)*time.Millisecond > MaxTimeout {
			return cmd, fmt.Errorf("timeoutMs=%s is not between 1 and %d", text, MaxTimeout.Milliseconds())
		}
		cmd.Timeout = time.Duration(ms) * time.Millisecond
	}
	return cmd, nil
}

// split cuts a line into tokens.
func split(line string) ([]string, error) {
	var tokens []string
	var token strings.Builder
	inToken, quoted := false, false
	flush := func() {
		if inToken {
			tokens = append(tokens, token.String())
			token.Reset()
			inToken = false
		}
	}
	for _, r := range line {
		switch {
		case r == '"':
			quoted, inToken = !quoted, true
		case !quoted && (r == ' ' || r == '\t'):
			flush()
		case r < ' ' && r != '\t' || r == 0x7f:
			return nil, fmt.Errorf("control character %#x in line", r)
		default:
			inToken = true
			token.WriteRune(r)
		}
	}
	if quoted {
		return nil, errors.New("quote is not closed")
	}
	flush()
	if len(tokens) > maxTokens {
		return nil, fmt.Errorf("%d words are more than %d", len(tokens), maxTokens)
	}
	return tokens, nil
}

// Quote makes one token of text for a command line. Quotes and control characters are dropped: there is no way to write
// them.
func Quote(text string) string {
	clean := strings.Map(func(r rune) rune {
		if r == '"' || r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, text)
	if clean == "" || strings.ContainsAny(clean, " #") || strings.HasPrefix(clean, "probe") {
		return `"` + clean + `"`
	}
	return clean
}

// usageError says that the command was wrong, not the network.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }
