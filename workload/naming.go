package workload

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sallyport/sallyport/attest"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// named is who is which service by what one View says.
type named struct {
	view *catalog.View
	// byUID are those that name a user by number, byName those that name one by name. Each list is
	// sorted by service.
	byUID  map[int][]naming
	byName []naming
}

// naming is one registration that says which processes are its service.
type naming struct {
	service   identity.Name
	selectors attest.Selectors
}

// namings finds what a View says of processes, once for each.
type namings struct {
	mu   sync.Mutex
	last atomic.Pointer[named]
}

// of is what v says. What cannot be read is left out: sources tell of it, and it names nobody.
func (n *namings) of(v *catalog.View) *named {
	if last := n.last.Load(); last != nil && last.view == v {
		return last
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if last := n.last.Load(); last != nil && last.view == v {
		return last
	}
	next := &named{view: v, byUID: map[int][]naming{}}
	for r := range v.Registrations() {
		text, ok := r.Meta[catalog.MetaSelectors]
		if !ok || v.Revoked().Identity(v.Identity(r.Service)) != nil {
			continue // a revoked identity is nobody's
		}
		s, err := attest.Parse(text)
		if err != nil {
			continue
		}
		if uid, ok := s.UID(); ok {
			next.byUID[uid] = append(next.byUID[uid], naming{r.Service, s})
		} else {
			next.byName = append(next.byName, naming{r.Service, s})
		}
	}
	for _, list := range next.byUID {
		sortNamings(list)
	}
	sortNamings(next.byName)
	n.last.Store(next)
	return next
}

func sortNamings(list []naming) {
	slices.SortStableFunc(list, func(a, b naming) int { return strings.Compare(a.service.String(), b.service.String()) })
}

// Services are those that a process is by what the catalog says now, sorted by name; nil: none, or there is no catalog yet. Where leafs
// are fetched with a token of the service's own, right says which: see Config.Right.
func (s *Server) Services(p *attest.Process) []identity.Name {
	v, err := s.view()
	if err != nil || p.Nobody() != nil {
		return nil
	}
	return s.namings.of(v).services(p)
}

// user reports whether something is said of processes of a user that are named by number.
func (n *named) user(uid int) bool { return len(n.byUID[uid]) > 0 }

// services are those that p is, sorted by name.
func (n *named) services(p *attest.Process) []identity.Name {
	found := map[identity.Name]bool{}
	for _, list := range [][]naming{n.byUID[p.UID], n.byName} {
		for _, o := range list {
			if !found[o.service] && p.Matches(o.selectors) {
				found[o.service] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b identity.Name) int { return strings.Compare(a.String(), b.String()) })
}
