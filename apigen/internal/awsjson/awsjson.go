package awsjson
import "github.com/nimbrel/nimbrel/apigen/internal/smithy"
func Generate(*smithy.Model, string) (map[string][]byte, error) { return nil, nil }
