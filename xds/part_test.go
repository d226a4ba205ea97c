package xds

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
)

// A deny reaches an Envoy that comes back, although nothing else can be told to it: its
// configuration cannot be made, the leaf or the roots are missing. What it has otherwise stays, and
// all comes when it can.
func TestDenyOfAPart(t *testing.T) {
	conflict := func(m *mesh) {
		api := &m.contents.Proxies[1]
		api.Upstreams = []catalog.Upstream{
			{Destination: identity.NewName("web"), BindAddress: "127.0.0.1", BindPort: 9999},
			{Destination: identity.NewName("other"), BindAddress: "127.0.0.1", BindPort: 9999},
		}
		m.contents.Services = append(m.contents.Services, catalog.Service{Name: identity.NewName("other")})
	}
	for name, test := range map[string]struct {
		spoil, heal func(*mesh)
		waits       string
		secrets     bool // are told
	}{
		"two upstreams on one port":      {conflict, func(m *mesh) { m.contents.Proxies[1].Upstreams = nil; m.publish() }, "both listen on", true},
		"a registration that is refused": {func(m *mesh) { m.contents.Proxies[1].Refused = "no port" }, func(m *mesh) { m.contents.Proxies[1].Refused = ""; m.publish() }, "no port", true},
		"no leaf":                        {func(m *mesh) { m.certs.withheld, m.certs.leafs = true, map[string]*latest.Value[*sds.SVID]{} }, func(m *mesh) { m.certs.rotate() }, "not there yet: leaf/api", true},
		"no roots":                       {func(m *mesh) { m.certs = newCertificates(m.t) }, func(m *mesh) { m.certs.roots.Set(m.certs.bundle) }, "trust bundle", false},
	} {
		for _, protocol := range []catalog.Protocol{catalog.TCP, catalog.HTTP} {
			t.Run(name+"/"+protocol.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := start(t, patient())
					m.service("web", catalog.TCP)
					m.service("api", protocol)
					m.intend("web", "api", intention.Allow)
					m.publish()
					c := m.stream("api")
					rules, rule := extensions, "intentions/api"
					if protocol == catalog.HTTP {
						rules, rule = routes, "inbound/api"
					}
					judges := []string{rules.String() + " " + rule}
					if protocol == catalog.TCP && test.secrets { // the handshake lets in no caller who is denied
						judges = append(judges, "secret peers/api")
					}
					c.subscribe(clusters)
					c.subscribe(listeners)
					c.subscribe(secrets, "leaf/api", "peers/api")
					c.subscribe(rules, rule)
					c.acceptAll()
					held := m.versions("api")
					m.stop()

					test.spoil(m)
					m.intend("web", "api", intention.Deny)
					m.run(patient())
					m.publish()
					c = m.stream("api")
					for _, k := range []kind{clusters, listeners} {
						c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: k.url(), InitialResourceVersions: held[k]}))
					}
					c.silence()
					c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: rules.url(), ResourceNamesSubscribe: []string{rule}, InitialResourceVersions: held[rules]}))
					c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secrets.url(), ResourceNamesSubscribe: []string{"leaf/api", "peers/api"}, InitialResourceVersions: held[secrets]}))
					if diff := cmp.Diff(judges, c.acceptAll()); diff != "" {
						t.Errorf("a deny (-want +got):\n%s", diff)
					}
					if p, _ := m.server.Proxy(proxyID("api")); p.InSync || !strings.Contains(p.BuildError+p.State(), test.waits) {
						t.Errorf("in sync %v, state %q, error %q, want %q", p.InSync, p.State(), p.BuildError, test.waits)
					}
					m.intend("web", "api", intention.Allow)
					m.publish()
					if diff := cmp.Diff(judges, c.acceptAll()); diff != "" {
						t.Errorf("an allow (-want +got):\n%s", diff)
					}

					test.heal(m)
					c.acceptAll()
					time.Sleep(time.Minute)
					c.acceptAll()
					c.silence()
					if p, _ := m.server.Proxy(proxyID("api")); !p.InSync {
						t.Errorf("state %q, error %q, want in sync", p.State(), p.BuildError)
					}
				})
			})
		}
	}
}

// acceptAll accepts what comes without that time goes on, and returns what that was, sorted.
func (c *talk) acceptAll() (got []string) {
	c.t.Helper()
	for {
		synctest.Wait()
		r, err := c.s.Next(time.Nanosecond)
		if err != nil {
			slices.Sort(got)
			return got
		}
		got = append(got, describe(r))
		c.must(c.s.ACK(r))
	}
}
