package consul

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestContents(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		p, _ := running(t, a)
		after(time.Second)
		td := spiffeid.RequireTrustDomainFromString(testTrustDomain)
		name := identity.NewName
		want := catalogtest.Mesh{
			Partial:  true,
			Mesh:     catalog.Mesh{TrustDomain: td, Datacenter: "dc1", Datacenters: []string{"dc1"}, Incoming: catalog.TLS{Allow12: true}},
			Services: []catalog.Service{{Name: name("api")}, {Name: name("web"), Protocol: catalog.HTTP}},
			Endpoints: []catalog.Endpoints{{Name: name("api"), List: []catalog.Endpoint{
				{Address: "10.0.0.2", Port: 21000, Weight: 2, Healthy: true},
				{Address: "10.0.0.3", Port: 21000, Weight: 1},
				{Address: "10.0.0.7", Port: 21001, Weight: 1, Healthy: true},
				{Address: "api-5.example", Port: 21000, Weight: 1},
				{Address: "fd00::4", Port: 21000, Weight: 128, Healthy: true},
			}}},
			Proxies: []catalog.Proxy{
				{
					ID: "api-1-sidecar-proxy", Service: name("api"), Instance: "api-1", Origin: "service api-1-sidecar-proxy",
					Inbound: catalog.Inbound{
						Address: "10.0.0.7", Port: 21001, LocalSocket: "/run/api.sock", Enforcement: catalog.Both,
						IdleTimeout: catalog.Timeout{Set: true, Duration: 90 * time.Second},
					},
					Bootstrap: catalog.Bootstrap{UID: 1000},
				},
				{
					ID: "web-sidecar-proxy", Service: name("web"), Instance: "web", Origin: "service web-sidecar-proxy",
					Inbound: catalog.Inbound{
						Address: "10.0.0.1", Port: 21000, LocalAddress: "127.0.0.1", LocalPort: 8080, Protocol: catalog.HTTP,
						Enforcement: catalog.ExtAuthz, // of service-defaults: the "both" of its config is that of proxy-defaults
						Revocation:  catalog.NextRequest, RequestTimeout: 30 * time.Second, MaxConnections: 500,
						IdleTimeout: catalog.Timeout{Set: true, Duration: 90 * time.Second},
					},
					Bootstrap: catalog.Bootstrap{UID: -1, PrometheusBindAddr: "0.0.0.0:9102", StatsTags: "nomad.job=web\nteam=shop"},
					Upstreams: []catalog.Upstream{{
						Destination: name("api"), BindAddress: "127.0.0.1", BindPort: 5000, ConnectTimeout: 1500 * time.Millisecond, Origin: "service web-sidecar-proxy",
						Limits:  catalog.Limits{MaxConnections: catalog.Limit{Set: true, N: 20}, MaxPendingRequests: catalog.Limit{Set: true}},
						Passive: catalog.PassiveHealthCheck{Set: true, Interval: 10 * time.Second, MaxFailures: catalog.Limit{Set: true, N: 3}, EnforcingConsecutive5xx: catalog.Limit{Set: true, N: 80}},
					}},
				},
			},
			Intentions: []intention.Intention{
				{Source: intention.Source{Name: name("admin")}, Destination: name("api"), Unsupported: "OnlyOnMondays", Origin: "service-intentions/api"},
				{Source: intention.Source{Name: name("web")}, Destination: name("api"), Action: intention.Allow, Origin: "service-intentions/api"},
				{Source: intention.Source{Name: name("shop"), Peer: "east"}, Destination: name("api"), Action: intention.Allow, Origin: "service-intentions/api"},
				{Source: intention.Source{Name: name("*")}, Destination: name("*"), Origin: "service-intentions/*"},
			},
		}
		if diff := cmp.Diff(want.Contents(), p.must(t), cmpopts.EquateComparable(spiffeid.TrustDomain{}), cmpopts.EquateEmpty(), cmpopts.IgnoreFields(catalog.Contents{}, "Seen")); diff != "" {
			t.Errorf("contents (-want +got):\n%s", diff)
		}
		s := a.Status()
		if s.Node != "n1" || s.Datacenter != "dc1" || s.TrustDomain != testTrustDomain || s.Version != "1.19.2" || !s.Connected || !s.StaleSince.IsZero() || s.FromFile {
			t.Errorf("Status() = %+v", s)
		}
		for _, want := range []string{
			`proxy web-sidecar-proxy, upstream geo: service web-sidecar-proxy: destinations of type "prepared_query" are not supported yet: its listener is not there`,
			`service-intentions/api: the source admin is denied, for its intention has what is not supported yet: OnlyOnMondays`,
		} {
			if !strings.Contains(problems(a), want) {
				t.Errorf("problems are\n%s\nand lack %s", problems(a), want)
			}
		}
		if n := len(s.Problems); n != 2 {
			t.Errorf("%d problems, want 2:\n%s", n, problems(a))
		}
		for _, r := range f.all() {
			if r.token != "own-token" {
				t.Errorf("%s was asked with the token %q", r.path, r.token)
			}
		}
	})
}

// One query for each thing, however long it takes, and none while nothing changes.
func TestIdle(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		p, _ := running(t, a)
		after(5 * time.Second)
		before := len(f.all())
		after(3 * time.Minute)
		polls := len(f.of("/v1/agent/self")) + len(f.of("/v1/catalog/datacenters")) + len(f.of("/v1/internal/acl/authorize"))
		if n := len(f.all()) - before; n > polls {
			t.Errorf("%d requests within 3 idle minutes, of which %d are polls", n, polls)
		}
		if polls > 22 {
			t.Errorf("%d polls within 3 min", polls)
		}
		if n := len(f.of("/v1/health/connect/api")); n != 2 { // one for the state, one that waits
			t.Errorf("%d queries for the endpoints of api", n)
		}
		f.set("/v1/health/connect/api", []any{})
		after(50 * time.Millisecond)
		if got := endpointsOf(p.must(t), "api"); got != "" {
			t.Errorf("after 50 ms the endpoints of api are %q", got)
		}
	})
}

func TestOnlyTheWhole(t *testing.T) {
	for path, text := range map[string]string{
		"/v1/agent/connect/ca/roots":          "",
		"/v1/catalog/datacenters":             "",
		"/v1/config/proxy-defaults/global":    "",
		"/v1/config/mesh/mesh":                "",
		"/v1/catalog/node-services/n1":        "",
		"/v1/agent/self":                      "",
		"/v1/connect/intentions/match?web":    "intentions are not known yet",
		"/v1/discovery-chain/web":             "protocol is not known yet",
		"/v1/connect/intentions/match?nobody": "none",
	} {
		t.Run(strings.NewReplacer("/", "_", "?", "_").Replace(path), func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
				f.mesh()
				f.refuse(path, 500)
				p, _ := running(t, a)
				after(time.Minute)
				c, ok := p.last()
				switch text {
				case "none":
					if ids(c) != "api-1-sidecar-proxy, web-sidecar-proxy api" {
						t.Errorf("proxies %q", ids(c))
					}
				case "":
					if ok {
						t.Errorf("published %+v without %s", c, path)
					}
				default:
					if ids(c) != "api-1-sidecar-proxy" {
						t.Errorf("proxies %q without %s", ids(c), path)
					}
					if !strings.Contains(problems(a), text) {
						t.Errorf("problems are\n%s", problems(a))
					}
				}
			})
		})
	}
}

// An upstream that is not known holds its proxy back for a while, the first time.
func TestUnknownUpstream(t *testing.T) {
	for _, path := range []string{"/v1/discovery-chain/api", "/v1/health/connect/api"} {
		bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
			f.mesh()
			f.refuse(path, 500)
			p, _ := running(t, a)
			after(4 * time.Second)
			if got := ids(p.must(t)); strings.Contains(got, "web") {
				t.Errorf("after 4 s: %s", got)
			}
			after(2 * time.Second)
			if got := ids(p.must(t)); !strings.Contains(got, "web-sidecar-proxy") || strings.Contains(got, "web-sidecar-proxy api") {
				t.Errorf("after 6 s: %s", got)
			}
			if !strings.Contains(problems(a), "upstream api: service web-sidecar-proxy: its endpoints are not known yet: its listener is not there") {
				t.Errorf("problems are\n%s", problems(a))
			}
			if strings.Contains(path, "health") {
				f.file(path, "health-api.json")
			} else {
				f.file(path, "chain-api.json")
			}
			after(10 * time.Second)
			if got := ids(p.must(t)); !strings.Contains(got, "web-sidecar-proxy api") {
				t.Errorf("at last: %s", got)
			}
		})
	}
}
