package server

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/tuple"
)

// defaultRows is the size of a scan when a request does not say.
const defaultRows = 100

// redaction is what is not shown of the rows under a prefix, unless the request asks for it: the whole value, or the
// field at a path of field numbers.
type redaction struct {
	prefix []byte
	path   []string
}

// redactions cover sealed secret keys, join tokens, and the user data of instances, which people put passwords into: in
// their own rows, and in what their hosts are told.
var redactions = []redaction{
	{prefix: store.Prefix("account", "access-key")},
	{prefix: store.Prefix("dispatch", "token")},
	{prefix: store.Prefix("compute", "instance"), path: []string{"31"}},
	{prefix: store.Prefix("dispatch", "item", "host"), path: []string{"2", "21"}},
}

const (
	// redacted stands for a value that is not shown.
	redacted = `"not shown: this row holds a secret"`
	// redactedField stands for a field that is not shown.
	redactedField = "not shown: user data"
)

// formatKey writes a key so that no two keys look alike: a JSON list of its elements, where a byte string is an object
// {"bytes":"<hex>"}; or 0x and hexadecimal for a key that such a list would not give back.
func formatKey(key []byte) string {
	if parts, err := tuple.Decode(key); err == nil {
		text := formatParts(parts)
		if back, err := parseKey(text); err == nil && bytes.Equal(back, key) {
			return text
		}
	}
	return "0x" + hex.EncodeToString(key)
}

func formatParts(parts []any) string {
	list := make([]any, len(parts))
	for i, part := range parts {
		list[i] = part
		if b, ok := part.([]byte); ok {
			list[i] = map[string]string{"bytes": hex.EncodeToString(b)}
		}
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(list); err != nil {
		return ""
	}
	return strings.TrimSpace(out.String())
}

// parseKey reads what formatKey wrote. For a person at a prompt, account/left/123456789012 is a list of texts too.
func parseKey(text string) ([]byte, error) {
	if digits, found := strings.CutPrefix(text, "0x"); found {
		key, err := hex.DecodeString(digits)
		if err != nil {
			return nil, operatorgen.NewInvalidInput("key %.64q: want hexadecimal digits after 0x", text)
		}
		return key, nil
	}
	var parts []any
	if strings.HasPrefix(text, "[") {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&parts); err != nil || decoder.More() {
			return nil, operatorgen.NewInvalidInput("key %.64q: want a list as a scan prints it", text)
		}
	} else if text != "" {
		for part := range strings.SplitSeq(text, "/") {
			parts = append(parts, part)
		}
	}
	var key []byte
	for i, part := range parts {
		element, err := parseElement(part)
		if err != nil {
			return nil, operatorgen.NewInvalidInput("key %.64q: element %d: %v", text, i+1, err)
		}
		key = append(key, element...)
	}
	return key, nil
}

func parseElement(part any) ([]byte, error) {
	switch part := part.(type) {
	case string:
		return tuple.AppendText(nil, part), nil
	case bool:
		return tuple.AppendBool(nil, part), nil
	case json.Number:
		var unsigned uint64
		if err := json.Unmarshal([]byte(part), &unsigned); err == nil {
			return tuple.AppendUint(nil, unsigned), nil
		}
		n, err := part.Int64()
		return tuple.AppendInt(nil, n), err
	case map[string]any:
		if text, ok := part["bytes"].(string); ok && len(part) == 1 {
			raw, err := hex.DecodeString(text)
			return tuple.AppendBytes(nil, raw), err
		}
	}
	return nil, fmt.Errorf("want a text, a number, true, false or {\"bytes\":\"<hex>\"}")
}

func (a *api) StoreGet(ctx context.Context, in *operatorgen.StoreGetInput) (*operatorgen.StoreGetOutput, error) {
	key, err := parseKey(in.Key)
	if err != nil {
		return nil, err
	}
	a.auditReveal(ctx, "StoreGet", in.Key, in.Reveal)
	out := &operatorgen.StoreGetOutput{}
	err = a.DB.View(ctx, func(r store.Reader) error {
		out.ReadVersion = int64(r.Version())
		rows, err := r.Range(ctx, store.RangeOptions{Begin: key, End: append(bytes.Clone(key), 0), Limit: 1})
		if err == nil && len(rows) == 1 {
			out.Row = new(convertRow(rows[0], reveal(in.Reveal)))
		}
		return err
	})
	return out, explain(err)
}

func (a *api) StoreScan(ctx context.Context, in *operatorgen.StoreScanInput) (*operatorgen.StoreScanOutput, error) {
	begin, err := parseKey(in.Prefix)
	if err != nil {
		return nil, err
	}
	end := store.PrefixEnd(begin)
	if in.After != "" {
		after, err := parseKey(in.After)
		if err != nil {
			return nil, err
		}
		if after = append(after, 0); bytes.Compare(after, begin) > 0 {
			begin = after
		}
	}
	a.auditReveal(ctx, "StoreScan", in.Prefix, in.Reveal)
	limit := defaultRows
	if in.Limit != nil {
		limit = min(int(*in.Limit), store.MaxRangeRows)
	}
	out := &operatorgen.StoreScanOutput{}
	err = a.DB.View(ctx, func(r store.Reader) error {
		out.ReadVersion = int64(r.Version())
		rows, err := r.Range(ctx, store.RangeOptions{Begin: begin, End: end, Limit: min(limit+1, store.MaxRangeRows)})
		if err != nil {
			return err
		}
		out.More = len(rows) > limit || len(rows) == store.MaxRangeRows
		for _, kv := range rows[:min(limit, len(rows))] {
			out.Rows = append(out.Rows, convertRow(kv, reveal(in.Reveal)))
		}
		return nil
	})
	return out, explain(err)
}

// convertRow shows an integer as a number, a CBOR map as an object by field number, and other bytes in hexadecimal.
func convertRow(kv store.KV, reveal bool) operatorgen.Row {
	row := operatorgen.Row{Key: formatKey(kv.Key), Version: int64(kv.Version), Kind: "bytes"}
	if kv.Value.Kind == store.KindInt64 {
		row.Kind = "int64"
	}
	row.Value = valueJSON(kv, reveal)
	return row
}

func reveal(asked *bool) bool { return asked != nil && *asked }

// auditReveal notes that somebody looked at secrets.
func (a *api) auditReveal(ctx context.Context, operation, subject string, asked *bool) {
	if reveal(asked) {
		a.audit(ctx, operation, subject, nil)
	}
}

func valueJSON(kv store.KV, reveal bool) json.RawMessage {
	value := decoded(kv)
	for _, r := range redactions {
		if !reveal && bytes.HasPrefix(kv.Key, r.prefix) && !r.hide(value) {
			return json.RawMessage(redacted)
		}
	}
	text, err := json.Marshal(value)
	if err != nil { // a number that JSON has no word for
		text, _ = json.Marshal(fmt.Sprint(value))
	}
	return text
}

// hide replaces the field of a value. It is false when the whole value must go: there is no path, or the value is not of
// the shape that has one, so that nobody knows where the secret is.
func (r redaction) hide(value any) bool {
	if len(r.path) == 0 {
		return false
	}
	last := len(r.path) - 1
	for _, number := range r.path[:last] {
		object, ok := value.(map[string]any)
		if !ok {
			return false
		}
		if value, ok = object[number]; !ok {
			return true
		}
	}
	object, ok := value.(map[string]any)
	if _, has := object[r.path[last]]; has {
		object[r.path[last]] = redactedField
	}
	return ok
}

func decoded(kv store.KV) any {
	var value any = kv.Value.Int
	if kv.Value.Kind != store.KindInt64 {
		value = "0x" + hex.EncodeToString(kv.Value.Bytes)
		var decoded map[any]any
		if err := cbor.Unmarshal(kv.Value.Bytes, &decoded); err == nil {
			value = plain(decoded)
		}
	}
	return value
}

// plain turns what CBOR holds into what JSON can.
func plain(v any) any {
	switch v := v.(type) {
	case []byte:
		return "0x" + hex.EncodeToString(v)
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = plain(e)
		}
		return list
	case map[any]any:
		object := make(map[string]any, len(v))
		for key, e := range v {
			object[fmt.Sprint(key)] = plain(e)
		}
		return object
	}
	return v
}
