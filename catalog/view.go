package catalog

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// View is one state of the catalog, ready for look-ups. It is immutable, and so is all that it returns.
// The zero View is a mesh of which nothing is known yet; its Mesh is nil.
type View struct {
	mesh  *Mesh
	given Contents // what the source published last, to tell quickly what it published again
	// services, proxies and destinations are given's, but for those that were equal to older ones, and
	// are those. Services that are only named follow the others.
	services     []*Service
	proxies      []*Proxy
	destinations []*Destination
	policies     map[identity.Name]*intention.Policy
	shared       map[identity.Name]*intention.Shared // by the wildcard's name
	views        []*ProxyView                        // of the proxies, in their order
	index        *index
	changes      []Change // the last ones, the one that made this View at the end
}

// Change is what made one View out of the one before. Who reads Views now and then skips some; the later
// ones have their changes, too.
type Change struct {
	// Number grows from change to change, over restarts too; see Store.Numbers.
	Number uint64
	// Seen is when the source noticed it.
	Seen time.Time
}

const (
	// keptChanges is how many of the last changes a View knows.
	keptChanges = 64
	// KeptOfProxy is how many of those that concern it a ProxyView knows.
	KeptOfProxy = 16
)

// ProxyView is all of a View that concerns one proxy. Between two Views pointer-equal means that nothing
// of it changed. It is immutable.
type ProxyView struct {
	Mesh   *Mesh
	Proxy  *Proxy
	Policy *intention.Policy // of the proxy's own service
	// Upstreams are the services that Proxy.Upstreams name, in the same order. None is nil.
	Upstreams []*Service
	// Changes are the numbers of the last changes that concerned the proxy, KeptOfProxy at most, the newest
	// at the end. There is at least one.
	Changes []uint64
}

// index finds things in a View. Views share it as long as the same services and proxies are there and
// name the same services.
type index struct {
	services map[serviceKey]int
	proxies  map[identity.ProxyID]int
	users    [][]int                 // by service: the proxies that dial it
	own      map[identity.Name][]int // the proxies of a service
}

// serviceKey is what a service is found by. The datacenter is empty if it is the mesh's own.
type serviceKey struct {
	identity.Name
	datacenter string
}

// key leaves out the mesh's own datacenter.
func (m *Mesh) key(name identity.Name, datacenter string) serviceKey {
	if m != nil && datacenter == m.Datacenter {
		datacenter = ""
	}
	return serviceKey{name, datacenter}
}

// Next returns the view of c. Whatever is equal in v is taken from v, pointer and all; if everything is,
// v itself is returned. What is the same pointer as in the contents before is not looked at. The change
// has the next number after v's. Next does not block and does not change v; v must not be nil.
func (v *View) Next(c Contents) *View {
	return v.next(c, Change{Number: v.Change().Number + 1, Seen: c.Seen})
}

func (v *View) next(c Contents, change Change) *View {
	n := &View{given: c, mesh: v.mesh, index: v.index, policies: v.policies, shared: v.shared, views: v.views}
	n.changes = appendLast(v.changes, change, keptChanges)
	meshChanged := v.mesh == nil || !v.mesh.equal(&c.Mesh)
	if meshChanged {
		m := c.Mesh
		n.mesh = &m
	}
	services := follow(v.services, v.given.Services, c.Services, compareServices, (*Service).equal)
	proxies := follow(v.proxies, v.given.Proxies, c.Proxies, compareProxies, (*Proxy).equal)
	destinations := follow(v.destinations, v.given.Intentions, c.Intentions, compareDestinations, (*Destination).equal)
	n.proxies, n.destinations = proxies.list, destinations.list

	named := meshChanged || services.others || proxies.others || slices.ContainsFunc(proxies.changed, func(i int) bool {
		return !v.proxies[i].namesAlike(n.proxies[i])
	})
	switch {
	case named:
		n.find(services.list, v)
	case len(services.changed) > 0: // those that are only named are what they were
		n.services = slices.Concat(services.list, v.services[len(services.list):])
	default:
		n.services = v.services
	}
	policies := n.compile(v, meshChanged, named, destinations)
	if !n.look(v, named, services.changed, proxies.changed, policies) && !meshChanged && !named &&
		!destinations.others && len(destinations.changed)+len(services.changed) == 0 {
		return v
	}
	return n
}

// following is how one list followed another.
type following[T any] struct {
	list    []*T
	others  bool  // other things are in it
	changed []int // if not others: where something is another than it was
}

// follow returns what follows list, which was made of old, when given was published. Both are sorted.
func follow[T any](list, old, given []*T, compare func(a, b *T) int, equal func(a, b *T) bool) (f following[T]) {
	f.list = list[:len(old):len(old)]
	f.others = len(given) != len(old)
	for i := 0; i < len(given) && !f.others; i++ {
		switch {
		case given[i] == old[i]:
		case compare(given[i], old[i]) != 0:
			f.others = true
		case !equal(given[i], f.list[i]):
			if f.changed == nil {
				f.list = slices.Clone(f.list)
			}
			f.list[i] = given[i]
			f.changed = append(f.changed, i)
		}
	}
	if !f.others {
		return f
	}
	f.list, f.changed = make([]*T, len(given)), nil
	from := 0
	for i, g := range given {
		for from < len(old) && compare(old[from], g) < 0 {
			from++
		}
		f.list[i] = g
		if from < len(old) && compare(old[from], g) == 0 && (old[from] == g || equal(list[from], g)) {
			f.list[i] = list[from]
		}
	}
	return f
}

// find makes n's services and index anew. A service that somebody dials or protects but that the
// contents do not have is a service without endpoints.
func (n *View) find(services []*Service, v *View) {
	n.services = slices.Clip(services)
	n.index = &index{
		services: make(map[serviceKey]int, len(services)),
		proxies:  make(map[identity.ProxyID]int, len(n.proxies)),
		own:      make(map[identity.Name][]int, len(n.proxies)),
	}
	for i, s := range services {
		n.index.services[serviceKey{s.Name, s.Datacenter}] = i
	}
	for i, p := range n.proxies {
		n.index.proxies[p.ID] = i
		n.index.own[p.Service] = append(n.index.own[p.Service], i)
		n.name(serviceKey{Name: p.Service}, v)
		for _, u := range p.Upstreams {
			n.name(n.mesh.key(u.Destination, u.Datacenter), v)
		}
	}
	n.index.users = make([][]int, len(n.services))
}

// name sees to it that there is a service.
func (n *View) name(key serviceKey, v *View) {
	if _, ok := n.index.services[key]; ok {
		return
	}
	s := &Service{Name: key.Name, Datacenter: key.datacenter}
	if old := v.service(key); old != nil && old.equal(s) {
		s = old
	}
	n.index.services[key] = len(n.services)
	n.services = append(n.services, s)
}

// compile makes the policies of all services of the mesh's own datacenter and of all destinations that
// intentions name, taking those of v about which nothing else is said. It returns the names of those
// that are others; all says that any may be.
func (n *View) compile(v *View, meshChanged, named bool, destinations following[Destination]) (changed []identity.Name) {
	if !meshChanged && !named && !destinations.others && len(destinations.changed) == 0 {
		return nil
	}
	said := make(map[identity.Name]*Destination, len(n.destinations))
	for _, d := range n.destinations {
		said[d.Name] = d
	}
	before := make(map[identity.Name]*Destination, len(v.destinations))
	for _, d := range v.destinations {
		before[d.Name] = d
	}
	scope := intention.Scope{TrustDomain: n.mesh.TrustDomain, Datacenters: n.mesh.Datacenters, Default: n.mesh.Default}
	n.shared = make(map[identity.Name]*intention.Shared, 1)
	n.policies = make(map[identity.Name]*intention.Policy, len(n.services))
	policy := func(dst identity.Name) {
		if dst.IsWildcard() || n.policies[dst] != nil {
			return
		}
		all := dst
		all.Service = identity.Wildcard
		if n.shared[all] == nil {
			if n.shared[all] = v.shared[all]; n.shared[all] == nil || meshChanged || said[all] != before[all] {
				n.shared[all] = intention.Share(all, said[all].intentions(), scope)
			}
		}
		if n.policies[dst] = v.policies[dst]; n.policies[dst] == nil || n.shared[all] != v.shared[all] || said[dst] != before[dst] {
			n.policies[dst] = n.shared[all].Policy(dst, said[dst].intentions())
			changed = append(changed, dst)
		}
	}
	for _, s := range n.services {
		if s.Datacenter == "" { // who may reach the others is decided where they are
			policy(s.Name)
		}
	}
	for _, d := range n.destinations {
		policy(d.Name)
	}
	return changed
}

// intentions are d's; nil has none.
func (d *Destination) intentions() []intention.Intention {
	if d == nil {
		return nil
	}
	return d.Intentions
}

// look makes the proxies' parts of n, taking those of v that come out the same, and reports whether any
// did not. Where all must be looked at, that also makes the index of who dials what.
func (n *View) look(v *View, all bool, services, proxies []int, policies []identity.Name) bool {
	var concerned []int
	if all {
		n.views = make([]*ProxyView, len(n.proxies))
		for i := range n.proxies {
			concerned = append(concerned, i)
		}
	} else {
		concerned = append(concerned, proxies...)
		for _, s := range services {
			concerned = append(concerned, n.index.users[s]...)
		}
		for _, name := range policies {
			concerned = append(concerned, n.index.own[name]...)
		}
	}
	if len(concerned) > 0 && !all {
		n.views = slices.Clone(v.views)
	}
	changed := len(n.proxies) != len(v.proxies)
	number := n.Change().Number
	for _, i := range concerned {
		w := n.proxyView(i, all)
		switch old := v.Proxy(w.Proxy.ID); {
		case old != nil && old.equal(w):
			w = old
		case old != nil:
			w.Changes = appendLast(old.Changes, number, KeptOfProxy)
			changed = true
		default:
			w.Changes = []uint64{number}
			changed = true
		}
		n.views[i] = w
	}
	return changed
}

// proxyView gathers what concerns the proxy at i, and, if index, notes for whom it looked.
func (n *View) proxyView(i int, index bool) *ProxyView {
	p := n.proxies[i]
	w := &ProxyView{Mesh: n.mesh, Proxy: p, Policy: n.policies[p.Service], Upstreams: make([]*Service, len(p.Upstreams))}
	for k, u := range p.Upstreams {
		s := n.index.services[n.mesh.key(u.Destination, u.Datacenter)]
		w.Upstreams[k] = n.services[s]
		if users := n.index.users[s]; index && (len(users) == 0 || users[len(users)-1] != i) {
			n.index.users[s] = append(users, i)
		}
	}
	return w
}

func (w *ProxyView) equal(o *ProxyView) bool {
	return w.Mesh == o.Mesh && w.Proxy == o.Proxy && w.Policy == o.Policy && slices.Equal(w.Upstreams, o.Upstreams)
}

// appendLast is list with x at its end, and its last most elements at the most. list is not changed.
func appendLast[T any](list []T, x T, most int) []T {
	return append(slices.Clone(list[max(len(list)+1-most, 0):]), x)
}

// Change is the one that made v; zero if v is the zero View.
func (v *View) Change() Change {
	if len(v.changes) == 0 {
		return Change{}
	}
	return v.changes[len(v.changes)-1]
}

// ChangesSince are those that came after number, oldest first: those that v merges for one who has seen
// the View of that number. Of very many the oldest are forgotten. The slice must not be changed.
func (v *View) ChangesSince(number uint64) []Change {
	i, _ := slices.BinarySearchFunc(v.changes, number, func(c Change, n uint64) int {
		return cmp.Compare(c.Number, n+1)
	})
	return v.changes[i:]
}

// Mesh is what holds for all services; nil before anything is known.
func (v *View) Mesh() *Mesh { return v.mesh }

// service is the service of that key, or nil.
func (v *View) service(key serviceKey) *Service {
	if v.index == nil {
		return nil
	}
	if i, ok := v.index.services[key]; ok {
		return v.services[i]
	}
	return nil
}

// Service is the service of that name in the mesh's own datacenter, or nil. Every service that a proxy
// protects or dials is there, if only without endpoints.
func (v *View) Service(name identity.Name) *Service { return v.service(serviceKey{Name: name}) }

// Services yields all services, those first that the source has published.
func (v *View) Services() iter.Seq[*Service] { return slices.Values(v.services) }

// Proxy is all that concerns the proxy of that ID; nil if there is none.
func (v *View) Proxy(id identity.ProxyID) *ProxyView {
	if v.index == nil {
		return nil
	}
	if i, ok := v.index.proxies[id]; ok {
		return v.views[i]
	}
	return nil
}

// Proxies yields all proxies, sorted by ID.
func (v *View) Proxies() iter.Seq[*Proxy] { return slices.Values(v.proxies) }

// Of yields the proxies of a service, sorted by ID.
func (v *View) Of(service identity.Name) iter.Seq[*ProxyView] {
	return func(yield func(*ProxyView) bool) {
		if v.index == nil {
			return
		}
		for _, i := range v.index.own[service] {
			if !yield(v.views[i]) {
				return
			}
		}
	}
}

// Since yields the proxies that v has and that are not what they were in old, and those that v has no
// more, of which the view is nil. It costs little where little changed.
func (v *View) Since(old *View) iter.Seq2[identity.ProxyID, *ProxyView] {
	return func(yield func(identity.ProxyID, *ProxyView) bool) {
		if v.index == old.index { // the same proxies
			for i, w := range v.views {
				if w != old.views[i] && !yield(w.Proxy.ID, w) {
					return
				}
			}
			return
		}
		for _, w := range v.views {
			if w != old.Proxy(w.Proxy.ID) && !yield(w.Proxy.ID, w) {
				return
			}
		}
		for _, p := range old.proxies {
			if v.Proxy(p.ID) == nil && !yield(p.ID, nil) {
				return
			}
		}
	}
}

// Policy is the policy of a destination: any service of the mesh's own datacenter, and any name that an
// intention has as its destination. Of all others it is nil, which denies everybody.
func (v *View) Policy(destination identity.Name) *intention.Policy { return v.policies[destination] }

// Identity is the identity that a service of that name has in this mesh. The mesh must be known.
func (v *View) Identity(name identity.Name) identity.Service {
	return identity.Service{TrustDomain: v.mesh.TrustDomain, Datacenter: v.mesh.Datacenter, Name: name}
}

// IntentionCount is the number of intentions.
func (v *View) IntentionCount() int {
	n := 0
	for _, d := range v.destinations {
		n += len(d.Intentions)
	}
	return n
}
