package xds

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

const (
	apiSNI = "api.default.dc1.internal." + trustDomain
	dbSNI  = "db.default.dc1.internal." + trustDomain
)

// never is a timeout that no test reaches: what is answered is answered because of what was said.
const never = time.Hour

func patient() Config { return Config{AckTimeout: never, StallTimeout: 4 * never} }

// twoServices is web, which dials api over tcp, and is allowed to.
func twoServices(m *mesh) {
	m.service("web", catalog.TCP, "api")
	m.service("api", catalog.TCP)
	m.intend("web", "api", intention.Allow)
	m.publish()
}

// configure speaks the first configuration of web up to its end, in the order in which Envoy asks,
// and ends in silence.
func (c *talk) configure() {
	c.t.Helper()
	c.subscribe(clusters)
	cds := c.expect("cluster " + apiSNI + ",local_app")
	c.subscribe(endpoints, apiSNI)
	c.accept("endpoint " + apiSNI)
	c.must(c.s.ACK(cds))
	c.subscribe(listeners)
	c.accept("listener api:127.0.0.1:9000,public_listener:127.0.0.1:20000")
	c.subscribe(secrets, "leaf/web", "peers/web", "roots")
	c.accept("secret leaf/web")
	c.accept("secret peers/web")
	c.accept("secret roots")
	c.slots("web")
	c.silence()
}

// slots are the names of the extension configurations of a tcp service.
func slots(service string) []string {
	return []string{"authz/" + service, "extensions/tcp/" + service, "proxy/" + service, "intentions/" + service}
}

// slots speaks the first configuration of the slots: what judges first, and apart from what users
// fill.
func (c *talk) slots(service string) {
	c.t.Helper()
	c.subscribe(extensions, slots(service)...)
	c.accept("extension authz/" + service + ",intentions/" + service)
	c.accept("extension extensions/tcp/" + service + ",proxy/" + service)
}

// resume asks for what configure asked for, saying what is held.
func (c *talk) resume(held [kinds]map[string]string) {
	c.t.Helper()
	names := [kinds][]string{endpoints: {apiSNI}, secrets: {"leaf/web", "peers/web", "roots"}, extensions: slots("web")}
	for _, k := range []kind{clusters, endpoints, listeners, secrets, extensions} {
		c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: k.url(), ResourceNamesSubscribe: names[k], InitialResourceVersions: held[k]}))
	}
}

// versions is what a proxy's Envoy has when its last session has sent it all.
func (m *mesh) versions(service string) (v [kinds]map[string]string) {
	m.t.Helper()
	for n := range m.server.proxies[proxyID(service)].sessions {
		for k := range kinds {
			v[k] = map[string]string{}
			for _, r := range n.target.resources[k] {
				v[k][r.GetName()] = r.GetVersion()
			}
		}
	}
	return v
}

func TestFirstConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		m.stream("web").configure()
	})
}

// Nothing is answered before all is in hand.
func TestGate(t *testing.T) {
	t.Run("catalog", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := start(t, patient())
			c := m.stream("web")
			c.subscribe(clusters)
			c.silence()
			time.Sleep(10 * time.Second)
			c.silence()
			twoServices(m)
			c.expect("cluster " + apiSNI + ",local_app")
		})
	})
	t.Run("proxy", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := start(t, patient())
			m.service("api", catalog.TCP)
			m.publish()
			c := m.stream("web")
			c.subscribe(clusters)
			c.silence()
			if got := m.server.Status(); len(got) != 2 || got[0].Connected || got[0].Left || !got[1].Left || got[1].State() != "not in the catalog" {
				t.Errorf("Status() = %+v, want api, and web, which is not in the catalog", got)
			}
			twoServices(m)
			c.expect("cluster " + apiSNI + ",local_app")
			if got := m.server.Status(); slices.ContainsFunc(got, func(p ProxyStatus) bool { return p.Left }) {
				t.Errorf("Status() = %+v, want web in the catalog", got)
			}
		})
	})
	t.Run("roots", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := start(t, patient())
			m.stop()
			m.certs = newCertificates(t)
			m.run(patient())
			t.Cleanup(func() { m.stop() })
			twoServices(m)
			c := m.stream("web")
			c.subscribe(clusters)
			c.silence()
			if p, _ := m.server.Proxy(proxyID("web")); p.Waiting != "the trust bundle is not known yet" {
				t.Errorf("Waiting = %q", p.Waiting)
			}
			time.Sleep(m.pause)
			m.certs.roots.Set(m.certs.bundle)
			c.expect("cluster " + apiSNI + ",local_app")
		})
	})
	t.Run("leaf", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := start(t, patient())
			m.certs.withheld = true
			twoServices(m)
			c := m.stream("web")
			c.subscribe(clusters)
			c.subscribe(secrets, "roots", "leaf/web")
			c.silence()
			if p, _ := m.server.Proxy(proxyID("web")); p.Waiting != "not there yet: leaf/web" || p.State() != "waiting: not there yet: leaf/web" {
				t.Errorf("Waiting = %q, State() = %q", p.Waiting, p.State())
			}
			m.certs.rotate()
			c.accept("secret leaf/web")
			c.expect("cluster " + apiSNI + ",local_app")
			c.expect("secret roots")
		})
	})
}

func TestNewSubscriptionIsNoACK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("web")
		c.subscribe(secrets, "leaf/web")
		r := c.expect("secret leaf/web")
		c.subscribe(secrets, "roots")
		c.silence()
		// An answer to something else is no answer either.
		c.must(c.s.ACK(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: secrets.url(), Nonce: r.GetNonce() + "0"}))
		c.silence()
		c.must(c.s.ACK(r))
		c.accept("secret roots")
		c.silence()
	})
}

func TestSubscribedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("web")
		c.configure()
		c.subscribe(secrets, "roots")
		c.accept("secret roots")
		c.subscribe(endpoints, apiSNI)
		c.accept("endpoint " + apiSNI)
		c.subscribe(secrets, "nobody")
		c.silence()
		// A cluster that is nowhere has no endpoints: that is an answer, silence would keep Envoy
		// waiting.
		c.subscribe(endpoints, dbSNI)
		var none endpointv3.ClusterLoadAssignment
		if err := c.accept("endpoint " + dbSNI).GetResources()[0].GetResource().UnmarshalTo(&none); err != nil || none.GetClusterName() != dbSNI || len(none.GetEndpoints()) != 0 {
			t.Errorf("%v, %v, want no endpoints", &none, err)
		}
		c.silence()
		// A listener that Envoy unsubscribes from is still one of all.
		c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: listeners.url(), ResourceNamesUnsubscribe: []string{"api:127.0.0.1:9000"}}))
		c.accept("listener api:127.0.0.1:9000")
		c.silence()
	})
}

func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("web")
		c.configure()
		held := m.versions("web")
		c.s.Close()

		c = m.stream("web")
		c.resume(held)
		c.silence()
		c.s.Close()

		// What changed meanwhile is sent, and removals of what Envoy says it has.
		held[clusters]["old"], held[listeners]["old"] = "1", "1"
		held[secrets]["roots"] = "another"
		c = m.stream("web")
		c.resume(held)
		r := c.expect("secret roots")
		c.silence()
		c.must(c.s.ACK(r))
		c.accept("listener -old")
		c.accept("cluster -old")
		c.silence()
	})
}

// A control plane that was restarted sends each proxy its new leaf, as keys are not kept, and
// nothing else.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := patient()
		cfg.GenerationsFile = t.TempDir() + "/generations-2.json"
		m := start(t, cfg)
		twoServices(m)
		c := m.stream("web")
		c.configure()
		held := m.versions("web")
		m.stop()
		time.Sleep(time.Hour) // so that a new generation would have another name
		m.store = &catalog.Store{}
		m.certs.rotate()
		m.run(cfg)
		t.Cleanup(func() { m.stop() })
		m.publish()
		c = m.stream("web")
		c.resume(held)
		c.accept("secret leaf/web")
		c.silence()
	})
}

func TestTwoStreamsOfOneProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		one, two := m.stream("web"), m.stream("web")
		one.configure()
		two.subscribe(secrets, "roots")
		r := two.expect("secret roots")
		m.contents.Endpoints[1].List[0].Port++
		m.publish()
		one.accept("endpoint " + apiSNI)
		one.silence()
		two.silence()
		two.must(two.s.ACK(r))
		two.subscribe(endpoints, apiSNI)
		two.accept("endpoint " + apiSNI)
		if p, _ := m.server.Proxy(proxyID("web")); len(p.Streams) != 2 || !p.Connected {
			t.Errorf("%d streams, connected %t", len(p.Streams), p.Connected)
		}
		if n := metric(t, m, "sallyport_xds_connected_proxies", ""); n != 1 {
			t.Errorf("%v proxies connected, want 1", n)
		}
	})
}

// What comes while a response is open is folded into the next one.
func TestChangesDuringAnOpenResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("web")
		c.configure()
		change := func() {
			m.contents.Endpoints[1].List[0].Port++
			m.publish()
			time.Sleep(time.Second)
		}
		change()
		r := c.expect("endpoint " + apiSNI)
		for range 100 {
			change()
		}
		c.silence()
		c.must(c.s.ACK(r))
		c.accept("endpoint " + apiSNI)
		c.silence()
		// Gone and back again before Envoy has answered: nothing is left to say.
		change()
		r = c.expect("endpoint " + apiSNI)
		change()
		m.contents.Endpoints[1].List[0].Port--
		m.publish()
		time.Sleep(time.Second)
		c.must(c.s.ACK(r))
		c.silence()
	})
}

func TestEqualContentIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("web")
		c.configure()
		m.contents.Proxies[0].Origin = "elsewhere.hcl:7" // another proxy, to the catalog; the same, to Envoy
		m.publish()
		m.service("other", catalog.HTTP, "web")
		m.publish()
		time.Sleep(time.Minute)
		c.silence()
	})
}

// A configuration that cannot be made leaves the last one.
func TestBuildError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("web")
		c.configure()
		up := m.contents.Proxies[0].Upstreams[0]
		up.Destination = identity.NewName("other")
		m.contents.Proxies[0].Upstreams = append(m.contents.Proxies[0].Upstreams, up) // on the same port
		m.publish()
		c.silence()
		p, _ := m.server.Proxy(proxyID("web"))
		if !strings.Contains(p.BuildError, "both listen on") || p.InSync || p.State() != "keeps its last configuration" {
			t.Errorf("BuildError = %q, State() = %q", p.BuildError, p.State())
		}
		m.certs.rotate() // certificates go on
		c.accept("secret leaf/web")
		m.contents.Proxies[0].Upstreams = m.contents.Proxies[0].Upstreams[:1]
		m.publish()
		c.silence()
		if p, _ := m.server.Proxy(proxyID("web")); p.BuildError != "" || !p.InSync || p.State() != "in sync" {
			t.Errorf("BuildError = %q, State() = %q", p.BuildError, p.State())
		}
	})
}

// A leaf goes to those who use it, alone, and touches nothing else.
func TestLeafRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("web")
		c.configure()
		for range 3 {
			m.certs.rotate()
			c.accept("secret leaf/web")
			c.silence()
		}
	})
}
