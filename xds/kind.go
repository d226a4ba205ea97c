package xds

import (
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// kind is a type of resource that is served. The order is the one in which they are sent: what
// others name comes first.
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

// made is what has to be there before listeners name it; see session.pump.
func made() [4]kind { return [...]kind{secrets, clusters, endpoints, extensions} }

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

// whole reports whether "everything" is a subscription that is obeyed, and removals are sent. Both
// hold for listeners and clusters alone. Of the others Envoy asks by name, and ignores their
// removal or, for extensions, takes it as "deny"; and "everything" would be a way to ask for
// secrets without knowing their names.
func (k kind) whole() bool { return k == listeners || k == clusters }
