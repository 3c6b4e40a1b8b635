// Package steps runs the steps of one client's walk and prints a line for each: check clients.CLIENT_STEP ok|FAIL.
//
// A step that fails ends the walk, for later steps stand on earlier ones. What was registered with Undo runs all the same,
// last first.
package steps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/aws/smithy-go"
)

// Step is one step of a walk.
type Step struct {
	Name string
	Do   func(context.Context) error
}

// Walk is one client's walk.
type Walk struct {
	Client string
	undos  []func(context.Context) error
}

// limit is how long a whole walk may take on a loaded machine.
const limit = 10 * time.Minute

// Undo registers what takes back something that the walk made. Its error is ignored: the walk may have done it.
func (w *Walk) Undo(f func(context.Context) error) { w.undos = append(w.undos, f) }

// Main runs the steps and ends the process.
func (w *Walk) Main(list ...Step) {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	err := w.run(ctx, list)
	cancel()
	w.takeBack()
	if err != nil {
		fmt.Printf("check clients.%s FAIL\n", w.Client)
		os.Exit(1)
	}
	fmt.Printf("check clients.%s ok (%d steps, %.0f s)\n", w.Client, len(list), time.Since(begun).Seconds())
}

func (w *Walk) run(ctx context.Context, list []Step) error {
	for _, s := range list {
		if err := s.Do(ctx); err != nil {
			fmt.Printf("check clients.%s_%s FAIL %v\n", w.Client, s.Name, err)
			return err
		}
		fmt.Printf("check clients.%s_%s ok\n", w.Client, s.Name)
	}
	return nil
}

func (w *Walk) takeBack() {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for i := len(w.undos) - 1; i >= 0; i-- {
		_ = w.undos[i](ctx)
	}
}

// Expect is an error unless ok.
func Expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// Same is an error unless got is want.
func Same(what string, got, want any) error {
	return Expect(reflect.DeepEqual(got, want), "%s: got %v, want %v", what, got, want)
}

// Refused is an error unless err is the door's, with this code.
func Refused(code string, err error) error {
	if got := Code(err); got != code {
		return fmt.Errorf("want the error %s, got %q: %w", code, got, err)
	}
	return nil
}

// Code is the code of the door's error; empty for anything else.
func Code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// Do runs checks in order and returns the first error.
func Do(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// Eventually waits for what no waiter of the SDK covers: done says whether it is so, or why it never will be.
func Eventually(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within a minute", what)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
