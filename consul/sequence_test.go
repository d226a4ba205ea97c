package consul

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"
)

// copied is what an assembly starts from that takes over from another one.
func (m memory) copied() memory {
	return memory{maps.Clone(m.served), maps.Clone(m.first), maps.Clone(m.waiting), maps.Clone(m.checkPaths), maps.Clone(m.endpoints), maps.Clone(m.inForce), maps.Clone(m.awaited), maps.Clone(m.datacenters)}
}

// world is what a fake agent is made to say. Everything in it is drawn.
type world struct {
	t *rapid.T
	f *fake
}

func (w world) pick(label string, of ...string) string { return rapid.SampledFrom(of).Draw(w.t, label) }
func (w world) coin(label string) bool                 { return rapid.Bool().Draw(w.t, label) }

func (w world) service() string { return w.pick("service", "a", "b", "c") }

// header is that of an answer that says all there is, most of the time.
func (w world) header() map[string]string {
	switch rapid.IntRange(0, 9).Draw(w.t, "header") {
	case 0:
		return filtered
	case 1:
		return map[string]string{"X-Consul-Index": ""}
	case 2:
		return map[string]string{"X-Consul-Lastcontact": "60000"}
	}
	return nil
}

// say scripts an answer, or makes the query fail.
func (w world) say(path string, value any) {
	if rapid.IntRange(0, 9).Draw(w.t, "fails") == 0 {
		w.f.refuse(path, rapid.SampledFrom([]int{http.StatusForbidden, http.StatusInternalServerError}).Draw(w.t, "status"))
		return
	}
	w.f.script(path, value, w.header())
}

func (w world) endpoints(path string) {
	list := []any{}
	for i := range rapid.IntRange(0, 2).Draw(w.t, "instances") {
		list = append(list, map[string]any{
			"Node":    map[string]any{"Node": "n1", "Address": "10.0.0.1"},
			"Service": map[string]any{"ID": fmt.Sprint("i", i), "Port": 20000 + i, "Address": w.pick("address", "10.0.0.1", "10.0.0.2", "a/b")},
			"Checks":  []any{map[string]any{"Status": w.pick("health", "passing", "passing", "critical")}},
		})
	}
	w.say(path, list)
}

func (w world) chain(path, name, datacenter string) {
	kind := w.pick("start of the chain", "resolver", "resolver", "resolver", "splitter")
	c := map[string]any{
		"ServiceName": name, "Datacenter": datacenter, "Protocol": w.pick("protocol", "tcp", "http"), "StartNode": "s", "Default": true,
		"Nodes":   map[string]any{"s": map[string]any{"Type": kind, "Resolver": map[string]any{"Default": true, "Target": "t"}}},
		"Targets": map[string]any{"t": map[string]any{"ID": "t", "Service": name, "Datacenter": datacenter, "SNI": "t.internal", "Name": "t.internal"}},
	}
	if w.coin("entries") {
		c["Default"] = false
		targets, resolver := map[string]any{}, map[string]any{"Target": "t0"}
		var failover []string
		for i := range rapid.IntRange(1, 3).Draw(w.t, "targets") {
			id := fmt.Sprint("t", i)
			subset := w.pick("subset", "", "", "v1")
			t := map[string]any{"ID": id, "Service": w.service(), "Datacenter": w.pick("target's datacenter", datacenter, "dc1", "dc2", "dc9"), "ServiceSubset": subset, "SNI": id + ".internal", "Name": id + ".internal"}
			if subset != "" {
				t["Subset"] = map[string]any{"OnlyPassing": w.coin("OnlyPassing"), "Filter": w.pick("filter", "", "Service.Meta.version == v1")}
			}
			if w.pick("gateway", "", "", "", "local") != "" {
				t["MeshGateway"] = map[string]any{"Mode": "local"}
			}
			if targets[id] = t; i > 0 {
				failover = append(failover, id)
			}
		}
		if resolver["Failover"] = map[string]any{"Targets": failover}; len(failover) == 0 {
			delete(resolver, "Failover")
		}
		c["Nodes"].(map[string]any)["s"], c["Targets"] = map[string]any{"Type": kind, "Resolver": resolver, "Splits": []any{}}, targets
	}
	w.say(path, map[string]any{"Chain": c})
}

func (w world) intentions(name string) {
	list := []any{}
	for range rapid.IntRange(0, 3).Draw(w.t, "intentions") {
		i := map[string]any{
			"SourceName": w.pick("source", "a", "b", "*"), "DestinationName": w.pick("destination", name, "*"),
			"SourceType": "consul", "Action": w.pick("action", "allow", "deny"),
		}
		if rapid.IntRange(0, 5).Draw(w.t, "unsupported") == 0 {
			i["OnlyOnMondays"] = true
		}
		list = append(list, i)
	}
	w.say("/v1/connect/intentions/match?"+name, map[string]any{name: list})
}

func (w world) services() {
	list := []any{}
	for _, name := range []string{"a", "b", "c"} {
		if !w.coin(name + " is there") {
			continue
		}
		upstreams := []any{}
		for i := range rapid.IntRange(0, 2).Draw(w.t, "upstreams") {
			u := map[string]any{"DestinationName": w.service(), "LocalBindPort": 5000 + i}
			if w.coin("far") {
				u["Datacenter"] = "dc2"
			}
			upstreams = append(upstreams, u)
		}
		if w.coin(name + " is native") {
			list = append(list, map[string]any{"ID": name, "Service": name, "Port": 8443, "Tags": []string{w.pick("tag", "blue", "green")}, "Connect": map[string]any{"Native": true}})
		}
		list = append(list, map[string]any{
			"Kind": "connect-proxy", "ID": name + "-proxy", "Service": name + "-proxy", "Port": 21000,
			"Proxy": map[string]any{
				"DestinationServiceName": name, "DestinationServiceID": name, "LocalServicePort": 80, "Upstreams": upstreams,
				"Expose": map[string]any{"Checks": rapid.IntRange(0, 5).Draw(w.t, "checks") == 0},
			},
		})
	}
	w.say("/v1/catalog/node-services/n1", map[string]any{"Node": map[string]any{"Node": "n1", "Datacenter": "dc1", "Address": "10.0.0.1"}, "Services": list})
}

func (w world) change() {
	name := w.service()
	switch rapid.IntRange(0, 13).Draw(w.t, "kind of change") {
	case 0, 1, 2:
		w.endpoints("/v1/health/connect/" + name)
	case 3:
		w.endpoints("/v1/health/connect/" + name + "?dc2")
	case 4:
		w.chain("/v1/discovery-chain/"+name, name, "dc1")
	case 5:
		w.chain("/v1/discovery-chain/"+name+"?dc2", name, "dc2")
	case 6, 7:
		w.intentions(name)
	case 8:
		w.services()
	case 9:
		w.say("/v1/config/proxy-defaults/global", map[string]any{"Config": map[string]any{"intention_enforcement": w.pick("mode", "rbac", "both", "nonsense")}})
	case 10:
		w.say("/v1/catalog/datacenters", rapid.SampledFrom([][]string{{"dc1"}, {"dc1", "dc2"}, {"dc3"}}).Draw(w.t, "datacenters"))
	case 11:
		w.say("/v1/agent/checks", map[string]any{"c": map[string]any{"CheckID": "c", "ServiceID": name, "Type": "grpc", "ExposedPort": 21500}})
	case 12:
		w.say("/v1/config/mesh/mesh", map[string]any{"Kind": "mesh", "TLS": map[string]any{"Incoming": map[string]any{"TLSMinVersion": w.pick("TLS", "TLSv1_2", "TLSv1_3")}}})
	case 13:
		if w.coin("lost") {
			w.f.kill()
		} else {
			w.f.revive()
		}
	}
}

// samePointers demands that what is published again is the same pointer if, and only if, it is equal.
func samePointers[T any](t *rapid.T, before, now []*T, key func(*T) string) {
	for _, x := range now {
		for _, old := range before {
			if key(x) == key(old) && (x == old) != reflect.DeepEqual(x, old) {
				t.Errorf("the same pointer: %t; before %+v, now %+v", x == old, *old, *x)
			}
		}
	}
}

// TestSequenceIsFresh demands that contents that came about answer by answer, and their problems, are
// those of an assembly that begins with the same knowledge, and that nothing else in them is new than
// what is another.
func TestSequenceIsFresh(t *testing.T) {
	equal := []cmp.Option{cmpopts.EquateComparable(spiffeid.TrustDomain{}), cmpopts.EquateEmpty(), cmpopts.IgnoreFields(catalog.Contents{}, "Seen"), cmp.AllowUnexported(Problem{})}
	roots := testRoots(t, testAuthority(t))
	run := func(rt *rapid.T, f *fake, a *Agent) {
		f.mesh()
		f.set("/v1/agent/connect/ca/roots", roots)
		w := world{rt, f}
		for _, name := range []string{"a", "b", "c"} {
			w.endpoints("/v1/health/connect/" + name)
			w.chain("/v1/discovery-chain/"+name, name, "dc1")
			w.endpoints("/v1/health/connect/" + name + "?dc2")
			w.chain("/v1/discovery-chain/"+name+"?dc2", name, "dc2")
			w.intentions(name)
		}
		w.services()
		ctx, cancel := context.WithCancel(rt.Context())
		defer a.running.Wait()
		defer cancel()
		var last catalog.Contents
		b := a.start(ctx, func(c catalog.Contents) {
			samePointers(rt, last.Services, c.Services, func(s *catalog.Service) string { return s.Name.String() + "/" + s.Datacenter })
			samePointers(rt, last.Endpoints, c.Endpoints, func(e *catalog.Endpoints) string { return e.Name.String() + "/" + e.Datacenter + "/" + e.Subset })
			samePointers(rt, last.Chains, c.Chains, func(k *chain.Chain) string { return k.Service.String() + "/" + k.Datacenter + "/" + k.Protocol })
			samePointers(rt, last.Proxies, c.Proxies, func(p *catalog.Proxy) string { return string(p.ID) })
			samePointers(rt, last.Intentions, c.Intentions, func(d *catalog.Destination) string { return d.Name.String() })
			samePointers(rt, last.Registrations, c.Registrations, func(r *catalog.Registration) string { return r.ID })
			last = c
		})
		for range rapid.IntRange(2, 16).Draw(rt, "steps") {
			for range rapid.IntRange(1, 3).Draw(rt, "changes") {
				w.change()
			}
			after(time.Duration(rapid.SampledFrom([]int{1, 100, 2_000, 7_000, 70_000}).Draw(rt, "ms")) * time.Millisecond)
			before := b.memory.copied()
			for again := true; again; synctest.Wait() { // what is wanted anew is answered at once
				before = b.memory.copied()
				b.turn(ctx)
				synctest.Wait()
				again = len(a.known.newEndpoints) > 0 || a.known.epoch != b.basis.epoch
			}
			problems := a.status.Problems
			fresh := newAssembly(a, func(catalog.Contents) {})
			fresh.watcher, fresh.memory, fresh.started = b.watcher, before, b.started
			fresh.turn(ctx)
			if diff := cmp.Diff(fresh.contents, b.contents, equal...); diff != "" {
				rt.Fatalf("contents (-fresh +in sequence):\n%s", diff)
			}
			if diff := cmp.Diff(a.status.Problems, problems, equal...); diff != "" {
				rt.Fatalf("problems (-fresh +in sequence):\n%s", diff)
			}
			// What nobody dials is forgotten when all is put together next, which a fresh assembly does at once.
			theirs := b.memory.copied()
			maps.DeleteFunc(theirs.endpoints, func(target string, _ endpointState) bool {
				_, fresh := fresh.endpoints[target]
				return a.known.endpoints[target] == nil && !fresh
			})
			if diff := cmp.Diff(fresh.memory, theirs, append(equal, cmp.Comparer(func(a, b *discovery) bool { return a == b }), cmp.AllowUnexported(memory{}, endpointState{}, checkKey{}))...); diff != "" {
				rt.Fatalf("memory (-fresh +in sequence):\n%s", diff)
			}
		}
	}
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		cfg := a.config
		// rapid asks a *testing.T, but not what looks like one, for its deadline, which a bubble has not.
		rapid.Check(struct{ *testing.T }{t}, func(rt *rapid.T) {
			f := newFake(t)
			cfg := cfg
			cfg.transport = f.transport()
			a, err := New(cfg)
			if err != nil {
				rt.Fatal(err)
			}
			run(rt, f, a)
			a.client.http.CloseIdleConnections()
		})
	})
}
