//go:build !linux

package doctor

import (
	"context"
	"time"
)

func elsewhere(context.Context, Options) Finding {
	return fallback("not looked for: no Linux", simulated, "run hosts on Linux")
}

var (
	kernel, kernelTypes, programTypes, tapDevice, vxlan = elsewhere, elsewhere, elsewhere, elsewhere, elsewhere
	accelerator, cgroups, memory                        = elsewhere, elsewhere, elsewhere
)

func openFiles(context.Context, Options) Finding { return ok("not looked at") }
func diskSpace(context.Context, Options) Finding { return ok("not looked at") }
func clockSync(now time.Time) Finding            { return ok("%s", now.UTC().Format(time.DateTime+" UTC")) }
