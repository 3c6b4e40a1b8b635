package server

import (
	"context"
	"errors"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/svc/awsjson"
	"github.com/nimbrel/nimbrel/vpc"
)

// explain gives an error of a part its code. What no part declares stays as it is: an internal error.
func explain(err error) error {
	refused := (*store.RefusedError)(nil)
	switch {
	case as[*awsjson.Error](err):
		return err
	case as[*account.NotFoundError](err), as[*compute.NotFoundError](err), as[*image.NotFoundError](err), as[*vpc.NotFoundError](err):
		return operatorgen.NewNotFound("%v", err)
	case as[*account.DuplicateError](err), as[*account.LimitError](err), as[*account.QuotaError](err), as[*compute.StateError](err):
		return operatorgen.NewConflict("%v", err)
	case as[*account.InvalidError](err), as[*image.InvalidError](err), as[*vpc.InvalidError](err), as[*compute.RequestError](err):
		return operatorgen.NewInvalidInput("%v", err)
	case errors.Is(err, store.ErrUnknown):
		return operatorgen.NewUnknown("%v", err)
	case errors.Is(err, account.ErrBehind), errors.Is(err, compute.ErrBehind), errors.Is(err, image.ErrBehind), errors.Is(err, vpc.ErrBehind),
		errors.Is(err, compute.ErrHostUnreachable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return operatorgen.NewUnavailable("%v", err)
	case errors.As(err, &refused) && refused.Retry != store.RetryNever:
		return operatorgen.NewUnavailable("%v", err)
	}
	return err
}

func as[T error](err error) bool {
	target := *new(T)
	return errors.As(err, &target)
}
