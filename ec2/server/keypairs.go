package server

import (
	"context"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/ec2/internal/filter"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// newKeyPair checks what making and importing a key pair have in common.
func newKeyPair(ctx context.Context, name *string, specifications []ec2gen.TagSpecification) (account.KeyPairRequest, error) {
	r := account.KeyPairRequest{Account: caller(ctx), Name: deref(name), DryRun: dryRun(ctx) != nil}
	if r.Name == "" {
		return r, errs.Missing("KeyName")
	}
	tags, err := createTags(specifications, ec2gen.ResourceTypeKeyPair)
	r.Tags = tags
	return r, err
}

func (a *api) CreateKeyPair(ctx context.Context, in *ec2gen.CreateKeyPairInput) (*ec2gen.CreateKeyPairOutput, error) {
	r, err := newKeyPair(ctx, in.KeyName, in.TagSpecifications)
	if err != nil {
		return nil, err
	}
	r.Type = account.KeyRSA
	if in.KeyType != nil {
		r.Type = account.KeyType(*in.KeyType)
	}
	made, err := a.Account.CreateKeyPair(ctx, r)
	if err != nil || r.DryRun {
		return nil, orDryRun(err)
	}
	return &ec2gen.CreateKeyPairOutput{
		KeyFingerprint: new(made.Fingerprint), KeyMaterial: new(made.PrivateKey), KeyName: new(made.Name), KeyPairId: new(string(made.ID)), Tags: convert.Tags(r.Tags),
	}, nil
}

func (a *api) ImportKeyPair(ctx context.Context, in *ec2gen.ImportKeyPairInput) (*ec2gen.ImportKeyPairOutput, error) {
	if len(in.PublicKeyMaterial) == 0 {
		return nil, errs.Missing("PublicKeyMaterial")
	}
	r, err := newKeyPair(ctx, in.KeyName, in.TagSpecifications)
	if err != nil {
		return nil, err
	}
	r.PublicKey = in.PublicKeyMaterial
	made, err := a.Account.ImportKeyPair(ctx, r)
	if err != nil || r.DryRun {
		return nil, orDryRun(err)
	}
	return &ec2gen.ImportKeyPairOutput{
		KeyFingerprint: new(made.Fingerprint), KeyName: new(made.Name), KeyPairId: new(string(made.ID)), Tags: convert.Tags(r.Tags),
	}, nil
}

var keyPairFilters = filter.Table[*account.KeyPair]{
	Values: map[string]func(*account.KeyPair) []string{
		"fingerprint": one(func(k *account.KeyPair) string { return k.Fingerprint }),
		"key-name":    one(func(k *account.KeyPair) string { return k.Name }),
		"key-pair-id": one(func(k *account.KeyPair) ids.KeyPair { return k.ID }),
	},
	Tags: func(k *account.KeyPair) map[string]string { return k.Tags },
}

func (a *api) DescribeKeyPairs(ctx context.Context, in *ec2gen.DescribeKeyPairsInput) (*ec2gen.DescribeKeyPairsOutput, error) {
	wanted, err := parseIDs[ids.KeyPair](in.KeyPairIds)
	if err != nil {
		return nil, err
	}
	match, err := filter.Compile(keyPairFilters, in.Filters)
	if err != nil {
		return nil, err
	}
	found, err := a.Account.DescribeKeyPairs(ctx, caller(ctx), account.KeyPairSelection{Names: in.KeyNames, IDs: wanted}, match)
	if err != nil {
		return nil, err
	}
	convertOne := func(k account.KeyPair) ec2gen.KeyPairInfo { return convert.KeyPair(k, deref(in.IncludePublicKey)) }
	return &ec2gen.DescribeKeyPairsOutput{KeyPairs: each(found, convertOne)}, nil
}

func (a *api) DeleteKeyPair(ctx context.Context, in *ec2gen.DeleteKeyPairInput) (*ec2gen.DeleteKeyPairOutput, error) {
	id, err := optionalID[ids.KeyPair](in.KeyPairId)
	if err != nil {
		return nil, err
	}
	if id == "" && deref(in.KeyName) == "" {
		return nil, errs.New(errs.MissingParameter, "The request must contain the parameter keyName or keyPairId")
	}
	if err := dryRun(ctx); err != nil {
		return nil, err
	}
	deleted, err := a.Account.DeleteKeyPair(ctx, caller(ctx), deref(in.KeyName), id)
	if err != nil {
		return nil, err
	}
	out := &ec2gen.DeleteKeyPairOutput{Return: new(true)}
	if deleted != "" {
		out.KeyPairId = new(string(deleted))
	}
	return out, nil
}
