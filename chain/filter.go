package chain

import (
	"fmt"

	"github.com/sallyport/sallyport/internal/expression"
)

// Filter says which instances are in a subset. It may be used by several goroutines at once. A nil Filter has all of them in.
type Filter struct{ of *expression.Filter[*Instance] }

// ParseFilter reads a subset's filter, an expression in go-bexpr's language about an Instance. It is nil if text is empty. Unlike Consul,
// which takes each expression and then finds nobody, it refuses one that names fields which no instance has, or compares them with what
// they cannot be. An error of the syntax names the line and the column, in Consul's words.
func ParseFilter(text string) (*Filter, error) {
	if text == "" {
		return nil, nil
	}
	f, err := expression.New[*Instance](text)
	if err != nil {
		return nil, fmt.Errorf("not a valid expression: %w", err)
	}
	return &Filter{f}, nil
}

// Match reports whether i is in. It has an error where the filter looks into what this instance does not have; it is not in then.
func (f *Filter) Match(i *Instance) (bool, error) {
	if f == nil {
		return true, nil
	}
	return f.of.Match(i)
}

// Instance is an instance as filters see it: in the shape of what Consul answers at /v1/health/connect. There an instance with a sidecar is
// the sidecar's own registration, which has its ID, its port, and, as long as it gives none itself, the tags and the meta of the service.
//
// All fields that Consul has may be named in filters; those without a comment are empty beside files.
type Instance struct {
	Node    InstanceNode
	Service InstanceService
	Checks  []InstanceCheck
}

// InstanceNode is the node of an Instance.
type InstanceNode struct {
	ID, Node, Address, Datacenter, Partition, PeerName string
	TaggedAddresses, Meta                              map[string]string
}

// InstanceService is the registration of an Instance.
type InstanceService struct {
	Kind              string // "connect-proxy" of a sidecar, else empty
	ID, Service       string
	Tags              []string
	Address           string
	TaggedAddresses   map[string]InstanceAddress
	Meta              map[string]string
	Port              int
	SocketPath        string
	Weights           InstanceWeights
	EnableTagOverride bool
	Proxy             InstanceProxy
	Connect           struct{ Native bool }
	PeerName          string
}

// InstanceAddress is one of the addresses of an InstanceService.
type InstanceAddress struct {
	Address string
	Port    int
}

// InstanceWeights are how much of the traffic an instance gets.
type InstanceWeights struct{ Passing, Warning int }

// InstanceProxy is what a sidecar's registration says of it as a proxy.
type InstanceProxy struct {
	DestinationServiceName, DestinationServiceID string
	LocalServiceAddress                          string
	LocalServicePort                             int
	LocalServiceSocketPath, Mode                 string
	Upstreams                                    []instanceUpstream
	MeshGateway                                  struct{ Mode string }
	Expose                                       instanceExpose
	TransparentProxy                             struct {
		OutboundListenerPort int
		DialedDirectly       bool
	}
	AccessLogs struct {
		Enabled, DisableListenerLogs       bool
		Type, Path, JSONFormat, TextFormat string
	}
}

type instanceUpstream struct {
	DestinationType, DestinationNamespace, DestinationPartition, DestinationPeer, DestinationName, Datacenter string
	LocalBindAddress                                                                                          string
	LocalBindPort                                                                                             int
	LocalBindSocketPath, LocalBindSocketMode                                                                  string
	MeshGateway                                                                                               struct{ Mode string }
}

type instanceExpose struct {
	Checks bool
	Paths  []struct {
		ListenerPort    int
		Path            string
		LocalPathPort   int
		Protocol        string
		ParsedFromCheck bool
	}
}

// InstanceCheck is one of the checks of an instance and of its node.
type InstanceCheck struct {
	Node, CheckID, Name, Status, Notes, Output string
	ServiceID, ServiceName                     string
	ServiceTags                                []string
	Type, Interval, Timeout                    string
	ExposedPort                                int
	PeerName                                   string
}
