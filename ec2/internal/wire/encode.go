package wire

import (
	"bytes"
	"encoding/base64"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// Namespace is the XML namespace of every answer.
const Namespace = "http://ec2.amazonaws.com/doc/2016-11-15/"

// TimeLayout is how EC2 writes a timestamp, always in UTC.
const TimeLayout = "2006-01-02T15:04:05.000Z"

// XML appends an answer. The zero value is ready.
type XML struct{ buf []byte }

// Encode writes the answer of an action. A nil encode is an action without a result, which answers <return>true</return>.
func Encode[Out any](action, requestID string, out *Out, encode func(*XML, *Out)) []byte {
	x := scratch.Get().(*XML)
	defer x.recycle()
	x.buf = append(x.buf, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<"...)
	x.buf = append(x.buf, action...)
	x.buf = append(x.buf, `Response xmlns="`+Namespace+`">`...)
	x.text("requestId", requestID)
	if encode != nil {
		encode(x, out)
	} else {
		x.text("return", "true")
	}
	x.buf = append(x.buf, "</"...)
	x.buf = append(x.buf, action...)
	x.buf = append(x.buf, "Response>"...)
	return bytes.Clone(x.buf)
}

// scratch holds buffers that have grown to the size of recent answers, so that growing is not paid for each.
var scratch = sync.Pool{New: func() any { return new(XML) }}

// maxScratchBytes keeps one huge answer from pinning its memory.
const maxScratchBytes = 8 << 20

func (x *XML) recycle() {
	if cap(x.buf) <= maxScratchBytes {
		x.buf = x.buf[:0]
		scratch.Put(x)
	}
}

// empty writes a set without elements.
func (x *XML) empty(name string) {
	x.buf = append(x.buf, '<')
	x.buf = append(x.buf, name...)
	x.buf = append(x.buf, '/', '>')
}

func (x *XML) open(name string) {
	x.buf = append(x.buf, '<')
	x.buf = append(x.buf, name...)
	x.buf = append(x.buf, '>')
}

func (x *XML) close(name string) {
	x.buf = append(x.buf, '<', '/')
	x.buf = append(x.buf, name...)
	x.buf = append(x.buf, '>')
}

func (x *XML) text(name, value string) {
	x.open(name)
	x.buf = AppendText(x.buf, value)
	x.close(name)
}

// String writes a text, nothing when nil.
func (x *XML) String(name string, v *string) {
	if v != nil {
		x.text(name, *v)
	}
}

// TextEnum writes a value of an enumeration, nothing when nil.
func TextEnum[T ~string](x *XML, name string, v *T) {
	if v != nil {
		x.text(name, string(*v))
	}
}

// Bool writes true or false, nothing when nil.
func (x *XML) Bool(name string, v *bool) {
	if v != nil {
		x.open(name)
		x.buf = strconv.AppendBool(x.buf, *v)
		x.close(name)
	}
}

// Int32 writes a whole number, nothing when nil.
func (x *XML) Int32(name string, v *int32) {
	if v != nil {
		x.open(name)
		x.buf = strconv.AppendInt(x.buf, int64(*v), 10)
		x.close(name)
	}
}

// Int64 writes a whole number, nothing when nil.
func (x *XML) Int64(name string, v *int64) {
	if v != nil {
		x.open(name)
		x.buf = strconv.AppendInt(x.buf, *v, 10)
		x.close(name)
	}
}

// Float64 writes a number, nothing when nil.
func (x *XML) Float64(name string, v *float64) {
	if v != nil {
		x.open(name)
		x.buf = strconv.AppendFloat(x.buf, *v, 'f', -1, 64)
		x.close(name)
	}
}

// Time writes a timestamp to the millisecond in UTC, nothing when nil.
func (x *XML) Time(name string, v *time.Time) {
	if v != nil {
		x.open(name)
		x.buf = v.UTC().AppendFormat(x.buf, TimeLayout)
		x.close(name)
	}
}

// Blob writes bytes in base64, nothing when nil.
func (x *XML) Blob(name string, v []byte) {
	if v != nil {
		x.open(name)
		x.buf = base64.StdEncoding.AppendEncode(x.buf, v)
		x.close(name)
	}
}

// AppendStruct writes a nested structure, nothing when nil.
func AppendStruct[T any](x *XML, name string, v *T, encode func(*XML, *T)) {
	if v != nil {
		x.open(name)
		encode(x, v)
		x.close(name)
	}
}

// AppendStructs writes a list of structures. The list is present even when empty: clients break on an absent set.
func AppendStructs[T any](x *XML, name, item string, list []T, encode func(*XML, *T)) {
	if len(list) == 0 {
		x.empty(name)
		return
	}
	x.open(name)
	for i := range list {
		x.open(item)
		encode(x, &list[i])
		x.close(item)
	}
	x.close(name)
}

// AppendTexts writes a list of texts or of values of an enumeration, present even when empty.
func AppendTexts[T ~string](x *XML, name, item string, list []T) {
	if len(list) == 0 {
		x.empty(name)
		return
	}
	x.open(name)
	for _, v := range list {
		x.text(item, string(v))
	}
	x.close(name)
}

// AppendInts writes a list of whole numbers, present even when empty.
func AppendInts[T ~int32 | ~int64](x *XML, name, item string, list []T) {
	if len(list) == 0 {
		x.empty(name)
		return
	}
	x.open(name)
	for _, v := range list {
		x.open(item)
		x.buf = strconv.AppendInt(x.buf, int64(v), 10)
		x.close(item)
	}
	x.close(name)
}

// AppendText appends s as XML character data. What XML 1.0 cannot carry becomes U+FFFD, and a carriage return is written
// as a reference, because a parser would turn it into a line feed.
func AppendText(dst []byte, s string) []byte {
	for len(s) > 0 {
		plain := 0
		for plain < len(s) && plainBytes[s[plain]] {
			plain++
		}
		dst = append(dst, s[:plain]...)
		if s = s[plain:]; s == "" {
			break
		}
		r, size := utf8.DecodeRuneInString(s)
		dst = appendRune(dst, r, size)
		s = s[size:]
	}
	return dst
}

// plainBytes is isPlain as a table: text is most of an answer.
var plainBytes = func() (table [256]bool) {
	for c := range table {
		table[c] = isPlain(byte(c))
	}
	return table
}()

// isPlain holds for bytes that need no thought: printable ASCII, tab and line feed without the five special characters.
func isPlain(c byte) bool {
	if c < ' ' {
		return c == '\t' || c == '\n'
	}
	return c < 0x7f && c != '&' && c != '<' && c != '>' && c != '"' && c != '\''
}

func appendRune(dst []byte, r rune, size int) []byte {
	switch r {
	case '&':
		return append(dst, "&amp;"...)
	case '<':
		return append(dst, "&lt;"...)
	case '>':
		return append(dst, "&gt;"...)
	case '"':
		return append(dst, "&quot;"...)
	case '\'':
		return append(dst, "&apos;"...)
	case '\r':
		return append(dst, "&#13;"...)
	}
	if !isXML(r) || (r == utf8.RuneError && size == 1) {
		r = utf8.RuneError
	}
	return utf8.AppendRune(dst, r)
}

// isXML holds for the characters beyond tab and line breaks that XML 1.0 can carry.
func isXML(r rune) bool { return r >= ' ' && r != 0xFFFE && r != 0xFFFF }
