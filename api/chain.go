package api

import (
	"net/http"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// discoveryChain answers how a service is reached. There are default chains alone: one resolver, one target.
var discoveryChain = answering{value: defaultChain, depends: func(v *catalog.View, a *ask) []any {
	return []any{v.Mesh(), v.Service(identity.NewName(a.name)), v.Entry("service-defaults", a.name), v.Entry("proxy-defaults", "global")}
}}

type chainAnswer struct{ Chain chain }

type chain struct {
	ServiceName, Namespace, Partition, Datacenter string
	Default                                       bool
	Protocol                                      string
	ServiceMeta                                   map[string]string `json:",omitempty"`
	StartNode                                     string
	Nodes                                         map[string]chainNode
	Targets                                       map[string]chainTarget
	// The addresses that Consul hands out for transparent proxies. There are none.
	AutoVirtualIPs, ManualVirtualIPs []string
}

type chainNode struct {
	Type, Name string
	Resolver   chainResolver
}

type chainResolver struct {
	ConnectTimeout string
	Default        bool
	Target         string
}

type chainTarget struct {
	ConnectTimeout, ID                        string
	Service, Namespace, Partition, Datacenter string
	MeshGateway, Subset, TransparentProxy     struct{}
	SNI, Name                                 string
}

// connectTimeout is how long a connection to an upstream may take unless something else is said.
const connectTimeout = "5s"

func defaultChain(v *catalog.View, a *ask) (any, error) {
	if a.name == "" {
		return nil, failed(http.StatusBadRequest, "Missing chain name")
	}
	m := v.Mesh()
	dc := m.Datacenter
	if d := a.query.Get("compile-dc"); d != "" {
		dc = d
	}
	id := a.name + ".default.default." + dc
	node := "resolver:" + id
	name := identity.NewName(a.name)
	of := v.Identity(name)
	of.Datacenter = dc
	sni := of.SNI()
	c := chain{
		ServiceName: a.name, Namespace: identity.Default, Partition: identity.Default, Datacenter: dc, Default: true,
		Protocol:  protocolOf(v, name),
		StartNode: node,
		Nodes:     map[string]chainNode{node: {Type: "resolver", Name: id, Resolver: chainResolver{ConnectTimeout: connectTimeout, Default: true, Target: id}}},
		Targets: map[string]chainTarget{id: {
			ConnectTimeout: connectTimeout, ID: id, Service: a.name, Namespace: identity.Default, Partition: identity.Default, Datacenter: dc, SNI: sni, Name: sni,
		}},
	}
	if e := v.Entry("service-defaults", a.name); e != nil {
		c.ServiceMeta = e.Meta
	}
	return chainAnswer{c}, nil
}
