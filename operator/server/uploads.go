package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/operator/upload"
)

// uploads gives the catalog's uploads to operators.
type uploads struct{ *api }

var _ upload.Service = uploads{}

func (u uploads) Begin(ctx context.Context, bytes uint64, sums []byte) (upload.Begun, error) {
	begun, err := u.Uploads.BeginUpload(ctx, bytes, sums)
	return upload.Begun{ID: begun.ID, Missing: begun.Missing}, again(err)
}

func (u uploads) Put(ctx context.Context, id string, index uint32, data []byte) error {
	return again(u.Uploads.PutUpload(ctx, id, index, data))
}

func (u uploads) Finish(ctx context.Context, id string, f upload.Finish, progress func(done, total uint64)) (upload.Result, error) {
	r, err := u.registration(ctx, f.Account, f.Public)
	if err != nil {
		return upload.Result{}, err
	}
	r.Name, r.Description, r.BootMode = f.Name, f.Description, f.BootMode
	if f.Architecture != "" {
		r.Architecture = f.Architecture
	}
	made, err := u.Uploads.FinishUpload(ctx, id, r, progress)
	u.audit(ctx, "ImportImage", f.Name, err)
	if err != nil {
		return upload.Result{}, again(err)
	}
	return upload.Result{
		ImageID: string(made.ID), Name: made.Name, Format: made.Format, SHA256: made.SHA256, SizeBytes: made.Bytes, StoredBytes: made.StoredBytes,
	}, nil
}

// again tells the protocol what to do about an upload that the catalog does not know.
func again(err error) error {
	if errors.Is(err, image.ErrNoUpload) {
		return fmt.Errorf("%w (%w)", upload.ErrBeginAgain, err)
	}
	return err
}

// registration begins one for an account, or with none for everybody.
func (a *api) registration(ctx context.Context, owner string, public bool) (image.Registration, error) {
	r := image.Registration{Owner: a.Operator, Public: public || owner == "", Architecture: string(operatorgen.ArchitectureX8664)}
	if owner == "" {
		return r, nil
	}
	var err error
	r.Owner, err = a.knownAccount(ctx, owner)
	return r, err
}
