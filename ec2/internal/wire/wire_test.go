package wire

import (
	"encoding/xml"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nimbrel/nimbrel/ec2/errs"
)

type all struct {
	S  *string
	B  *bool
	I  *int32
	L  *int64
	F  *float64
	T  *time.Time
	X  []byte
	SS []string
}

func decodeAll(n *Node, v *all) {
	v.S, v.B, v.I, v.L, v.F, v.T = n.String("S"), n.Bool("B"), n.Int32("I"), n.Int64("L"), n.Float64("F"), n.Time("T")
	v.X, v.SS = n.Blob("X"), n.Strings("SS", 2)
}

func TestScalars(t *testing.T) {
	form := url.Values{"S": {"a"}, "B": {"false"}, "I": {"-7"}, "L": {"9007199254740993"}, "F": {"2.5"}, "T": {"2026-01-02T04:04:05.5+01:00"}, "X": {"AP8="}, "SS.2": {""}, "SS.1": {"x"}}
	var got all
	if err := Decode(form, &got, decodeAll); err != nil {
		t.Fatal(err)
	}
	want := all{S: new("a"), B: new(false), I: new(int32(-7)), L: new(int64(9007199254740993)), F: new(2.5), T: new(time.Date(2026, 1, 2, 3, 4, 5, 5e8, time.UTC)), X: []byte{0, 255}, SS: []string{"x", ""}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	var none all
	if err := Decode(nil, &none, decodeAll); err != nil || !reflect.DeepEqual(none, all{}) {
		t.Errorf("absent parameters must stay absent: %+v, %v", none, err)
	}
	for name, value := range map[string]string{"B": "True", "I": "2147483648", "L": "1.0", "F": "NaN", "T": "2026-01-02", "X": "A", "SS.3": "x"} {
		err := Decode(url.Values{name: {value}}, &got, decodeAll)
		if e, ok := err.(*errs.Error); !ok || e.Code != errs.InvalidParameterValue || !strings.Contains(e.Message, strings.TrimSuffix(name, ".3")) {
			t.Errorf("%s=%s: got %v", name, value, err)
		}
	}
}

func TestTooManyParameters(t *testing.T) {
	form := make(url.Values)
	for i := range MaxParameters + 1 {
		form[strings.Repeat("a", i%100)+string(rune(i+1000))] = []string{"x"}
	}
	if e, ok := Decode(form, new(all), decodeAll).(*errs.Error); !ok || !strings.Contains(e.Message, "at most 10000") {
		t.Errorf("got %v", e)
	}
}

func TestScalarAnswers(t *testing.T) {
	var x XML
	at := time.Date(2026, 1, 2, 4, 4, 5, 999_999_999, time.FixedZone("", 3600))
	x.Time("t", &at)
	x.Float64("f", new(2.25))
	x.Int64("l", new(int64(-1)))
	x.Blob("x", []byte{0, 255})
	x.Blob("none", nil)
	AppendInts(&x, "is", "item", []int32{1, 2})
	want := "<t>2026-01-02T03:04:05.999Z</t><f>2.25</f><l>-1</l><x>AP8=</x><is><item>1</item><item>2</item></is>"
	if string(x.buf) != want {
		t.Errorf("got %s, want %s", x.buf, want)
	}
}

// FuzzAppendText reads what was written with encoding/xml: the text comes back, but for what XML cannot carry.
func FuzzAppendText(f *testing.F) {
	for _, seed := range []string{"", "a<b>&\"'", "\r\n\t", "\x00\x1f\x7f", "\xff\xfe", "\ufffe\uffff\U0001F600", "]]>"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got struct {
			Text string `xml:",chardata"`
		}
		text := append(AppendText([]byte("<a>"), s), "</a>"...)
		if err := xml.Unmarshal(text, &got); err != nil {
			t.Fatalf("%q became %q: %v", s, text, err)
		}
		want := strings.Map(func(r rune) rune {
			if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
				return utf8.RuneError
			}
			return r
		}, s)
		if got.Text != want {
			t.Errorf("%q came back as %q, want %q", s, got.Text, want)
		}
	})
}
