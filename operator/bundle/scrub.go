package bundle

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	gone = "(secret removed)"
	// minSecret is the least length of a word that is taken for a secret of its own: shorter ones are in every text.
	minSecret = 12
	// maxSecretFile bounds what is read of a file of secrets.
	maxSecretFile = 64 << 10
)

// forms are what secrets look like wherever they come from. What goes is the first group, where there is one. A value in
// quotes goes to its end, spaces and all, also where the quotes are escaped in another text.
var forms = []*regexp.Regexp{
	regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)`),
	regexp.MustCompile(`(?i)(?:aws_secret_access_key|secretaccesskey|secret_access_key|secret access key|password|passwd|NIMBREL_JOIN|user[-_]?data|x-amz-signature|x-amz-security-token)[\\"']*\s*[=:]\s*(\\+".*?(?:\\+"|$)|"(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s"'&,}]+)`),
	regexp.MustCompile(`Signature=([0-9a-f]{16,})`),
	regexp.MustCompile(`\b[0-9a-f]{64}\.[A-Za-z0-9_-]{16,}`), // a join token: fingerprint, dot, secret
}

// scrubber removes secrets from texts.
type scrubber struct{ words [][]byte }

// newScrubber reads the secrets that are on this machine, to know them again.
func newScrubber(o Options) *scrubber {
	s := &scrubber{}
	paths := slices.Clone(o.SecretFiles)
	if o.StateDir != "" {
		paths = append(paths, filepath.Join(o.StateDir, "server", "root.key"), filepath.Join(o.StateDir, "env", "credentials"))
		more, _ := filepath.Glob(filepath.Join(o.StateDir, "server", "authority", "*"))
		paths = append(paths, more...)
	}
	for _, dir := range o.AgentStateDirs {
		paths = append(paths, filepath.Join(dir, "metadata.key"))
		more, _ := filepath.Glob(filepath.Join(dir, "identity", "*.key"))
		paths = append(paths, more...)
	}
	for _, path := range paths {
		if content, err := os.ReadFile(path); err == nil && len(content) <= maxSecretFile {
			s.learn(content)
		}
	}
	return s
}

// learn takes a file of secrets: its whole, its words, and those in the forms that binary is written in.
func (s *scrubber) learn(content []byte) {
	trimmed := bytes.TrimSpace(content)
	for _, word := range append(bytes.FieldsFunc(content, func(r rune) bool { return strings.ContainsRune(" \t\r\n=\"'", r) }), trimmed, content) {
		if len(word) < minSecret || bytes.HasPrefix(word, []byte("-----")) {
			continue
		}
		s.words = append(s.words, bytes.Clone(word), []byte(hex.EncodeToString(word)), []byte(base64.StdEncoding.EncodeToString(word)))
		if raw, err := hex.DecodeString(string(word)); err == nil && len(raw) >= minSecret {
			s.words = append(s.words, raw, []byte(base64.StdEncoding.EncodeToString(raw)))
		}
	}
}

// clean returns text without secrets. All are looked for in the text as it was: what removes one must not hide another, as
// the name of a setting in a file of secrets would hide that setting's form.
func (s *scrubber) clean(text []byte) []byte {
	var found [][2]int
	for _, word := range s.words {
		for at := 0; ; {
			i := bytes.Index(text[at:], word)
			if i < 0 {
				break
			}
			found = append(found, [2]int{at + i, at + i + len(word)})
			at += i + 1
		}
	}
	for _, form := range forms {
		for _, m := range form.FindAllSubmatchIndex(text, -1) {
			found = append(found, [2]int{m[len(m)-2], m[len(m)-1]}) // the group is the last pair
		}
	}
	return without(text, found)
}

// without puts one note in place of each stretch of overlapping spans.
func without(text []byte, spans [][2]int) []byte {
	slices.SortFunc(spans, func(a, b [2]int) int { return cmp.Compare(a[0], b[0]) })
	var left []byte
	end := 0 // of what is dealt with
	for _, span := range spans {
		if span[0] >= end {
			left = append(append(left, text[end:span[0]]...), gone...)
		}
		end = max(end, span[1])
	}
	return append(left, text[end:]...)
}
