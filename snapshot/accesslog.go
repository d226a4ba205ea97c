package snapshot

import (
	"encoding/json"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_metadata/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/sallyport/sallyport/catalog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The metadata by which a request's log slot says that files have failures alone.
const loggedKey, failuresAlone = "file_log", "failures"

// accessLog writes what comes to the filter to the proxy's sink; nil if it has none. listener is what the default format calls where the log
// is. A nil filter takes all.
func (b *builder) accessLog(listener string, filter *accesslogv3.AccessLogFilter) []*accesslogv3.AccessLog {
	l := b.in.Proxy.AccessLogs
	if !l.Enabled {
		return nil
	}
	format := logFormat(l, listener)
	name, config := "envoy.access_loggers.stdout", proto.Message(&streamv3.StdoutAccessLog{
		AccessLogFormat: &streamv3.StdoutAccessLog_LogFormat{LogFormat: format},
	})
	switch l.Sink {
	case catalog.LogStderr:
		name, config = "envoy.access_loggers.stderr", &streamv3.StderrAccessLog{AccessLogFormat: &streamv3.StderrAccessLog_LogFormat{LogFormat: format}}
	case catalog.LogFile:
		name, config = "envoy.access_loggers.file", &filelogv3.FileAccessLog{Path: l.Path, AccessLogFormat: &filelogv3.FileAccessLog_LogFormat{LogFormat: format}}
	case catalog.LogStdout:
	}
	return []*accesslogv3.AccessLog{{Name: name, Filter: filter, ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.any(config)}}}
}

// defaultFormat is what is written unless users have a format of their own: who asked for what, what came of it, and which intention said so.
// What is not known of a request or connection is left out.
var defaultFormat = map[string]string{
	"start_time":                          "%START_TIME%",
	"protocol":                            "%PROTOCOL%",
	"method":                              "%REQ(:METHOD)%",
	"path":                                "%REQ(:PATH)%",
	"authority":                           "%REQ(:AUTHORITY)%",
	"user_agent":                          "%REQ(USER-AGENT)%",
	"request_id":                          "%REQ(X-REQUEST-ID)%",
	"x_forwarded_for":                     "%REQ(X-FORWARDED-FOR)%",
	"response_code":                       "%RESPONSE_CODE%",
	"response_code_details":               "%RESPONSE_CODE_DETAILS%",
	"response_flags":                      "%RESPONSE_FLAGS%",
	"connection_termination_details":      "%CONNECTION_TERMINATION_DETAILS%",
	"downstream_transport_failure_reason": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
	"upstream_transport_failure_reason":   "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
	"bytes_received":                      "%BYTES_RECEIVED%",
	"bytes_sent":                          "%BYTES_SENT%",
	"duration":                            "%DURATION%",
	"source":                              "%DOWNSTREAM_PEER_URI_SAN%",
	"source_address":                      "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
	"destination":                         "%UPSTREAM_PEER_URI_SAN%",
	"upstream_cluster":                    "%UPSTREAM_CLUSTER%",
	"upstream_host":                       "%UPSTREAM_HOST%",
	"decision":                            "%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_engine_result)%",
	"intention":                           "%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)%",
}

func logFormat(l catalog.AccessLogs, listener string) *corev3.SubstitutionFormatString {
	if l.Text != "" {
		return &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
			Specifier: &corev3.DataSource_InlineString{InlineString: strings.TrimSuffix(l.Text, "\n") + "\n"},
		}}}
	}
	if l.JSON != "" {
		var written map[string]any
		_ = json.Unmarshal([]byte(l.JSON), &written) // whoever publishes the proxy has read it already
		if object, err := structpb.NewStruct(written); err == nil && written != nil {
			return &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: object}}
		}
	}
	object := &structpb.Struct{Fields: map[string]*structpb.Value{"listener": structpb.NewStringValue(strings.ReplaceAll(listener, "%", "%%"))}}
	for key, value := range defaultFormat {
		object.Fields[key] = structpb.NewStringValue(value)
	}
	return &corev3.SubstitutionFormatString{OmitEmptyValues: true, Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: object}}
}

// publicLog is the log of the requests to the proxy's service. What of them it has is for the service's log slot to say, whose change drains
// nothing: failures are there in any case, as are those that are refused before any filter.
func (b *builder) publicLog() []*accesslogv3.AccessLog {
	all := metadataIs(metadataNamespace, loggedKey, "all") // Envoy does not look at the matcher's Invert
	all.GetMetadataFilter().MatchIfKeyNotFound = wrapperspb.Bool(true)
	return b.accessLog(publicListener, anyOf(all, failedRequests()))
}

// upstreamLog is the log of the requests or connections of the application to u.
func (b *builder) upstreamLog(u upstream) []*accesslogv3.AccessLog {
	var filter *accesslogv3.AccessLogFilter
	if b.in.Proxy.AccessLogs.FailuresOnly {
		if filter = flagged(); u.Service.Protocol.L7() {
			filter = failedRequests()
		}
	}
	return b.accessLog("upstream "+u.Name(), filter)
}

// exposedLog is the log of the requests for a path that anybody may ask for.
func (b *builder) exposedLog(e catalog.ExposedPath) []*accesslogv3.AccessLog {
	var filter *accesslogv3.AccessLogFilter
	if b.in.Proxy.AccessLogs.FailuresOnly {
		filter = failedRequests()
	}
	return b.accessLog("exposed "+e.Path, filter)
}

// tcpLog is the log of the connections to the proxy's service whose handshakes have come to an end.
func (b *builder) tcpLog() []*accesslogv3.AccessLog {
	if !b.in.Proxy.AccessLogs.FailuresOnly {
		return b.accessLog(publicListener, nil)
	}
	return b.accessLog(publicListener, anyOf(flagged(), b.expressed(refusedConnection)))
}

// handshakeLog is the log of the connections that did not get as far.
func (b *builder) handshakeLog() []*accesslogv3.AccessLog {
	if b.in.Proxy.AccessLogs.WithoutListener {
		return nil
	}
	return b.accessLog(publicListener, b.expressed(`connection.transport_failure_reason != ""`))
}

func (b *builder) expressed(expression string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslogv3.ExtensionFilter{
		Name:       "cel",
		ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: b.any(&celv3.ExpressionFilter{Expression: expression})},
	}}}
}

// failedRequests are those that were answered by an error, of gRPC too, or by nothing.
func failedRequests() *accesslogv3.AccessLogFilter {
	return anyOf(failedStatus(), flagged(), &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{AndFilter: &accesslogv3.AndFilter{
		Filters: []*accesslogv3.AccessLogFilter{
			{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{HeaderFilter: &accesslogv3.HeaderFilter{Header: &routev3.HeaderMatcher{
				Name: "content-type",
				HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
					MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "application/grpc"},
				}},
			}}}},
			{FilterSpecifier: &accesslogv3.AccessLogFilter_GrpcStatusFilter{GrpcStatusFilter: &accesslogv3.GrpcStatusFilter{
				Statuses: []accesslogv3.GrpcStatusFilter_Status{accesslogv3.GrpcStatusFilter_OK}, Exclude: true,
			}}},
		},
	}}})
}

// flagged is what Envoy has a flag for: what it ended itself, or could not lead anywhere.
func flagged() *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{}}}
}

func anyOf(filters ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{OrFilter: &accesslogv3.OrFilter{Filters: filters}}}
}

// logged fills the service's log slot.
func (b *builder) logged() {
	if l := b.in.Proxy.AccessLogs; !l.Enabled || !l.FailuresOnly {
		b.fillEmpty(logSlot)
		return
	}
	b.fill(logSlot, b.constant(failuresAlone, func() proto.Message {
		return &metadatav3.Config{Metadata: []*metadatav3.Metadata{{
			MetadataNamespace: metadataNamespace,
			Value:             &structpb.Struct{Fields: map[string]*structpb.Value{loggedKey: structpb.NewStringValue(failuresAlone)}},
		}}}
	}))
}
