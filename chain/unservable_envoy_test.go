package chain_test

import (
	"fmt"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/sallyport/sallyport/internal/envoytest"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// What is said of the values of headers is what Envoys say: the oldest and the newest that are tested.
func TestHeaderValuesOnEnvoy(t *testing.T) {
	taken := []string{
		"", "a", "%%", "100%% of it", "%REQ(:path)%", "%REQ(x-a?:path):10%", "%PROTOCOL% %START_TIME%", "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%", "%DOWNSTREAM_PEER_URI_SAN%",
		"%DYNAMIC_METADATA(a:b)%", "%FILTER_STATE(a)%", "%QUERY_PARAM(a):5%", "%ENVIRONMENT(HOME)%", "%PATH:5%", "%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:ms)%", "%PER_REQUEST_STATE(x)%", "%TRACE_ID%", "é",
	}
	refused := []string{"%", "50%", "% %", "%%START_TIME%", "%NOPE%", "%req(x)%", "%REQ%", "%PROTOCOL(x)%", "%PROTOCOL:5%", "%START_TIME", "%REQ(x:y)%", "%START_TIME(%Y):5%"}
	for _, version := range []string{"1.36.4", "1.40.0"} {
		t.Run(version, func(t *testing.T) {
			for _, v := range taken {
				if wrong := setting("x", v).Unservable(); len(wrong) > 0 {
					t.Errorf("%q: %v", v, wrong[0])
				}
			}
			if err := envoytest.Validate(t, version, settingOnEnvoy(t, taken)); err != nil {
				t.Error(err)
			}
			for _, v := range refused {
				if setting("x", v).Unservable() == nil {
					t.Errorf("%q is taken", v)
				}
				if envoytest.Validate(t, version, settingOnEnvoy(t, []string{v})) == nil {
					t.Errorf("Envoy takes %q", v)
				}
			}
		})
	}
}

// settingOnEnvoy is an Envoy that sets headers to those values.
func settingOnEnvoy(t *testing.T, values []string) *bootstrapv3.Bootstrap {
	t.Helper()
	route := &routev3.Route{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 200}},
	}
	for i, v := range values {
		route.RequestHeadersToAdd = append(route.RequestHeadersToAdd, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: fmt.Sprintf("x-%d", i), Value: v}})
	}
	pack := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: "x",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			VirtualHosts: []*routev3.VirtualHost{{Name: "x", Domains: []string{"*"}, Routes: []*routev3.Route{route}}},
		}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{})}}},
	}
	return &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{Listeners: []*listenerv3.Listener{{
		Name: "x",
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 0},
		}}},
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(manager)}}}}},
	}}}}
}
