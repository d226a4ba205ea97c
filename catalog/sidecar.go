package catalog

import (
	"iter"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/identity"
)

// Sidecar is a sidecar as it was registered, and as Consul's catalog shows it. What its Envoy is made of is the Proxy of the same
// ID. There are none beside Consul, where the agent has them.
type Sidecar struct {
	// Registration is the sidecar's own: its Service is the name under which it is registered, "api-sidecar-proxy".
	Registration
	Destination identity.Name // the service whose sidecar it is
	Instance    string        // the ID of that service's registration; empty: it does not say
	// LocalAddress, LocalPort and LocalSocket are where the application is, as far as the registration says so.
	LocalAddress string
	LocalPort    uint16
	LocalSocket  string
	// Config is an object in JSON: the sidecar's config over what config entries say; empty: neither says anything.
	Config    string
	Upstreams []SidecarUpstream
	Exposed   []ExposedPath // in the order in which they are written
}

// SidecarUpstream is an upstream as it was registered. It is comparable.
type SidecarUpstream struct {
	Destination string
	Datacenter  string // empty: it does not say
	BindAddress string // likewise
	BindPort    uint16
	BindSocket  string
	SocketMode  string // in octal; empty: it does not say
	Config      string // as that of Sidecar
}

// Check is a health check as it was registered. Nothing runs it; its status is the one that was written. It is comparable.
type Check struct {
	ID, Name string
	Status   string // passing, warning or critical
	Notes    string
	Output   string
	Type     string // "http", "tcp", "ttl"; empty: it does not say
	Interval string // as it is written, or empty
	Timeout  string // likewise
}

func compareSidecars(a, b *Sidecar) int { return strings.Compare(a.ID, b.ID) }

func (s *Sidecar) equal(o *Sidecar) bool {
	return s.Registration.equal(&o.Registration) && s.Destination == o.Destination && s.Instance == o.Instance && s.LocalAddress == o.LocalAddress &&
		s.LocalPort == o.LocalPort && s.LocalSocket == o.LocalSocket && s.Config == o.Config && slices.Equal(s.Upstreams, o.Upstreams) && slices.Equal(s.Exposed, o.Exposed)
}

// Sidecars yields all sidecars as they were registered, sorted by ID.
func (v *View) Sidecars() iter.Seq[*Sidecar] { return slices.Values(v.contents.Sidecars) }

// Sidecar is the one of that ID; nil: there is none.
func (v *View) Sidecar(id string) *Sidecar {
	i, ok := slices.BinarySearchFunc(v.contents.Sidecars, id, func(s *Sidecar, id string) int { return strings.Compare(s.ID, id) })
	if !ok {
		return nil
	}
	return v.contents.Sidecars[i]
}

// Group is all that is registered under one name, without regard to letter case. Between two Views pointer-equal means
// unchanged.
type Group struct {
	Registrations []*Registration // of that service, sorted by ID
	Named         []*Sidecar      // registered under that name, sorted by ID
	Sidecars      []*Sidecar      // of that service, sorted by ID
}

func (g *Group) equal(o *Group) bool {
	return slices.Equal(g.Registrations, o.Registrations) && slices.Equal(g.Named, o.Named) && slices.Equal(g.Sidecars, o.Sidecars)
}

// Group is what is registered under that name; nil: nothing is.
func (v *View) Group(name identity.Name) *Group { return v.groups[name.Fold()] }

// group makes n's groups, and takes those of v that are equal.
func (n *View) group(v *View, registrations, sidecars following) {
	if n.groups = v.groups; registrations.same() && sidecars.same() {
		return
	}
	n.groups = make(map[identity.Name]*Group, len(n.contents.Registrations)+len(n.contents.Sidecars))
	of := func(name identity.Name) *Group {
		key := name.Fold()
		g := n.groups[key]
		if g == nil {
			g = &Group{}
			n.groups[key] = g
		}
		return g
	}
	for _, r := range n.contents.Registrations {
		g := of(r.Service)
		g.Registrations = append(g.Registrations, r)
	}
	for _, s := range n.contents.Sidecars {
		g := of(s.Service)
		g.Named = append(g.Named, s)
		g = of(s.Destination)
		g.Sidecars = append(g.Sidecars, s)
	}
	for name, g := range n.groups {
		if old := v.groups[name]; old != nil && old.equal(g) {
			n.groups[name] = old
		}
	}
}
