package computerows

import (
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/svc/op"
)

// milestones are the steps of an operation that its host has timed.
func milestones(r host.InstanceStatus) []op.Step {
	var steps []op.Step
	for _, m := range r.Milestones() {
		steps = append(steps, op.Step{Name: compute.HostStep + m.Name, AtMs: m.AtMs})
	}
	return steps
}
