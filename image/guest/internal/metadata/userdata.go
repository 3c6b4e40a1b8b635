package metadata

import "strings"

// UserData is what an instance was launched with, as far as the guest understands it.
type UserData struct {
	// Script is the whole text if it begins with "#!", else empty: other kinds of user data are for other guests.
	Script string
	// EchoOff asks for no echo services: a comment line "# nimbrel: echo=off".
	EchoOff bool
}

// ParseUserData looks at the text. Windows line ends are taken for ours, since browsers and editors leave them.
func ParseUserData(text string) UserData {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	var u UserData
	if strings.HasPrefix(text, "#!") {
		u.Script = text
	}
	for line := range strings.Lines(text) {
		comment, ok := strings.CutPrefix(strings.TrimSpace(line), "#")
		if ok && strings.TrimSpace(comment) == "nimbrel: echo=off" {
			u.EchoOff = true
		}
	}
	return u
}
