package catalog_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"pgregory.net/rapid"
)

// sameViews demands that the part of each proxy is the same pointer in both Views if, and only if, all in it is.
func sameViews(t interface{ Errorf(string, ...any) }, v, next *catalog.View) {
	changed := map[identity.ProxyID]bool{}
	for id, w := range next.Since(v) {
		if changed[id] || w != next.Proxy(id) {
			t.Errorf("Since says of %s twice, or something else than Proxy", id)
		}
		changed[id] = true
	}
	ids := map[identity.ProxyID]bool{}
	for _, view := range []*catalog.View{v, next} {
		for p := range view.Proxies() {
			ids[p.ID] = true
		}
	}
	for id := range ids {
		a, b := v.Proxy(id), next.Proxy(id)
		same := a != nil && b != nil && a.Mesh == b.Mesh && a.Proxy == b.Proxy && a.Policy == b.Policy && slices.Equal(a.Upstreams, b.Upstreams)
		if same != (a == b) || same == changed[id] {
			t.Errorf("%s: all in it is the same: %t, so is its view: %t, Since has it: %t", id, same, a == b, changed[id])
		}
		if b != nil && v != next && changed[id] != (b.Changes[len(b.Changes)-1] == next.Change().Number) {
			t.Errorf("%s changed: %t, its changes are %v, the last of all is %d", id, changed[id], b.Changes, next.Change().Number)
		}
	}
}

// written is all that a View says, in words.
func written(v *catalog.View) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%+v\n", *v.Mesh())
	var services []string
	for s := range v.Services() {
		services = append(services, fmt.Sprintf("%+v\n", *s))
		p := v.Policy(s.Name)
		if s.Datacenter == "" {
			services = append(services, fmt.Sprintf("policy of %s: %v %v %v\n", s.Name, p.Scope(), maps.Collect(p.Exact()), p.Rest()))
		}
		if s.Datacenter == "" && v.Service(s.Name) != s {
			services = append(services, "which Service does not find")
		}
	}
	slices.Sort(services)
	out.WriteString(strings.Join(services, ""))
	for p := range v.Proxies() {
		w := v.Proxy(p.ID)
		fmt.Fprintf(&out, "%+v\n", *p)
		if w.Mesh != v.Mesh() || w.Proxy != p || w.Policy == nil || w.Policy != v.Policy(p.Service) || len(w.Upstreams) != len(p.Upstreams) {
			fmt.Fprintf(&out, "%s has what is not the View's: %+v\n", p.ID, *w)
		}
		for i, x := range w.Upstreams {
			fmt.Fprintf(&out, "%s dials %+v at %+v as %+v\n", p.ID, *x.Service, *x.Endpoints, p.Upstreams[i])
			if c := x.Chain; c != nil {
				fmt.Fprintf(&out, "by the chain of %s in %s for %s:", c.Service, c.Datacenter, c.Protocol)
				if d := cmp.Or(p.Upstreams[i].Datacenter, w.Mesh.Datacenter); c.Service != x.Service.Name || c.Datacenter != d || c.Protocol != p.Upstreams[i].Speaks(x.Service).String() || len(x.Endpoints.List) > 0 {
					fmt.Fprintln(&out, "which is none for it")
				}
				for _, id := range slices.Sorted(maps.Keys(c.Targets)) {
					fmt.Fprintf(&out, " %+v at %+v", *c.Targets[id], *c.Endpoints[id])
				}
				fmt.Fprintln(&out)
			}
		}
		if !slices.Contains(slices.Collect(v.Of(p.Service)), w) {
			fmt.Fprintf(&out, "%s is not among those of %s\n", p.ID, p.Service)
		}
	}
	for r := range v.Registrations() {
		fmt.Fprintf(&out, "%+v\n", *r)
		p := v.Policy(r.Service)
		fmt.Fprintf(&out, "policy of %s: %v %v %v\n", r.Service, p.Scope(), maps.Collect(p.Exact()), p.Rest())
		if !slices.Contains(slices.Collect(v.Instances(r.Service)), r) || v.Registration(r.ID) != r {
			fmt.Fprintf(&out, "%s is not found\n", r.ID)
		}
	}
	fmt.Fprintln(&out, v.IntentionCount())
	return out.String()
}

// TestSequenceIsFromZero demands that a View that came about step by step is the one that the last contents make
// alone, whether what did not change came as the same pointer or as an equal one.
func TestSequenceIsFromZero(t *testing.T) {
	names := []string{"a", "b", "c", "d", "*"}
	rapid.Check(t, func(t *rapid.T) {
		pick := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
		m := catalogtest.Mesh{Mesh: contents().Mesh}
		v, before := &catalog.View{}, catalog.Contents{}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.IntRange(0, 11).Draw(t, "kind of change") {
			case 0:
				m.Mesh.Default = intention.Action(rapid.IntRange(0, 1).Draw(t, "default"))
			case 1: // a service comes, goes or changes
				s := catalog.Service{Name: name(pick("service", names[:4]...)), Datacenter: pick("datacenter", "", "dc2"), Protocol: catalog.Protocol(rapid.IntRange(0, 3).Draw(t, "protocol"))}
				m.Services = slices.DeleteFunc(m.Services, func(o catalog.Service) bool { return o.Name == s.Name && o.Datacenter == s.Datacenter })
				if rapid.Bool().Draw(t, "there") {
					m.Services = append(m.Services, s)
				}
			case 2, 3: // a proxy comes, goes or changes
				p := catalog.Proxy{ID: identity.ProxyID(pick("proxy", "p", "q", "r")), Service: name(pick("of", names[:4]...)), Instance: pick("instance", "1", "2")}
				for range rapid.IntRange(0, 3).Draw(t, "upstreams") {
					p.Upstreams = append(p.Upstreams, catalog.Upstream{
						Destination: name(pick("to", names[:4]...)), Datacenter: pick("in", "", "dc1", "dc2"),
						Protocol: catalog.OptionalProtocol{Set: rapid.Bool().Draw(t, "override"), Protocol: catalog.Protocol(rapid.IntRange(0, 1).Draw(t, "as"))},
					})
				}
				m.Proxies = slices.DeleteFunc(m.Proxies, func(o catalog.Proxy) bool { return o.ID == p.ID })
				if rapid.Bool().Draw(t, "there") {
					m.Proxies = append(m.Proxies, p)
				}
			case 4, 5: // an intention
				i := intention.Intention{Source: intention.Source{Name: name(pick("source", names...))}, Destination: name(pick("destination", names...)), Action: intention.Action(rapid.IntRange(0, 1).Draw(t, "action"))}
				m.Intentions = slices.DeleteFunc(m.Intentions, func(o intention.Intention) bool { return o.Source == i.Source && o.Destination == i.Destination })
				if rapid.Bool().Draw(t, "there") {
					m.Intentions = append(m.Intentions, i)
				}
			case 6: // a service's endpoints come, go or change
				e := catalog.Endpoints{Name: name(pick("service", names[:4]...)), Datacenter: pick("datacenter", "", "dc2"), Subset: pick("subset", "", "v1")}
				for i := range rapid.IntRange(0, 2).Draw(t, "endpoints") {
					e.List = append(e.List, catalog.Endpoint{Address: "127.0.0.1", Port: uint16(i), Weight: 1})
				}
				m.Endpoints = slices.DeleteFunc(m.Endpoints, func(o catalog.Endpoints) bool {
					return o.Name == e.Name && o.Datacenter == e.Datacenter && o.Subset == e.Subset
				})
				if rapid.Bool().Draw(t, "there") {
					m.Endpoints = append(m.Endpoints, e)
				}
			case 7, 8: // a registration comes, goes or changes
				r := catalog.Registration{ID: pick("registration", "x", "y", "z"), Service: name(pick("of", names[:4]...)), Native: rapid.Bool().Draw(t, "native")}
				m.Registrations = slices.DeleteFunc(m.Registrations, func(o catalog.Registration) bool { return o.ID == r.ID })
				if rapid.Bool().Draw(t, "there") {
					m.Registrations = append(m.Registrations, r)
				}
			case 9, 10: // a chain comes, goes or changes
				c := &chain.Chain{Service: name(pick("service", names[:4]...)), Datacenter: pick("datacenter", "dc1", "dc2"), Protocol: pick("speaks", "tcp", "http"), Targets: map[string]*chain.Target{}}
				for range rapid.IntRange(0, 2).Draw(t, "targets") {
					x := &chain.Target{Service: name(pick("target", names[:4]...)), Subset: pick("subset", "", "v1"), Datacenter: pick("datacenter", "dc1", "dc2"), Peer: pick("peer", "", "", "", "p")}
					c.Targets[fmt.Sprint(*x)] = x
				}
				m.Chains = slices.DeleteFunc(m.Chains, func(o *chain.Chain) bool {
					return o.Service == c.Service && o.Datacenter == c.Datacenter && o.Protocol == c.Protocol
				})
				if rapid.Bool().Draw(t, "there") {
					m.Chains = append(m.Chains, c)
				}
			case 11: // nothing
			}
			c := m.Contents()
			if rapid.Bool().Draw(t, "stable pointers") {
				c = stable(before, c)
			}
			before = c
			next := v.Next(c)
			if v.Mesh() != nil {
				sameViews(t, v, next)
			}
			if again := next.Next(m.Contents()); again != next {
				t.Fatal("the same contents make another View")
			}
			v = next
		}
		if got, want := written(v), written(m.View()); got != want {
			t.Fatalf("step by step:\n%s\nfrom zero:\n%s", got, want)
		}
	})
}

// stable is c with the pointers of before where what is behind them is equal, as sources give it.
func stable(before, c catalog.Contents) catalog.Contents {
	keep(before.Services, c.Services)
	keep(before.Endpoints, c.Endpoints)
	keep(before.Proxies, c.Proxies)
	keep(before.Intentions, c.Intentions)
	keep(before.Registrations, c.Registrations)
	keep(before.Chains, c.Chains)
	return c
}

func keep[T any](before, list []*T) {
	for i, x := range list {
		for _, old := range before {
			if fmt.Sprintf("%+v", *old) == fmt.Sprintf("%+v", *x) {
				list[i] = old
			}
		}
	}
}
