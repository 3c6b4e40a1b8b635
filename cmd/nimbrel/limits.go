package main

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"

	ec2door "github.com/nimbrel/nimbrel/ec2/server"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/image/convert"
	images "github.com/nimbrel/nimbrel/image/server"
	"github.com/nimbrel/nimbrel/svc/obs"
	"github.com/nimbrel/nimbrel/svc/ratelimit"
)

// limits are the flags that keep tenants out of each other's way at the EC2 API.
type limits struct {
	reads, writes, launches, burst, connections int
}

// answerTimeout bounds a request at the EC2 API, so that a client that does not read its answer ends.
const answerTimeout = 2 * time.Minute

func (l *limits) register(p *pflag.FlagSet) {
	p.IntVar(&l.reads, "api-reads-per-second", 100, "`requests` that only read which an account may send in the long run; 0: no limit")
	p.IntVar(&l.writes, "api-writes-per-second", 50, "`requests` of an account that change something; 0: no limit")
	p.IntVar(&l.launches, "api-launches-per-second", 20, "`requests` of an account that start instances; 0: no limit")
	p.IntVar(&l.burst, "api-burst-s", 10, "`seconds` of each rate that an account may use at once after a rest")
	p.IntVar(&l.connections, "api-connections", 1024, "open connections to the EC2 API")
}

// Validate reports the first flag that cannot be.
func (l *limits) Validate() error {
	for name, rate := range map[string]int{"reads": l.reads, "writes": l.writes, "launches": l.launches} {
		if rate < 0 || (rate > 0 && l.burst < 1) {
			return fmt.Errorf("--api-%s-per-second %d with --api-burst-s %d: want 0 for no limit, or a burst of at least 1 s", name, rate, l.burst)
		}
	}
	if l.connections < 0 {
		return fmt.Errorf("--api-connections %d: want a number, or 0 for the default", l.connections)
	}
	return nil
}

func (l *limits) admission() *ec2door.Admission {
	rate := func(perSecond int) ratelimit.Rate {
		return ratelimit.Rate{PerSecond: float64(perSecond), Burst: float64(perSecond * l.burst)}
	}
	return ec2door.NewAdmission(ec2door.AdmissionOptions{Rates: map[ec2door.Class]ratelimit.Rate{
		ec2door.Reads: rate(l.reads), ec2door.Writes: rate(l.writes), ec2door.Launches: rate(l.launches),
	}})
}

func (l *limits) door() *obs.Door {
	return obs.NewDoor(obs.DoorOptions{Connections: l.connections, WriteTimeout: answerTimeout})
}

// imageLimits are the flags that bound what images take.
type imageLimits struct {
	diskGiB, accountGiB, accountImages int
	stallAfter                         time.Duration
}

// maxImageGiB is the largest disk that can be allowed: an upload tells the sums of a file of twice that in one request.
const maxImageGiB = 3 << 10

func (l *imageLimits) register(p *pflag.FlagSet) {
	p.IntVar(&l.diskGiB, "image-max-gib", images.DefaultMaxDiskBytes>>30, "largest disk of an image, in `GiB`")
	p.IntVar(&l.accountGiB, "account-images-max-gib", images.DefaultMaxAccountBytes>>30, "the disks of one account's images together, in `GiB`")
	p.IntVar(&l.accountImages, "account-images", image.DefaultMaxPerAccount, "how `many` images one account may have")
	p.DurationVar(&l.stallAfter, "image-stall-after", convert.DefaultStallAfter, "the `time` after which an import that neither reads nor writes is ended")
}

// Validate reports the first flag that cannot be.
func (l *imageLimits) Validate() error {
	switch {
	case l.diskGiB < 1 || l.diskGiB > maxImageGiB:
		return fmt.Errorf("--image-max-gib %d: want 1 to %d", l.diskGiB, maxImageGiB)
	case l.accountGiB < 1 || l.accountGiB > 1<<20:
		return fmt.Errorf("--account-images-max-gib %d: want 1 to %d", l.accountGiB, 1<<20)
	case l.accountImages < 1 || l.accountImages > 100_000:
		return fmt.Errorf("--account-images %d: want 1 to 100000", l.accountImages)
	case l.stallAfter < time.Second || l.stallAfter > 24*time.Hour:
		return fmt.Errorf("--image-stall-after %s: want 1s to 24h", l.stallAfter)
	}
	return nil
}

func (l *imageLimits) options() images.Options {
	return images.Options{MaxDiskBytes: uint64(l.diskGiB) << 30, MaxAccountBytes: uint64(l.accountGiB) << 30, MaxAccountImages: l.accountImages, StallAfter: l.stallAfter}
}
