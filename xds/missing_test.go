package xds

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// TestMissingByName follows the xDS protocol, "Knowing When a Requested Resource Does Not Exist":
// who subscribes to a listener or cluster by name is told once that it is not there, and gets it when
// it is.
func TestMissingByName(t *testing.T) {
	names := map[kind][2]string{ // one that is not there, and one that is
		clusters:  {dbSNI, apiSNI},
		listeners: {"db:127.0.0.1:9001", "api:127.0.0.1:9000"},
	}
	for _, k := range []kind{clusters, listeners} {
		missing, there := names[k][0], names[k][1]
		each := func(name string, f func(m *mesh, c *talk)) {
			t.Run(k.String()+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cfg := patient()
					cfg.AckTimeout = 5 * time.Second
					m := start(t, cfg)
					twoServices(m)
					c := m.stream("web")
					if k == listeners { // an Envoy that asks for no clusters has to be waited for
						c.subscribe(clusters, "local_app")
						c.accept("cluster local_app")
					}
					f(m, c)
				})
			})
		}
		later := func(m *mesh) {
			m.service("db", catalog.TCP)
			m.contents.Proxies = slices.Clone(m.contents.Proxies)
			web := &m.contents.Proxies[0]
			db := catalog.Upstream{Destination: identity.NewName("db"), BindAddress: "127.0.0.1", BindPort: 9001}
			web.Upstreams = append(slices.Clone(web.Upstreams), db)
			m.publish()
		}
		each("alone", func(m *mesh, c *talk) {
			c.subscribe(k, missing)
			c.accept(k.String() + " -" + missing)
			c.silence()
			later(m)
			c.accept(k.String() + " " + missing)
			c.silence()
		})
		each("beside one that is there", func(_ *mesh, c *talk) {
			c.subscribe(k, missing, there)
			if k == clusters { // their removals come apart
				c.accept(k.String() + " " + there)
				c.accept(k.String() + " -" + missing)
			} else {
				c.accept(k.String() + " " + there + " -" + missing)
			}
			c.silence()
			c.subscribe(k, missing) // it asks again
			c.accept(k.String() + " -" + missing)
			c.silence()
		})
		each("given up", func(_ *mesh, c *talk) {
			c.subscribe(k, there)
			answer := c.expect(k.String() + " " + there)
			c.subscribe(k, missing)
			c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: k.url(), ResourceNamesUnsubscribe: []string{missing}}))
			c.silence()
			c.must(c.s.ACK(answer))
			c.silence()
		})
		each("there before the answer", func(m *mesh, c *talk) {
			c.subscribe(k, there)
			answer := c.expect(k.String() + " " + there)
			c.subscribe(k, missing)
			later(m)
			c.silence()
			c.must(c.s.ACK(answer))
			c.accept(k.String() + " " + missing)
			c.silence()
		})
		each("refused", func(_ *mesh, c *talk) {
			c.subscribe(k, missing)
			c.refuse(k.String()+" -"+missing, "no")
			c.silence()
		})
		each("beside everything", func(_ *mesh, c *talk) {
			everything := map[kind]string{clusters: apiSNI + ",local_app", listeners: "api:127.0.0.1:9000,public_listener:127.0.0.1:20000"}[k]
			if k == listeners {
				c.subscribe(k, "*", missing)
				time.Sleep(10 * time.Second)
				c.accept(k.String() + " " + everything + " -" + missing)
			} else {
				c.subscribe(k, "*", missing)
				c.accept(k.String() + " " + everything)
				c.accept(k.String() + " -" + missing)
			}
			c.silence()
		})
	}
	for _, k := range []kind{secrets, endpoints, extensions, routes} {
		t.Run(k.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t, patient())
				twoServices(m)
				c := m.stream("web")
				c.subscribe(k, "nothing")
				if k == endpoints { // without an answer Envoy's cluster would never be warm
					c.accept("endpoint nothing")
				}
				c.silence()
			})
		})
	}
}
