package xds

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/xdstest"
	"pgregory.net/rapid"
)

// Whatever happens in whatever order, an Envoy that is left alone ends with exactly what its proxy
// is to have, and then there is silence.
func TestModel(t *testing.T) {
	rapid.Check(t, model(t))
}

// What the model has found once.
func TestModelFound(t *testing.T) {
	for name, test := range map[string]struct {
		picky bool
		steps []step
	}{
		"a cluster stays for a listener that left with a target before, and that Envoy still has": {false, []step{
			{What: "upstream", N: 1},
			{What: "slow", Slow: 7 * time.Second},
			{What: "time", N: 3},
			{What: "twin"},
			{What: "upstream", N: 1},
			{What: "time", N: 1},
			{What: "upstream", N: 1},
		}},
		"an Envoy that has refused its first rules gets none that let pass before the others are in force": {true, []step{
			{What: "refuse", Refused: []string{"intentions/web"}, Wait: true},
			{What: "slow", Slow: 7 * time.Second, Wait: true},
			{What: "reconnect", Pause: 2 * stormQuiet, Wait: true},
			{What: "time", N: 8, Wait: true},
			{What: "enforcement", N: 10, Pause: 2 * stormQuiet},
			{What: "reconnect", Pause: time.Millisecond},
		}},
		"a plain cluster that Envoy was to remove comes again with targets": {false, []step{
			{What: "slow", Slow: 2 * time.Second},
			{What: "upstream", Pause: time.Millisecond},
			{What: "chain", Pause: 2 * stormQuiet},
			{What: "upstream"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, catalog.TCP, test.picky)
				for _, s := range test.steps {
					w.step(s)
				}
				w.settle()
				w.disconnect()
				w.m.stop()
				for _, e := range w.errs {
					t.Error(e)
				}
			})
		})
	}
}

// FuzzModel is TestModel on what the fuzzer finds.
func FuzzModel(f *testing.F) {
	for seed := range byte(8) {
		draws := make([]byte, 16<<10) // enough for all that a model draws; with less it is skipped
		if _, err := rand.NewChaCha8([32]byte{seed}).Read(draws); err != nil {
			f.Fatal(err)
		}
		f.Add(draws)
	}
	f.Fuzz(func(t *testing.T, input []byte) { rapid.MakeFuzz(model(t))(t, input) })
}

func model(t *testing.T) func(*rapid.T) {
	t.Helper()
	return func(r *rapid.T) {
		// All is drawn before: the bubble is another goroutine, and time in it is not rapid's.
		picky := rapid.Bool().Draw(r, "picky")
		protocol := rapid.SampledFrom([]catalog.Protocol{catalog.TCP, catalog.HTTP}).Draw(r, "protocol")
		steps := rapid.SliceOfN(rapid.Custom(drawStep(rapid.Bool().Draw(r, "judges"))), 1, 30).Draw(r, "steps")
		var errs []string
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, protocol, picky)
			for _, s := range steps {
				w.step(s)
			}
			w.settle()
			w.disconnect()
			w.m.stop()
			errs = w.errs
		})
		for _, e := range errs {
			r.Error(e)
		}
	}
}

// step is one thing that happens.
type step struct {
	What    string
	N       int // of whatever there are several of
	Allow   bool
	Refused []string
	Targets []string // of a cluster, in order; none: it is plain
	Slow    time.Duration
	Pause   time.Duration
	Wait    bool // until nothing moves any more
}

// drawStep draws any step, or one of those that concern who is let in.
func drawStep(judges bool) func(r *rapid.T) step {
	whats := []string{"upstream", "endpoint", "cluster", "intention", "rotate", "reconnect", "refuse", "slow", "time", "roots", "enforcement", "protocol", "twin", "targets", "targets", "chain", "chain", "chain"}
	names := []string{
		"up-0:127.0.0.1:9000", "up-1.default.dc1.internal." + trustDomain, "public_listener:127.0.0.1:20000", "leaf/web", "roots", "intentions/web", "peers/web", "authz/web", "proxy/web",
		"extensions/tcp/web", "log/web", "local_app", "inbound/web", "upstream/up-0:127.0.0.1:9000",
	}
	if judges {
		whats = []string{"intention", "intention", "intention", "intention", "reconnect", "refuse", "slow", "time", "enforcement"}
		names = []string{"intentions/web", "peers/web", "authz/web", "proxy/web", "inbound/web", "public_listener:127.0.0.1:20000"}
	}
	return func(r *rapid.T) step {
		return step{
			What:    rapid.SampledFrom(whats).Draw(r, "what"),
			N:       rapid.IntRange(0, 11).Draw(r, "n"),
			Allow:   rapid.Bool().Draw(r, "allow"),
			Refused: rapid.SliceOfN(rapid.SampledFrom(names), 0, 3).Draw(r, "refused"),
			Targets: rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"api", "v1.api", "other", "third"}), 0, 3, rapid.ID).Draw(r, "targets"),
			Slow:    rapid.SampledFrom([]time.Duration{0, 10 * time.Millisecond, 2 * time.Second, 7 * time.Second}).Draw(r, "slow"),
			Pause:   rapid.SampledFrom([]time.Duration{0, time.Millisecond, 2 * stormQuiet}).Draw(r, "pause"),
			Wait:    rapid.Bool().Draw(r, "wait"),
		}
	}
}

// world is one run of the model.
type world struct {
	m          *mesh
	envoy      *xdstest.Envoy
	disconnect func()
	picky      bool // some resources are refused for a while

	mu   sync.Mutex
	bad  map[string]bool // names that Envoy refuses now
	slow time.Duration   // how long Envoy takes for each response
	late bool            // it took so long once that it is not waited for
	errs []string
	// active are the clusters that Envoy has had endpoints for: another version of the same name waits for some.
	active map[string]*discoveryv3.Resource
	plain  map[string]*discoveryv3.Resource // clusters as they are published
	// chain is the present name of the inbound filter chain, and admitted whom it has ever let in.
	chain    string
	admitted map[string]bool
}

func newWorld(t *testing.T, protocol catalog.Protocol, picky bool) *world {
	t.Helper()
	w := &world{bad: map[string]bool{}, picky: picky, admitted: map[string]bool{}, active: map[string]*discoveryv3.Resource{}, plain: map[string]*discoveryv3.Resource{}}
	w.m = start(t, Config{StallTimeout: never})
	w.m.service("web", protocol, "up-0")
	for i := range 4 {
		w.m.service(fmt.Sprintf("up-%d", i), catalog.TCP)
	}
	w.m.contents.Proxies[0].Inbound.Revocation = catalog.Drain
	w.m.publish()
	w.envoy = xdstest.NewEnvoy(w.m.conn, node("web"))
	w.envoy.Refuse = w.look
	w.disconnect = w.m.runEnvoy(w.envoy, "web")
	return w
}

// look is what Envoy does with a response, and the place where the order is judged.
func (w *world) look(r *discoveryv3.DeltaDiscoveryResponse) string {
	w.mu.Lock()
	slow := w.slow
	w.mu.Unlock()
	time.Sleep(slow) // without the lock: who waits for that keeps time from going on
	w.mu.Lock()
	defer w.mu.Unlock()
	k, _ := kindOf(r.GetTypeUrl())
	wrong := func(format string, args ...any) {
		w.errs = append(w.errs, describe(r)+": "+fmt.Sprintf(format, args...))
	}
	if k == secrets && len(r.GetResources()) != 1 {
		wrong("want one secret a response")
	}
	if !k.hasWildcard() && len(r.GetRemovedResources()) > 0 {
		wrong("removals of this kind are not for Envoy")
	}
	if k == clusters { // no listener that Envoy has may name what is removed
		for _, sni := range r.GetRemovedResources() {
			delete(w.active, sni)
			service, _, _ := strings.Cut(sni, ".")
			for name := range w.envoy.Versions(listeners.url()) {
				if strings.HasPrefix(name, service+":") {
					wrong("listener %s is still there", name)
				}
			}
			for name := range w.envoy.Versions(routes.url()) {
				if leadsTo(w.envoy.Resource(routes.url(), name)) == sni {
					wrong("routes %s are still there", name)
				}
			}
		}
	}
	if k == listeners && !w.picky && !w.late { // what a listener names is there
		for _, l := range r.GetResources() {
			service, _, _ := strings.Cut(l.GetName(), ":")
			if service == "public_listener" {
				continue
			}
			sni := service + ".default.dc1.internal." + trustDomain
			if w.envoy.Resource(clusters.url(), sni) == nil || w.envoy.Resource(endpoints.url(), sni) == nil {
				wrong("cluster %s is not there", sni)
			}
		}
	}
	for _, l := range r.GetResources() {
		if w.bad[l.GetName()] {
			return "refused: " + l.GetName()
		}
	}
	if k == routes && !w.picky { // what takes the place of routes leads somewhere
		for _, l := range r.GetResources() {
			if w.envoy.Resource(routes.url(), l.GetName()) == nil {
				continue
			}
			if to := leadsTo(l); to != "local_app" &&
				(w.envoy.Resource(clusters.url(), to) == nil || w.envoy.Resource(endpoints.url(), to) == nil) {
				wrong("cluster %s is not there", to)
			}
		}
	}
	for _, l := range r.GetResources() {
		if open := w.undialled(k, l); open != "" {
			wrong("%s", open)
		}
	}
	if open := opened(w.envoy, r); open != "" {
		wrong("%s", open)
	}
	chain, admitted := taken{w.envoy, r}.admits("client-0", "client-1", "client-2")
	if chain != w.chain {
		w.chain, w.admitted = chain, map[string]bool{}
	}
	for _, client := range admitted {
		w.admitted[client] = true
	}
	return ""
}

// leadsTo is the cluster that routes lead to.
func leadsTo(r *discoveryv3.Resource) string {
	var c routev3.RouteConfiguration
	if err := r.GetResource().UnmarshalTo(&c); err != nil {
		return err.Error()
	}
	return c.GetVirtualHosts()[0].GetRoutes()[0].GetRoute().GetCluster()
}

func (w *world) step(s step) {
	web := &w.m.contents.Proxies[0]
	web.Upstreams = slices.Clone(web.Upstreams)
	switch s.What {
	case "upstream":
		n := s.N % 4
		name := identity.NewName(fmt.Sprintf("up-%d", n))
		if has := slices.IndexFunc(web.Upstreams, func(u catalog.Upstream) bool { return u.Destination == name }); has >= 0 {
			web.Upstreams = slices.Delete(web.Upstreams, has, has+1)
		} else {
			web.Upstreams = append(web.Upstreams, catalog.Upstream{Destination: name, BindAddress: "127.0.0.1", BindPort: uint16(9000 + n)})
		}
	case "endpoint":
		w.m.contents.Endpoints[1+s.N%4].List[0].Port++
	case "cluster":
		if n := len(web.Upstreams); n > 0 {
			web.Upstreams[s.N%n].ConnectTimeout += time.Second
		}
	case "intention":
		w.m.intend(fmt.Sprintf("client-%d", s.N%3), "web", map[bool]intention.Action{true: intention.Allow}[s.Allow])
	case "enforcement":
		web.Inbound.Enforcement = catalog.Enforcement(s.N % 3)
	case "twin": // an upstream to the same service, of other settings, whose cluster takes the name of the first
		twin := catalog.Upstream{Destination: identity.NewName("up-1"), BindAddress: "127.0.0.1", BindPort: 8999, ConnectTimeout: time.Minute}
		others := slices.DeleteFunc(slices.Clone(web.Upstreams), func(u catalog.Upstream) bool { return u.BindPort == twin.BindPort })
		if len(others) == len(web.Upstreams) {
			others = append(others, twin)
		}
		web.Upstreams = others
	case "protocol": // of an upstream
		w.m.contents.Services[1+s.N%4].Protocol = []catalog.Protocol{catalog.TCP, catalog.HTTP}[s.N%2]
	case "chain": // of an upstream as long as it speaks tcp: a redirect, and who answers else
		service := func(n int) string { return fmt.Sprintf("up-%d", n%4) }
		var others []chain.FailoverTarget
		for i := range s.Targets {
			others = append(others, chain.FailoverTarget{Service: service(s.N + 1 + i)})
		}
		if to := service(s.N / 4); to == service(s.N) {
			w.m.route(service(s.N), catalog.TCP, resolve(to, to, "", others...))
		} else {
			w.m.route(service(s.N), catalog.TCP, resolve(service(s.N), to, ""), resolve(to, to, "", others[:len(others)/2]...))
		}
	case "targets":
		w.m.publish()
		w.targets(s)
		return
	case "rotate":
		w.m.certs.rotate()
	case "roots":
		w.m.certs.roots.Set(w.m.certs.bundle)
	case "reconnect":
		w.disconnect()
		w.disconnect = w.m.runEnvoy(w.envoy, "web")
	case "refuse":
		w.mu.Lock()
		clear(w.bad)
		for _, name := range s.Refused {
			w.bad[name] = w.picky
		}
		w.mu.Unlock()
	case "slow":
		w.mu.Lock()
		w.slow = s.Slow
		w.late = w.late || s.Slow >= time.Second
		w.mu.Unlock()
	case "time":
		time.Sleep(time.Duration(2*s.N) * time.Second)
	}
	w.m.pause = s.Pause
	w.m.publish()
	if s.Wait {
		synctest.Wait()
	}
}

// settle leaves Envoy alone and looks at where that leads.
func (w *world) settle() {
	w.mu.Lock()
	w.bad, w.slow = map[string]bool{}, 0
	w.mu.Unlock()
	time.Sleep(15 * time.Minute) // what is refused, and what is paced by the drain time, comes again within minutes
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	wrong := func(format string, args ...any) { w.errs = append(w.errs, fmt.Sprintf(format, args...)) }
	var n *session
	for _, n = range w.m.server.sessions() {
	}
	if n == nil || n.target == nil {
		wrong("no session, or nothing for it")
		return
	}
	for k := range kinds {
		want := map[string]string{}
		for _, r := range n.target.resources[k] {
			want[r.GetName()] = r.GetVersion()
		}
		if diff := cmp.Diff(want, w.envoy.Versions(k.url())); diff != "" {
			wrong("%s: Envoy has (+), is to have (-):\n%s", k, diff)
		}
	}
	if p, _ := w.m.server.Proxy(proxyID("web")); !p.InSync {
		wrong("status: %+v", p)
	}
	view, _ := w.m.store.Views.Load()
	for client := range w.admitted { // who is not allowed any more has no live connection
		if !view.Policy(identity.NewName("web")).Decide(view.Identity(identity.NewName(client))).Allowed() {
			wrong("%s was let in on chain %s, and is denied", client, w.chain)
		}
	}
	// No hot loop: a response for each change, a few for each refusal.
	log := w.envoy.Log()
	if len(log) > 1500 {
		wrong("%d responses", len(log))
	}
	time.Sleep(time.Hour)
	synctest.Wait()
	if log := w.envoy.Log(); len(log) > 0 {
		wrong("%d responses although nothing happened", len(log))
	}
	held := 0
	for k := range kinds {
		held += len(slices.Collect(maps.Keys(n.subs[k].names)))
	}
	if held > 30 {
		wrong("%d names are remembered", held)
	}
}
