package xds

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/sequence"
)

// configureAPI speaks the first configuration of api, and returns the name of its filter chain.
func (c *talk) configureAPI() string {
	c.t.Helper()
	c.subscribe(clusters)
	c.accept("cluster local_app")
	c.subscribe(listeners)
	chain := chainName(c.t, c.accept("listener public_listener:127.0.0.1:20001"))
	c.subscribe(secrets, "leaf/api", "peers/api")
	c.accept("secret leaf/api")
	c.accept("secret peers/api")
	c.slots("api")
	c.silence()
	return chain
}

func chainName(t testing.TB, r *discoveryv3.DeltaDiscoveryResponse) string {
	t.Helper()
	for _, r := range r.GetResources() {
		if !strings.HasPrefix(r.GetName(), "public_listener") {
			continue
		}
		var l listenerv3.Listener
		if err := r.GetResource().UnmarshalTo(&l); err != nil {
			t.Fatal(err)
		}
		return l.GetFilterChains()[0].GetName()
	}
	t.Fatal("no public listener")
	return ""
}

// Access that is taken away: new connections are refused first, by the secret and the rules; when
// Envoy has those, the chain gets another name, which ends the live ones. What is given ends
// nothing.
func TestTighteningAndLoosening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("api")
		first := c.configureAPI()

		time.Sleep(time.Hour)
		m.intend("web", "api", intention.Deny)
		m.publish()
		sds := c.expect("secret peers/api")
		ecds := c.expect("extension intentions/api")
		c.silence()
		c.must(c.s.ACK(ecds))
		c.silence()
		if p, _ := m.server.Proxy(proxyID("api")); !p.Streams[0].RevocationPending {
			t.Error("the status says revoked before Envoy was told to")
		}
		c.must(c.s.ACK(sds))
		lds := c.expect("listener public_listener:127.0.0.1:20001")
		second := chainName(t, lds)
		if second == first {
			t.Errorf("the chain is still named %s", first)
		}
		if p, _ := m.server.Proxy(proxyID("api")); !p.Streams[0].RevocationPending {
			t.Error("the status says revoked before Envoy has accepted it")
		}
		c.must(c.s.ACK(lds))
		c.silence()
		p, _ := m.server.Proxy(proxyID("api"))
		if s := p.Streams[0]; s.RevocationPending || time.Until(s.DrainsUntil).Round(time.Second) != 30*time.Second || p.RevocationBound != "30 s" {
			t.Errorf("pending %t, drains until %s, bound %q", s.RevocationPending, s.DrainsUntil, p.RevocationBound)
		}

		m.intend("web", "api", intention.Allow)
		m.publish()
		c.accept("secret peers/api")
		c.accept("extension intentions/api")
		c.silence()
		if n := metric(t, m, "sallyport_xds_revocations_total", ""); n != 1 {
			t.Errorf("%v revocations counted, want 1", n)
		}
	})
}

// Rules that Envoy refuses: the chain keeps its name, as a connection that the old ones let in under
// the new name would never end. Nothing else waits, and the status says what is waited for.
func TestTighteningThatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		m.service("web", catalog.TCP, "api", "db")
		m.service("api", catalog.TCP)
		m.service("db", catalog.TCP)
		m.intend("batch", "web", intention.Allow)
		m.publish()
		c := m.stream("web")
		c.subscribe(clusters)
		c.accept("cluster " + apiSNI + "," + dbSNI + ",local_app")
		c.subscribe(listeners)
		first := chainName(t, c.accept("listener api:127.0.0.1:9000,db:127.0.0.1:9001,public_listener:127.0.0.1:20000"))
		c.subscribe(secrets, "peers/web")
		c.accept("secret peers/web")
		c.slots("web")

		m.intend("batch", "web", intention.Deny)
		m.publish()
		c.accept("secret peers/web")
		c.refuse("extension intentions/web", "no such rule")
		web := &m.contents.Proxies[0]
		web.Upstreams = append([]catalog.Upstream{}, web.Upstreams[0])
		web.Upstreams[0].BalanceConnections = true
		m.publish()
		c.accept("listener api:127.0.0.1:9000 -db:127.0.0.1:9001")
		c.accept("cluster -" + dbSNI)
		c.silence()
		p, _ := m.server.Proxy(proxyID("web"))
		if s := p.Streams[0]; !s.RevocationPending || p.State() != "waiting: not accepted yet: extension intentions/web" || len(s.Refused) != 1 {
			t.Errorf("pending %t, %s, refused %q", s.RevocationPending, p.State(), s.Refused)
		}
		time.Sleep(firstRetry)
		c.refuse("extension intentions/web", "no such rule")
		c.silence()
		time.Sleep(2 * firstRetry)
		c.accept("extension intentions/web")
		if got := chainName(t, c.accept("listener public_listener:127.0.0.1:20000")); got == first {
			t.Errorf("the chain is still named %s", got)
		}
		c.silence()
		if p, _ := m.server.Proxy(proxyID("web")); p.Streams[0].RevocationPending || !p.InSync {
			t.Errorf("pending although Envoy has it all: %s", p.State())
		}
	})
}

// Access that was taken away while the stream was broken: Envoy may ask for its listeners first,
// and is told of the new chain last.
func TestTighteningMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		twoServices(m)
		c := m.stream("api")
		c.configureAPI()
		held := m.versions("api")
		c.s.Close()
		m.intend("web", "api", intention.Deny)
		m.publish()
		ask := func(k kind, names ...string) {
			c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: k.url(), ResourceNamesSubscribe: names, InitialResourceVersions: held[k]}))
		}
		c = m.stream("api")
		ask(listeners)
		ask(clusters)
		c.silence()
		ask(secrets, "leaf/api", "peers/api")
		sds := c.expect("secret peers/api")
		c.must(c.s.ACK(sds))
		c.silence()
		ask(extensions, "intentions/api")
		c.accept("extension intentions/api")
		c.accept("listener public_listener:127.0.0.1:20001")
		c.silence()
		c.s.Close()

		// An Envoy that does not ask is told in the end.
		c = m.stream("api")
		ask(listeners)
		c.silence()
		time.Sleep(5 * time.Second)
		c.accept("listener public_listener:127.0.0.1:20001")
	})
}

// Who is revoked is ended also while a proxy's configuration cannot be made; all else stays. Of a
// proxy that became another service's nobody is served under the name of before.
func TestRevocationWhileTheBuildFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		m.intend("batch", "web", intention.Allow)
		m.publish()
		c := m.stream("web")
		c.configure()
		web := &m.contents.Proxies[0]
		spoil := func() {
			t.Helper()
			time.Sleep(time.Hour)
			twin := web.Upstreams[0]
			twin.ConnectTimeout = time.Second
			web.Upstreams = append(web.Upstreams[:1:1], twin) // on the same port
			web.Inbound.LocalPort++
			m.publish()
			c.silence()
		}
		revoked := func() (rules string) {
			t.Helper()
			m.publish()
			c.accept("secret peers/web")
			rules = string(c.accept("extension intentions/web").GetResources()[0].GetResource().GetValue())
			c.accept("listener public_listener:127.0.0.1:20000")
			c.silence()
			p, _ := m.server.Proxy(proxyID("web"))
			if !strings.Contains(p.BuildError, "both listen on") || p.State() != "keeps its last configuration" {
				t.Errorf("BuildError = %q, State() = %q", p.BuildError, p.State())
			}
			return rules
		}
		spoil()
		m.intend("batch", "web", intention.Deny)
		if rules := revoked(); !strings.Contains(rules, "svc/batch") {
			t.Errorf("the rules are not those of web: %q", rules)
		}
		web.Upstreams = web.Upstreams[:1]
		m.publish()
		c.accept("cluster local_app") // and nothing that was told meanwhile
		c.silence()
		m.intend("batch", "web", intention.Allow)
		m.publish()
		c.accept("secret peers/web")
		c.accept("extension intentions/web")
		spoil()
		web.Service = identity.NewName("api")
		if rules := revoked(); strings.Contains(rules, "svc/") {
			t.Errorf("somebody is let in as by the rules of api: %q", rules)
		}
	})
}

// Services whose revocation ends no live connections keep the name of their chain.
func TestRevocationWithoutDrain(t *testing.T) {
	for _, r := range []catalog.Revocation{catalog.NewConnections, catalog.NextRequest} {
		t.Run(r.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t, patient())
				twoServices(m)
				m.contents.Proxies[1].Inbound.Revocation = r
				m.publish()
				c := m.stream("api")
				c.configureAPI()
				m.intend("web", "api", intention.Deny)
				m.publish()
				c.accept("secret peers/api")
				c.accept("extension intentions/api")
				c.silence()
			})
		})
	}
}

// Renames are 5 s apart, and no more than three chains drain at once. What the new policy says of
// new connections does not wait.
func TestRenamesArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		m.service("web", catalog.TCP, "api")
		m.service("api", catalog.TCP)
		for i := range 6 {
			m.intend(fmt.Sprintf("client-%d", i), "api", intention.Allow)
		}
		m.publish()
		c := m.stream("api")
		c.configureAPI()
		begin := time.Now()
		var renamed []time.Duration
		deny := func(i int) {
			m.intend(fmt.Sprintf("client-%d", i), "api", intention.Deny)
			m.publish()
			c.accept("secret peers/api")
			c.accept("extension intentions/api")
		}
		rename := func() {
			c.accept("listener public_listener:127.0.0.1:20001")
			renamed = append(renamed, time.Since(begin).Truncate(time.Second))
			c.silence()
		}
		deny(0)
		rename()
		deny(1) // two at once: one rename ends the connections of both
		deny(2)
		c.silence()
		if p, _ := m.server.Proxy(proxyID("api")); !p.Streams[0].RevocationPending {
			t.Error("the status says revoked although the rename is put off")
		} else if got := time.Until(p.Streams[0].RevocationAt).Round(time.Second); got != renameEvery {
			t.Errorf("the status says that live connections end in %s, want %s", got, renameEvery)
		}
		if s, err := m.server.Change(0); err != nil || !slices.ContainsFunc(s.Proxies, func(p ProxyChange) bool { return p.State == "accepted, and ends live connections in 5s" }) {
			t.Errorf("the change: %+v, %v", s, err)
		}
		time.Sleep(renameEvery)
		rename()
		if p, _ := m.server.Proxy(proxyID("api")); p.Streams[0].RevocationPending || !p.Streams[0].RevocationAt.IsZero() {
			t.Errorf("the status goes on saying that a revocation waits: %+v", p.Streams[0])
		}
		deny(3)
		time.Sleep(renameEvery)
		rename()
		deny(4) // the fourth waits until the first has drained, for 30 s
		if p, _ := m.server.Proxy(proxyID("api")); time.Until(p.Streams[0].RevocationAt).Round(time.Second) != 4*renameEvery {
			t.Errorf("the status says that live connections end in %s, want %s", time.Until(p.Streams[0].RevocationAt), 4*renameEvery)
		}
		time.Sleep(3 * renameEvery)
		c.silence()
		time.Sleep(5 * time.Second)
		rename()
		want := []time.Duration{0, 5 * time.Second, 10 * time.Second, 30 * time.Second}
		if fmt.Sprint(renamed) != fmt.Sprint(want) {
			t.Errorf("renamed at %v, want %v", renamed, want)
		}
		// Taken away and given back before the rename: nothing has to end.
		deny(5)
		m.intend("client-5", "api", intention.Allow)
		m.publish()
		c.accept("secret peers/api")
		c.accept("extension intentions/api")
		time.Sleep(time.Minute)
		c.silence()
	})
}

// A restart renames nothing; what was tightened while the control plane was away is ended at once.
func TestGenerationsOutliveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := patient()
		cfg.GenerationsFile = t.TempDir() + "/generations-2.json"
		m := start(t, cfg)
		twoServices(m)
		m.intend("other", "api", intention.Allow)
		m.publish()
		restart := func() *talk {
			m.stop()
			time.Sleep(time.Hour)
			m.store = &catalog.Store{}
			m.run(cfg)
			t.Cleanup(func() { m.stop() })
			m.publish()
			return m.stream("api")
		}
		c := m.stream("api")
		first := c.configureAPI()
		// Narrowed and widened again, so that what was ever allowed is more than what is.
		c = restart()
		if got := c.configureAPI(); got != first {
			t.Errorf("after a restart the chain is named %s, was %s", got, first)
		}
		m.intend("late", "api", intention.Allow)
		m.publish()
		c.accept("secret peers/api")
		c.accept("extension intentions/api")
		m.intend("late", "api", intention.Deny)
		c = restart()
		second := c.configureAPI()
		if second == first {
			t.Errorf("access was taken away meanwhile, and the chain is still named %s", second)
		}
		m.intend("late", "api", intention.Allow)
		c = restart()
		if got := c.configureAPI(); got != second {
			t.Errorf("access was given meanwhile, and the chain is named %s, was %s", got, second)
		}
		info, err := os.Stat(cfg.GenerationsFile)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v, want mode 0600", info, err)
		}
		// A lost file costs one drain.
		if err := os.Remove(cfg.GenerationsFile); err != nil {
			t.Fatal(err)
		}
		c = restart()
		if got := c.configureAPI(); got == second {
			t.Errorf("the file was lost, and the chain is still named %s: a revocation meanwhile would have been missed", got)
		}
	})
}

// What a name stands for is on the disk before the name is handed out, so that a control plane that
// is killed at any moment finds it again; and all of a mesh's destinations are written at once, not
// with each first Envoy of theirs.
func TestGenerationsAreWrittenBeforeEnvoysConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := patient()
		cfg.GenerationsFile = t.TempDir() + "/generations-2.json"
		m := start(t, cfg)
		twoServices(m)
		m.publish()
		synctest.Wait()
		before, err := os.Stat(cfg.GenerationsFile)
		if err != nil {
			t.Fatal(err)
		}
		g, err := openGenerations(cfg.GenerationsFile, "", &sequence.Numbers{}, time.Time{})
		if err != nil || len(g.byDst) != 2 {
			t.Fatalf("%d destinations are written, %v, want both", len(g.byDst), err)
		}
		name := m.stream("api").configureAPI()
		if want := fmt.Sprintf("api/%d", g.byDst["api"].number); name != want {
			t.Errorf("the chain is named %s, want %s", name, want)
		}
		if after, err := os.Stat(cfg.GenerationsFile); err != nil || !os.SameFile(before, after) {
			t.Errorf("the file was written again for an Envoy that is no news, %v", err)
		}
	})
}

// A disk that takes nothing does not keep a revocation from ending live connections.
func TestGenerationsThatCannotBeSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir() + "/data"
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		cfg := patient()
		cfg.GenerationsFile = dir + "/generations-2.json"
		m := start(t, cfg)
		twoServices(m)
		c := m.stream("api")
		first := c.configureAPI()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		m.intend("web", "api", intention.Deny)
		m.publish()
		c.accept("secret peers/api")
		c.accept("extension intentions/api")
		if got := chainName(t, c.accept("listener public_listener:127.0.0.1:20001")); got == first {
			t.Errorf("the chain is still named %s", got)
		}
		if log := m.logs.String(); !strings.Contains(log, "generations are not saved") {
			t.Errorf("log:\n%s", log)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(saveAgain + time.Second)
		c.silence()
		g, err := openGenerations(cfg.GenerationsFile, "", &sequence.Numbers{}, time.Time{})
		if err != nil || g.byDst["api"] == nil || !g.byDst["api"].allowed.Within(intention.Set{}) {
			t.Errorf("the file was not written later: %v, %v", g, err)
		}
	})
}
