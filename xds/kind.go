package xds

import (
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// kind is a type of resource that is served. The order is that of sending: resources that others
// name come first.
type kind uint8

const (
	secrets kind = iota
	clusters
	endpoints
	extensions
	listeners
	routes
	kinds // how many there are
)

// dependencies are the kinds that Envoy has to have before listeners name them; see session.pump.
func dependencies() [4]kind { return [...]kind{secrets, clusters, endpoints, extensions} }

// kindOf is the kind of a type URL; ok is false for those that are not served.
func kindOf(typeURL string) (k kind, ok bool) {
	for k := range kinds {
		if k.url() == typeURL {
			return k, true
		}
	}
	return 0, false
}

func (k kind) url() string {
	return [...]string{
		secrets: resourcev3.SecretType, clusters: resourcev3.ClusterType, endpoints: resourcev3.EndpointType,
		extensions: resourcev3.ExtensionConfigType, listeners: resourcev3.ListenerType, routes: resourcev3.RouteType,
	}[k]
}

// String is the value of the metrics' label "type".
func (k kind) String() string {
	return [...]string{
		secrets: "secret", clusters: "cluster", endpoints: "endpoint",
		extensions: "extension", listeners: "listener", routes: "route",
	}[k]
}

// hasWildcard reports whether wildcard subscriptions are served and removals sent. Both are for
// listeners and clusters alone. Envoy subscribes to the others by name, and ignores their removal
// or, for extensions, takes it as "deny"; and a wildcard would be a way to get secrets without
// knowing their names.
func (k kind) hasWildcard() bool { return k == listeners || k == clusters }
