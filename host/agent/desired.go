package agent

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/client"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// documents is the part of client.Desired that is read here.
type documents interface {
	Docs() []string
	Section(doc, section string) client.View
}

// snapshot is the desired state at one moment, decoded. It is never modified.
type snapshot struct {
	number     uint64 // counts snapshots of this process, from 1
	known      bool   // the instances section was received
	instances  map[ids.Instance]wantedInstance
	unsure     map[ids.Instance]bool // named by a version that waits
	orphans    map[ids.Instance]bool // named by another history alone
	interfaces map[ids.Interface]host.Interface
	network    NetworkState
	failures   map[string][]dispatch.Failure // by section of the host's document: what could not be read
	seqs       map[dispatch.SectionID]uint64 // what to acknowledge once all of this is applied
}

type wantedInstance struct {
	host.Instance
	rev     uint64
	digest  dispatch.Checksum // of the item as committed
	invalid error
}

// decode reads the documents. What cannot be read is a failure of that item alone.
func decode(d documents, id ids.Host, number uint64) *snapshot {
	s := &snapshot{
		number: number, instances: map[ids.Instance]wantedInstance{}, unsure: map[ids.Instance]bool{}, orphans: map[ids.Instance]bool{},
		interfaces: map[ids.Interface]host.Interface{}, failures: map[string][]dispatch.Failure{}, seqs: map[dispatch.SectionID]uint64{},
	}
	own := host.DocHost(id)
	s.decodeInstances(d.Section(own, host.SectionInstances))
	decodeItems(s, own, host.SectionInterfaces, d, func(key string, in host.Interface) error {
		s.interfaces[ids.Interface(key)] = in
		return in.Validate()
	})
	for key := range d.Section(own, host.SectionInterfaces).Orphans {
		s.network.Orphans = append(s.network.Orphans, ids.Interface(key))
	}
	slices.Sort(s.network.Orphans)
	s.seqs[dispatch.SectionID{Doc: own, Section: host.SectionInstances}] = d.Section(own, host.SectionInstances).Seq
	decodeItems(s, host.DocFleet, host.SectionHosts, d, func(_ string, h host.FleetHost) error {
		s.network.Hosts = append(s.network.Hosts, h)
		return nil
	})
	for _, doc := range d.Docs() {
		if vpc, found := strings.CutPrefix(doc, "vpc/"); found {
			s.decodeVPC(d, doc, ids.VPC(vpc))
		}
	}
	s.ports()
	return s
}

func (s *snapshot) decodeInstances(view client.View) {
	s.known = view.Known
	for key, item := range view.Items {
		instance, err := host.Decode[host.Instance](item.Payload)
		if err == nil && string(instance.ID) != key {
			err = fmt.Errorf("item %s holds instance %q", key, instance.ID)
		}
		if err == nil {
			err = instance.Validate()
		}
		if _, malformed := ids.Parse[ids.Instance](key); malformed != nil {
			s.failures[host.SectionInstances] = append(s.failures[host.SectionInstances], failure(item, malformed))
			continue // there is no directory that it could be about
		}
		instance.ID = ids.Instance(key)
		s.instances[instance.ID] = wantedInstance{instance, item.Rev, item.Digest(), err}
	}
	for _, key := range view.Waiting {
		s.unsure[ids.Instance(key)] = true
	}
	for key := range view.Orphans {
		s.orphans[ids.Instance(key)] = true
	}
}

func failure(item dispatch.Item, err error) dispatch.Failure {
	return dispatch.Failure{Key: item.Key, Rev: item.Rev, Reason: err.Error()}
}

// decodeItems reads a section of one kind of item, in order of key.
func decodeItems[T host.Payload](s *snapshot, doc, section string, d documents, take func(key string, v T) error) {
	view := d.Section(doc, section)
	if !view.Known {
		return
	}
	s.seqs[dispatch.SectionID{Doc: doc, Section: section}] = view.Seq
	keys := make([]string, 0, len(view.Items))
	for key := range view.Items {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		v, err := host.Decode[T](view.Items[key].Payload)
		if err == nil {
			err = take(key, v)
		}
		if err != nil {
			s.failures[section] = append(s.failures[section], failure(view.Items[key], err))
		}
	}
}

func (s *snapshot) decodeVPC(d documents, doc string, id ids.VPC) {
	vpc := VPC{ID: id}
	decodeItems(s, doc, host.SectionMappings, d, func(_ string, m host.Mapping) error {
		vpc.Mappings = append(vpc.Mappings, m)
		vpc.VNI = max(vpc.VNI, m.VNI)
		return nil
	})
	decodeItems(s, doc, host.SectionIdentities, d, func(_ string, i host.Identity) error {
		vpc.Identities = append(vpc.Identities, i)
		return nil
	})
	decodeItems(s, doc, host.SectionGroups, d, func(_ string, g host.Group) error {
		vpc.Groups = append(vpc.Groups, g)
		return nil
	})
	s.network.VPCs = append(s.network.VPCs, vpc)
}

// ports completes the network's state with this host's own interfaces, whose VPCs' numbers they tell.
func (s *snapshot) ports() {
	vni := map[ids.VPC]uint32{}
	for _, in := range s.interfaces {
		vni[in.VPC] = in.VNI
		s.network.Ports = append(s.network.Ports, Port{Interface: in, HopLimit: max(1, s.instances[in.Instance].MetadataHopLimit)})
	}
	slices.SortFunc(s.network.Ports, func(a, b Port) int {
		return strings.Compare(string(a.Interface.ID), string(b.Interface.ID))
	})
	for i := range s.network.VPCs {
		if number, found := vni[s.network.VPCs[i].ID]; found {
			s.network.VPCs[i].VNI = number
		}
	}
	s.network.VPCs = slices.DeleteFunc(s.network.VPCs, func(v VPC) bool { return v.VNI == 0 }) // nobody here is in it
}

// missingInterface is the first of an instance's interfaces that has not arrived, or "".
func (s *snapshot) missingInterface(i *host.Instance) ids.Interface {
	for _, id := range i.Interfaces {
		if _, found := s.interfaces[id]; !found {
			return id
		}
	}
	return ""
}
