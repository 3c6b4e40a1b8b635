package wire

import (
	"encoding/base64"
	"iter"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Namespace is the XML namespace of every answer.
const Namespace = "http://ec2.amazonaws.com/doc/2016-11-15/"

// TimeLayout is how EC2 writes a timestamp, always in UTC.
const TimeLayout = "2006-01-02T15:04:05.000Z"

// XML appends an answer. The zero value is ready.
type XML struct{ buf []byte }

// Append writes the answer of an action behind what into holds. A nil encode is an action without a result, which answers
// <return>true</return>.
func Append[Out any](into []byte, action, requestID string, out *Out, encode func(*XML, *Out)) []byte {
	x := XML{buf: into}
	x.buf = append(x.buf, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<"...)
	x.buf = append(x.buf, action...)
	x.buf = append(x.buf, `Response xmlns="`+Namespace+`">`...)
	x.text("requestId", requestID)
	if encode != nil {
		encode(&x, out)
	} else {
		x.text("return", "true")
	}
	x.buf = append(x.buf, "</"...)
	x.buf = append(x.buf, action...)
	return append(x.buf, "Response>"...)
}

// room makes place for n more bytes and returns them, to be filled. Half of an answer is the names of its elements, a few
// bytes each: one look at the capacity for each counts.
func (x *XML) room(n int) []byte {
	at := len(x.buf)
	if cap(x.buf)-at < n {
		x.buf = slices.Grow(x.buf, n)
	}
	x.buf = x.buf[:at+n]
	return x.buf[at:]
}

// empty writes a set without elements.
func (x *XML) empty(name string) {
	b := x.room(len(name) + 3)
	b[0] = '<'
	n := 1 + copy(b[1:], name)
	b[n], b[n+1] = '/', '>'
}

func (x *XML) open(name string) {
	b := x.room(len(name) + 2)
	b[0] = '<'
	b[1+copy(b[1:], name)] = '>'
}

func (x *XML) close(name string) {
	b := x.room(len(name) + 3)
	b[0], b[1] = '<', '/'
	b[2+copy(b[2:], name)] = '>'
}

func (x *XML) text(name, value string) {
	if !isPlainText(value) {
		x.open(name)
		x.buf = AppendText(x.buf, value)
		x.close(name)
		return
	}
	b := x.room(2*len(name) + len(value) + 5)
	b[0] = '<'
	n := 1 + copy(b[1:], name)
	b[n] = '>'
	n += 1 + copy(b[n+1:], value)
	b[n], b[n+1] = '<', '/'
	n += 2 + copy(b[n+2:], name)
	b[n] = '>'
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
		x.buf = appendTime(x.buf, *v)
		x.close(name)
	}
}

// appendTime is v.UTC().AppendFormat(dst, TimeLayout), in a tenth of the time.
func appendTime(dst []byte, v time.Time) []byte {
	v = v.UTC()
	year, month, day := v.Date()
	hour, minute, second := v.Clock()
	if year < 0 || year > 9999 {
		return v.AppendFormat(dst, TimeLayout)
	}
	var text [len(TimeLayout)]byte
	copy(text[:], "0000-00-00T00:00:00.000Z")
	digits(text[:4], year)
	digits(text[5:7], int(month))
	digits(text[8:10], day)
	digits(text[11:13], hour)
	digits(text[14:16], minute)
	digits(text[17:19], second)
	digits(text[20:23], v.Nanosecond()/int(time.Millisecond))
	return append(dst, text[:]...)
}

// digits writes n into all of b.
func digits(b []byte, n int) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i], n = byte('0'+n%10), n/10
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

// AppendEach writes a list whose elements are made one at a time, present even when empty. nil is empty.
func AppendEach[T any](x *XML, name, item string, list iter.Seq[*T], encode func(*XML, *T)) {
	if list == nil {
		list = func(func(*T) bool) {}
	}
	written := false
	for v := range list {
		if !written {
			written = true
			x.open(name)
		}
		x.open(item)
		encode(x, v)
		x.close(item)
	}
	if !written {
		x.empty(name)
		return
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

func isPlainText(s string) bool {
	for i := range len(s) {
		if !plainBytes[s[i]] {
			return false
		}
	}
	return true
}

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
