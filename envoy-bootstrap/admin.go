package bootstrap

import (
	"fmt"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// selfAdmin is the cluster by which the metrics listener reaches this Envoy's administration
// interface.
const selfAdmin = "self_admin"

// readOnlyAdmin are the prefixes of the admin paths that change nothing. Any user of the machine
// can connect to a loopback port, so the paths that stop, drain or reset an Envoy are served on the
// socket only, which its owner alone can open.
func readOnlyAdmin() []string {
	return []string{"/ready", "/stats", "/server_info", "/config_dump", "/clusters", "/listeners", "/certs", "/init_dump", "/memory", "/runtime?", "/help"}
}

func (p Params) admin() *bootstrapv3.Admin {
	a := &bootstrapv3.Admin{
		Address: p.adminAddress(),
		// The administration must answer while the connection limit is reached.
		IgnoreGlobalConnLimit: true,
	}
	if p.AdminBind != "" && p.EnvoyVersion.adminAllowPaths() {
		for _, prefix := range readOnlyAdmin() {
			// The query is part of what is matched, hence prefixes.
			a.AllowPaths = append(a.AllowPaths, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}})
		}
	}
	return a
}

func (p Params) adminAddress() *corev3.Address {
	if p.AdminSocket != "" {
		return pipe(p.AdminSocket, 0o600)
	}
	addr, err := parseBind(p.AdminBind)
	if err != nil {
		return nil // check has returned this error
	}
	return socket(addr.Addr().String(), addr.Port())
}

// adminText is adminAddress for the control plane.
func (p Params) adminText() string {
	if p.AdminSocket != "" {
		return "unix:" + p.AdminSocket
	}
	addr, _ := parseBind(p.AdminBind) // check has returned its error
	return addr.String()
}

func (p Params) selfAdminCluster() *clusterv3.Cluster {
	address := p.adminAddress()
	if pipe := address.GetPipe(); pipe != nil {
		pipe.Mode = 0 // this cluster dials the socket and does not make it
	}
	return &clusterv3.Cluster{
		Name:                 selfAdmin,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(5 * time.Second),
		LoadAssignment:       assignment(selfAdmin, address),
	}
}

// metricsListener answers GET /metrics, as Consul's envoy_prometheus_bind_addr does, and no other
// path of the administration.
func (p Params) metricsListener() (*listenerv3.Listener, error) {
	addr, err := parseBind(p.PrometheusBindAddr)
	if err != nil {
		return nil, fmt.Errorf("envoy_prometheus_bind_addr %q: %w", p.PrometheusBindAddr, err)
	}
	router, err := pack(&routerv3.Router{})
	if err != nil {
		return nil, err
	}
	hcm, err := pack(&hcmv3.HttpConnectionManager{
		StatPrefix: "envoy_prometheus_metrics",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: "envoy_prometheus_metrics",
			VirtualHosts: []*routev3.VirtualHost{{
				Name:    "envoy_prometheus_metrics",
				Domains: []string{"*"},
				Routes: []*routev3.Route{{
					Match: &routev3.RouteMatch{
						PathSpecifier: &routev3.RouteMatch_Path{Path: "/metrics"},
						Headers: []*routev3.HeaderMatcher{{
							Name: ":method",
							HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
								MatchPattern: &matcherv3.StringMatcher_Exact{Exact: "GET"},
							}},
						}},
					},
					Action: &routev3.Route_Route{Route: &routev3.RouteAction{
						ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: selfAdmin},
						PrefixRewrite:    "/stats/prometheus",
					}},
				}},
			}},
		}},
		RequestHeadersTimeout: durationpb.New(10 * time.Second),
		HttpFilters: []*hcmv3.HttpFilter{{
			Name:       "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: router},
		}},
	})
	if err != nil {
		return nil, err
	}
	return &listenerv3.Listener{
		Name:                  "envoy_prometheus_metrics_listener",
		Address:               socket(addr.Addr().String(), addr.Port()),
		IgnoreGlobalConnLimit: true,
		// Two Envoys that share a port would each answer some of the scrapes.
		EnableReusePort: wrapperspb.Bool(false),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: hcm},
		}}}},
	}, nil
}
