package snapshot

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// refusals is the name of the access logs that Envoys send to the control plane.
const refusals = "refusals"

// refusedConnection is true of connections whose handshake failed, or that the network rules ended.
const refusedConnection = `connection.transport_failure_reason != "" || connection.termination_details.startsWith("rbac_access_denied")`

// connectionLog reports refused connections to the control plane. It is part of the listener, as a
// failed handshake does not reach the log of a filter chain.
func (b *builder) connectionLog() []*accesslogv3.AccessLog {
	return b.refusalLog("envoy.access_loggers.tcp_grpc", &grpclogv3.TcpGrpcAccessLogConfig{CommonConfig: b.logService()},
		&accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslogv3.ExtensionFilter{
			Name: "cel",
			ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{
				TypedConfig: b.constant(refusals, func() proto.Message { return &celv3.ExpressionFilter{Expression: refusedConnection} }),
			},
		}}})
}

// requestLog reports to the control plane the requests that the rules refused, or that shadow rules
// would refuse. The metadata that the service's log slot sets on a request adds all others or those
// that failed; the log itself cannot change without a drain.
func (b *builder) requestLog() []*accesslogv3.AccessLog {
	return b.refusalLog("envoy.access_loggers.http_grpc", &grpclogv3.HttpGrpcAccessLogConfig{CommonConfig: b.logService()},
		&accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{OrFilter: &accesslogv3.OrFilter{
			Filters: []*accesslogv3.AccessLogFilter{
				metadataIs(httpRBAC, "enforced_engine_result", "denied"),
				metadataIs(httpRBAC, "shadow_engine_result", "denied"),
				metadataIs(metadataNamespace, "access_log", "all"),
				{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{AndFilter: &accesslogv3.AndFilter{
					Filters: []*accesslogv3.AccessLogFilter{metadataIs(metadataNamespace, "access_log", failuresAlone), failedStatus()},
				}}},
			},
		}}})
}

// failedStatus is true of requests that were answered by an error.
func failedStatus() *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{
		StatusCodeFilter: &accesslogv3.StatusCodeFilter{Comparison: &accesslogv3.ComparisonFilter{
			Op:    accesslogv3.ComparisonFilter_GE,
			Value: &corev3.RuntimeUInt32{DefaultValue: 400, RuntimeKey: "sallyport.access_log_from"},
		}},
	}}
}

// metadataNamespace is where filters of ours write what they know of a request.
const metadataNamespace = "sallyport"

func metadataIs(namespace, key, value string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_MetadataFilter{MetadataFilter: &accesslogv3.MetadataFilter{
		MatchIfKeyNotFound: wrapperspb.Bool(false),
		Matcher: &matcherv3.MetadataMatcher{
			Filter: namespace,
			Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key}}},
			Value:  &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: exactly(value)}},
		},
	}}}
}

func (b *builder) refusalLog(name string, config proto.Message, filter *accesslogv3.AccessLogFilter) []*accesslogv3.AccessLog {
	return []*accesslogv3.AccessLog{{
		Name: name, Filter: filter,
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.any(config)},
	}}
}

func (b *builder) logService() *grpclogv3.CommonGrpcAccessLogConfig {
	return &grpclogv3.CommonGrpcAccessLogConfig{
		LogName:             refusals,
		TransportApiVersion: corev3.ApiVersion_V3,
		GrpcService:         b.controlPlane(),
		BufferFlushInterval: durationpb.New(time.Second),
		BufferSizeBytes:     wrapperspb.UInt32(16 << 10),
	}
}
