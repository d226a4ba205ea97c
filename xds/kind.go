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
	switch k {
	case secrets:
		return resourcev3.SecretType
	case clusters:
		return resourcev3.ClusterType
	case endpoints:
		return resourcev3.EndpointType
	case extensions:
		return resourcev3.ExtensionConfigType
	case listeners:
		return resourcev3.ListenerType
	case routes:
		return resourcev3.RouteType
	case kinds:
	}
	return ""
}

// String is the value of the metrics' label "type".
func (k kind) String() string {
	switch k {
	case secrets:
		return "secret"
	case clusters:
		return "cluster"
	case endpoints:
		return "endpoint"
	case extensions:
		return "extension"
	case listeners:
		return "listener"
	case routes:
		return "route"
	case kinds:
	}
	return "unknown"
}

// hasWildcard reports whether wildcard subscriptions are served and removals sent. Both are for
// listeners and clusters alone. Envoy subscribes to the others by name, and ignores their removal
// or, for extensions, takes it as "deny"; and a wildcard would be a way to get secrets without
// knowing their names.
func (k kind) hasWildcard() bool { return k == listeners || k == clusters }
