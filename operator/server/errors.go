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
	missing := first(cause[*account.NotFoundError](err), cause[*compute.NotFoundError](err), cause[*image.NotFoundError](err), cause[*vpc.NotFoundError](err))
	conflict := first(cause[*account.DuplicateError](err), cause[*account.LimitError](err), cause[*account.QuotaError](err), cause[*compute.StateError](err))
	switch {
	case as[*awsjson.Error](err):
		return err
	case errors.Is(err, compute.ErrHostHeard):
		return operatorgen.NewConflict("%v", err)
	case missing != nil:
		return operatorgen.NewNotFound("%v", missing)
	case conflict != nil:
		return operatorgen.NewConflict("%v", conflict)
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

// cause is the error of type T within err, without the guards and rows around it that mean nothing to an operator.
func cause[T error](err error) error {
	if target := *new(T); errors.As(err, &target) {
		return target
	}
	return nil
}

// first is the first of errors that is one.
func first(list ...error) error {
	for _, err := range list {
		if err != nil {
			return err
		}
	}
	return nil
}
