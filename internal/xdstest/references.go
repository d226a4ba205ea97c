package xdstest

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// References returns the names, by type URL, of what a cluster or listener makes Envoy ask for.
// What cannot be decoded names nothing.
func References(r *discoveryv3.Resource) map[string][]string {
	out := map[string][]string{}
	if m, err := r.GetResource().UnmarshalNew(); err == nil {
		references(m, out)
	}
	return out
}

func references(m proto.Message, out map[string][]string) {
	add := func(url, name string) { out[url] = append(out[url], name) }
	switch m := m.(type) {
	case *anypb.Any:
		if inner, err := m.UnmarshalNew(); err == nil {
			references(inner, out)
		}
		return
	case *clusterv3.Cluster:
		if m.GetType() == clusterv3.Cluster_EDS {
			name := m.GetEdsClusterConfig().GetServiceName()
			if name == "" {
				name = m.GetName()
			}
			add(resourcev3.EndpointType, name)
		}
	case *tlsv3.SdsSecretConfig:
		if m.GetSdsConfig() != nil {
			add(resourcev3.SecretType, m.GetName())
		}
	case *hcmv3.Rds:
		add(resourcev3.RouteType, m.GetRouteConfigName())
	case *hcmv3.HttpFilter:
		if m.GetConfigDiscovery() != nil {
			add(resourcev3.ExtensionConfigType, m.GetName())
		}
	case *listenerv3.Filter:
		if m.GetConfigDiscovery() != nil {
			add(resourcev3.ExtensionConfigType, m.GetName())
		}
	}
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				references(v.Message().Interface(), out)
				return true
			})
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				references(v.List().Get(i).Message().Interface(), out)
			}
		case !f.IsMap() && !f.IsList() && f.Message() != nil:
			references(v.Message().Interface(), out)
		}
		return true
	})
}
