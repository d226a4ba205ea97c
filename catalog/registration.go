package catalog

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/identity"
)

// Registration is one instance of a service as it was registered. A sidecar's registration is none: it is a
// Proxy, whose Instance is the ID of its application's.
type Registration struct {
	ID      string
	Service identity.Name
	Tags    []string          `json:",omitempty"` // in the order in which they are written
	Meta    map[string]string `json:",omitempty"`
	// Address is the application's own, an IP address or a host name; empty: that of its node.
	Address string `json:",omitzero"`
	Port    uint16 `json:",omitzero"` // 0: none
	// Host is the machine that it is on, as Proxy has it.
	Host string `json:",omitzero"`
	// Socket is the path of the Unix socket on which the application is; empty: it is not on one.
	Socket string `json:",omitzero"`
	// Native says that the application speaks mutual TLS itself, by a leaf of its service: it has no need of a sidecar.
	Native  bool    `json:",omitzero"`
	Weights Weights `json:",omitzero"`
	// EnableTagOverride is told to those who ask, and means nothing.
	EnableTagOverride bool `json:",omitzero"`
	// Checks are those that were registered, in their order, as far as the source knows them.
	Checks []Check `json:",omitempty"`
	// Status is the worst of its checks as Consul spells it: passing, warning or critical; empty: the source does not know it.
	Status string `json:",omitzero"`
	// Origin is where it was read: "web.hcl:3".
	Origin string
}

// MetaSelectors is the key of Meta that says which processes are the application.
const MetaSelectors = "sallyport_selectors"

// ShowsItself reports whether the application can show who it is without a sidecar, as it says of itself.
func (r *Registration) ShowsItself() bool { return r.Native || r.Meta[MetaSelectors] != "" }

// Weights are an instance's shares of the traffic, by its health. The zero value: nothing is said of it.
type Weights struct{ Passing, Warning uint16 }

func compareRegistrations(a, b *Registration) int { return strings.Compare(a.ID, b.ID) }

func (r *Registration) equal(o *Registration) bool {
	return r.ID == o.ID && r.Service == o.Service && slices.Equal(r.Tags, o.Tags) && maps.Equal(r.Meta, o.Meta) && r.Address == o.Address && r.Port == o.Port && r.Host == o.Host &&
		r.Socket == o.Socket && r.Native == o.Native && r.Weights == o.Weights && r.EnableTagOverride == o.EnableTagOverride && slices.Equal(r.Checks, o.Checks) && r.Status == o.Status && r.Origin == o.Origin
}

// Registrations yields all registrations, sorted by ID. Those are, in files mode, all that are in force; beside
// Consul those of this agent that are native or name in meta.sallyport_selectors who may be them.
func (v *View) Registrations() iter.Seq[*Registration] {
	return slices.Values(v.contents.Registrations)
}

// Registration is the one of that ID; nil: there is none.
func (v *View) Registration(id string) *Registration {
	i, ok := slices.BinarySearchFunc(v.contents.Registrations, id, func(r *Registration, id string) int { return strings.Compare(r.ID, id) })
	if !ok {
		return nil
	}
	return v.contents.Registrations[i]
}

// Instances yields the registrations of a service, sorted by ID.
func (v *View) Instances(service identity.Name) iter.Seq[*Registration] {
	return func(yield func(*Registration) bool) {
		for _, i := range v.instances[service] {
			if !yield(v.contents.Registrations[i]) {
				return
			}
		}
	}
}

// register makes n's index of registrations, which is v's as long as the same ones are there.
func (n *View) register(v *View, f following) (others bool) {
	n.instances = v.instances
	if !f.others && !slices.ContainsFunc(f.changed, func(i int) bool { return v.contents.Registrations[i].Service != n.contents.Registrations[i].Service }) {
		return false
	}
	n.instances = make(map[identity.Name][]int, len(n.contents.Registrations))
	for i, r := range n.contents.Registrations {
		n.instances[r.Service] = append(n.instances[r.Service], i)
	}
	return true
}
