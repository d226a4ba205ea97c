package bootstrap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// How long Envoy waits between two attempts to reach the control plane. Retries on a local socket
// are cheap, and after a restart of the control plane a revocation should not wait for Envoy to
// come back.
const (
	socketBackoff, socketBackoffMax = 250 * time.Millisecond, 5 * time.Second
	remoteBackoff, remoteBackoffMax = 500 * time.Millisecond, 15 * time.Second
)

// Build returns the bootstrap of the proxy that p describes, or an error that joins all mistakes in
// p. The message passes Envoy's own validation rules and uses no deprecated field. The caller owns
// it.
func Build(p Params) (*bootstrapv3.Bootstrap, error) {
	p = p.withDefaults()
	if err := p.check(); err != nil {
		return nil, err
	}
	xds, err := p.xdsCluster()
	if err != nil {
		return nil, err
	}
	overload, err := p.overload()
	if err != nil {
		return nil, err
	}
	b := &bootstrapv3.Bootstrap{
		Node: &corev3.Node{
			Id:      p.ProxyID,
			Cluster: p.Identity.Service,
			Metadata: fields(map[string]*structpb.Value{
				identity.MetadataKey: structpb.NewStructValue(fields(map[string]*structpb.Value{
					identity.MetadataRegexSize:      structpb.NewNumberValue(float64(p.RegexSize)),
					identity.MetadataDrainSeconds:   structpb.NewNumberValue(p.DrainTime.Seconds()),
					identity.MetadataMetrics:        structpb.NewStringValue(p.PrometheusBindAddr),
					identity.MetadataNetwork:        structpb.NewStringValue(p.Network),
					identity.MetadataAdmin:          structpb.NewStringValue(p.adminText()),
					identity.MetadataExclusivePorts: structpb.NewBoolValue(true),
				})),
			}),
		},
		Admin:            p.admin(),
		StaticResources:  &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{xds}},
		DynamicResources: p.dynamic(),
		OverloadManager:  overload,
		StatsConfig:      p.stats(),
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name: "base",
			LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: fields(map[string]*structpb.Value{
				"re2.max_program_size.error_level": structpb.NewNumberValue(float64(p.RegexSize)),
			})},
		}}},
	}
	if p.PrometheusBindAddr != "" {
		l, err := p.metricsListener()
		if err != nil {
			return nil, err
		}
		b.StaticResources.Listeners = []*listenerv3.Listener{l}
		b.StaticResources.Clusters = append(b.StaticResources.Clusters, p.selfAdminCluster())
	}
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("bootstrap of %s: %w", p.ProxyID, err)
	}
	return b, nil
}

// JSON is b as Envoy reads it. Equal messages give equal bytes.
func JSON(b *bootstrapv3.Bootstrap) ([]byte, error) { return marshal(b) }

// marshal is protojson with stable white space: the library's own differs between builds on
// purpose.
func marshal(m proto.Message) ([]byte, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// dynamic is where listeners and clusters come from. Without a time limit on the first ones Envoy
// is not ready before the control plane has answered, rather than ready with nothing.
func (p Params) dynamic() *bootstrapv3.Bootstrap_DynamicResources {
	backoff := &corev3.BackoffStrategy{BaseInterval: durationpb.New(socketBackoff), MaxInterval: durationpb.New(socketBackoffMax)}
	if p.XDSAddress != "" {
		backoff = &corev3.BackoffStrategy{BaseInterval: durationpb.New(remoteBackoff), MaxInterval: durationpb.New(remoteBackoffMax)}
	}
	source := func() *corev3.ConfigSource {
		return &corev3.ConfigSource{
			ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
			ResourceApiVersion:    corev3.ApiVersion_V3,
			InitialFetchTimeout:   durationpb.New(0),
		}
	}
	return &bootstrapv3.Bootstrap_DynamicResources{
		LdsConfig: source(),
		CdsConfig: source(),
		AdsConfig: &corev3.ApiConfigSource{
			ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion:       corev3.ApiVersion_V3,
			SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*corev3.GrpcService{{
				TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
					ClusterName: identity.XDSCluster,
					RetryPolicy: &corev3.RetryPolicy{RetryBackOff: backoff},
				}},
				InitialMetadata: []*corev3.HeaderValue{
					{Key: identity.ProxyHeader, Value: identity.ProxyID(p.ProxyID).Header()},
					{Key: identity.DestinationHeader, Value: p.Identity.Name.String()},
				},
			}},
		},
	}
}

func (p Params) overload() (*overloadv3.OverloadManager, error) {
	limit, err := pack(&connlimitv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: p.MaxConnections})
	if err != nil {
		return nil, err
	}
	return &overloadv3.OverloadManager{
		RefreshInterval: durationpb.New(250 * time.Millisecond),
		ResourceMonitors: []*overloadv3.ResourceMonitor{{
			Name:       "envoy.resource_monitors.global_downstream_max_connections",
			ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: limit},
		}},
	}, nil
}

// message is any of Envoy's messages with its validation rules.
type message interface {
	proto.Message
	ValidateAll() error
}

// pack validates m, as ValidateAll of the message around it does not look into an Any, and wraps it
// with deterministic bytes.
func pack(m message) (*anypb.Any, error) {
	name := m.ProtoReflect().Descriptor().FullName()
	if err := m.ValidateAll(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(name), Value: value}, nil
}

func fields(m map[string]*structpb.Value) *structpb.Struct { return &structpb.Struct{Fields: m} }
