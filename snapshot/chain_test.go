package snapshot_test

import (
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/snapshot"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// chained is a mesh in which web dials services by their chains.
type chained struct {
	resolvers []chain.Resolver
	splitters []chain.Splitter
	routers   []chain.Router
	defaults  map[string]chain.Defaults
	// protocol is what all services speak that defaults do not name.
	protocol catalog.Protocol
	// endpoints are by service, "v1.api" and "api?dc=dc2".
	endpoints []catalog.Endpoints
	upstreams []catalog.Upstream // of web; nil: one that leads to api
	spoil     func([]*chain.Chain)
}

func named(service string) identity.Name { return identity.NewName(service) }

// reached is where a subset of a service is in a datacenter; the endpoints are healthy unless one says otherwise.
func reached(service, subset, datacenter string, list ...catalog.Endpoint) catalog.Endpoints {
	return catalog.Endpoints{Name: named(service), Subset: subset, Datacenter: datacenter, List: list}
}

func sick(e catalog.Endpoint) catalog.Endpoint {
	e.Healthy = false
	return e
}

// mesh is m as sources would publish it.
func (m chained) mesh(t testing.TB) catalogtest.Mesh {
	t.Helper()
	e := &chain.Entries{
		TrustDomain: trustDomain, Datacenter: "dc1", Proxy: chain.Defaults{Protocol: m.protocol.String()}, Defaults: map[identity.Name]*chain.Defaults{},
		Routers: map[identity.Name]*chain.Router{}, Splitters: map[identity.Name]*chain.Splitter{}, Resolvers: map[identity.Name]*chain.Resolver{},
	}
	for _, r := range m.resolvers {
		e.Resolvers[r.Service] = &r
	}
	for _, s := range m.splitters {
		e.Splitters[s.Service] = &s
	}
	for _, r := range m.routers {
		e.Routers[r.Service] = &r
	}
	for s, d := range m.defaults {
		e.Defaults[named(s)] = &d
	}
	if m.upstreams == nil {
		m.upstreams = []catalog.Upstream{{Destination: named("api"), BindPort: 9100, Origin: "web.hcl:9"}}
	}
	out := catalogtest.Mesh{
		Mesh:      catalog.Mesh{TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain), Datacenter: "dc1", Datacenters: []string{"dc1", "dc2"}},
		Endpoints: m.endpoints,
		Proxies: []catalog.Proxy{{
			ID: "web-sidecar-proxy", Service: named("web"), Instance: "web", Origin: "web.hcl:1",
			Inbound: catalog.Inbound{Address: "127.0.0.1", Port: 21000, LocalPort: 8080}, Upstreams: m.upstreams,
		}},
	}
	known := map[string]bool{}
	for _, u := range m.upstreams {
		overrides := chain.Overrides{}
		service := catalog.Service{Name: u.Destination, Datacenter: u.Datacenter, Protocol: m.protocol}
		if u.Protocol.Set {
			overrides.Protocol = u.Protocol.Protocol.String()
		}
		c, _, err := chain.Compile(e, u.Destination, overrides)
		if err != nil {
			t.Fatal(err)
		}
		if key := c.Service.Service + " " + c.Protocol; !c.Default && !known[key] {
			known[key] = true
			out.Chains = append(out.Chains, c)
		}
		if !known[u.Name()] {
			known[u.Name()] = true
			out.Services = append(out.Services, service)
		}
	}
	if m.spoil != nil {
		m.spoil(out.Chains)
	}
	return out
}

// input is what web's resources are made of.
func (m chained) input(t testing.TB) snapshot.Input {
	t.Helper()
	return inputOf(t, m.mesh(t).Contents())
}

func inputOf(t testing.TB, c catalog.Contents) snapshot.Input {
	t.Helper()
	in := project(t, c, "web-sidecar-proxy")
	in.Envoy = newest
	return in
}
