package snapshot

import (
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	xffv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/original_ip_detection/xff/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// externalHCM is a connection manager for requests from outside of this machine. The caller adds
// filters and routes.
//
// What a request says to the application passes as it was sent: path, host with its port, names of
// headers, x-forwarded-for and x-forwarded-proto. What it would say to Envoy does not: a peer
// neither chooses the address that Envoy takes for the client's, nor sets x-envoy-… headers, which
// Envoy obeys. Rules that look at a path have to be strict themselves: a field here would drain
// every connection when the first of them is written.
func (b *builder) externalHCM(stats string, p catalog.Protocol) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix:                    stats,
		CodecType:                     codec(p),
		OriginalIpDetectionExtensions: []*corev3.TypedExtensionConfig{b.extension("envoy.http.original_ip_detection.xff", trustNobody)},
		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{b.extension("envoy.http.early_header_mutation.header_mutation", withoutEnvoys)},
		ForwardClientCertDetails:      hcmv3.HttpConnectionManager_SANITIZE,
		// Spelled out: how an Envoy was built decides else.
		NormalizePath:                wrapperspb.Bool(false),
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:     durationpb.New(idleTimeout),
			MaxHeadersCount: wrapperspb.UInt32(100),
		},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
			MaxConcurrentStreams: wrapperspb.UInt32(1024),
			ConnectionKeepalive:  &corev3.KeepaliveSettings{Interval: durationpb.New(30 * time.Second), Timeout: durationpb.New(10 * time.Second)},
		},
		RequestHeadersTimeout: durationpb.New(10 * time.Second),
		StreamIdleTimeout:     durationpb.New(5 * time.Minute),
	}
}

// codec is what peers may speak to a service. One that speaks http is not asked in HTTP/2, which
// would open more of Envoy to them, for an application that does not speak it.
func codec(p catalog.Protocol) hcmv3.HttpConnectionManager_CodecType {
	if p == catalog.HTTP {
		return hcmv3.HttpConnectionManager_HTTP1
	}
	return hcmv3.HttpConnectionManager_AUTO
}

// http1 is how those who are not of the mesh may speak HTTP/1 to a service: in 1.0 too, which
// nginx and health checkers do unless told otherwise. Of those who name no host the service is it.
// Sidecars speak no 1.0 to each other.
func (b *builder) http1(to identity.Name) *corev3.Http1ProtocolOptions {
	if b.in.Proxy.RefuseHTTP10 {
		return nil
	}
	return &corev3.Http1ProtocolOptions{AcceptHttp_10: true, DefaultHostForHttp_10: to.Service}
}

// trustNobody makes the address of the connection that of the client: x-forwarded-for is read from
// an entry on that no request is long enough for. It passes as it is, which use_remote_address
// would not let x-forwarded-proto do, and trusted addresses would not let this one do.
func trustNobody() proto.Message {
	return &xffv3.XffConfig{XffNumTrustedHops: 1 << 20, SkipXffAppend: wrapperspb.Bool(true)}
}

// withoutEnvoys takes away the headers by which Envoys tell each other how to treat a request. Of
// those that nobody has vouched for Envoy itself removes only some. The one that tells the
// application who the client is goes in all spellings that CGI and WSGI take for it, of which Envoy
// knows one.
func withoutEnvoys() proto.Message {
	remove := func(m *matcherv3.StringMatcher) *mutationv3.HeaderMutation {
		return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{KeyMatcher: m}}}
	}
	return &earlyv3.HeaderMutation{Mutations: []*mutationv3.HeaderMutation{
		remove(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "x-envoy-"}}),
		remove(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: "x[-_]forwarded[-_]client[-_]cert"}}}),
	}}
}

// extension is a constant extension of a connection manager.
func (b *builder) extension(name string, config func() proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: b.constant(name, config)}
}
