package snapshot

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_metadata/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// slot is a filter of the inbound listener whose configuration comes by ECDS, under a name of the
// service's own: filling or changing it changes that resource and ends no connection. The types of
// filters that it can hold are fixed in the listener. Envoy waits for all slots before it serves
// the listener.
type slot struct {
	prefix string   // its name is prefix and the service's
	types  []string // of the filters that it can hold, after "envoy.extensions.filters."
}

// The slots of an http service, in the order of its filters: what is logged, whose tokens are
// verified, extensions after the decision. Rules and ext_authz are between the last two.
var (
	logSlot        = slot{"log/", []string{"http.set_metadata.v3.Config"}}
	jwtSlot        = slot{"jwt/", []string{"http.jwt_authn.v3.JwtAuthentication"}}
	httpExtensions = slot{"extensions/http/", []string{
		"http.lua.v3.Lua", "http.ext_authz.v3.ExtAuthz", "http.wasm.v3.Wasm", "http.header_mutation.v3.HeaderMutation",
	}}
)

// The slots of a tcp service, in the order of its filters.
var (
	rulesSlot         = slot{"intentions/", []string{"network.rbac.v3.RBAC"}}
	authzSlot         = slot{"authz/", []string{"network.ext_authz.v3.ExtAuthz", "network.rbac.v3.RBAC"}}
	networkExtensions = slot{"extensions/tcp/", []string{
		"network.rbac.v3.RBAC", "network.ext_authz.v3.ExtAuthz", "network.wasm.v3.Wasm",
	}}
	proxySlot = slot{"proxy/", []string{"network.tcp_proxy.v3.TcpProxy"}}
)

// name is the name of the service's slot and of the resource that fills it.
func (b *builder) name(s slot) string { return s.prefix + b.in.Proxy.Service.String() }

func (s slot) source() *corev3.ExtensionConfigSource {
	source := &corev3.ExtensionConfigSource{ConfigSource: fromADS, TypeUrls: make([]string, len(s.types))}
	for i, t := range s.types {
		source.TypeUrls[i] = "type.googleapis.com/envoy.extensions.filters." + t
	}
	return source
}

func (b *builder) httpSlot(s slot) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: b.name(s), ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: s.source()}}
}

func (b *builder) networkSlot(s slot) *listenerv3.Filter {
	return &listenerv3.Filter{Name: b.name(s), ConfigType: &listenerv3.Filter_ConfigDiscovery{ConfigDiscovery: s.source()}}
}

// fill adds the resource for a slot.
func (b *builder) fill(s slot, config *anypb.Any) {
	name := b.name(s)
	b.add(name, &corev3.TypedExtensionConfig{Name: name, TypedConfig: config})
}

// fillEmpty adds the resource for an empty slot, a filter that does nothing.
func (b *builder) fillEmpty(s slot) { b.fill(s, b.constant(s.prefix, s.noop)) }

func (s slot) noop() proto.Message {
	switch s.prefix {
	case logSlot.prefix:
		return &metadatav3.Config{}
	case jwtSlot.prefix:
		return &jwtv3.JwtAuthentication{}
	case httpExtensions.prefix:
		return &mutationv3.HeaderMutation{}
	}
	return &networkrbacv3.RBAC{StatPrefix: "none."} // without rules it allows everything
}
