package consul

import "time"

// The answers of the agent, as far as they are read. The names are those of Consul's API; what is not named here is not looked at.

// nodeServices is the answer of /v1/catalog/node-services.
type nodeServices struct {
	Node     *node
	Services []*registration
}

type node struct {
	Node            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
}

// registration is a service, or a proxy, as it is registered.
type registration struct {
	Kind       string
	ID         string
	Service    string
	Address    string
	Port       int
	SocketPath string
	Weights    *struct{ Passing, Warning int }
	Proxy      *proxyRegistration
	Namespace  string
	Partition  string
	PeerName   string
	Datacenter string // in answers of the agent itself

	TaggedAddresses map[string]struct {
		Address string
		Port    int
	}
}

type proxyRegistration struct {
	DestinationServiceName string
	DestinationServiceID   string
	LocalServiceAddress    string
	LocalServicePort       int
	LocalServiceSocketPath string
	Mode                   string
	MeshGateway            meshGateway
	MutualTLSMode          string
	Config                 map[string]any
	Upstreams              []*upstreamRegistration
	Expose                 struct {
		Checks bool
		Paths  []*exposedRegistration
	}
	AccessLogs      *struct{ Enabled bool }
	EnvoyExtensions []struct {
		Name     string
		Required bool
	}
}

type exposedRegistration struct {
	Path            string
	ListenerPort    int
	LocalPathPort   int
	Protocol        string
	ParsedFromCheck bool
}

type upstreamRegistration struct {
	DestinationType      string
	DestinationPartition string
	DestinationNamespace string
	DestinationPeer      string
	DestinationName      string
	Datacenter           string
	LocalBindAddress     string
	LocalBindPort        int
	LocalBindSocketPath  string
	LocalBindSocketMode  string
	Config               map[string]any
	MeshGateway          meshGateway
	CentrallyConfigured  bool
}

// meshGateway says by which gateways other datacenters are dialled.
type meshGateway struct{ Mode string }

// instance is one of the answer of /v1/health/connect.
type instance struct {
	Node    *node
	Service *registration
	Checks  []check
}

type check struct {
	CheckID string
	Status  string
}

// chainAnswer is the answer of /v1/discovery-chain.
type chainAnswer struct{ Chain *chain }

type chain struct {
	ServiceName string
	Datacenter  string
	Default     bool
	Protocol    string
	ServiceMeta map[string]string
	StartNode   string
	Nodes       map[string]*chainNode
	Targets     map[string]*chainTarget
}

type chainNode struct {
	Type         string
	Resolver     *chainResolver
	LoadBalancer *struct{ Policy string }
}

type chainResolver struct {
	Default        bool
	ConnectTimeout duration
	RequestTimeout duration
	Target         string
	Failover       *struct{ Targets []string }
}

type chainTarget struct {
	Service       string
	ServiceSubset string
	Namespace     string
	Partition     string
	Datacenter    string
	Peer          string
	External      bool
	MeshGateway   meshGateway
}

// meshEntry is the answer of /v1/config/mesh/mesh.
type meshEntry struct {
	TLS *struct {
		Incoming, Outgoing *struct {
			TLSMinVersion string
			TLSMaxVersion string
			CipherSuites  []string
		}
	}
	HTTP *struct {
		SanitizeXForwardedClientCert bool
		Incoming                     *struct{ RequestNormalization map[string]any }
	}
}

// proxyDefaults is the answer of /v1/config/proxy-defaults/global.
type proxyDefaults struct {
	Config      map[string]any
	ModifyIndex uint64
}

// self is the answer of /v1/agent/self.
type self struct {
	Config struct {
		Datacenter string
		NodeName   string
		Version    string
	}
	// DebugConfig has no fixed names: Consul says that it may change. This one is checked against a real agent.
	DebugConfig struct{ DefaultIntentionPolicy *string }
}

// duration takes "10s" and a number of nanoseconds: Consul writes both.
type duration time.Duration

// UnmarshalJSON reads either spelling.
func (d *duration) UnmarshalJSON(b []byte) error {
	var v any
	v, err := decodeJSON[any](b)
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case nil:
		*d = 0
	case float64:
		*d = duration(clampDuration(v))
	case string:
		if v == "" {
			*d = 0
			return nil
		}
		p, err := time.ParseDuration(v)
		*d = duration(p)
		return err
	}
	return nil
}

// longestTime bounds times to a year, so that no sum of them overflows.
const longestTime = 365 * 24 * time.Hour

func clampDuration(ns float64) time.Duration {
	switch {
	case !(ns > 0): // NaN too
		return 0
	case ns > float64(longestTime):
		return longestTime
	}
	return time.Duration(ns)
}
