package snapshot_test

import (
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httpauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	networkauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/protobuf/proto"
)

// TestInboundLayout is the table of what enforces where. The listener is the same in each mode.
func TestInboundLayout(t *testing.T) {
	handshake, data, at := tcpv3.UpstreamConnectMode_ON_DOWNSTREAM_TLS_HANDSHAKE, tcpv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA, tcpv3.UpstreamConnectMode_IMMEDIATE
	middle := snapshot.Features{Version: "1.38.3", ConnectMode: true, RegexSize: 10000}
	const rbac, both, authz = "rules", "rules and ext_authz", "ext_authz"
	for _, test := range []struct {
		name     string
		in       catalog.Inbound
		envoy    snapshot.Features
		judges   string
		mode     tcpv3.UpstreamConnectMode
		drain    bool
		warnings int
	}{
		{"rbac", catalog.Inbound{}, newest, rbac, handshake, true, 0},
		{"rbac, new", catalog.Inbound{Revocation: catalog.NewConnections}, newest, rbac, handshake, false, 0},
		{"rbac, 1.38", catalog.Inbound{}, middle, rbac, handshake, false, 0},
		{"rbac, 1.36", catalog.Inbound{}, oldest, rbac, at, false, 1},
		{"rbac, unknown", catalog.Inbound{}, snapshot.Features{}, rbac, at, false, 1},
		{"both", catalog.Inbound{Enforcement: catalog.Both}, newest, both, handshake, true, 0},
		{"both, server first", catalog.Inbound{Enforcement: catalog.Both, ServerFirst: true}, newest, both, handshake, true, 2},
		{"ext_authz", catalog.Inbound{Enforcement: catalog.ExtAuthz}, newest, authz, data, true, 0},
		{"ext_authz, 1.36", catalog.Inbound{Enforcement: catalog.ExtAuthz}, oldest, both, at, false, 2},
		{"ext_authz, server first", catalog.Inbound{Enforcement: catalog.ExtAuthz, ServerFirst: true}, newest, both, handshake, true, 3},
		{"rbac, server first", catalog.Inbound{ServerFirst: true}, newest, rbac, handshake, true, 1},
		{"limit", catalog.Inbound{MaxConnections: 3}, newest, rbac, handshake, true, 0},
		{"http", catalog.Inbound{Protocol: catalog.HTTP}, newest, rbac, 0, false, 0},
		{"http, both", catalog.Inbound{Protocol: catalog.HTTP, Enforcement: catalog.Both}, newest, both, 0, false, 0},
		{"grpc, ext_authz", catalog.Inbound{Protocol: catalog.GRPC, Enforcement: catalog.ExtAuthz}, newest, authz, 0, false, 0},
		{"http2, ext_authz, 1.36", catalog.Inbound{Protocol: catalog.HTTP2, Enforcement: catalog.ExtAuthz}, oldest, authz, 0, false, 0},
		{"http, limit", catalog.Inbound{Protocol: catalog.HTTP, MaxConnections: 3}, newest, rbac, 0, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := input(compile("web", intention.Deny, from("api", intention.Allow)), test.in)
			in.Envoy = test.envoy
			r := build(t, in)
			if d := cmp.Diff(inboundFilters(test.in), filtersOf(t, public(t, r))); d != "" {
				t.Errorf("filters (-want +got):\n%s", d)
			}
			if test.in.Protocol.L7() {
				if got := routeJudges(t, r); got != test.judges {
					t.Errorf("requests are judged by %s, want %s", got, test.judges)
				}
			} else {
				if got := networkJudges(t, r); got != test.judges {
					t.Errorf("connections are judged by %s, want %s", got, test.judges)
				}
				p := filled(t, r, "proxy/web", &tcpv3.TcpProxy{})
				if p.UpstreamConnectMode != test.mode || (p.MaxEarlyDataBytes != nil) != (test.mode != at) {
					t.Errorf("dials %s with early data %v, want %s", p.UpstreamConnectMode, p.MaxEarlyDataBytes, test.mode)
				}
				if p.CheckDrainClose.GetValue() != test.drain || (p.CheckDrainClose != nil) != test.drain {
					t.Errorf("check_drain_close = %v, want %v", p.CheckDrainClose, test.drain)
				}
			}
			if len(r.Warnings) != test.warnings {
				t.Errorf("%d warnings, want %d: %q", len(r.Warnings), test.warnings, r.Warnings)
			}
			want := map[bool]string{false: "peers/web", true: "identities"}[test.in.Protocol.L7()]
			if got := validation(t, public(t, r).FilterChains[0]); got != want {
				t.Errorf("the handshake is judged by %q, want %q", got, want)
			}
			in.Proxy.Inbound.Enforcement = catalog.Both
			if d := changed(r, build(t, in)); slices.ContainsFunc(d, func(r string) bool { return strings.HasPrefix(r, "Listener") }) {
				t.Errorf("another enforcement changes %q", d)
			}
		})
	}
}

// inboundFilters are the names of the filters of an inbound chain, then of its HTTP connection
// manager.
func inboundFilters(in catalog.Inbound) (names []string) {
	if in.MaxConnections > 0 {
		names = append(names, "envoy.filters.network.connection_limit")
	}
	if in.Protocol.L7() {
		return append(names, "envoy.filters.network.http_connection_manager", "log/web", "jwt/web",
			"envoy.filters.http.rbac", "envoy.filters.http.ext_authz", "extensions/http/web", "envoy.filters.http.router")
	}
	return append(names, "intentions/web", "authz/web", "extensions/tcp/web", "proxy/web")
}

func filtersOf(t *testing.T, l *listenerv3.Listener) (names []string) {
	t.Helper()
	for _, f := range l.FilterChains[0].Filters {
		names = append(names, f.Name)
		if m := (&hcmv3.HttpConnectionManager{}); f.GetTypedConfig().MessageIs(m) {
			if err := f.GetTypedConfig().UnmarshalTo(m); err != nil {
				t.Fatal(err)
			}
			for _, f := range m.HttpFilters {
				names = append(names, f.Name)
			}
		}
	}
	return names
}

// filled unpacks what fills a slot into m.
func filled[M proto.Message](t *testing.T, r *snapshot.Resources, slot string, m M) M {
	t.Helper()
	if err := resource(t, r, extensions, slot, &corev3.TypedExtensionConfig{}).TypedConfig.UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

// networkJudges says which filters of a tcp chain decide, and fails if Judges, or the handshake,
// say otherwise.
func networkJudges(t *testing.T, r *snapshot.Resources) string {
	t.Helper()
	var judges []string
	rules := filled(t, r, "intentions/web", &networkrbacv3.RBAC{}).Matcher != nil
	if rules {
		judges = append(judges, "rules")
	}
	asked := resource(t, r, extensions, "authz/web", &corev3.TypedExtensionConfig{}).TypedConfig.MessageIs(&networkauthzv3.ExtAuthz{})
	if asked {
		judges = append(judges, "ext_authz")
	}
	if one := names(t, r, "peers/web")[0].GetMatcher().GetExact() != ""; one != rules {
		t.Errorf("the handshake knows whom the policy allows = %t beside rules = %t", one, rules)
	}
	atHandshake := filled(t, r, "proxy/web", &tcpv3.TcpProxy{}).UpstreamConnectMode == tcpv3.UpstreamConnectMode_ON_DOWNSTREAM_TLS_HANDSHAKE
	want := map[string]snapshot.Judge{
		"intentions/web": {Lifted: !rules}, "peers/web": {Lifted: !rules}, "authz/web": {Lifted: !asked}, "proxy/web": {Lifted: atHandshake, Written: true},
	}
	if d := cmp.Diff(want, r.Judges); d != "" {
		t.Errorf("Judges (-want +got):\n%s", d)
	}
	return strings.Join(judges, " and ")
}

// routeJudges says who decides about requests.
func routeJudges(t *testing.T, r *snapshot.Resources) string {
	t.Helper()
	host := resource(t, r, routes, "inbound/web", &routev3.RouteConfiguration{}).VirtualHosts[0]
	var judges []string
	rbac, authz, out := &httprbacv3.RBACPerRoute{}, &httpauthzv3.ExtAuthzPerRoute{}, &routev3.FilterConfig{}
	if err := host.TypedPerFilterConfig["envoy.filters.http.rbac"].UnmarshalTo(rbac); err != nil {
		t.Fatal(err)
	}
	if override := host.TypedPerFilterConfig["envoy.filters.http.ext_authz"]; override.UnmarshalTo(out) != nil {
		if err := override.UnmarshalTo(authz); err != nil {
			t.Fatal(err)
		}
	}
	action := &rbacv3.Action{}
	if a := rbac.GetRbac().GetMatcher().GetOnNoMatch().GetAction(); a == nil || a.TypedConfig.UnmarshalTo(action) != nil || action.Action == rbacv3.RBAC_DENY {
		judges = append(judges, "rules")
	} else if rbac.GetRbac().GetMatcher().GetMatcherType() != nil {
		judges = append(judges, "something else")
	}
	if d := cmp.Diff(map[string]snapshot.Judge{"identities": {}, "inbound/web": {}, "jwt/web": {Written: true, Lifted: true}}, r.Judges); d != "" {
		t.Errorf("Judges (-want +got):\n%s", d)
	}
	if !out.GetDisabled() {
		judges = append(judges, "ext_authz")
		if authz.GetCheckSettings().GetContextExtensions()["destination"] != "web" {
			t.Errorf("checks are about %v", authz.GetCheckSettings())
		}
	}
	return strings.Join(judges, " and ")
}

// validation is the secret that judges clients of a chain.
func validation(t *testing.T, chain *listenerv3.FilterChain) string {
	t.Helper()
	c := &tlsv3.DownstreamTlsContext{}
	if err := chain.TransportSocket.GetTypedConfig().UnmarshalTo(c); err != nil {
		t.Fatal(err)
	}
	return c.CommonTlsContext.GetValidationContextSdsSecretConfig().GetName()
}
