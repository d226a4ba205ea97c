package consul

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
)

const billing = "spiffe://td-b.example/ns/prod/sa/billing"

// An upstream is a workload of another trust domain if its config says so; what is not understood of it has no listener.
func TestForeignUpstream(t *testing.T) {
	const where = `"sallyport_address": "billing.td-b.example", "sallyport_port": 8443`
	whole := `{"sallyport_spiffe_id": "` + billing + `", ` + where + `}`
	plain := catalog.Upstream{
		Foreign: billing, Address: "billing.td-b.example", Port: 8443, BindAddress: "127.0.0.1", BindPort: 5000, Origin: "service p",
	}
	with := func(change func(*catalog.Upstream)) *catalog.Upstream {
		u := plain
		change(&u)
		return &u
	}
	for name, c := range map[string]struct {
		upstream, config string
		want             *catalog.Upstream // nil: no listener
		text             string
	}{
		"whole": {`"DestinationPeer": "td-b", "LocalBindPort": 5000`, whole, &plain, ""},
		"with settings": {
			`"DestinationPeer": "td-b", "LocalBindSocketPath": "/run/b.sock", "LocalBindSocketMode": "0600"`,
			`{"sallyport_spiffe_id": "` + billing + `", "sallyport_address": "::1", "sallyport_port": "8443", "protocol": "grpc", "connect_timeout_ms": 1500}`,
			with(func(u *catalog.Upstream) {
				u.Address, u.BindAddress, u.BindPort, u.BindSocket, u.BindSocketMode = "::1", "", 0, "/run/b.sock", 0o600
				u.Protocol, u.ConnectTimeout = catalog.OptionalProtocol{Set: true, Protocol: catalog.GRPC}, 1500*time.Millisecond
			}), "",
		},
		"without a peer": {
			`"LocalBindPort": 5000`, whole, nil,
			"an upstream with sallyport_spiffe_id needs a destination_peer, so that it is no service of this mesh to Consul: its listener is not there",
		},
		"a wildcard": {
			`"DestinationPeer": "td-b", "LocalBindPort": 5000`, `{"sallyport_spiffe_id": "spiffe://td-b.example/*", ` + where + `}`, nil,
			`config.sallyport_spiffe_id "spiffe://td-b.example/*": a workload of another trust domain is named exactly, without a wildcard: its listener is not there`,
		},
		"no address": {
			`"DestinationPeer": "td-b", "LocalBindPort": 5000`, `{"sallyport_spiffe_id": "` + billing + `", "sallyport_port": 1}`, nil,
			"it needs sallyport_address and sallyport_port: it is in no catalog, so where it is has to be said: its listener is not there",
		},
		"an address that is none": {
			`"DestinationPeer": "td-b", "LocalBindPort": 5000`, `{"sallyport_spiffe_id": "` + billing + `", "sallyport_address": "a b", "sallyport_port": 1}`, nil,
			`config.sallyport_address "a b" is neither an IP address (without brackets or zone) nor a host name: its listener is not there`,
		},
		"a port that is none": {
			`"DestinationPeer": "td-b", "LocalBindPort": 5000`, `{"sallyport_spiffe_id": "` + billing + `", "sallyport_address": "::1", "sallyport_port": 70000}`, nil,
			`config.sallyport_port is 70000: it must be 1 to 65535: its listener is not there`,
		},
		"nowhere": {`"DestinationPeer": "td-b"`, whole, nil, "it has neither LocalBindPort nor LocalBindSocketPath: its listener is not there"},
		"a cluster of somebody else's": {
			`"DestinationPeer": "td-b", "LocalBindPort": 5000`, `{"envoy_cluster_json": "{}", "sallyport_spiffe_id": "` + billing + `", ` + where + `}`, nil,
			"envoy_cluster_json is not supported yet: its listener is not there",
		},
		"a prepared query": {
			`"DestinationPeer": "td-b", "DestinationType": "prepared_query", "LocalBindPort": 5000`, whole, nil,
			"an upstream with sallyport_spiffe_id is no prepared_query: its listener is not there",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := sidecarOf(t, `, "Upstreams": [{"DestinationName": "billing", `+c.upstream+`, "Config": `+c.config+`}]`)
			want := ""
			if c.text != "" {
				want = "proxy p, upstream billing: service p: " + c.text
			}
			if diff := cmp.Diff(want, texts(s.problems)); diff != "" {
				t.Errorf("problems: -want +got:\n%s", diff)
			}
			var got *catalog.Upstream
			if len(s.foreign) == 1 {
				got = &s.foreign[0]
			}
			if diff := cmp.Diff(c.want, got); diff != "" || len(s.upstreams) > 0 || s.proxy.Refused != "" {
				t.Errorf("-want +got:\n%s\nupstreams %v, refused %q", diff, s.upstreams, s.proxy.Refused)
			}
		})
	}
	s := sidecarOf(t, `, "Upstreams": [{"DestinationName": "api", "LocalBindPort": 5000, "Config": {`+where+`}}]`)
	if got, want := texts(s.problems), "proxy p, upstream api: service p: config.sallyport_address and config.sallyport_port are for an upstream with sallyport_spiffe_id: they are not taken"; got != want || len(s.upstreams) != 1 {
		t.Errorf("without an ID: %q, %d upstreams", got, len(s.upstreams))
	}
}

// Nothing is asked of the agent about an upstream in another trust domain, and it is there while Consul is away.
func TestForeignUpstreamSaved(t *testing.T) {
	config := func(file string) func(*Config) { return func(c *Config) { c.LKGFile = file } }
	file := filepath.Join(t.TempDir(), "known.json")
	const want = "api-1-sidecar-proxy " + billing + ", web-sidecar-proxy api"
	registered := func(t *testing.T, f *fake) {
		f.mesh()
		f.set("/v1/catalog/node-services/n1", edit(t, "node-services.json", `"LocalServiceSocketPath": "/run/api.sock",`, `"LocalServiceSocketPath": "/run/api.sock",
			"Upstreams": [{"DestinationName": "billing", "DestinationPeer": "td-b", "LocalBindPort": 5001, "Config": {
				"sallyport_spiffe_id": "`+billing+`", "sallyport_address": "192.0.2.1", "sallyport_port": 8443}}],`))
	}
	bubble(t, config(file), func(t *testing.T, f *fake, a *Agent) {
		registered(t, f)
		p, stop := running(t, a)
		after(10 * time.Second)
		if got := ids(p.must(t)); got != want || !a.Status().Settled {
			t.Errorf("proxies %q, problems %s", got, problems(a))
		}
		stop()
	})
	bubble(t, config(file), func(t *testing.T, f *fake, a *Agent) {
		f.kill()
		p, _ := running(t, a)
		after(3 * time.Second)
		if got := ids(p.must(t)); got != want {
			t.Errorf("Consul is away: proxies %q", got)
		}
		registered(t, f)
		f.refuse("/v1/discovery-chain/api", 500)
		f.revive()
		after(10 * time.Second)
		if got := ids(p.must(t)); got != want {
			t.Errorf("the protocol is not known: proxies %q, problems %s", got, problems(a))
		}
		for _, s := range p.must(t).Services {
			if s.Name.Service == "" {
				t.Error("a service without a name is waited for")
			}
		}
	})
}
