package server

import (
	"context"
	"path/filepath"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

// CreateAccount makes an account and sees to its default network. The secret is in this answer only, so a network that
// could not be made now is logged and not an error.
func (a *api) CreateAccount(ctx context.Context, in *operatorgen.CreateAccountInput) (*operatorgen.CreateAccountOutput, error) {
	made, key, secret, err := a.Account.Create(ctx, in.Name)
	a.audit(ctx, "CreateAccount", in.Name, err)
	if err != nil {
		return nil, explain(err)
	}
	if _, err := a.VPC.EnsureDefault(ctx, made.ID); err != nil {
		a.Log.ErrorContext(ctx, "account has no default network", "account", string(made.ID), "err", err)
	}
	return &operatorgen.CreateAccountOutput{AccountId: string(made.ID), AccessKeyId: key.ID, SecretAccessKey: secret}, nil
}

func (a *api) SetQuota(ctx context.Context, in *operatorgen.SetQuotaInput) (*operatorgen.SetQuotaOutput, error) {
	owner, err := ids.ParseAccount(in.AccountId)
	if err != nil {
		return nil, operatorgen.NewInvalidInput("%v", err)
	}
	err = a.Account.SetQuota(ctx, owner, account.Quota(in.Name), in.Value)
	a.audit(ctx, "SetQuota", in.AccountId+"/"+in.Name, err)
	if err != nil {
		return nil, explain(err)
	}
	quotas, err := a.Account.Quotas(ctx, owner)
	if err != nil {
		return nil, explain(err)
	}
	out := &operatorgen.SetQuotaOutput{}
	for _, q := range quotas {
		if string(q.Quota) == in.Name {
			out.Left = q.Left
		}
	}
	return out, nil
}

// ImportImage registers a disk of the server's machine: an account's own, or with no account one for everybody.
func (a *api) ImportImage(ctx context.Context, in *operatorgen.ImportImageInput) (*operatorgen.ImportImageOutput, error) {
	if !filepath.IsAbs(in.Path) {
		return nil, operatorgen.NewInvalidInput("path %q is not absolute", in.Path)
	}
	r, err := a.registration(ctx, in.AccountId, false)
	if err != nil {
		return nil, err
	}
	r.Path, r.Name, r.Description = in.Path, in.Name, in.Description
	if in.Architecture != "" {
		r.Architecture = string(in.Architecture)
	}
	made, err := a.Image.RegisterLocal(ctx, r)
	a.audit(ctx, "ImportImage", in.Name, err)
	if err != nil {
		return nil, explain(err)
	}
	return &operatorgen.ImportImageOutput{ImageId: string(made.ID)}, nil
}

func (a *api) knownAccount(ctx context.Context, text string) (ids.Account, error) {
	accounts, err := a.Account.Accounts(ctx)
	if err != nil {
		return "", explain(err)
	}
	for _, known := range accounts {
		if string(known.ID) == text {
			return known.ID, nil
		}
	}
	return "", operatorgen.NewNotFound("account %s does not exist", text)
}
