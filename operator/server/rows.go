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

// secrets are the begins of keys whose values are not shown: sealed secret keys, and join tokens.
var secrets = [][]byte{store.Prefix("account", "access-key"), store.Prefix("dispatch", "token")}

// redacted stands for a value that is not shown.
const redacted = `"not shown: this row holds a secret"`

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
	out := &operatorgen.StoreGetOutput{}
	err = a.DB.View(ctx, func(r store.Reader) error {
		out.ReadVersion = int64(r.Version())
		rows, err := r.Range(ctx, store.RangeOptions{Begin: key, End: append(bytes.Clone(key), 0), Limit: 1})
		if err == nil && len(rows) == 1 {
			out.Row = new(convertRow(rows[0]))
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
			out.Rows = append(out.Rows, convertRow(kv))
		}
		return nil
	})
	return out, explain(err)
}

// convertRow shows an integer as a number, a CBOR map as an object by field number, and other bytes in hexadecimal.
func convertRow(kv store.KV) operatorgen.Row {
	row := operatorgen.Row{Key: formatKey(kv.Key), Version: int64(kv.Version), Kind: "bytes"}
	if kv.Value.Kind == store.KindInt64 {
		row.Kind = "int64"
	}
	row.Value = valueJSON(kv)
	return row
}

func valueJSON(kv store.KV) json.RawMessage {
	for _, prefix := range secrets {
		if bytes.HasPrefix(kv.Key, prefix) {
			return json.RawMessage(redacted)
		}
	}
	var value any = kv.Value.Int
	if kv.Value.Kind != store.KindInt64 {
		value = "0x" + hex.EncodeToString(kv.Value.Bytes)
		var decoded map[any]any
		if err := cbor.Unmarshal(kv.Value.Bytes, &decoded); err == nil {
			value = plain(decoded)
		}
	}
	text, err := json.Marshal(value)
	if err != nil { // a number that JSON has no word for
		text, _ = json.Marshal(fmt.Sprint(value))
	}
	return text
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
