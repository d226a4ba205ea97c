package api

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"runtime"
	"strconv"

	"github.com/sallyport/sallyport/catalog"
)

// The endpoints below /v1/agent and /v1/status.
var (
	agentServices = answering{value: allServices, depends: onRegistered}
	agentService  = answering{value: serviceByID, depends: onInstance}
	agentSelf     = answering{value: self, depends: onRegistered}
	statusLeader  = answering{value: leader, depends: onNothing}
	statusPeers   = answering{value: peers, depends: onNothing}
)

func onInstance(v *catalog.View, a *ask) []any {
	return []any{v.Mesh(), v.Registration(a.name), v.Sidecar(a.name)}
}

// agentAnswer is a registration as the agent's endpoints have it. For filters, which Consul applies to something else, it has
// what those have, too.
type agentAnswer struct {
	Kind              string `json:",omitempty"`
	ID, Service       string
	Tags              []string
	Meta              map[string]string
	Port              int
	Address           string
	SocketPath        string             `json:",omitempty"`
	TaggedAddresses   map[string]address `json:",omitempty"`
	Weights           weights
	EnableTagOverride bool
	ContentHash       string         `json:",omitempty" bexpr:"-"`
	Proxy             *agentProxy    `json:",omitempty"`
	Connect           *connectAnswer `json:",omitempty"`
	Datacenter        string         `json:",omitempty" bexpr:"-"`
}

// agentProxy is proxyAnswer without a mode, and with upstreams without a datacenter.
type agentProxy struct {
	DestinationServiceName string          `json:",omitempty"`
	DestinationServiceID   string          `json:",omitempty"`
	LocalServiceAddress    string          `json:",omitempty"`
	LocalServicePort       int             `json:",omitempty"`
	LocalServiceSocketPath string          `json:",omitempty"`
	Mode                   string          `json:",omitempty"`
	Config                 json.RawMessage `json:",omitempty" bexpr:"-"`
	Upstreams              []agentUpstream `json:",omitempty"`
	MeshGateway            gatewayAnswer
	Expose                 agentExpose
}

type agentUpstream struct {
	DestinationType     string
	DestinationName     string
	Datacenter          string          `json:",omitempty"`
	LocalBindAddress    string          `json:",omitempty"`
	LocalBindPort       int             `json:",omitempty"`
	LocalBindSocketPath string          `json:",omitempty"`
	LocalBindSocketMode string          `json:",omitempty"`
	Config              json.RawMessage `json:",omitempty" bexpr:"-"`
	MeshGateway         gatewayAnswer
}

type agentExpose struct {
	Checks bool        `json:",omitempty"`
	Paths  []agentPath `json:",omitempty"`
}

type agentPath struct {
	ListenerPort    int    `json:",omitempty"`
	Path            string `json:",omitempty"`
	LocalPathPort   int    `json:",omitempty"`
	Protocol        string `json:",omitempty"`
	ParsedFromCheck bool
}

func agentAnswerOf(v *catalog.View, i instance) *agentAnswer {
	s := serviceOf(v, i.Registration, i.sidecar)
	out := &agentAnswer{
		Kind: s.Kind, ID: s.ID, Service: s.Service, Tags: s.Tags, Meta: s.Meta, Port: s.Port, Address: s.Address, SocketPath: s.SocketPath,
		TaggedAddresses: s.TaggedAddresses, Weights: *s.Weights, EnableTagOverride: s.EnableTagOverride, Datacenter: v.Mesh().Datacenter,
	}
	if out.Meta == nil {
		out.Meta = map[string]string{}
	}
	if s.Connect.Native {
		out.Connect = &s.Connect
	}
	if i.sidecar == nil {
		return out
	}
	p := s.Proxy
	out.Proxy = &agentProxy{
		DestinationServiceName: p.DestinationServiceName, DestinationServiceID: p.DestinationServiceID, LocalServiceAddress: p.LocalServiceAddress,
		LocalServicePort: p.LocalServicePort, LocalServiceSocketPath: p.LocalServiceSocketPath, Config: p.Config,
	}
	for _, u := range p.Upstreams {
		out.Proxy.Upstreams = append(out.Proxy.Upstreams, agentUpstream{
			DestinationType: u.DestinationType, DestinationName: u.DestinationName, Datacenter: u.Datacenter, LocalBindAddress: u.LocalBindAddress,
			LocalBindPort: u.LocalBindPort, LocalBindSocketPath: u.LocalBindSocketPath, LocalBindSocketMode: u.LocalBindSocketMode, Config: u.Config,
		})
	}
	for _, e := range p.Expose.Paths {
		out.Proxy.Expose.Paths = append(out.Proxy.Expose.Paths, agentPath(e))
	}
	return out
}

func allServices(v *catalog.View, a *ask) (any, error) {
	f, err := newFilter[*serviceAnswer](a.filter()) // it is about what the other endpoints answer
	if err != nil {
		return nil, err
	}
	out := map[string]*agentAnswer{}
	for _, i := range allInstances(v) {
		if f != nil {
			if some, err := execute(f, []*serviceAnswer{serviceOf(v, i.Registration, i.sidecar)}); err != nil {
				return nil, err
			} else if len(some) == 0 {
				continue
			}
		}
		out[i.ID] = agentAnswerOf(v, i)
	}
	return out, nil
}

func serviceByID(v *catalog.View, a *ask) (any, error) {
	i := instance{v.Registration(a.name), v.Sidecar(a.name)}
	switch {
	case i.sidecar != nil:
		i.Registration = &i.sidecar.Registration
	case i.Registration == nil:
		return nil, failed(http.StatusNotFound, "unknown service ID: %s", a.name)
	}
	out := agentAnswerOf(v, i)
	b, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	h := fnv.New64a()
	_, _ = h.Write(b) // which never fails
	out.ContentHash = fmt.Sprintf("%016x", h.Sum64())
	return out, nil
}

// server is where Consul's servers would be. Nothing is there: clients ask for it to see whether there is a leader.
const server = nodeAddress + ":8300"

func leader(*catalog.View, *ask) (any, error) { return server, nil }

func peers(*catalog.View, *ask) (any, error) { return []string{server}, nil }

// self is what the agent says of itself. Each value is an object, as Consul's client decodes a map of maps.
func self(v *catalog.View, a *ask) (any, error) {
	type object = map[string]any
	services, checks := 0, 0
	for r := range v.Registrations() {
		services, checks = services+1, checks+len(r.Checks)
	}
	for s := range v.Sidecars() {
		services, checks = services+1, checks+len(s.Checks)
	}
	dc := v.Mesh().Datacenter
	return object{
		"Config": object{
			"Datacenter": dc, "PrimaryDatacenter": dc, "NodeName": a.node.name, "NodeID": a.node.id(), "Revision": "", "Server": true,
			"Version": consulVersion, "BuildDate": "1970-01-01T00:00:01Z",
		},
		"DebugConfig": nil,
		"Coord":       nil,
		"Member": object{
			"Name": a.node.name, "Addr": nodeAddress, "Port": 8301, "Tags": map[string]string{"dc": dc, "id": a.node.id(), "role": "consul", "build": consulVersion + ":"}, "Status": 1,
			"ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2, "DelegateMin": 2, "DelegateMax": 5, "DelegateCur": 4,
		},
		"Stats": map[string]map[string]string{
			"agent":     {"services": strconv.Itoa(services), "checks": strconv.Itoa(checks)},
			"build":     {"version": consulVersion, "prerelease": "", "revision": "", "version_metadata": ""},
			"consul":    {"server": "true", "leader": "true", "leader_addr": server, "known_datacenters": strconv.Itoa(len(v.Mesh().Datacenters)), "acl": "disabled"},
			"runtime":   {"os": runtime.GOOS, "arch": runtime.GOARCH},
			"sallyport": {"version": a.node.version},
		},
		"Meta": a.node.meta(),
	}, nil
}
