package xds

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

const (
	v1SNI = "v1." + apiSNI
	v2SNI = "v2." + apiSNI
	v3SNI = "v3." + apiSNI
)

// split has requests to api answered by those of its subsets in equal parts.
func split(m *mesh, subsets ...string) {
	m.t.Helper()
	s := chain.Splitter{Service: identity.NewName("api")}
	r := resolve("api", "api", "")
	for _, subset := range subsets {
		s.Splits = append(s.Splits, chain.Split{Weight: 100 / float64(len(subsets)), Subset: subset})
		r.Subsets[subset] = chain.Subset{}
	}
	m.route("api", catalog.HTTP, s, r)
	m.publish()
}

// configureSplit speaks the first configuration of web, whose requests to api are split between v1 and v2.
func (c *talk) configureSplit() {
	c.t.Helper()
	c.configureRoutes("local_app,"+v1SNI+","+v2SNI, v1SNI, v2SNI)
}

// Routes that lead to several clusters wait for each of them that is new, however long it takes; those that they do not lead to any more go
// when Envoy has the routes.
func TestRoutesWaitForAllTheirClusters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		webOverHTTP(m)
		split(m, "v1", "v2")
		c := m.stream("web")
		c.configureSplit()

		split(m, "v3", "v2", "v4")
		cds := c.expect("cluster " + v3SNI + ",v4." + apiSNI)
		c.subscribe(endpoints, v3SNI)
		c.accept("endpoint " + v3SNI)
		time.Sleep(10 * time.Minute)
		c.silence()
		if p, _ := m.server.Proxy(proxyID("web")); p.State() != "waiting: not accepted yet: cluster "+v3SNI+", cluster v4."+apiSNI {
			t.Errorf("State() = %q", p.State())
		}
		c.subscribe(endpoints, "v4."+apiSNI)
		c.accept("endpoint v4." + apiSNI)
		c.silence()
		c.must(c.s.ACK(cds))
		c.accept("route " + apiRoutes)
		c.accept("cluster -" + v1SNI)
		c.silence()
	})
}

// A cluster that Envoy refuses takes its share of the requests and no more: the routes do not wait for it, and its place in the status says
// so. Others of the same routes are waited for all the same.
func TestRoutesWithARefusedCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		webOverHTTP(m)
		split(m, "v1", "v2")
		c := m.stream("web")
		c.configureSplit()

		split(m, "v2", "v3", "v4")
		c.refuse("cluster "+v3SNI+",v4."+apiSNI, "one of them")
		c.refuse("cluster "+v3SNI, "this one")
		cds := c.expect("cluster v4." + apiSNI)
		c.silence()
		time.Sleep(firstRetry / 2)
		c.silence()
		c.subscribe(endpoints, "v4."+apiSNI)
		c.accept("endpoint v4." + apiSNI)
		c.must(c.s.ACK(cds))
		c.accept("route " + apiRoutes)
		c.accept("cluster -" + v1SNI)
		if p, _ := m.server.Proxy(proxyID("web")); p.State() != "refuses 1 resource" || p.Streams[0].Refused[0] != v3SNI {
			t.Errorf("State() = %q, refused %q", p.State(), p.Streams[0].Refused)
		}
		time.Sleep(firstRetry)
		c.accept("cluster " + v3SNI)
		c.silence()
		if p, _ := m.server.Proxy(proxyID("web")); !p.InSync {
			t.Errorf("State() = %q", p.State())
		}
	})
}

// A cluster of routes that changes its failover is told in steps, for which the routes do not wait.
func TestFailoverBehindRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		webOverHTTP(m)
		m.route("api", catalog.HTTP, resolve("api", "api", "v1"))
		m.instances("api", "v1", catalog.Endpoint{Address: "127.0.0.1", Port: 1, Weight: 1, Healthy: true})
		m.publish()
		c := m.stream("web")
		c.subscribe(clusters)
		c.accept("cluster local_app," + v1SNI)
		c.subscribe(endpoints, v1SNI)
		c.accept("endpoint " + v1SNI)
		c.subscribe(listeners)
		c.accept("listener api:127.0.0.1:9000,public_listener:127.0.0.1:20000")
		c.subscribe(routes, "inbound/web", apiRoutes)
		c.accept("route inbound/web," + apiRoutes)

		m.instances("api", "v2", catalog.Endpoint{Address: "127.0.0.1", Port: 2, Weight: 1, Healthy: true})
		m.route("api", catalog.HTTP, resolve("api", "api", "v1", chain.FailoverTarget{Subset: "v2"}))
		m.publish()
		cds := c.expect("cluster " + v1SNI)
		if got, want := says(t, cds.GetResources()[0]), "cluster v1.api.default.default.dc1 v2.api.default.default.dc1"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		eds := c.expect("endpoint " + v1SNI)
		if got, want := says(t, eds.GetResources()[0]), "endpoint v1.api.default.default.dc1:1"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		c.must(c.s.ACK(eds))
		c.accept("route " + apiRoutes) // it retries at another priority
		c.must(c.s.ACK(cds))
		eds = c.expect("endpoint " + v1SNI)
		if got, want := says(t, eds.GetResources()[0]), "endpoint v1.api.default.default.dc1:1 v2.api.default.default.dc1:2"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		c.must(c.s.ACK(eds))
		c.silence()
	})
}
