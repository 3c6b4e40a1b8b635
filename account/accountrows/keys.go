// Package accountrows owns the account part's rows: their keys, their types, and what other parts call inside their
// transactions (Charge, Refund).
//
// Key prefix "account". Counters and limits are integer rows of their own. Times are Unix milliseconds.
//
// Start with Charge; account/server uses the rest.
package accountrows

import (
	"fmt"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/tuple"
)

const part = "account"

// Family is the second element of a key: what the row is.
type Family string

// The families. In parentheses what follows in the key.
const (
	FamilyAccount   Family = "account"     // (account)
	FamilyAccessKey Family = "access-key"  // (access key id)
	FamilyKeyPair   Family = "key-pair"    // (account, name)
	familyName      Family = "name"        // (account name): the account's number
	familyKeysLeft  Family = "keys-left"   // (account): access keys that it may still make
	familyKeyPairID Family = "key-pair-id" // (account, key pair id): the name
	familyLeft      Family = "left"        // (account, quota): what is left
	familyLimit     Family = "limit"       // (account, quota): the limit
)

func key(f Family, parts ...any) store.Template {
	return store.Key(append([]any{part, f}, parts...)...)
}

func keyPairKey(a ids.Account, name string) store.Template { return key(FamilyKeyPair, a, name) }

func keyPairIDKey(a ids.Account, id ids.KeyPair) store.Template { return key(familyKeyPairID, a, id) }

func leftKey(a ids.Account, q account.Quota) store.Template { return key(familyLeft, a, q) }

func limitKey(a ids.Account, q account.Quota) store.Template { return key(familyLimit, a, q) }

// ViewPrefixes are the rows that an in-memory view follows; counters are not among them.
func ViewPrefixes() [][]byte {
	var out [][]byte
	for _, f := range []Family{FamilyAccount, FamilyAccessKey, FamilyKeyPair} {
		out = append(out, store.Prefix(part, f))
	}
	return out
}

// ParseKey splits a key of this part into its family and the texts that follow.
func ParseKey(k []byte) (Family, []string, error) {
	parts, err := tuple.Decode(k)
	if err != nil {
		return "", nil, fmt.Errorf("parse account key %q: %w", k, err)
	}
	texts := make([]string, len(parts))
	for i, p := range parts {
		text, ok := p.(string)
		if !ok {
			return "", nil, fmt.Errorf("parse account key %q: element %d is %T", k, i, p)
		}
		texts[i] = text
	}
	if len(texts) < 3 || texts[0] != part {
		return "", nil, fmt.Errorf("parse account key %q: not of this part", k)
	}
	return Family(texts[1]), texts[2:], nil
}
