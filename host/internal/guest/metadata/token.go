package metadata

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// KeyBytes is the size of a token key.
const KeyBytes = 32

// tokenBytes is the decoded token: expiry in Unix seconds, then the MAC.
const tokenBytes = 8 + sha256.Size

// issue makes a token for one instance, valid until expiry.
func issue(key []byte, instance ids.Instance, expiry time.Time) string {
	raw := binary.BigEndian.AppendUint64(nil, uint64(expiry.Unix()))
	return base64.URLEncoding.EncodeToString(append(raw, tokenMAC(key, instance, raw)...))
}

// valid says whether the token is one of this instance's and has not expired.
func valid(key []byte, instance ids.Instance, token string, now time.Time) bool {
	raw, err := base64.URLEncoding.DecodeString(token)
	// Decoders skip line ends; only the one spelling that issue gives counts.
	if err != nil || len(raw) != tokenBytes || base64.URLEncoding.EncodeToString(raw) != token {
		return false
	}
	expiry := int64(binary.BigEndian.Uint64(raw))
	return hmac.Equal(raw[8:], tokenMAC(key, instance, raw[:8])) && now.Unix() < expiry
}

func tokenMAC(key []byte, instance ids.Instance, expiry []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(instance))
	mac.Write(expiry)
	return mac.Sum(nil)
}
