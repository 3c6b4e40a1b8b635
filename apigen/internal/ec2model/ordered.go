package ec2model

import (
	"bytes"
	"encoding/json"
)

// ordered is a JSON object that keeps the order of its keys, so that generated fields follow the model's order.
type ordered []namedRef

type namedRef struct {
	Name string
	Ref  rawRef
}

func (o *ordered) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if _, err := decoder.Token(); err != nil {
		return err
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return err
		}
		var ref rawRef
		if err := decoder.Decode(&ref); err != nil {
			return err
		}
		*o = append(*o, namedRef{Name: key.(string), Ref: ref})
	}
	return nil
}
