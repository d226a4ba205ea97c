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
	mesh *Mesh
	// contents are what the source published last, in which what is equal to older things is those.
	contents Contents
	// said are the contents' by the name without regard to letter case, as Consul matches
	// destinations: what is said of "orders" is said of "Orders", too.
	said     map[identity.Name][]*Destination
	policies map[identity.Name]*intention.Policy
	spelled  map[identity.Name]identity.Name     // by Name.Fold: a name with a policy that it does not leave as it is
	shared   map[identity.Name]*intention.Shared // by the wildcard's name
	views    []*ProxyView                        // of the proxies, in their order
	index    *index
	// chains are the contents', in their order, with the endpoints of their targets, and leads those that lead to a target.
	chains []*Chain
	leads  map[targetKey][]int
	// instances are the registrations of each service.
	instances map[identity.Name][]int
	groups    map[identity.Name]*places // by names without regard to letter case
	folded    map[entryKey]int          // where entries are, counted from 1, likewise
	stamps    stamps
	revision  Revision
	compiled  uint64   // the number of the change that policies are of
	changes   []Change // the last ones, the one that made this View at the end
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
	// Tokens are the providers whose tokens Policy asks for, sorted by name. Of those that nobody knows there are none.
	Tokens []*TokenProvider
	// Upstreams are what Proxy.Upstreams name, in the same order.
	Upstreams []Target
	// Changes are the numbers of the last changes that concerned the proxy, KeptOfProxy at most, the newest
	// at the end. There is at least one.
	Changes []uint64
}

// Target is what an upstream leads to: a service, and where it is reached. In a View neither is nil:
// what the source has not published speaks TCP, and has no endpoints. It is comparable.
type Target struct {
	Service *Service
	// Endpoints are the service's own; with a Chain there are none, as they are its targets'.
	Endpoints *Endpoints
	// Chain says how requests find the instances that answer them; nil: any of Endpoints answers. It is of what the upstream speaks.
	Chain *Chain
}

// index finds things in a View. Views share it as long as the same things are there, and name the
// same targets.
type index struct {
	targets map[targetKey]*place
	proxies map[identity.ProxyID]int
	own     map[identity.Name][]int // the proxies of a service
}

// place is where the contents have the parts of a target, counted from 1; 0: they do not have it.
type place struct {
	service, endpoints int
	users              []int // the proxies that dial it
}

// targetKey is what a target is found by. The datacenter is empty if it is the mesh's own.
type targetKey struct {
	identity.Name
	datacenter, subset string
}

// key leaves out the mesh's own datacenter.
func (m *Mesh) key(name identity.Name, datacenter string) targetKey {
	if datacenter == m.Datacenter {
		datacenter = ""
	}
	return targetKey{name, datacenter, ""}
}

// Next returns the view of c. Whatever is equal in v is taken from v, pointer and all; if everything is,
// v itself is returned. What is the same pointer as in the contents before is not looked at. The change
// has the next number after v's. Next does not block and does not change v; v must not be nil.
func (v *View) Next(c Contents) *View {
	return v.next(c, Change{Number: v.Change().Number + 1, Seen: c.Seen})
}

func (v *View) next(c Contents, change Change) *View {
	f := c.follow(&v.contents)
	services, endpoints, proxies, destinations, registrations := f.services, f.endpoints, f.proxies, f.destinations, f.registrations
	meshChanged := v.mesh == nil || !v.mesh.equal(&c.Mesh)
	if !meshChanged && f.same() {
		return v
	}
	n := &View{
		mesh: v.mesh, contents: c, said: v.said, policies: v.policies, spelled: v.spelled, shared: v.shared,
		index: v.index, compiled: v.compiled, changes: appendLast(v.changes, change, keptChanges),
	}
	if meshChanged {
		m := c.Mesh
		n.mesh = &m
	}
	speaks := !proxies.others && slices.ContainsFunc(proxies.changed, func(i int) bool {
		old, in := v.contents.Proxies[i].Inbound, c.Proxies[i].Inbound
		return old.ServerFirst != in.ServerFirst || old.Protocol != in.Protocol
	})
	named := meshChanged || services.others || endpoints.others || proxies.others ||
		slices.ContainsFunc(proxies.changed, func(i int) bool {
			return !v.contents.Proxies[i].namesAlike(c.Proxies[i])
		})
	if named {
		n.find()
	}
	dialled := n.bind(v, meshChanged, f)
	registered := n.register(v, registrations)
	n.group(v, registrations, f.sidecars)
	n.foldEntries(v, f.entries)
	n.stamp(v, meshChanged, f)
	var policies []identity.Name
	if named || registered || speaks || !destinations.same() || f.revoked != nil {
		policies = n.compile(v, meshChanged, f.revoked)
	}
	n.look(v, named, f, dialled, policies)
	return n
}

// find makes n's index anew, but for users.
func (n *View) find() {
	c := &n.contents
	n.index = &index{
		targets: make(map[targetKey]*place, len(c.Services)),
		proxies: make(map[identity.ProxyID]int, len(c.Proxies)),
		own:     make(map[identity.Name][]int, len(c.Proxies)),
	}
	for i, s := range c.Services {
		n.index.place(s.key()).service = i + 1
	}
	for i, e := range c.Endpoints {
		n.index.place(e.key()).endpoints = i + 1
	}
	for i, p := range c.Proxies {
		n.index.proxies[p.ID] = i
		n.index.own[p.Service] = append(n.index.own[p.Service], i)
	}
}

// place is the target's of that key, which is new if there is none.
func (x *index) place(key targetKey) *place {
	p := x.targets[key]
	if p == nil {
		p = &place{}
		x.targets[key] = p
	}
	return p
}

// compile makes the policies of all services of the mesh's own datacenter, if the contents are whole, of those that have
// proxies or registrations, and of all destinations that they say something of, taking those of v about which nothing else
// is said, and which revoked, what is not revoked in both, does not concern. It returns the names of those that are others.
func (n *View) compile(v *View, meshChanged bool, revoked *intention.Revoked) (changed []identity.Name) {
	n.compiled = n.Change().Number
	n.said = make(map[identity.Name][]*Destination, len(n.contents.Intentions))
	for i, d := range n.contents.Intentions {
		if key := d.Name.Fold(); n.said[key] == nil {
			n.said[key] = n.contents.Intentions[i : i+1 : i+1]
		} else {
			n.said[key] = append(n.said[key], d)
		}
	}
	scope := n.mesh.scope()
	n.shared = make(map[identity.Name]*intention.Shared, 1)
	n.policies = make(map[identity.Name]*intention.Policy, len(n.contents.Services))
	n.spelled = map[identity.Name]identity.Name{}
	policy := func(dst identity.Name) {
		if dst.IsWildcard() || n.policies[dst] != nil {
			return
		}
		all, key := dst, dst.Fold()
		all.Service = identity.Wildcard
		if key != dst {
			n.spelled[key] = dst
		}
		if n.shared[all] == nil {
			if n.shared[all] = v.shared[all]; n.shared[all] == nil || meshChanged || !slices.Equal(n.said[all], v.said[all]) {
				n.shared[all] = intention.Share(all, intentions(n.said[all]), scope)
			}
		}
		old := v.policies[dst]
		p := old
		anew := old == nil || n.shared[all] != v.shared[all] || !slices.Equal(n.said[key], v.said[key]) || n.serverFirst(dst) != v.serverFirst(dst) || n.speaksTCP(dst) != v.speaksTCP(dst)
		if anew {
			p = n.shared[all].Policy(dst, intentions(n.said[key]))
			if n.serverFirst(dst) {
				p = p.ServerFirst()
			}
			if n.speaksTCP(dst) {
				p = p.ConnectionsOnly()
			}
		}
		if anew || old.Concerned(revoked) {
			p = p.Revoking(n.contents.Revoked)
		}
		if n.policies[dst] = p; p != old {
			changed = append(changed, dst)
		}
	}
	for _, s := range n.contents.Services {
		// Who may reach the others is decided where they are. What is dialled alone says nothing of who may.
		if s.Datacenter == "" && n.contents.Whole {
			policy(s.Name)
		}
	}
	for name := range n.index.own {
		policy(name)
	}
	for name := range n.instances {
		policy(name)
	}
	for _, d := range n.contents.Intentions {
		policy(d.Name)
	}
	return changed
}

// intentions are those of all destinations in list.
func intentions(list []*Destination) (all []intention.Intention) {
	if len(list) == 1 {
		return list[0].Intentions
	}
	for _, d := range list {
		all = append(all, d.Intentions...)
	}
	return all
}

// look makes the proxies' parts of n that the changes concern, or all, taking those of v that come
// out the same. Where all must be looked at, that also makes the index of who dials what. dialled are the services of which the chain is another.
func (n *View) look(v *View, all bool, f followings, dialled []targetKey, policies []identity.Name) {
	var concerned []int
	if all {
		n.views = make([]*ProxyView, len(n.contents.Proxies))
		for i := range n.views {
			concerned = append(concerned, i)
		}
	} else {
		n.views = slices.Clone(v.views)
		concerned = append(concerned, f.proxies.changed...)
		for _, i := range f.services.changed {
			dialled = append(dialled, n.contents.Services[i].key())
		}
		for _, i := range f.endpoints.changed {
			dialled = append(dialled, n.contents.Endpoints[i].key())
		}
		for _, key := range dialled {
			if at := n.index.targets[key]; at != nil {
				concerned = append(concerned, at.users...)
			}
		}
		for _, name := range policies {
			concerned = append(concerned, n.index.own[name]...)
		}
		if !f.tokens.same() {
			concerned = append(concerned, n.verifiers()...)
		}
	}
	number := n.Change().Number
	for _, i := range concerned {
		w := n.proxyView(i, all)
		switch old := v.Proxy(w.Proxy.ID); {
		case old == nil:
			w.Changes = []uint64{number}
		case old.equal(w):
			w = old
		default:
			w.keepForeign(old)
			w.Changes = appendLast(old.Changes, number, KeptOfProxy)
		}
		n.views[i] = w
	}
}

// proxyView gathers what concerns the proxy at i, and, if index, notes for whom it looked.
func (n *View) proxyView(i int, index bool) *ProxyView {
	p := n.contents.Proxies[i]
	w := &ProxyView{Mesh: n.mesh, Proxy: p, Policy: n.policies[p.Service], Upstreams: make([]Target, len(p.Upstreams))}
	w.Tokens = n.asked(w.Policy)
	for k, u := range p.Upstreams {
		if u.Foreign != "" {
			w.Upstreams[k] = foreignTarget(u)
			continue
		}
		key := n.mesh.key(u.Destination, u.Datacenter)
		at := n.index.place(key)
		if index && (len(at.users) == 0 || at.users[len(at.users)-1] != i) {
			at.users = append(at.users, i)
		}
		if at.service > 0 {
			w.Upstreams[k].Service = n.contents.Services[at.service-1]
		} else {
			w.Upstreams[k].Service = &Service{Name: key.Name, Datacenter: key.datacenter}
		}
		w.Upstreams[k].Chain = n.chain(key.Name, key.datacenter, u.Speaks(w.Upstreams[k].Service))
		if c := w.Upstreams[k].Chain; c != nil {
			w.Upstreams[k].Endpoints = c.own
		} else if at.endpoints > 0 {
			w.Upstreams[k].Endpoints = n.contents.Endpoints[at.endpoints-1]
		} else {
			w.Upstreams[k].Endpoints = &Endpoints{Name: key.Name, Datacenter: key.datacenter}
		}
	}
	return w
}

func (w *ProxyView) equal(o *ProxyView) bool {
	return w.Mesh == o.Mesh && w.Proxy == o.Proxy && w.Policy == o.Policy && slices.Equal(w.Tokens, o.Tokens) &&
		slices.EqualFunc(w.Upstreams, o.Upstreams, Target.equal)
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

// Service is the service of that name in the mesh's own datacenter; nil: the source has none.
func (v *View) Service(name identity.Name) *Service {
	if v.index == nil {
		return nil
	}
	if at := v.index.targets[targetKey{Name: name}]; at != nil && at.service > 0 {
		return v.contents.Services[at.service-1]
	}
	return nil
}

// Services yields all services, sorted by name and datacenter.
func (v *View) Services() iter.Seq[*Service] { return slices.Values(v.contents.Services) }

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
func (v *View) Proxies() iter.Seq[*Proxy] { return slices.Values(v.contents.Proxies) }

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
		for _, p := range old.contents.Proxies {
			if v.Proxy(p.ID) == nil && !yield(p.ID, nil) {
				return
			}
		}
	}
}

// Policy is the policy of a destination: any that has a proxy or a registration, any name that the contents say
// something of as a destination, and, if they are whole, any service of the mesh's own datacenter. A name that none of them has is
// looked for without regard to letter case, which does not count for who may reach it; the policy
// has the name as it is spelled. Of all others it is nil, which denies everybody.
func (v *View) Policy(destination identity.Name) *intention.Policy {
	if p := v.policies[destination]; p != nil {
		return p
	}
	key := destination.Fold()
	return cmp.Or(v.policies[key], v.policies[v.spelled[key]])
}

// Decide says whether a source may connect to a destination: it is the one answer of all that decide. Of a
// destination that nobody has registered the intentions about all destinations hold, and the default, as of
// any other. Denied for NoPolicy is what no service can be called, and a destination of which the source of
// the catalog has not read what is said. It is a few look-ups, whatever the number of intentions.
func (v *View) Decide(source identity.Service, destination identity.Name) intention.Decision {
	return v.holds(destination).Decide(source)
}

// DecideID is Decide for a source of which the SPIFFE ID is known: a service of the mesh, or a workload of
// another trust domain; see intention.Policy.DecideID.
func (v *View) DecideID(source identity.ID, destination identity.Name) intention.Decision {
	return v.holds(destination).DecideID(source)
}

// DecideRequest is DecideID for a request; see intention.Policy.DecideRequestID. Of a destination whose proxies speak tcp permissions
// deny all requests.
func (v *View) DecideRequest(source identity.ID, destination identity.Name, r *intention.Request) intention.Decision {
	return v.holds(destination).DecideRequestID(source, r)
}

// holds is the policy of a destination, whether it is registered or not.
func (v *View) holds(destination identity.Name) *intention.Policy {
	p := v.Policy(destination)
	if p == nil && v.mesh != nil && v.contents.Whole && !destination.IsWildcard() && destination.Check() == nil {
		p = v.bare(destination)
	}
	return p
}

// Revoked are the certificates and identities that are revoked; nil: there are none.
func (v *View) Revoked() *intention.Revoked { return v.contents.Revoked }

// Identity is the identity that a service of that name has in this mesh. The mesh must be known.
func (v *View) Identity(name identity.Name) identity.Service {
	return identity.Service{TrustDomain: v.mesh.TrustDomain, Datacenter: v.mesh.Datacenter, Name: name}
}

// Intentions yields what is said of each destination, sorted by name.
func (v *View) Intentions() iter.Seq[*Destination] { return slices.Values(v.contents.Intentions) }

// IntentionCount is the number of intentions.
func (v *View) IntentionCount() int {
	n := 0
	for _, d := range v.contents.Intentions {
		n += len(d.Intentions)
	}
	return n
}
