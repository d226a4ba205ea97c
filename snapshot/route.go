package snapshot

import (
	"fmt"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// publicRouteName is the name of the routes of an http service, which carry its rules.
func publicRouteName(service identity.Name) string { return "inbound/" + service.String() }

// publicRoute leads all requests to the application. It has the rules and says how they are
// enforced: a change of intentions or of their enforcement changes this resource alone, and applies
// to the next request of open connections.
func (b *builder) publicRoute() *routev3.RouteConfiguration {
	in := b.in.Proxy.Inbound
	overrides := map[string]*anypb.Any{httpRBAC: b.routeRules(), httpExtAuthz: b.any(b.routeAuthz())}
	action := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: localApp},
		UpgradeConfigs:   upgrades(in.Protocol),
		// 0: none. Envoy's default of 15 s would end every longer stream.
		Timeout: durationpb.New(max(in.RequestTimeout, 0)),
	}
	if in.IdleTimeout.Set {
		action.IdleTimeout = durationpb.New(max(in.IdleTimeout.Duration, 0))
	}
	return &routev3.RouteConfiguration{
		Name: publicRouteName(b.in.Proxy.Service),
		VirtualHosts: []*routev3.VirtualHost{{
			Name:                 "public",
			Domains:              []string{"*"},
			TypedPerFilterConfig: overrides,
			Routes:               []*routev3.Route{matchAll(action)},
		}},
	}
}

// routes is the name of u's routes. It is made of the listener's name, as two upstreams may lead to
// one service, and each has routes of its own.
func (u upstream) routes() string { return "upstream/" + u.listener() }

// upstreamRoute leads the requests of u's application where its chain says, and without one to u's cluster. leads are the clusters that it names.
func (b *builder) upstreamRoute(u upstream) (r *routev3.RouteConfiguration, leads []string) {
	name := u.Name()
	host := &routev3.VirtualHost{Name: name, Domains: []string{"*"}}
	r = &routev3.RouteConfiguration{Name: u.routes(), VirtualHosts: []*routev3.VirtualHost{host}}
	if u.Chain != nil {
		c := &chainRoutes{packer: &b.packer, chain: u.Chain.Chain, cluster: u.resolverCluster, regexSize: regexSize(b.in.Envoy), warn: func(format string, args ...any) {
			b.warn("upstream %s (%s): %s", name, u.Origin, fmt.Sprintf(format, args...))
		}}
		host.Routes = c.routes()
		return r, c.leads
	}
	// It retries only requests that no application has received.
	host.Routes = []*routev3.Route{matchAll(&routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: u.cluster},
		UpgradeConfigs:   upgrades(u.Service.Protocol),
		Timeout:          durationpb.New(0),
		RetryPolicy:      b.retryPolicy(strings.Join(unreceived, ","), 2, false),
	})}
	return r, []string{u.cluster}
}

// upgrades allows WebSockets and nothing else: CONNECT would be a tunnel past all rules for
// requests, and without it HTTP/2 has no upgrades. Nor may a route to what speaks HTTP/2 have them: for
// an upgrade that it has not offered the other side ends the whole connection, with all streams on it.
func upgrades(p catalog.Protocol) []*routev3.RouteAction_UpgradeConfig {
	if p != catalog.HTTP {
		return nil
	}
	return []*routev3.RouteAction_UpgradeConfig{{UpgradeType: "websocket", Enabled: wrapperspb.Bool(true)}}
}

func matchAll(a *routev3.RouteAction) *routev3.Route {
	return &routev3.Route{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: a},
	}
}
