package xds

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	networkauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/rbactest"
	"github.com/sallyport/sallyport/internal/xdstest"
	"google.golang.org/protobuf/proto"
)

// taken is what an Envoy has that has taken a response.
type taken struct {
	envoy    *xdstest.Envoy
	response *discoveryv3.DeltaDiscoveryResponse
}

func (n taken) resource(k kind, name string) *discoveryv3.Resource {
	for _, r := range n.response.GetResources() {
		if n.response.GetTypeUrl() == k.url() && r.GetName() == name {
			return r
		}
	}
	return n.envoy.Resource(k.url(), name)
}

// slot decodes what is filled into a slot; false: nothing of that type.
func (n taken) slot(name string, m proto.Message) bool {
	var c corev3.TypedExtensionConfig
	return n.resource(extensions, name).GetResource().UnmarshalTo(&c) == nil && c.GetTypedConfig().UnmarshalTo(m) == nil
}

// admits is the name of web's inbound chain, and whom of the clients the rules let in on it: nobody
// if there is no chain, or only ext_authz decides.
func (n taken) admits(clients ...string) (chain string, admitted []string) {
	var l listenerv3.Listener
	if n.resource(listeners, "public_listener:127.0.0.1:20000").GetResource().UnmarshalTo(&l) != nil {
		return "", nil
	}
	chain = l.GetFilterChains()[0].GetName()
	var byRoute routev3.RouteConfiguration
	var perRoute httprbacv3.RBACPerRoute
	var bySlot networkrbacv3.RBAC
	var peers tlsv3.Secret
	var rules *matcherv3.Matcher
	if n.resource(routes, "inbound/web").GetResource().UnmarshalTo(&byRoute) == nil {
		override := byRoute.GetVirtualHosts()[0].GetTypedPerFilterConfig()["envoy.filters.http.rbac"]
		if override.UnmarshalTo(&perRoute) == nil {
			rules = perRoute.GetRbac().GetMatcher()
		}
	} else if n.slot("intentions/web", &bySlot) && n.resource(secrets, "peers/web").GetResource().UnmarshalTo(&peers) == nil {
		rules = bySlot.GetMatcher()
	}
	if rules.GetMatcherType() == nil { // all are denied, or none is
		return chain, nil
	}
	for _, client := range clients {
		uri := []string{fmt.Sprintf("spiffe://%s/ns/default/dc/dc1/svc/%s", trustDomain, client)}
		in, err := rbactest.Allowed(rules, uri)
		if sans := peers.GetValidationContext().GetMatchTypedSubjectAltNames(); err == nil && in && len(sans) > 0 {
			in, err = rbactest.HandshakeAllows(sans, uri)
		}
		if err == nil && in {
			admitted = append(admitted, client)
		}
	}
	return chain, admitted
}

// opened says what is open at an Envoy, of the tcp service web, that has taken r: who is denied
// would be let in, or have the application dialled. Empty: nothing, or the Envoy does not serve
// yet.
func opened(e *xdstest.Envoy, r *discoveryv3.DeltaDiscoveryResponse) string {
	now := taken{e, r}
	slot := now.slot
	var rules networkrbacv3.RBAC
	var proxy tcpv3.TcpProxy
	var peers tlsv3.Secret
	if !slot("intentions/web", &rules) || !slot("proxy/web", &proxy) || now.resource(extensions, "authz/web") == nil ||
		now.resource(secrets, "peers/web").GetResource().UnmarshalTo(&peers) != nil {
		return ""
	}
	asked := slot("authz/web", &networkauthzv3.ExtAuthz{})
	late := proxy.GetUpstreamConnectMode() == tcpv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA
	handshake := peers.GetValidationContext().GetMatchTypedSubjectAltNames()[0].GetMatcher().GetExact() != ""
	if rules.GetMatcher() == nil && !asked {
		return "nobody judges"
	}
	if !late && (rules.GetMatcher() == nil || !handshake) {
		return fmt.Sprintf("the application is dialled before anybody has judged: rules %t, handshake %t", rules.GetMatcher() != nil, handshake)
	}
	return ""
}

// lax is the service api under an enforcement.
func lax(m *mesh, e catalog.Enforcement) {
	m.contents.Proxies[1].Inbound.Enforcement = e
	m.publish()
}

// The six changes of enforcement: what closes first, and what opens when Envoy has it.
func TestEnforcementOfTCP(t *testing.T) {
	const authz, proxy, rules = "extension authz/api", "extension proxy/api", "extension intentions/api"
	const peers = "secret peers/api"
	for _, test := range []struct {
		from, to       catalog.Enforcement
		closes, lifted []string
	}{
		{catalog.RBAC, catalog.Both, []string{authz}, nil},
		{catalog.Both, catalog.RBAC, nil, []string{authz}},
		{catalog.RBAC, catalog.ExtAuthz, []string{authz, proxy}, []string{peers, rules}},
		{catalog.Both, catalog.ExtAuthz, []string{proxy}, []string{peers, rules}},
		{catalog.ExtAuthz, catalog.RBAC, []string{peers, rules}, []string{authz, proxy}},
		{catalog.ExtAuthz, catalog.Both, []string{peers, rules}, []string{proxy}},
	} {
		t.Run(test.from.String()+" to "+test.to.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t, patient())
				twoServices(m)
				lax(m, test.from)
				c := m.stream("api")
				c.configureAPI()
				lax(m, test.to)
				if len(test.closes) == 2 && test.closes[0] == peers {
					// Both are on their way, and nothing is lifted before the second is accepted.
					sds := c.expect(peers)
					ecds := c.expect(rules)
					c.must(c.s.ACK(ecds))
					c.silence()
					time.Sleep(2 * time.Hour) // however long that takes
					c.silence()
					c.must(c.s.ACK(sds))
				} else {
					for _, r := range test.closes {
						sent := c.expect(r)
						c.silence()
						c.must(c.s.ACK(sent))
					}
				}
				for _, r := range test.lifted {
					c.accept(r)
				}
				c.silence()
				if p, _ := m.server.Proxy(proxyID("api")); !p.InSync {
					t.Errorf("status: %+v", p)
				}
			})
		})
	}
}

// A judge that Envoy refuses takes no other's place, and keeps nothing else from being sent.
func TestJudgeRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		lax(m, catalog.ExtAuthz)
		c := m.stream("api")
		c.configureAPI()
		lax(m, catalog.RBAC)
		c.accept("secret peers/api")
		c.refuse("extension intentions/api", "no such rule")
		c.silence()
		m.certs.rotate()
		c.accept("secret leaf/api")
		m.contents.Proxies[1].Inbound.BalanceConnections = true
		m.publish()
		c.accept("listener public_listener:127.0.0.1:20001")
		if p, _ := m.server.Proxy(proxyID("api")); p.InSync || p.State() != "refuses 1 resource" {
			t.Errorf("in sync %t, %s", p.InSync, p.State())
		}
		time.Sleep(firstRetry)
		c.accept("extension intentions/api")
		c.accept("extension authz/api")
		c.accept("extension proxy/api")
		c.silence()
	})
}

// An Envoy that comes back in the middle of a change says what it has, in an order of its own.
func TestEnforcementOnANewStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		lax(m, catalog.ExtAuthz)
		c := m.stream("api")
		c.configureAPI()
		held := m.versions("api")
		c.s.Close()
		lax(m, catalog.RBAC)
		c = m.stream("api")
		ask := func(k kind, names ...string) {
			c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: k.url(), ResourceNamesSubscribe: names, InitialResourceVersions: held[k]}))
		}
		ask(extensions, slots("api")...)
		c.accept("extension intentions/api")
		c.silence()
		ask(secrets, "leaf/api", "peers/api")
		c.accept("secret peers/api")
		c.accept("extension authz/api")
		c.accept("extension proxy/api")
		c.silence()

		// One that has nothing waits for all of it, and gets all of it.
		c.s.Close()
		c = m.stream("api")
		c.subscribe(extensions, "authz/api", "proxy/api")
		c.accept("extension authz/api")
		c.accept("extension proxy/api")
		c.silence()
	})
}
