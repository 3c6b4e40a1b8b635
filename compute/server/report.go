package server

import (
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// LastReport implements compute.Operator.
func (s *Service) LastReport(id ids.Instance) (host.InstanceStatus, bool) {
	i := s.view.instance(id)
	if i == nil {
		return host.InstanceStatus{}, false
	}
	r, known := s.links.report(i.Host, id)
	return r, known
}
