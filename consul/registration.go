package consul

import (
	"encoding/json"
	"errors"

	"github.com/sallyport/sallyport/definition"
)

// The answers of the agent, as far as they are read. The names are those of Consul's API; what is
// not named here is not looked at.

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
	Tags       []string
	Meta       map[string]string
	Address    string
	Port       int
	SocketPath string
	Weights    *struct{ Passing, Warning int }
	Connect    struct{ Native bool }
	Proxy      *proxyRegistration
	Namespace  string
	Partition  string
	PeerName   string
	Datacenter string // in answers of the agent itself
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
	Config                 definition.Node
	Upstreams              []*upstreamRegistration
	Expose                 definition.Node
	AccessLogs             definition.Node
	EnvoyExtensions        []struct {
		Name     string
		Required bool
	}
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
	Config               definition.Node
	MeshGateway          meshGateway
	CentrallyConfigured  bool
}

// meshGateway says by which gateways other datacenters are dialled.
type meshGateway struct{ Mode string }

// instance is one of the answer of /v1/health/connect.
type instance struct {
	Node    *node
	Service *dialable
	Checks  []struct{ Status string }
}

// dialable is what of a registration those who dial it need.
type dialable struct {
	ID              string
	Address         string
	Port            int
	Weights         *struct{ Passing, Warning int }
	TaggedAddresses map[string]struct {
		Address string
		Port    int
	}
}

// chainAnswer is the answer of /v1/discovery-chain. The chain itself is read by package chain.
type chainAnswer struct{ Chain json.RawMessage }

// chainHead is what of a chain is read of those that are not understood, too.
type chainHead struct {
	ServiceName string
	Protocol    string
	ServiceMeta definition.Node
}

// meshEntry is the answer of /v1/config/mesh/mesh.
type meshEntry struct{ definition.Node }

// UnmarshalJSON refuses what is no entry: it would take away what the entry says.
func (e *meshEntry) UnmarshalJSON(src []byte) error {
	if err := e.Node.UnmarshalJSON(src); err != nil {
		return err
	}
	if e.Kind != definition.Mapping && e.Kind != definition.Null {
		return errors.New("it is no config entry")
	}
	return nil
}

// proxyDefaults is the answer of /v1/config/proxy-defaults/global.
type proxyDefaults struct {
	Config      definition.Node
	ModifyIndex uint64
}

// self is the answer of /v1/agent/self.
type self struct {
	Config struct {
		Datacenter string
		NodeName   string
		Version    string
	}
	// DebugConfig has no fixed names: Consul says that it may change. These are checked against a
	// real agent.
	DebugConfig struct {
		DefaultIntentionPolicy *string
		ACLsEnabled            *bool
	}
}
