package auth

import (
	"sync"

	"github.com/nimbrel/nimbrel/ec2/sigv4"
)

// maxDerived bounds the cache: keys in use, times regions and services, times the two days around midnight.
const maxDerived = 4096

// keyCache saves the four HMACs of deriving a signing key. The zero value is ready.
type keyCache struct {
	mu   sync.Mutex
	keys map[cacheKey]sigv4.Key // at most maxDerived
}

// cacheKey contains the secret, so that an entry never outlives the secret it was made of.
type cacheKey struct {
	accessKeyID, secret string
	scope               sigv4.Scope
}

func (c *keyCache) get(accessKeyID, secret string, scope sigv4.Scope) sigv4.Key {
	at := cacheKey{accessKeyID, secret, scope}
	c.mu.Lock()
	key, ok := c.keys[at]
	c.mu.Unlock()
	if ok {
		return key
	}
	key = sigv4.Derive(secret, scope)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys == nil || len(c.keys) >= maxDerived {
		c.keys = make(map[cacheKey]sigv4.Key) // refilling costs microseconds a key; yesterday's go with it
	}
	c.keys[at] = key
	return key
}
