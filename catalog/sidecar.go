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
	// AccessLogs are the sidecar's own, or those of proxy-defaults. FailuresOnly is not told.
	AccessLogs AccessLogs
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
		s.LocalPort == o.LocalPort && s.LocalSocket == o.LocalSocket && s.Config == o.Config && s.AccessLogs == o.AccessLogs && slices.Equal(s.Upstreams, o.Upstreams) && slices.Equal(s.Exposed, o.Exposed)
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

// Group is all that is registered under one name, without regard to letter case.
type Group struct {
	Registrations []*Registration // of that service, sorted by ID
	Named         []*Sidecar      // registered under that name, sorted by ID
	Sidecars      []*Sidecar      // of that service, sorted by ID
}

// Group is what is registered under that name; nothing may be. What is in it is the same pointer in two Views where it did not change.
func (v *View) Group(name identity.Name) (g Group) {
	at := v.groups[name.Fold()]
	if at == nil {
		return g
	}
	for _, i := range at.registrations {
		g.Registrations = append(g.Registrations, v.contents.Registrations[i])
	}
	for _, i := range at.named {
		g.Named = append(g.Named, v.contents.Sidecars[i])
	}
	for _, i := range at.sidecars {
		g.Sidecars = append(g.Sidecars, v.contents.Sidecars[i])
	}
	return g
}

// places is where the contents have what is in a Group.
type places struct{ registrations, named, sidecars []int }

// group makes n's index of groups, which is v's as long as the same things are there under the same names.
func (n *View) group(v *View, registrations, sidecars following) {
	old, c := &v.contents, &n.contents
	if n.groups = v.groups; !registrations.others && !sidecars.others &&
		!slices.ContainsFunc(registrations.changed, func(i int) bool { return old.Registrations[i].Service != c.Registrations[i].Service }) &&
		!slices.ContainsFunc(sidecars.changed, func(i int) bool {
			return old.Sidecars[i].Service != c.Sidecars[i].Service || old.Sidecars[i].Destination != c.Sidecars[i].Destination
		}) {
		return
	}
	n.groups = make(map[identity.Name]*places, len(c.Registrations)+len(c.Sidecars))
	of := func(name identity.Name) *places {
		key := name.Fold()
		at := n.groups[key]
		if at == nil {
			at = &places{}
			n.groups[key] = at
		}
		return at
	}
	for i, r := range c.Registrations {
		at := of(r.Service)
		at.registrations = append(at.registrations, i)
	}
	for i, s := range c.Sidecars {
		at := of(s.Service)
		at.named = append(at.named, i)
		at = of(s.Destination)
		at.sidecars = append(at.sidecars, i)
	}
}
