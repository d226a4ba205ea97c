package snapshot

import (
	"time"

	mutationrulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httpauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	networkauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	httpExtAuthz = "envoy.filters.http.ext_authz"

	// authzStats names the counters of both filters: "ext_authz.intentions.denied" (network;
	// "…error" is an outage) and "cluster.…ext_authz.intentions.denied" (http).
	authzStats = "intentions"
	// authzTimeout is how long a connection or request waits for an answer before it is refused.
	// Zero would be for ever.
	authzTimeout = 250 * time.Millisecond
)

// controlPlane is the gRPC service of the control plane. Calls go through the bootstrap's cluster
// for xDS, so that they carry the proxy's token.
func (b *builder) controlPlane() *corev3.GrpcService {
	return &corev3.GrpcService{
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: identity.XDSCluster}},
		InitialMetadata: []*corev3.HeaderValue{
			{Key: identity.ProxyHeader, Value: b.in.Proxy.ID.Header()},
			{Key: identity.DestinationHeader, Value: b.in.Proxy.Service.String()},
		},
	}
}

func (b *builder) authzService() *corev3.GrpcService {
	s := b.controlPlane()
	s.Timeout = durationpb.New(authzTimeout)
	return s
}

// networkAuthz is the filter that asks at the client's first byte or when it closes, never before.
func (b *builder) networkAuthz() *anypb.Any {
	return b.any(&networkauthzv3.ExtAuthz{
		StatPrefix:             authzStats,
		TransportApiVersion:    corev3.ApiVersion_V3,
		FailureModeAllow:       false,
		IncludePeerCertificate: true,
		IncludeTlsSession:      true,
		SendTlsAlertOnDenial:   true,
		GrpcService:            b.authzService(),
	})
}

// httpAuthz is the filter that asks for each request, unless the routes disable it. The server
// decides and does nothing else: it cannot change a request. It gets all headers, as a permission may look at any of them and the filter
// is part of the listener, which a change of intentions must not change; that some hold secrets is why it neither keeps nor logs them.
func (b *builder) httpAuthz() *hcmv3.HttpFilter {
	return b.httpFilter(httpExtAuthz, &httpauthzv3.ExtAuthz{
		StatPrefix:          authzStats,
		TransportApiVersion: corev3.ApiVersion_V3,
		FailureModeAllow:    false,
		// 403 is a denial.
		StatusOnError:          &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		IncludePeerCertificate: true,
		IncludeTlsSession:      true,
		EncodeRawHeaders:       true,
		ClearRouteCache:        false,
		ValidateMutations:      true,
		DecoderHeaderMutationRules: &mutationrulesv3.HeaderMutationRules{
			DisallowAll:     wrapperspb.Bool(true),
			DisallowIsError: wrapperspb.Bool(true),
		},
		Services: &httpauthzv3.ExtAuthz_GrpcService{GrpcService: b.authzService()},
		// The claims of a verified token are sent with the check.
		MetadataContextNamespaces: []string{"envoy.filters.http.jwt_authn"},
	})
}

// routeAuthz is the routes' override of httpAuthz, which names the service that a check is about.
// Where the rules alone decide it takes the filter out, at no cost for a request;
// ExtAuthzPerRoute.disabled would still create the filter for each, some 16 µs. Without the
// override, requests are checked.
func (b *builder) routeAuthz() proto.Message {
	if b.enforcement() == catalog.RBAC {
		return &routev3.FilterConfig{Disabled: true}
	}
	return &httpauthzv3.ExtAuthzPerRoute{Override: &httpauthzv3.ExtAuthzPerRoute_CheckSettings{
		CheckSettings: &httpauthzv3.CheckSettings{ContextExtensions: map[string]string{identity.DestinationExtension: b.in.Proxy.Service.String()}},
	}}
}
