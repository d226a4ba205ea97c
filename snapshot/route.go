package snapshot

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// publicRouteName is the name of the routes of an http service, which carry its rules.
func publicRouteName(service identity.Name) string { return "inbound/" + service.String() }

// publicRoute leads all requests to the application, and says by whom they may be made and who
// decides that: a change of intentions, or of how they are enforced, is a change of this resource
// alone, and holds for the next request of connections that are open.
func (b *builder) publicRoute() *routev3.RouteConfiguration {
	in := b.in.Proxy.Inbound
	overrides := map[string]*anypb.Any{httpRBAC: b.routeRules(), httpExtAuthz: b.any(b.routeAuthz())}
	action := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: localApp},
		UpgradeConfigs:   upgrades(in.Protocol),
		Timeout:          durationpb.New(max(in.RequestTimeout, 0)), // 0: none. Envoy's own default, 15 s, would cut every longer stream
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
			Routes:               []*routev3.Route{everything(action)},
		}},
	}
}

// routes is the name of u's routes. Each upstream has routes of its own, so it is made of the
// listener's name: two upstreams may lead to one service.
func (u upstream) routes() string { return "upstream/" + u.listener() }

// upstreamRoute leads all requests to u's cluster. What is tried again was never given to an
// application.
func upstreamRoute(u upstream) *routev3.RouteConfiguration {
	name := u.Name()
	return &routev3.RouteConfiguration{
		Name: u.routes(),
		VirtualHosts: []*routev3.VirtualHost{{
			Name:    name,
			Domains: []string{"*"},
			Routes: []*routev3.Route{everything(&routev3.RouteAction{
				ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: u.cluster},
				UpgradeConfigs:   upgrades(u.service.Protocol),
				Timeout:          durationpb.New(0),
				RetryPolicy:      &routev3.RetryPolicy{RetryOn: "connect-failure,refused-stream", NumRetries: wrapperspb.UInt32(2)},
			})},
		}},
	}
}

// upgrades lets WebSockets through, and nothing else: not CONNECT, which would be a tunnel past all
// rules for requests. HTTP/2 has no upgrades without it.
func upgrades(p catalog.Protocol) []*routev3.RouteAction_UpgradeConfig {
	if p != catalog.HTTP {
		return nil
	}
	return []*routev3.RouteAction_UpgradeConfig{{UpgradeType: "websocket", Enabled: wrapperspb.Bool(true)}}
}

func everything(a *routev3.RouteAction) *routev3.Route {
	return &routev3.Route{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: a},
	}
}
