package smithy
type Model struct{}
func Parse(string, []byte) (*Model, error) { return nil, nil }
