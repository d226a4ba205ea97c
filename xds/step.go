package xds

import (
	"slices"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/snapshot"
)

// Envoy replaces a cluster when it has the new one's endpoints, and gives them to the old one first. So when the targets of a cluster change,
// the old cluster would meet endpoints that it has no socket for, and the new one endpoints of before. What is to be is therefore reached in
// steps, each when Envoy has accepted the one before, however long that takes:
//
//  1. the new cluster, with the sockets of the endpoints that Envoy has beside its own, and endpoints that both clusters have sockets for, as
//     Envoy waits for some: the new ones but for those of new targets, or those of before, if some of their targets are to go;
//  2. the new endpoints;
//  3. the new cluster, with its own sockets alone, and the new endpoints once more.
//
// An address that becomes another target's is no matter of order: the endpoints of each target are in a locality of their own, so that Envoy
// takes it for another endpoint, and uses no connection of before.

// stage is what Envoy may have of one cluster that has targets, or had some.
type stage struct {
	// sockets and lists are the versions of the cluster and its endpoints that Envoy may have, in the order in which they were sent: what
	// it has accepted and what was sent since. Empty: nothing, or that is not known.
	sockets []given[*sockets]
	lists   []given[*list]
	// good is what was to be sent last of the endpoints; nil: nothing was.
	good *discoveryv3.Resource
	// both and rest are the last results of socketsFirst and listFirst, each for its key, as they take long to make.
	bothOf, restOf string
	both           *discoveryv3.Resource
	rest           *list
}

// given is one version of something.
type given[T any] struct {
	is T
	in *discoveryv3.DeltaDiscoveryResponse // nil: it came in none of this stream's
}

// memory is what the next stream of a proxy, which says what versions its Envoy has, needs to know of the last one.
type memory struct {
	stages map[string]*stage
	target *target // its clusters and endpoints alone; nil: there was none
}

// remembers is the memory of a stream.
func (s *session) remembers() memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.last
	}
	return s.remember()
}

// remember is remembers under the lock.
func (s *session) remember() memory {
	m := memory{target: s.before}
	if s.target.whole() { // without its secrets, as nobody may come back
		m.target = &target{}
		for _, k := range [...]kind{clusters, endpoints} {
			m.target.resources[k] = s.target.resources[k]
		}
	}
	for name, h := range s.stages {
		if m.stages == nil {
			m.stages = make(map[string]*stage, len(s.stages))
		}
		of := &stage{good: h.good}
		for _, c := range h.sockets {
			of.sockets = append(of.sockets, given[*sockets]{is: c.is})
		}
		for _, l := range h.lists {
			of.lists = append(of.lists, given[*list]{is: l.is})
		}
		m.stages[name] = of
	}
	return m
}

// alien reports whether Envoy may have something of the cluster that is not plain.
func (h *stage) alien() bool {
	return slices.ContainsFunc(h.sockets, func(c given[*sockets]) bool { return !none(c.is.targets) }) ||
		slices.ContainsFunc(h.lists, func(l given[*list]) bool { return !none(l.is.targets) })
}

// none reports whether targets are those of a plain cluster or its endpoints.
func none(targets []string) bool { return len(targets) == 0 || len(targets) == 1 && targets[0] == "" }

// due is the set of kind k that Envoy is to have next: the target's, but where another step comes first.
func (s *session) due(k kind) snapshot.Set {
	if s.steps[k] != nil {
		return s.steps[k]
	}
	return s.target.resources[k]
}

// follow notes the clusters of which t, the target to come, has more than their own socket, or the present one has; and those that go, as they
// may come again before Envoy has removed them. What Envoy may have of them is known from then on.
func (s *session) follow(t *target, differences []ref) {
	if !t.whole() {
		return
	}
	old := s.target
	if !old.whole() {
		if old, s.before = s.before, nil; old.whole() {
			differences = t.differences(old) // what has gone meanwhile is there, too
		}
	}
	for _, r := range differences {
		if r.kind != clusters || s.stages[r.name] != nil {
			continue
		}
		now := t.resources[clusters].Get(r.name)
		var was *discoveryv3.Resource
		if old.whole() {
			was = old.resources[clusters].Get(r.name)
		}
		switch {
		case now == nil && (was == nil || len(s.stages) >= maxNames), now != nil && isPlain(now) && (was == nil || isPlain(was)):
			continue
		}
		if s.stages == nil {
			s.stages = map[string]*stage{}
		}
		s.stages[r.name] = s.plain(was, old)
	}
}

// plain is what Envoy may have of a cluster that had its own socket alone in the target old, where it was was; nil: it was not there. Which
// version of that, or of its endpoints, makes no difference.
func (s *session) plain(was *discoveryv3.Resource, old *target) *stage {
	h := &stage{}
	has := func(k kind, name string) bool {
		_, ok := s.subs[k].held[name]
		return ok || !s.subs[k].asked
	}
	if was == nil || !has(clusters, was.GetName()) {
		return h
	}
	h.sockets = []given[*sockets]{{is: s.server.socketsOf(was)}}
	if h.good = old.resources[endpoints].Get(was.GetName()); h.good != nil && has(endpoints, was.GetName()) {
		h.lists = []given[*list]{{is: s.server.listOf(h.good)}}
	}
	return h
}

// recall notes what Envoy says that it has of kind k when it asks for that first on a stream.
func (s *session) recall(k kind) {
	for name, h := range s.stages {
		version := s.subs[k].held[name] // resources have none that is empty
		if k == clusters {
			h.sockets = recalled(h.sockets, version, func(c *sockets) (string, []string) { return c.resource.GetVersion(), c.targets })
		}
		if k == endpoints {
			h.lists = recalled(h.lists, version, func(l *list) (string, []string) { return l.resource.GetVersion(), l.targets })
		}
	}
}

// recalled is, of all that Envoy may have, what has the version that it says, or else what is plain, as it may be an older version of that.
func recalled[T any](all []given[T], version string, of func(T) (version string, targets []string)) []given[T] {
	for _, x := range slices.Backward(all) {
		if v, _ := of(x.is); v == version {
			return []given[T]{x}
		}
	}
	return slices.DeleteFunc(all, func(x given[T]) bool {
		_, targets := of(x.is)
		return version == "" || !none(targets)
	})
}

// plan decides what Envoy is to have next. It depends on what Envoy has and is to have alone, and is called whenever one of these has changed.
func (s *session) plan() {
	steps := [kinds]snapshot.Set{}
	put := func(k kind, r *discoveryv3.Resource) {
		if r.GetVersion() == s.target.resources[k].Get(r.GetName()).GetVersion() {
			return
		}
		if steps[k] == nil {
			steps[k] = s.target.resources[k]
		}
		steps[k] = steps[k].With(r)
	}
	for name, h := range s.stages {
		c, l := s.target.resources[clusters].Get(name), s.target.resources[endpoints].Get(name)
		switch {
		case c == nil && len(h.sockets) > 0: // to be removed
		case c == nil || isPlain(c) && !h.alien():
			delete(s.stages, name)
		case l == nil: // it has its endpoints in itself
			h.good = nil
		default:
			want := s.server.socketsOf(c)
			h.good = s.listFirst(want, s.server.listOf(l), h)
			put(endpoints, h.good)
			put(clusters, s.socketsFirst(want, s.server.listOf(h.good), h))
		}
	}
	for k := range kinds {
		if (steps[k] == nil) != (s.steps[k] == nil) || !slices.Equal(steps[k], s.steps[k]) {
			s.subs[k].upToDate = false
		}
	}
	s.steps = steps
}

// listFirst is what Envoy is to have of the endpoints as long as it may have a cluster without sockets for some of l; else it is l. It is l
// without those, if there are still some of each target that Envoy is to have some of, and if not, what Envoy keeps.
func (s *session) listFirst(want *sockets, l *list, h *stage) *discoveryv3.Resource {
	var undialled []string
	for _, c := range h.sockets {
		for _, target := range lacking(l.targets, c.is.targets) {
			if slices.Contains(want.targets, target) { // what never can be is not waited for
				undialled = append(undialled, target)
			}
		}
	}
	if len(undialled) == 0 || h.good == nil {
		return l.resource
	}
	if key := strings.Join(append(distinct(undialled), l.resource.GetVersion()), " "); key != h.restOf {
		h.restOf, h.rest = key, s.server.without(l, undialled)
	}
	if len(lacking(s.server.listOf(h.good).targets, h.rest.targets)) == 0 {
		return h.rest.resource
	}
	return h.good
}

// socketsFirst is the cluster that has to come before want, as Envoy may have endpoints, or is to have those of l, that want has no sockets
// for; else it is want.
func (s *session) socketsFirst(want *sockets, l *list, h *stage) *discoveryv3.Resource {
	needed := lacking(l.targets, want.targets)
	for _, l := range h.lists {
		needed = append(needed, lacking(l.is.targets, want.targets)...)
	}
	if needed = distinct(needed); len(needed) == 0 {
		return want.resource
	}
	of := append(slices.Clone(needed), want.resource.GetVersion())
	for _, c := range h.sockets {
		of = append(of, c.is.resource.GetVersion())
	}
	key := strings.Join(of, " ")
	if key == h.bothOf {
		return h.both
	}
	both := s.server.with(want, needed, h.sockets)
	h.bothOf, h.both = key, both.resource
	if n := len(h.sockets); both != want && h.sockets[n-1].is.stands(both) {
		h.both = h.sockets[n-1].is.resource
	}
	return h.both
}

// gives notes that a response of kind k is sent.
func (s *session) gives(k kind, r *discoveryv3.DeltaDiscoveryResponse) {
	for _, one := range r.GetResources() {
		h := s.stages[one.GetName()]
		switch {
		case h == nil:
		case k == clusters:
			h.sockets = append(h.sockets, given[*sockets]{s.server.socketsOf(one), r})
		case k == endpoints:
			h.lists = append(h.lists, given[*list]{s.server.listOf(one), r})
		}
	}
}

// takes notes that Envoy has accepted a response of kind k, and so nothing that came before of what is in it.
func (s *session) takes(k kind, r *discoveryv3.DeltaDiscoveryResponse) {
	for _, one := range r.GetResources() {
		h := s.stages[one.GetName()]
		switch {
		case h == nil:
		case k == clusters:
			h.sockets = since(h.sockets, r)
		case k == endpoints:
			h.lists = since(h.lists, r)
		}
	}
}

// since is all from what came in r on; all, if there is nothing.
func since[T any](all []given[T], r *discoveryv3.DeltaDiscoveryResponse) []given[T] {
	if i := slices.IndexFunc(all, func(x given[T]) bool { return x.in == r }); i > 0 {
		return slices.Delete(all, 0, i)
	}
	return all
}

// misses notes that Envoy has refused a response of kind k. It may have taken some of it all the same; what has the same targets as others
// makes no difference.
func (s *session) misses(k kind, r *discoveryv3.DeltaDiscoveryResponse) {
	for _, one := range r.GetResources() {
		h := s.stages[one.GetName()]
		switch {
		case h == nil:
		case k == clusters:
			h.sockets = without(h.sockets, r, func(c *sockets) []string { return c.targets })
		case k == endpoints:
			h.lists = without(h.lists, r, func(l *list) []string { return l.targets })
		}
	}
}

// without is all without what came in r, if others have its targets.
func without[T any](all []given[T], r *discoveryv3.DeltaDiscoveryResponse, targets func(T) []string) []given[T] {
	i := slices.IndexFunc(all, func(x given[T]) bool { return x.in == r })
	if i < 0 || !slices.ContainsFunc(all, func(x given[T]) bool { return x.in != r && slices.Equal(targets(x.is), targets(all[i].is)) }) {
		return all
	}
	return slices.Delete(all, i, i+1)
}

// loses notes that Envoy has no resource of that name any more.
func (s *session) loses(k kind, name string) {
	h := s.stages[name]
	switch {
	case h == nil:
	case k == clusters:
		*h = stage{}
	case k == endpoints:
		h.lists = nil
	}
}

// stepsOn names what Envoy has not accepted of clusters and endpoints that have a step to come, unless it refuses that.
func (s *session) stepsOn() (names []string) {
	differs := func(k kind, name string) bool {
		return s.steps[k] != nil && s.steps[k].Get(name) != s.target.resources[k].Get(name)
	}
	for name := range s.stages {
		after := endpoints
		if differs(endpoints, name) {
			after = clusters
		} else if !differs(clusters, name) {
			continue
		}
		if _, refused := s.subs[after].refused[name]; !refused {
			names = append(names, after.String()+" "+name)
		}
	}
	return names
}
