package snapshot_test

import (
	"slices"
	"testing"

	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/snapshot"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
)

// Type URLs, as Envoy spells them.
const (
	clusters   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	endpoints  = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	listeners  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	routes     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	extensions = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
)

const trustDomain = "11111111-2222-3333-4444-555555555555.consul"

// newest and oldest are the features of the Envoys that goldens are made for, both under our
// bootstrap.
var (
	newest = snapshot.Features{Version: "1.40.0", ConnectMode: true, DrainClose: true, RegexSize: 10000, ExclusivePorts: true}
	oldest = snapshot.Features{Version: "1.36.4", RegexSize: 10000, ExclusivePorts: true}
)

// input is a proxy of the service web, with a policy.
func input(p *intention.Policy, in catalog.Inbound, upstreams ...catalog.Target) snapshot.Input {
	scope := p.Scope()
	in.Address, in.Port, in.LocalPort = "127.0.0.1", 21000, 8080
	proxy := &catalog.Proxy{ID: "web-sidecar-proxy", Service: identity.NewName("web"), Instance: "web", Origin: "web.hcl:1", Inbound: in}
	if d := p.Destination(); d.Service != "" {
		proxy.Service = d
	}
	for i, u := range upstreams {
		proxy.Upstreams = append(proxy.Upstreams, catalog.Upstream{Destination: u.Service.Name, BindPort: 9100 + uint16(i)})
	}
	return snapshot.Input{Envoy: newest, ProxyView: &catalog.ProxyView{
		Mesh:      &catalog.Mesh{TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain), Datacenter: "dc1", Datacenters: scope.Datacenters, Default: scope.Default},
		Proxy:     proxy,
		Policy:    p,
		Upstreams: upstreams,
	}}
}

// target is a service of the mesh's own datacenter.
func target(name string, p catalog.Protocol, list ...catalog.Endpoint) catalog.Target {
	n := identity.NewName(name)
	return catalog.Target{Service: &catalog.Service{Name: n, Protocol: p}, Endpoints: &catalog.Endpoints{Name: n, List: list}}
}

// at is a healthy endpoint.
func at(address string) catalog.Endpoint {
	return catalog.Endpoint{Address: address, Port: 21000, Weight: 1, Healthy: true}
}

// own is in with a view of its own, which may be changed.
func own(in snapshot.Input) snapshot.Input {
	w := *in.ProxyView
	w.Upstreams = slices.Clone(w.Upstreams)
	in.ProxyView = &w
	return in
}

func compile(dst string, def intention.Action, all ...intention.Intention) *intention.Policy {
	for i := range all {
		if all[i].Destination == (identity.Name{}) {
			all[i].Destination = identity.NewName(dst)
		}
	}
	return catalogtest.Policy(identity.NewName(dst), all, intention.Scope{
		TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain),
		Datacenters: []string{"dc1", "dc2"},
		Default:     def,
	})
}

func from(service string, a intention.Action) intention.Intention {
	return intention.Intention{Source: intention.Source{Name: identity.NewName(service)}, Action: a}
}

func build(t testing.TB, in snapshot.Input) *snapshot.Resources {
	t.Helper()
	r, err := snapshot.Build(in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// resource unpacks the resource of r into m.
func resource[M proto.Message](t testing.TB, r *snapshot.Resources, typeURL, name string, m M) M {
	t.Helper()
	got := r.ByType[typeURL].Get(name)
	if got == nil {
		t.Fatalf("no resource %s of type %s", name, typeURL)
	}
	if err := got.Resource.UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

// rules is the matcher that the proxy's Envoy is given, from wherever it stands for the protocol.
func rules(t testing.TB, in snapshot.Input, r *snapshot.Resources) *matcherv3.Matcher {
	t.Helper()
	service := in.Proxy.Service.String()
	if in.Proxy.Inbound.Protocol.L7() {
		route := resource(t, r, routes, "inbound/"+service, &routev3.RouteConfiguration{})
		rbac := &httprbacv3.RBACPerRoute{}
		if err := route.VirtualHosts[0].TypedPerFilterConfig["envoy.filters.http.rbac"].UnmarshalTo(rbac); err != nil {
			t.Fatal(err)
		}
		if rbac.GetRbac().GetRules() != nil {
			t.Fatal("rules beside the matcher, which Envoy ignores without a word")
		}
		return rbac.GetRbac().GetMatcher()
	}
	ext := resource(t, r, extensions, "intentions/"+service, &corev3.TypedExtensionConfig{})
	rbac := &networkrbacv3.RBAC{}
	if err := ext.TypedConfig.UnmarshalTo(rbac); err != nil {
		t.Fatal(err)
	}
	return rbac.GetMatcher()
}

// sans are the names that a secret allows.
func sans(t testing.TB, s snapshot.Secret) []*tlsv3.SubjectAltNameMatcher {
	t.Helper()
	m := &tlsv3.CertificateValidationContext{}
	if err := proto.Unmarshal(slices.Concat(s.Peers...), m); err != nil {
		t.Fatal(err)
	}
	return m.GetMatchTypedSubjectAltNames()
}

// names are those of a secret.
func names(t testing.TB, r *snapshot.Resources, secret string) []*tlsv3.SubjectAltNameMatcher {
	t.Helper()
	for _, s := range r.Secrets {
		if s.Name == secret {
			return sans(t, s)
		}
	}
	t.Fatalf("no secret %s", secret)
	return nil
}

func public(t testing.TB, r *snapshot.Resources) *listenerv3.Listener {
	t.Helper()
	return resource(t, r, listeners, "public_listener:127.0.0.1:21000", &listenerv3.Listener{})
}
