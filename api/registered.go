package api

import (
	"cmp"
	"encoding/json"
	"net/netip"

	"github.com/sallyport/sallyport/catalog"
)

// address is where a service is reached, by some name.
type address struct {
	Address string
	Port    int
}

type weights struct{ Passing, Warning int }

type connectAnswer struct {
	Native bool `json:",omitempty"`
}

// serviceAnswer is a registration as the health endpoints have it.
type serviceAnswer struct {
	Kind              string `json:",omitempty"`
	ID, Service       string
	Tags              []string
	Address           string
	TaggedAddresses   map[string]address `json:",omitempty"`
	Meta              map[string]string
	Port              int    `json:",omitempty"`
	SocketPath        string `json:",omitempty"`
	Weights           *weights
	EnableTagOverride bool
	Proxy             proxyAnswer
	Connect           connectAnswer
	PeerName          string
	CreateIndex       uint64 `bexpr:"-"`
	ModifyIndex       uint64 `bexpr:"-"`
}

// proxyAnswer is what a sidecar's registration says of it as a proxy. Those of applications have it, too: clients rely on it.
type proxyAnswer struct {
	DestinationServiceName string           `json:",omitempty"`
	DestinationServiceID   string           `json:",omitempty"`
	LocalServiceAddress    string           `json:",omitempty"`
	LocalServicePort       int              `json:",omitempty"`
	LocalServiceSocketPath string           `json:",omitempty"`
	Mode                   string           // always empty: no proxy is transparent
	Config                 json.RawMessage  `json:",omitempty" bexpr:"-"`
	Upstreams              []upstreamAnswer `json:",omitempty"`
	MeshGateway            gatewayAnswer
	Expose                 exposeAnswer
	AccessLogs             logsAnswer `json:",omitzero"`
	// Of this nothing is ever told; filters may name it.
	TransparentProxy transparentAnswer `json:"-"`
}

// Of the first two nothing is ever set.
type (
	gatewayAnswer struct {
		Mode string `json:",omitempty"`
	}
	transparentAnswer struct {
		OutboundListenerPort int  `json:",omitempty"`
		DialedDirectly       bool `json:",omitempty"`
	}
	logsAnswer struct {
		Enabled             bool   `json:",omitempty"`
		DisableListenerLogs bool   `json:",omitempty"`
		Type                string `json:",omitempty"`
		Path                string `json:",omitempty"`
		JSONFormat          string `json:",omitempty"`
		TextFormat          string `json:",omitempty"`
	}
)

type upstreamAnswer struct {
	DestinationType      string
	DestinationNamespace string `json:",omitempty"`
	DestinationPartition string `json:",omitempty"`
	DestinationPeer      string `json:",omitempty"`
	DestinationName      string
	Datacenter           string
	LocalBindAddress     string          `json:",omitempty"`
	LocalBindPort        int             `json:",omitempty"`
	LocalBindSocketPath  string          `json:",omitempty"`
	LocalBindSocketMode  string          `json:",omitempty"`
	Config               json.RawMessage `json:",omitempty" bexpr:"-"`
	MeshGateway          gatewayAnswer
}

type exposeAnswer struct {
	Checks bool         `json:",omitempty"`
	Paths  []pathAnswer `json:",omitempty"`
}

type pathAnswer struct {
	ListenerPort    int    `json:",omitempty"`
	Path            string `json:",omitempty"`
	LocalPathPort   int    `json:",omitempty"`
	Protocol        string `json:",omitempty"`
	ParsedFromCheck bool   `json:",omitempty"`
}

// serviceOf is a registration; s is the sidecar whose registration it is, or nil.
func serviceOf(v *catalog.View, r *catalog.Registration, s *catalog.Sidecar) *serviceAnswer {
	stamp := v.StampOf(r.ID)
	out := &serviceAnswer{
		ID: r.ID, Service: r.Service.Service, Tags: tagsOf(r), Address: r.Address, TaggedAddresses: taggedOf(r), Port: int(r.Port), SocketPath: r.Socket,
		Weights: weightsOf(r), EnableTagOverride: r.EnableTagOverride, Connect: connectAnswer{Native: r.Native},
		CreateIndex: stamp.Created, ModifyIndex: stamp.Modified,
	}
	if len(r.Meta) > 0 {
		out.Meta = r.Meta
	}
	if s != nil {
		out.Kind, out.Proxy = proxyKind, proxyOf(s)
	}
	return out
}

const proxyKind = "connect-proxy"

func tagsOf(r *catalog.Registration) []string {
	if len(r.Tags) == 0 {
		return []string{}
	}
	return r.Tags
}

// weightsOf are 1 and 1 unless something is said.
func weightsOf(r *catalog.Registration) *weights {
	if r.Weights == (catalog.Weights{}) {
		return &weights{1, 1}
	}
	return &weights{int(r.Weights.Passing), int(r.Weights.Warning)}
}

func proxyOf(s *catalog.Sidecar) proxyAnswer {
	p := proxyAnswer{
		DestinationServiceName: s.Destination.Service, DestinationServiceID: s.Instance,
		LocalServiceAddress: s.LocalAddress, LocalServicePort: int(s.LocalPort), LocalServiceSocketPath: s.LocalSocket,
		Config: raw(s.Config),
	}
	for _, u := range s.Upstreams {
		p.Upstreams = append(p.Upstreams, upstreamAnswer{
			DestinationType: "service", DestinationName: u.Destination, Datacenter: u.Datacenter, LocalBindAddress: u.BindAddress, LocalBindPort: int(u.BindPort),
			LocalBindSocketPath: u.BindSocket, LocalBindSocketMode: u.SocketMode, Config: raw(u.Config),
		})
	}
	if l := s.AccessLogs; l != (catalog.AccessLogs{}) {
		p.AccessLogs = logsAnswer{l.Enabled, l.WithoutListener, typeOf(l.Sink), l.Path, l.JSON, l.Text}
	}
	for _, e := range s.Exposed {
		path := pathAnswer{ListenerPort: int(e.ListenerPort), Path: e.Path, LocalPathPort: int(e.LocalPort)}
		if e.Protocol != catalog.HTTP {
			path.Protocol = e.Protocol.String()
		}
		p.Expose.Paths = append(p.Expose.Paths, path)
	}
	return p
}

// typeOf leaves out what holds anyway.
func typeOf(s catalog.LogSink) string {
	if s == catalog.LogStdout {
		return ""
	}
	return s.String()
}

func raw(s string) json.RawMessage {
	if s == "" {
		return nil
	}
	return json.RawMessage(s)
}

// checkAnswer is a health check.
type healthCheck struct {
	Node, CheckID, Name, Status, Notes, Output string
	ServiceID, ServiceName                     string
	ServiceTags                                []string
	Type, Interval, Timeout                    string
	ExposedPort                                int
	PeerName                                   string   `json:",omitempty"`
	Definition                                 struct{} `bexpr:"-"`
	CreateIndex                                uint64   `bexpr:"-"`
	ModifyIndex                                uint64   `bexpr:"-"`
}

// check is that of the node. It passes as long as somebody answers.
func (n *node) check() healthCheck {
	return healthCheck{
		Node: n.name, CheckID: "serfHealth", Name: "Serf Health Status", Status: passing, Output: "Agent alive and reachable", ServiceTags: []string{},
		CreateIndex: 1, ModifyIndex: 1,
	}
}

const passing = "passing"

// checksOf are the checks of a registration.
func (n *node) checksOf(v *catalog.View, r *catalog.Registration) (out []healthCheck) {
	stamp := v.StampOf(r.ID)
	for _, c := range r.Checks {
		out = append(out, healthCheck{
			Node: n.name, CheckID: c.ID, Name: c.Name, Status: cmp.Or(c.Status, passing), Notes: c.Notes, Output: c.Output, ServiceID: r.ID, ServiceName: r.Service.Service,
			ServiceTags: tagsOf(r), Type: c.Type, Interval: c.Interval, Timeout: c.Timeout, CreateIndex: stamp.Created, ModifyIndex: stamp.Modified,
		})
	}
	return out
}

// taggedOf are the addresses of a registration that has one of its own, by the families that Consul names.
func taggedOf(r *catalog.Registration) map[string]address {
	ip, err := netip.ParseAddr(r.Address)
	if err != nil {
		return nil
	}
	family := "ipv4"
	if ip.Is6() {
		family = "ipv6"
	}
	a := address{r.Address, int(r.Port)}
	return map[string]address{"lan_" + family: a, "wan_" + family: a}
}
