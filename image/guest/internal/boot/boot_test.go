package boot

import (
	"encoding/base64"
	"testing"
)

func TestParseCmdline(t *testing.T) {
	key := base64.RawURLEncoding.EncodeToString([]byte("ssh-ed25519 AAAA me\n"))
	for text, want := range map[string]Options{
		"": {},
		"BOOT_IMAGE=/boot/vmlinuz root=LABEL=x quiet console=ttyS0\n": {Root: "LABEL=x"},
		"nimbrel.key=" + key:        {Key: "ssh-ed25519 AAAA me"},
		"nimbrel.key=" + key + "==": {Key: "ssh-ed25519 AAAA me"},
		"nimbrel.key=%%%":           {},
		"nimbrel.imds=off nimbrel.hostname=h nimbrel.echo=off root=ram": {IMDS: "off", Hostname: "h", EchoOff: true, Root: "ram"},
		"nimbrel.echo=on nimbrel.imds=http://10.0.2.2:8080?a=b":         {IMDS: "http://10.0.2.2:8080?a=b"},
	} {
		if got := ParseCmdline(text); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}
