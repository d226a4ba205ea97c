package xds

import (
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// With Envoy silent about its clusters, listeners come when the time to wait is over.
func TestClusterThatNeverWarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		twoServices(m)
		c := m.stream("web")
		c.subscribe(clusters)
		c.expect("cluster " + apiSNI + ",local_app")
		c.subscribe(listeners)
		c.silence()
		time.Sleep(5*time.Second - time.Millisecond)
		c.silence()
		time.Sleep(2 * time.Millisecond)
		c.accept("listener api:127.0.0.1:9000,public_listener:127.0.0.1:20000")

		// What was given up waiting for is not waited for again.
		m.contents.Proxies[0].Upstreams[0].BalanceConnections = true
		m.publish()
		c.accept("listener api:127.0.0.1:9000")
		c.silence()
	})
}

// However often endpoints change, listeners wait for Envoy no longer than the time to wait.
func TestWaitHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		twoServices(m)
		c := m.stream("web")
		c.configure()
		m.contents.Endpoints[1].List[0].Port++
		m.contents.Proxies[0].Upstreams[0].BalanceConnections = true
		m.publish()
		for range 2 { // Envoy answers after 2 s, and each time there is something new
			r := c.expect("endpoint " + apiSNI)
			m.contents.Endpoints[1].List[0].Port++
			m.publish()
			time.Sleep(2 * time.Second)
			c.must(c.s.ACK(r))
		}
		c.expect("endpoint " + apiSNI)
		c.silence()
		time.Sleep(1100 * time.Millisecond)
		c.accept("listener api:127.0.0.1:9000")
	})
}

// On a new stream clusters are asked for first; those that a listener may still name are not
// removed before it is spoken of.
func TestRemovalsOnANewStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		twoServices(m)
		c := m.stream("web")
		c.configure()
		held := m.versions("web")
		m.contents.Proxies[0].Upstreams = nil
		m.publish()
		c.s.Close()
		c = m.stream("web")
		c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusters.url(), InitialResourceVersions: held[clusters]}))
		c.silence()
		c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: listeners.url(), InitialResourceVersions: held[listeners]}))
		for k, name := range map[kind]string{secrets: "leaf/web", extensions: "intentions/web"} {
			c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: k.url(), ResourceNamesSubscribe: []string{name}, InitialResourceVersions: held[k]}))
		}
		c.accept("listener -api:127.0.0.1:9000")
		c.accept("cluster -" + apiSNI)
		c.s.Close()

		// An Envoy that starts speaks of no listeners before its clusters are ready.
		c = m.stream("web")
		c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusters.url(), InitialResourceVersions: held[clusters]}))
		c.silence()
		time.Sleep(5 * time.Second)
		c.accept("cluster -" + apiSNI)
	})
}

func TestClusterReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		m.service("web", catalog.TCP, "api")
		m.service("api", catalog.TCP)
		m.service("db", catalog.TCP)
		m.publish()
		c := m.stream("web")
		c.configure()
		m.contents.Proxies[0].Upstreams[0].Destination = identity.NewName("db")
		m.publish()
		cds := c.expect("cluster " + dbSNI)
		c.silence() // listeners wait
		c.subscribe(endpoints, dbSNI)
		c.accept("endpoint " + dbSNI)
		c.silence()
		c.must(c.s.ACK(cds))
		lds := c.expect("listener db:127.0.0.1:9000 -api:127.0.0.1:9000")
		c.silence() // the old cluster waits
		c.must(c.s.NACK(lds, "not this one"))
		c.accept("listener -api:127.0.0.1:9000") // of a refused response nobody knows what was applied
		c.accept("cluster -" + apiSNI)
		c.silence()
		time.Sleep(firstRetry + time.Millisecond)
		c.accept("listener db:127.0.0.1:9000")
		c.silence()
	})
}

// As long as Envoy refuses a listener it may run the old one, whose cluster stays, and no other.
func TestClusterOfARefusedListener(t *testing.T) {
	for _, stream := range []string{"the same", "a new one"} {
		t.Run(stream, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
				m.service("web", catalog.TCP, "api", "db")
				m.service("api", catalog.TCP)
				m.service("db", catalog.TCP)
				web := &m.contents.Proxies[0]
				web.Exposed = []catalog.ExposedPath{{Path: "/metrics", ListenerPort: 30000, LocalPort: 9100, Protocol: catalog.HTTP}}
				m.publish()
				c := m.stream("web")
				c.subscribe(clusters)
				c.accept("cluster " + apiSNI + "," + dbSNI + ",exposed_cluster_9100,local_app")
				c.subscribe(listeners)
				const exposed = "exposed_path_metrics:127.0.0.1:30000"
				c.accept("listener api:127.0.0.1:9000,db:127.0.0.1:9001," + exposed + ",public_listener:127.0.0.1:20000")
				held := m.versions("web")
				web.Upstreams = append([]catalog.Upstream{}, web.Upstreams[0])
				web.Exposed = []catalog.ExposedPath{{Path: "/metrics", ListenerPort: 30000, LocalPort: 9101, Protocol: catalog.HTTP}}
				if stream == "a new one" {
					c.s.Close()
					m.publish()
					c = m.stream("web")
					for _, k := range []kind{clusters, listeners} {
						c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: k.url(), InitialResourceVersions: held[k]}))
					}
				} else {
					m.publish()
				}
				c.accept("cluster exposed_cluster_9101")
				if stream == "a new one" {
					time.Sleep(5 * time.Second) // it does not say which judges it has
				}
				c.refuse("listener "+exposed+" -db:127.0.0.1:9001", "cannot bind")
				c.accept("listener -db:127.0.0.1:9001")
				if stream == "the same" {
					c.accept("cluster -" + dbSNI)
				}
				c.silence() // of a new stream it is not known what led to which cluster
				time.Sleep(firstRetry + time.Millisecond)
				c.accept("listener " + exposed)
				if stream == "the same" {
					c.accept("cluster -exposed_cluster_9100")
				} else {
					c.accept("cluster -" + dbSNI + ",-exposed_cluster_9100")
				}
				c.silence()
			})
		})
	}
}

// A cluster that changed waits for its endpoints anew, and Envoy does not ask for them.
func TestEndpointsFollowTheirCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("web")
		c.configure()
		held := m.versions("web")
		change := func() {
			m.contents.Proxies[0].Upstreams[0].ConnectTimeout += time.Second
			m.publish()
		}
		change()
		cds := c.expect("cluster " + apiSNI)
		c.accept("endpoint " + apiSNI)
		c.must(c.s.ACK(cds))
		c.silence()
		c.s.Close()

		// On a new stream too, whichever of the two is asked for first, and although the endpoints
		// are held.
		for _, order := range [][]kind{{clusters, endpoints}, {endpoints, clusters}} {
			change()
			synctest.Wait()
			c = m.stream("web")
			for _, k := range order {
				q := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: k.url(), InitialResourceVersions: held[k]}
				if k == endpoints {
					q.ResourceNamesSubscribe = []string{apiSNI}
				}
				c.must(c.s.Send(q))
				synctest.Wait()
			}
			c.expect("cluster " + apiSNI)
			c.expect("endpoint " + apiSNI)
			c.silence()
			c.s.Close()
		}
	})
}

// A stream that broke between a cluster and its endpoints leaves an Envoy that asks for neither.
func TestEndpointsAfterABrokenStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		twoServices(m)
		c := m.stream("web")
		c.configure()
		held := m.versions("web")
		c.s.Close()
		c = m.stream("web")
		c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: endpoints.url(), ResourceNamesSubscribe: []string{apiSNI}, InitialResourceVersions: held[endpoints]}))
		c.silence()
		time.Sleep(5*time.Second + time.Millisecond)
		c.accept("endpoint " + apiSNI)
		c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusters.url(), InitialResourceVersions: held[clusters]}))
		c.silence()
		time.Sleep(time.Minute)
		c.silence()
	})
}

// A cluster that is gone from the catalog before Envoy has asked for its endpoints would keep Envoy
// waiting, silent about all clusters: its removal does not wait for the ACK of its addition.
func TestClusterGoneBeforeItsEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		twoServices(m)
		c := m.stream("web")
		c.configure()
		m.contents.Proxies[0].Upstreams = append(m.contents.Proxies[0].Upstreams, catalog.Upstream{Destination: identity.NewName("db"), BindAddress: "127.0.0.1", BindPort: 9001})
		m.publish()
		added := c.expect("cluster " + dbSNI)
		m.contents.Proxies[0].Upstreams = m.contents.Proxies[0].Upstreams[:1]
		m.publish()
		c.subscribe(endpoints, dbSNI)
		c.accept("endpoint " + dbSNI) // none, so that Envoy need not wait for them
		c.silence()
		time.Sleep(5 * time.Second)
		removed := c.expect("cluster -" + dbSNI)
		c.must(c.s.ACK(added))
		c.silence()
		c.must(c.s.ACK(removed))
		c.silence()
		if p, _ := m.server.Proxy(proxyID("web")); !p.InSync {
			t.Error("not in sync")
		}
	})
}

// An Envoy that is slow gets the new name after the rules, too, however long it takes.
func TestRenameWaitsForTheRules(t *testing.T) {
	for _, test := range []struct {
		protocol catalog.Protocol
		rules    []string
		waits    string
	}{
		{catalog.TCP, []string{"secret peers/web", "extension intentions/web"}, "extension intentions/web, secret peers/web"},
		{catalog.HTTP, []string{"route inbound/web"}, "route inbound/web"},
	} {
		t.Run(test.protocol.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
				m.service("web", test.protocol, "api")
				m.service("api", test.protocol)
				m.contents.Proxies[0].Inbound.Revocation = catalog.Drain
				m.intend("batch", "web", intention.Allow)
				m.publish()
				c := m.stream("web")
				if test.protocol == catalog.TCP {
					c.configure()
				} else {
					c.configureHTTP()
				}
				m.intend("somebody", "web", intention.Allow)
				m.publish()
				var sent []*discoveryv3.DeltaDiscoveryResponse
				for _, r := range test.rules {
					sent = append(sent, c.expect(r))
				}
				m.intend("batch", "web", intention.Deny)
				m.publish()
				time.Sleep(time.Minute)
				c.silence()
				if p, _ := m.server.Proxy(proxyID("web")); p.State() != "waiting: not accepted yet: "+test.waits {
					t.Errorf("State() = %q", p.State())
				}
				for _, r := range sent {
					c.must(c.s.ACK(r))
				}
				for i, r := range test.rules {
					sent[i] = c.expect(r)
				}
				time.Sleep(time.Minute)
				c.silence()
				for _, r := range sent {
					c.must(c.s.ACK(r))
				}
				c.accept("listener public_listener:127.0.0.1:20000")
				c.silence()
			})
		})
	}
}

// A service that ends no live connections any more waits for no rules with that.
func TestRevocationWithoutDrainAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("api")
		c.configureAPI()
		m.intend("batch", "api", intention.Allow)
		m.publish()
		c.accept("secret peers/api")
		c.refuse("extension intentions/api", "not now")
		m.contents.Proxies[1].Inbound.Revocation = catalog.NewConnections
		m.publish()
		c.accept("listener public_listener:127.0.0.1:20001")
		c.silence()
	})
}
