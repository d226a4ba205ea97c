package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// stepped is a conversation of web, whose cluster of api gets several targets.
type stepped struct {
	*talk
	m     *mesh
	plain *discoveryv3.Resource
}

// stepsOf begins a conversation up to the end of the first configuration.
func stepsOf(t *testing.T, cfg Config) *stepped {
	t.Helper()
	m := start(t, cfg)
	twoServices(m)
	c := m.stream("web")
	c.configure()
	return &stepped{c, m, m.session("web").target.resources[clusters].Get(apiSNI)}
}

// session is the last one of a service's proxy.
func (m *mesh) session(service string) *session {
	m.t.Helper()
	synctest.Wait()
	all := m.server.sessionsOf(proxyID(service))
	if len(all) == 0 {
		m.t.Fatalf("%s has no stream", service)
	}
	return slices.MaxFunc(all, func(a, b *session) int { return a.opened.Compare(b.opened) })
}

// say makes a cluster and its endpoints what Envoy is to have; without a cluster it goes.
func (m *mesh) say(cluster, endpointsOf *discoveryv3.Resource) {
	m.t.Helper()
	n := m.session("web")
	n.mu.Lock()
	t := *n.target
	n.mu.Unlock()
	for k, r := range map[kind]*discoveryv3.Resource{clusters: cluster, endpoints: endpointsOf} {
		if t.resources[k] = t.resources[k].With(&discoveryv3.Resource{Name: apiSNI}); r != nil {
			t.resources[k] = t.resources[k].With(r)
		} else {
			t.resources[k] = slices.DeleteFunc(t.resources[k], func(r *discoveryv3.Resource) bool { return r.GetName() == apiSNI })
		}
	}
	n.set(&t, time.Now(), 0)
}

// say is that the cluster has these levels; more are targets that it has sockets for beside them.
func (c *stepped) say(levels ...level) {
	c.t.Helper()
	var targets []string
	for _, l := range levels {
		targets = append(targets, l.target)
	}
	c.m.say(formP(c.t, c.plain, targets...), lists(c.t, apiSNI, levels...))
}

// one is a level with one endpoint.
func one(target string, port int) level { return level{target, []int{port}} }

// expects is the next response, which has the cluster or its endpoints and nothing else: "cluster api other", "endpoint api:1 other:2"; a
// cluster that dials endpoints of no target has "plain" too.
func (c *stepped) expects(want string) *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	k, _, _ := strings.Cut(want, " ")
	r := c.expect(k + " " + apiSNI)
	if got := says(c.t, r.GetResources()[0]); got != want {
		c.t.Fatalf("got %q, want %q", got, want)
	}
	return r
}

func (c *stepped) accepts(want string) {
	c.t.Helper()
	c.must(c.s.ACK(c.expects(want)))
}

// says describes a cluster or endpoints.
func says(t testing.TB, r *discoveryv3.Resource) string {
	t.Helper()
	var out []string
	if r.GetResource().GetTypeUrl() == clusters.url() {
		c := unpacked(t, r, &clusterv3.Cluster{})
		for _, m := range c.GetTransportSocketMatches() {
			out = append(out, targetOf(m.GetMatch()))
		}
		slices.Sort(out)
		if !strings.Contains(c.GetTransportSocket().String(), "none.invalid") {
			out = append(out, "plain")
		}
		return strings.Join(append([]string{"cluster"}, out...), " ")
	}
	for _, l := range unpacked(t, r, &endpointv3.ClusterLoadAssignment{}).GetEndpoints() {
		for _, e := range l.GetLbEndpoints() {
			out = append(out, fmt.Sprintf("%s:%d", targetOf(e.GetMetadata().GetFilterMetadata()[matchKey]), e.GetEndpoint().GetAddress().GetSocketAddress().GetPortValue()))
		}
	}
	return strings.Join(append([]string{"endpoint"}, out...), " ")
}

// settledOn is that Envoy has all, and is told nothing more.
func (c *stepped) settledOn() {
	c.t.Helper()
	c.silence()
	if p, _ := c.m.server.Proxy(proxyID("web")); !p.InSync {
		c.t.Errorf("not in sync: %s", p.State())
	}
}

// whole is the cluster and its endpoints, which are sent together.
func (c *stepped) whole(cluster, list string) {
	c.t.Helper()
	r := c.expects(cluster)
	c.accepts(list)
	c.silence()
	c.must(c.s.ACK(r))
}

// What becomes of a cluster is said in steps, each when Envoy has accepted the one before.
func TestSteps(t *testing.T) {
	api, other, v1 := one("api", 1), one("other", 2), one("v1.api", 3)
	for name, f := range map[string]func(*stepped){
		"replaced": func(c *stepped) {
			c.say(other)
			c.whole("cluster api other", "endpoint api:1")
			c.accepts("endpoint other:2")
			c.whole("cluster other", "endpoint other:2")
		},
		"added before": func(c *stepped) {
			c.say(other, api)
			c.whole("cluster api other", "endpoint api:1")
			c.accepts("endpoint other:2 api:1")
		},
		"added behind": func(c *stepped) {
			c.say(api, other)
			c.whole("cluster api other", "endpoint api:1")
			c.accepts("endpoint api:1 other:2")
			c.settledOn()
			c.say(other, api) // the same sockets
			c.whole("cluster api other", "endpoint other:2 api:1")
			c.settledOn()
			c.say(other)
			c.accepts("endpoint other:2")
			c.whole("cluster other", "endpoint other:2")
		},
		"endpoints meanwhile": func(c *stepped) {
			c.say(api, other)
			cds := c.expects("cluster api other")
			c.accepts("endpoint api:1")
			c.say(one("api", 7), other) // nobody waits for what is dialled already
			c.accepts("endpoint api:7")
			c.say(other, one("api", 8))
			c.accepts("endpoint api:8")
			c.say(other) // it would have none
			c.silence()
			c.must(c.s.ACK(cds))
			c.accepts("endpoint other:2")
			c.whole("cluster other", "endpoint other:2")
		},
		"endpoints alone": func(c *stepped) {
			c.say(one("api", 7))
			c.accepts("endpoint api:7")
			c.say(level{"api", []int{7, 8, 9}})
			c.accepts("endpoint api:7 api:8 api:9")
			c.say(level{target: "api"})
			c.accepts("endpoint")
			c.say(other) // nothing of before needs a socket
			c.whole("cluster other", "endpoint")
			c.accepts("endpoint other:2")
		},
		"to the plain form and back": func(c *stepped) {
			c.m.say(c.plain, lists(c.t, apiSNI, one("", 1)))
			c.whole("cluster api plain", "endpoint api:1")
			c.accepts("endpoint :1")
			c.whole("cluster plain", "endpoint :1")
			c.settledOn()
			if n := len(c.m.session("web").stages); n != 0 {
				c.t.Errorf("%d clusters are followed, none has targets", n)
			}
			c.say(v1)
			c.whole("cluster v1.api plain", "endpoint :1")
			c.accepts("endpoint v1.api:3")
			c.whole("cluster v1.api", "endpoint v1.api:3")
		},
		"again before the first step is accepted": func(c *stepped) {
			c.say(other)
			cds := c.expects("cluster api other")
			c.accepts("endpoint api:1")
			c.say(v1)
			c.silence()
			c.must(c.s.ACK(cds))
			c.whole("cluster api v1.api", "endpoint api:1")
			c.accepts("endpoint v1.api:3")
			c.whole("cluster v1.api", "endpoint v1.api:3")
		},
		"again before the second": func(c *stepped) {
			c.say(other)
			c.whole("cluster api other", "endpoint api:1")
			eds := c.expects("endpoint other:2")
			c.say(v1)
			cds := c.expects("cluster api other v1.api") // Envoy may have either's endpoints
			c.silence()
			c.must(c.s.ACK(eds))
			c.accepts("endpoint other:2")
			c.silence()
			c.must(c.s.ACK(cds))
			c.accepts("endpoint v1.api:3")
			c.whole("cluster v1.api", "endpoint v1.api:3")
		},
		"back before the first step is accepted": func(c *stepped) {
			c.say(other)
			cds := c.expects("cluster api other")
			c.accepts("endpoint api:1")
			c.say(api)
			c.must(c.s.ACK(cds))
			c.whole("cluster api", "endpoint api:1")
		},
		"back before the second": func(c *stepped) {
			c.say(other)
			c.whole("cluster api other", "endpoint api:1")
			eds := c.expects("endpoint other:2")
			c.say(api)
			c.silence()
			c.must(c.s.ACK(eds))
			c.accepts("endpoint api:1")
			c.whole("cluster api", "endpoint api:1")
		},
		"back before the third": func(c *stepped) {
			c.say(other)
			c.whole("cluster api other", "endpoint api:1")
			c.accepts("endpoint other:2")
			cds := c.expects("cluster other")
			c.accepts("endpoint other:2")
			c.say(api)
			c.silence()
			c.must(c.s.ACK(cds))
			c.whole("cluster api other", "endpoint other:2")
			c.accepts("endpoint api:1")
			c.whole("cluster api", "endpoint api:1")
		},
		"gone and there again": func(c *stepped) {
			c.m.say(nil, nil)
			gone := c.expect("cluster -" + apiSNI)
			c.say(other) // it is another one
			c.accepts("endpoint other:2")
			c.silence()
			c.must(c.s.ACK(gone))
			c.whole("cluster other", "endpoint other:2")
		},
		"settings": func(c *stepped) {
			m := unpacked(c.t, formP(c.t, c.plain, "other", "api"), &clusterv3.Cluster{})
			m.ConnectTimeout.Seconds++
			c.m.say(packedAs(c.t, apiSNI, m), lists(c.t, apiSNI, other, api))
			c.whole("cluster api other", "endpoint api:1")
			c.accepts("endpoint other:2 api:1")
			c.settledOn()
			m.ConnectTimeout.Seconds++
			c.m.say(packedAs(c.t, apiSNI, m), lists(c.t, apiSNI, other, api))
			c.whole("cluster api other", "endpoint other:2 api:1")
		},
		"a first step that is refused": func(c *stepped) {
			c.say(other)
			cds := c.expects("cluster api other")
			c.accepts("endpoint api:1")
			c.must(c.s.NACK(cds, "not this one"))
			c.silence() // Envoy has no socket for the new ones
			if p, _ := c.m.server.Proxy(proxyID("web")); p.State() != "refuses 1 resource" || p.Streams[0].Refused[0] != apiSNI {
				c.t.Errorf("State() = %q", p.State())
			}
			time.Sleep(firstRetry)
			c.whole("cluster api other", "endpoint api:1")
			c.accepts("endpoint other:2")
			c.whole("cluster other", "endpoint other:2")
		},
		"endpoints that are refused": func(c *stepped) {
			c.say(other)
			c.whole("cluster api other", "endpoint api:1")
			c.must(c.s.NACK(c.expects("endpoint other:2"), "not these"))
			c.silence() // Envoy may have those of before
			time.Sleep(firstRetry)
			c.accepts("endpoint other:2")
			c.whole("cluster other", "endpoint other:2")
		},
		"a last step that is refused": func(c *stepped) {
			c.say(other)
			c.whole("cluster api other", "endpoint api:1")
			c.accepts("endpoint other:2")
			cds := c.expects("cluster other")
			c.accepts("endpoint other:2")
			c.must(c.s.NACK(cds, "not this one"))
			c.say(api) // it has the sockets of both
			c.whole("cluster api other", "endpoint other:2")
			c.accepts("endpoint api:1")
			c.whole("cluster api", "endpoint api:1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := stepsOf(t, patient())
				c.say(api)
				c.whole("cluster api plain", "endpoint :20001")
				c.accepts("endpoint api:1")
				c.whole("cluster api", "endpoint api:1")
				c.settledOn()
				c.t = t
				f(c)
				c.settledOn()
			})
		})
	}
}

// Only what concerns the cluster waits for its steps, and as long as it takes.
func TestStepsWaitAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := stepsOf(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
		c.say(one("other", 2))
		cds := c.expects("cluster other plain")
		c.accepts("endpoint :20001")
		time.Sleep(10 * time.Minute)
		c.silence()
		if p, _ := c.m.server.Proxy(proxyID("web")); p.InSync || p.State() != "waiting: not accepted yet: cluster "+apiSNI {
			t.Errorf("in sync %t, State() = %q", p.InSync, p.State())
		}
		c.say(one("other", 3), one("api", 4))
		c.expects("cluster api other plain") // Envoy has left the other one unanswered for long
		c.accepts("endpoint :20001")
		c.silence()
		c.must(c.s.ACK(cds))
		c.silence() // the first one has no socket for api
		c.m.certs.rotate()
		c.accept("secret leaf/web")
	})
}

// comesBack is that Envoy opens another stream, and says that it has these versions; the levels are what it is to have.
func (c *stepped) comesBack(cluster, list string, levels ...level) {
	c.t.Helper()
	held := c.m.versions("web")
	c.s.Close()
	synctest.Wait()
	c.talk = c.m.stream("web")
	held[clusters][apiSNI], held[endpoints][apiSNI] = cluster, list
	ask := func(k kind, names ...string) {
		maps.DeleteFunc(held[k], func(_, version string) bool { return version == "" })
		c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: k.url(), ResourceNamesSubscribe: names, InitialResourceVersions: held[k]}))
		synctest.Wait()
	}
	ask(secrets, "leaf/web", "peers/web", "roots")
	c.silence()
	c.say(levels...)
	ask(extensions, slots("web")...)
	ask(listeners)
	ask(clusters)
	ask(endpoints, apiSNI)
}

// An Envoy that comes back in the midst of the steps goes on where it was.
func TestStepsOnANewStream(t *testing.T) {
	api, other := one("api", 1), one("other", 2)
	version := func(r *discoveryv3.DeltaDiscoveryResponse) string { return r.GetResources()[0].GetVersion() }
	for name, f := range map[string]func(c *stepped, cluster, list string){
		"before the first": func(c *stepped, cluster, list string) {
			c.comesBack(cluster, list, other)
			c.whole("cluster api other", "endpoint api:1")
			c.accepts("endpoint other:2")
			c.whole("cluster other", "endpoint other:2")
		},
		"after the first": func(c *stepped, _, list string) {
			c.say(other)
			cds := c.expects("cluster api other")
			c.accepts("endpoint api:1")
			c.comesBack(version(cds), list, other)
			c.accepts("endpoint other:2")
			c.whole("cluster other", "endpoint other:2")
		},
		"the first did not come": func(c *stepped, cluster, list string) {
			c.say(other)
			c.expects("cluster api other")
			c.expects("endpoint api:1")
			c.comesBack(cluster, list, other)
			c.whole("cluster api other", "endpoint api:1")
			c.accepts("endpoint other:2")
			c.whole("cluster other", "endpoint other:2")
		},
		"after the second": func(c *stepped, _, _ string) {
			c.say(other)
			cds := c.expects("cluster api other")
			c.accepts("endpoint api:1")
			c.must(c.s.ACK(cds))
			eds := c.expects("endpoint other:2")
			c.comesBack(version(cds), version(eds), other)
			c.whole("cluster other", "endpoint other:2")
		},
		"the second did not come, and it is to go back": func(c *stepped, cluster, list string) {
			c.say(other)
			cds := c.expects("cluster api other")
			c.accepts("endpoint api:1")
			c.must(c.s.ACK(cds))
			c.expects("endpoint other:2")
			c.comesBack(version(cds), list, api)
			c.whole("cluster api", "endpoint api:1")
		},
		"another Envoy": func(c *stepped, _, _ string) {
			c.say(other)
			c.comesBack("", "", other)
			c.whole("cluster other", "endpoint other:2")
		},
		"with what nobody knows": func(c *stepped, _, _ string) {
			c.comesBack("elsewhere", "elsewhere", other)
			c.whole("cluster other", "endpoint other:2")
		},
		"a plain one": func(c *stepped, _, _ string) {
			c.m.say(c.plain, lists(c.t, apiSNI, one("", 1)))
			c.whole("cluster api plain", "endpoint api:1")
			c.accepts("endpoint :1")
			c.whole("cluster plain", "endpoint :1")
			c.comesBack(c.plain.GetVersion(), lists(c.t, apiSNI, one("", 1)).GetVersion(), other)
			c.whole("cluster other plain", "endpoint :20001") // what the plain one was to have last
			c.accepts("endpoint other:2")
			c.whole("cluster other", "endpoint other:2")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := stepsOf(t, Config{AckTimeout: 5 * time.Second, StallTimeout: never})
				c.say(api)
				c.whole("cluster api plain", "endpoint :20001")
				c.accepts("endpoint api:1")
				c.whole("cluster api", "endpoint api:1")
				held := c.m.versions("web")
				c.t = t
				f(c, held[clusters][apiSNI], held[endpoints][apiSNI])
				c.settledOn()
			})
		})
	}
}
