package ids

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
)

func TestNewParsesBack(t *testing.T) {
	id := New[Instance](rand.Reader)
	if len(id) != len("i-")+digits {
		t.Fatalf("New = %q", id)
	}
	if got, err := Parse[Instance](string(id)); err != nil || got != id {
		t.Fatalf("Parse(%q) = %q, %v", id, got, err)
	}
	if _, err := Parse[VPC](string(id)); err == nil {
		t.Fatalf("Parse[VPC](%q) accepted an instance id", id)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{"", "i-", "i-xyz", "i-0123456789ABCDEF0", "i-0123456789abcdef0f", "eni-attach-00000000", "sg-0123456789abcdef0"} {
		_, err := Parse[Interface](s)
		var malformed *MalformedError
		if !errors.As(err, &malformed) || malformed.ID != s {
			t.Errorf("Parse[Interface](%q) = %v, want MalformedError", s, err)
		}
	}
	if _, err := Parse[SecurityGroup]("sg-12345678"); err != nil {
		t.Errorf("short form refused: %v", err)
	}
}

func TestAccount(t *testing.T) {
	if got := NewAccount(bytes.NewReader(make([]byte, 12))); got != "100000000000" {
		t.Errorf("NewAccount(zeros) = %q", got)
	}
	for _, s := range []string{"", "12345678901", "12345678901a", "1234567890123"} {
		if _, err := ParseAccount(s); err == nil {
			t.Errorf("ParseAccount(%q) accepted", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("i-0123456789abcdef0")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := Parse[Instance](s); err == nil && string(id) != s {
			t.Fatalf("Parse(%q) = %q", s, id)
		}
	})
}
