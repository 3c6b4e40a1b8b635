package account

import (
	"context"
	"time"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// Account is an owner of resources.
type Account struct {
	ID      ids.Account
	Name    string // unique, given by the operator
	Created time.Time
}

// AccessKey is the public half of an API credential.
type AccessKey struct {
	ID      string // "AKIA" and 16 characters of A-Z2-7
	Account ids.Account
	Active  bool
	Created time.Time
}

// KeyType is the algorithm of a key pair, in the spelling that clients use.
type KeyType string

// The key types that can be created and imported.
const (
	KeyRSA     KeyType = "rsa"
	KeyEd25519 KeyType = "ed25519"
)

// KeyPair is an SSH public key that a launch can name.
type KeyPair struct {
	ID      ids.KeyPair
	Account ids.Account
	Name    string
	Type    KeyType
	// Fingerprint is EC2's: SHA-1 of the private key's PKCS#8 form for a created RSA key, MD5 of the public key's DER
	// form for an imported one (both colon-separated hex), base64 SHA-256 of the SSH wire form for ed25519.
	Fingerprint string
	PublicKey   string // one authorized_keys line without a newline; its comment is the key's name
	Created     time.Time
	Tags        map[string]string
}

// CreatedKeyPair is a key pair with the private half that is shown this once.
type CreatedKeyPair struct {
	KeyPair
	PrivateKey string // PEM: PKCS#1 for RSA, OpenSSH's format for ed25519
}

// KeyPairRequest names a key pair to create (PublicKey empty) or to import.
type KeyPairRequest struct {
	Account   ids.Account
	Name      string // 1 to MaxKeyNameBytes printable ASCII characters
	Type      KeyType
	PublicKey []byte // import: one line in OpenSSH's format
	Tags      map[string]string
	DryRun    bool // check the request and that the name is free, make nothing, and answer with nothing
}

// KeyPairSelection limits a description to names and ids; empty selects all.
type KeyPairSelection struct {
	Names []string
	IDs   []ids.KeyPair
}

// Service is what the accounts part does for the doors. All methods are safe for concurrent use. Reads wait until they
// see every write that was acknowledged before the call, at most a second, and then return ErrBehind.
type Service interface {
	// Create makes an account with its first access key, its quotas and what other parts ensure with it (the default
	// VPC), in one transaction. The secret is not shown again. *DuplicateError if the name is taken.
	Create(ctx context.Context, name string) (a Account, key AccessKey, secret string, err error)
	// Accounts lists all accounts by number.
	Accounts(ctx context.Context) ([]Account, error)
	// Lookup returns the account and secret of an active access key; *NotFoundError for any other. It answers from
	// memory. A key made before the call is always found; one disabled elsewhere may work for as long as the view lags.
	Lookup(ctx context.Context, accessKeyID string) (a ids.Account, secret string, err error)

	// CreateAccessKey makes a further key; *LimitError beyond MaxAccessKeys.
	CreateAccessKey(ctx context.Context, a ids.Account) (key AccessKey, secret string, err error)
	// SetAccessKeyActive enables or disables a key.
	SetAccessKeyActive(ctx context.Context, a ids.Account, accessKeyID string, active bool) error
	// DeleteAccessKey removes a key for good.
	DeleteAccessKey(ctx context.Context, a ids.Account, accessKeyID string) error
	// AccessKeys lists an account's keys by id, without secrets.
	AccessKeys(ctx context.Context, a ids.Account) ([]AccessKey, error)

	// CreateKeyPair generates a key; *DuplicateError if the name is taken, *InvalidError for a bad name or type.
	CreateKeyPair(ctx context.Context, r KeyPairRequest) (CreatedKeyPair, error)
	// ImportKeyPair stores a public key; *InvalidError (Param "PublicKeyMaterial") when it cannot be read.
	ImportKeyPair(ctx context.Context, r KeyPairRequest) (KeyPair, error)
	// DescribeKeyPairs returns the selected pairs that match (nil: all), by name. *NotFoundError for a selected one that
	// does not exist.
	DescribeKeyPairs(ctx context.Context, a ids.Account, s KeyPairSelection, match func(*KeyPair) bool) ([]KeyPair, error)
	// DeleteKeyPair removes a pair by name or, when name is empty, by id. Deleting what is not there succeeds, with an
	// empty id.
	DeleteKeyPair(ctx context.Context, a ids.Account, name string, id ids.KeyPair) (ids.KeyPair, error)

	// Quotas returns each quota with its limit and what is left.
	Quotas(ctx context.Context, a ids.Account) ([]QuotaStatus, error)
	// SetQuota changes a limit. Lowering it below what is used is allowed and refuses new use only.
	SetQuota(ctx context.Context, a ids.Account, q Quota, limit int64) error
}

// QuotaStatus is one quota's limit and rest. Left is negative after a limit was lowered below use.
type QuotaStatus struct {
	Quota Quota
	Limit int64
	Left  int64
}
