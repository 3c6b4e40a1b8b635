// Package ids defines every resource id type of the cloud.
//
// An id is the text that a client sees: a short prefix, a hyphen, and 17 lower-case hexadecimal digits, as in EC2's long
// id format. Each kind is a Go type of its own, so that a subnet id cannot be passed where a VPC id is meant. The zero
// value is the empty string and is never a valid id.
//
// Deliberately absent: knowledge of what exists. Parse checks the form only; "not found" is its owner's answer.
package ids

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// digits is the number of hexadecimal digits after the hyphen.
const digits = 17

// ID is implemented by every id type of this package.
type ID interface {
	~string
	// Prefix is the id's kind as clients see it, without the hyphen ("i", "vpc").
	Prefix() string
}

type (
	Instance              string
	Reservation           string
	Image                 string
	Volume                string
	Snapshot              string
	KeyPair               string
	VPC                   string
	Subnet                string
	SubnetCIDR            string
	VPCCIDR               string
	SecurityGroup         string
	SecurityGroupRule     string
	Interface             string
	InterfaceAttachment   string
	RouteTable            string
	RouteTableAssociation string
	NetworkACL            string
	NetworkACLAssociation string
	DHCPOptions           string
	Host                  string
	Operation             string
)

func (Instance) Prefix() string              { return "i" }
func (Reservation) Prefix() string           { return "r" }
func (Image) Prefix() string                 { return "ami" }
func (Volume) Prefix() string                { return "vol" }
func (Snapshot) Prefix() string              { return "snap" }
func (KeyPair) Prefix() string               { return "key" }
func (VPC) Prefix() string                   { return "vpc" }
func (Subnet) Prefix() string                { return "subnet" }
func (SubnetCIDR) Prefix() string            { return "subnet-cidr-assoc" }
func (VPCCIDR) Prefix() string               { return "vpc-cidr-assoc" }
func (SecurityGroup) Prefix() string         { return "sg" }
func (SecurityGroupRule) Prefix() string     { return "sgr" }
func (Interface) Prefix() string             { return "eni" }
func (InterfaceAttachment) Prefix() string   { return "eni-attach" }
func (RouteTable) Prefix() string            { return "rtb" }
func (RouteTableAssociation) Prefix() string { return "rtbassoc" }
func (NetworkACL) Prefix() string            { return "acl" }
func (NetworkACLAssociation) Prefix() string { return "aclassoc" }
func (DHCPOptions) Prefix() string           { return "dopt" }
func (Host) Prefix() string                  { return "h" }
func (Operation) Prefix() string             { return "op" }

// Account is a 12-digit account number, the owner of resources.
type Account string

// New makes an id from 68 random bits. random must not fail; crypto/rand's Reader never does.
func New[T ID](random io.Reader) T {
	var raw [9]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		panic("ids: random source failed: " + err.Error())
	}
	var zero T
	return T(zero.Prefix() + "-" + hex.EncodeToString(raw[:])[:digits])
}

// Parse checks that s is a well-formed id of kind T. It accepts EC2's short form too (8 digits), as clients send it;
// a well-formed id need not exist. The error is a *MalformedError.
func Parse[T ID](s string) (T, error) {
	var zero T
	hexDigits, found := strings.CutPrefix(s, zero.Prefix()+"-")
	if !found || (len(hexDigits) != digits && len(hexDigits) != 8) || !lowerHex(hexDigits) {
		return zero, &MalformedError{Prefix: zero.Prefix(), ID: s}
	}
	return T(s), nil
}

// MalformedError reports text that cannot be an id of the wanted kind.
type MalformedError struct {
	Prefix string // the wanted kind
	ID     string // the text as given
}

func (e *MalformedError) Error() string {
	return fmt.Sprintf("malformed id %q: want %s- and %d hexadecimal digits", e.ID, e.Prefix, digits)
}

// NewAccount makes a 12-digit account number that does not begin with zero, so that no tool drops a leading digit.
func NewAccount(random io.Reader) Account {
	var raw [12]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		panic("ids: random source failed: " + err.Error())
	}
	for i, b := range raw {
		raw[i] = '0' + b%10
	}
	raw[0] = '1' + (raw[0]-'0')%9
	return Account(raw[:])
}

// ParseAccount checks that s is 12 decimal digits.
func ParseAccount(s string) (Account, error) {
	if len(s) != 12 || strings.Trim(s, "0123456789") != "" {
		return "", fmt.Errorf("malformed account %q: want 12 decimal digits", s)
	}
	return Account(s), nil
}

func lowerHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
