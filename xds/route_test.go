package xds

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

const apiRoutes = "upstream/api:127.0.0.1:9000"

// webOverHTTP is web, an http service, which dials api over http.
func webOverHTTP(m *mesh) {
	m.service("web", catalog.HTTP, "api")
	m.service("api", catalog.HTTP)
	m.publish()
}

func (c *talk) configureHTTP() {
	c.t.Helper()
	c.configureRoutes(apiSNI+",local_app", apiSNI)
}

// configureRoutes speaks the first configuration of web, which has the clusters all, and dials those that are asked for.
func (c *talk) configureRoutes(all string, dialled ...string) {
	c.t.Helper()
	c.subscribe(clusters)
	cds := c.expect("cluster " + all)
	c.subscribe(endpoints, dialled...)
	c.accept("endpoint " + strings.Join(dialled, ","))
	c.must(c.s.ACK(cds))
	c.subscribe(listeners)
	c.accept("listener api:127.0.0.1:9000,public_listener:127.0.0.1:20000")
	c.subscribe(secrets, "leaf/web", "identities", "roots")
	c.accept("secret identities")
	c.accept("secret leaf/web")
	c.accept("secret roots")
	c.subscribe(extensions, "log/web", "jwt/web", "extensions/http/web")
	c.accept("extension extensions/http/web,jwt/web,log/web")
	c.subscribe(routes, "inbound/web", apiRoutes)
	c.accept("route inbound/web," + apiRoutes)
	c.silence()
}

// elsewhere makes the routes of web's upstream lead to a cluster that Envoy does not have, whose
// name it returns: one of other settings, beside an upstream whose listener comes first.
func elsewhere(m *mesh) (cluster string) {
	web := &m.contents.Proxies[0]
	u := web.Upstreams[0]
	u.BindPort--
	web.Upstreams = append([]catalog.Upstream{}, web.Upstreams[0], u)
	web.Upstreams[0].ConnectTimeout = 9 * time.Second
	m.publish()
	return routeCluster(m)
}

// routeCluster is the cluster that web's routes to api are to lead to.
func routeCluster(m *mesh) string {
	synctest.Wait()
	for n := range m.server.proxies[proxyID("web")].sessions {
		return n.target.leadsTo[apiRoutes][0]
	}
	return ""
}

// Routes that Envoy has wait for the cluster of the new ones, however long it takes, and they
// alone.
func TestRoutesWaitForTheirClusters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		webOverHTTP(m)
		c := m.stream("web")
		c.configureHTTP()
		slow := elsewhere(m)
		cds := c.expect("cluster " + slow)
		c.silence()
		time.Sleep(4 * time.Second)
		c.silence()
		time.Sleep(2 * time.Second) // the listener has waited long enough
		c.accept("listener api:127.0.0.1:8999")
		c.subscribe(routes, "upstream/api:127.0.0.1:8999") // leads to a cluster that is there
		c.accept("route upstream/api:127.0.0.1:8999")
		time.Sleep(10 * time.Minute)
		c.silence()
		if p, _ := m.server.Proxy(proxyID("web")); p.InSync || p.State() != "waiting: not accepted yet: cluster "+slow {
			t.Errorf("in sync %t, State() = %q", p.InSync, p.State())
		}
		// Rules, leafs and endpoints do not wait with them.
		m.intend("somebody", "web", intention.Allow)
		m.certs.rotate()
		m.publish()
		c.accept("secret leaf/web")
		c.accept("route inbound/web")
		c.subscribe(endpoints, slow)
		c.accept("endpoint " + slow)
		c.must(c.s.ACK(cds))
		c.accept("route " + apiRoutes)
		c.silence()
		if p, _ := m.server.Proxy(proxyID("web")); !p.InSync {
			t.Errorf("not in sync: %s", p.State())
		}
	})
}

// Where Envoy has no routes, its listener would wait for them; where it refuses the cluster, all
// that the routes say of others would.
func TestRoutesGoOutWithoutACluster(t *testing.T) {
	t.Run("first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
			webOverHTTP(m)
			c := m.stream("web")
			c.subscribe(clusters)
			c.expect("cluster " + apiSNI + ",local_app") // and Envoy says nothing of it
			c.subscribe(listeners)
			time.Sleep(5*time.Second + time.Millisecond)
			c.accept("listener api:127.0.0.1:9000,public_listener:127.0.0.1:20000")
			c.subscribe(routes, "inbound/web", apiRoutes)
			c.accept("route inbound/web," + apiRoutes)
			c.silence()
			if p, _ := m.server.Proxy(proxyID("web")); p.State() != "waiting: not accepted yet: cluster "+apiSNI {
				t.Errorf("State() = %q", p.State())
			}
		})
	})
	t.Run("refused", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := start(t, patient())
			webOverHTTP(m)
			c := m.stream("web")
			c.configureHTTP()
			slow := elsewhere(m)
			c.refuse("cluster "+slow, "not this one")
			c.accept("route " + apiRoutes)
			c.accept("listener api:127.0.0.1:8999")
			if p, _ := m.server.Proxy(proxyID("web")); p.State() != "refuses 1 resource" || p.Streams[0].Refused[0] != slow {
				t.Errorf("State() = %q, refused %q", p.State(), p.Streams[0].Refused)
			}
		})
	})
}

// Routes that Envoy has never accepted do not begin to wait for their cluster when they are refused
// with others.
func TestFirstRoutesAfterARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		webOverHTTP(m)
		c := m.stream("web")
		c.subscribe(clusters)
		c.expect("cluster " + apiSNI + ",local_app") // it does not become warm
		c.subscribe(listeners)
		time.Sleep(5*time.Second + time.Millisecond)
		c.accept("listener api:127.0.0.1:9000,public_listener:127.0.0.1:20000")
		c.subscribe(routes, "inbound/web", apiRoutes)
		c.refuse("route inbound/web,"+apiRoutes, "not the first one")
		c.refuse("route inbound/web", "not this one")
		c.accept("route " + apiRoutes)
	})
}

// Routes that wait for a cluster keep the one that the old ones lead to, and no other.
func TestClustersBesideRoutesThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		webOverHTTP(m)
		m.service("db", catalog.TCP)
		web := &m.contents.Proxies[0]
		dials := func(timeout time.Duration, more ...catalog.Upstream) {
			u := web.Upstreams[0]
			first := u
			first.BindPort, first.ConnectTimeout = 8999, 0
			u.ConnectTimeout = timeout
			web.Upstreams = append([]catalog.Upstream{u, first}, more...)
			m.publish()
		}
		dials(9*time.Second, catalog.Upstream{Destination: identity.NewName("db"), BindAddress: "127.0.0.1", BindPort: 9001})
		c := m.stream("web")
		c.subscribe(clusters)
		old := routeCluster(m)
		c.accept("cluster " + old + "," + apiSNI + "," + dbSNI + ",local_app")
		c.subscribe(listeners)
		c.accept("listener api:127.0.0.1:8999,api:127.0.0.1:9000,db:127.0.0.1:9001,public_listener:127.0.0.1:20000")
		c.subscribe(routes, "inbound/web", apiRoutes, "upstream/api:127.0.0.1:8999")
		c.accept("route inbound/web,upstream/api:127.0.0.1:8999," + apiRoutes)

		dials(10 * time.Second)
		slow := routeCluster(m)
		cds := c.expect("cluster " + slow)
		time.Sleep(5*time.Second + time.Millisecond)
		c.accept("listener -db:127.0.0.1:9001")
		removed := c.expect("cluster -" + dbSNI) // Envoy answers for no cluster before all are warm
		time.Sleep(10 * time.Minute)
		c.silence()
		c.subscribe(endpoints, slow)
		c.accept("endpoint " + slow)
		c.must(c.s.ACK(cds))
		c.accept("route " + apiRoutes)
		c.must(c.s.ACK(removed))
		c.accept("cluster -" + old)
		c.silence()
	})
}

// On a new stream Envoy may ask for its routes before it has said which clusters it has.
func TestRoutesOnANewStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		webOverHTTP(m)
		c := m.stream("web")
		c.configureHTTP()
		held := m.versions("web")
		c.s.Close()
		ask := func(k kind, names ...string) {
			c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: k.url(), ResourceNamesSubscribe: names, InitialResourceVersions: held[k]}))
		}
		delete(held[routes], apiRoutes) // it never came
		c = m.stream("web")
		ask(routes, apiRoutes)
		c.silence()
		ask(clusters)
		c.accept("route " + apiRoutes)
		c.s.Close()

		// An Envoy whose clusters are warming does not ask for them.
		c = m.stream("web")
		ask(routes, apiRoutes)
		time.Sleep(5 * time.Second)
		c.accept("route " + apiRoutes)
	})
}
