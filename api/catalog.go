package api

import (
	"net/http"
	"slices"

	"github.com/sallyport/sallyport/catalog"
)

// The endpoints below /v1/catalog.
var (
	catalogServices    = answering{value: serviceNames, depends: onRegistered}
	catalogService     = answering{value: registeredAs(registeredUnder), depends: onGroup}
	catalogConnect     = answering{value: registeredAs(connected), depends: onGroup}
	catalogDatacenters = answering{value: datacenters, depends: onMesh}
	catalogNodes       = answering{value: nodes, depends: onMesh}
)

func onMesh(v *catalog.View, _ *ask) []any { return []any{v.Mesh()} }

// serviceNode is a registration as the catalog's endpoints have it.
type serviceNode struct {
	ID, Node, Address, Datacenter string
	TaggedAddresses               map[string]string
	NodeMeta                      map[string]string
	ServiceKind                   string
	ServiceID, ServiceName        string
	ServiceTags                   []string
	ServiceAddress                string
	ServiceTaggedAddresses        map[string]address `json:",omitempty"`
	ServiceWeights                weights
	ServiceMeta                   map[string]string
	ServicePort                   int
	ServiceSocketPath             string
	ServiceEnableTagOverride      bool
	ServiceProxy                  proxyAnswer
	ServiceConnect                connectAnswer
	ServiceLocality               *struct{} `bexpr:"-"`
	PeerName                      string    `json:",omitempty"`
	CreateIndex                   uint64    `bexpr:"-"`
	ModifyIndex                   uint64    `bexpr:"-"`
}

func serviceNodeOf(v *catalog.View, n *nodeAnswer, i instance) *serviceNode {
	s := serviceOf(v, i.Registration, i.sidecar)
	if s.Meta == nil {
		s.Meta = map[string]string{}
	}
	return &serviceNode{
		ID: n.ID, Node: n.Node, Address: n.Address, Datacenter: n.Datacenter, TaggedAddresses: n.TaggedAddresses, NodeMeta: n.Meta,
		ServiceKind: s.Kind, ServiceID: s.ID, ServiceName: s.Service, ServiceTags: s.Tags, ServiceAddress: s.Address, ServiceTaggedAddresses: s.TaggedAddresses,
		ServiceWeights: *s.Weights, ServiceMeta: s.Meta, ServicePort: s.Port, ServiceSocketPath: s.SocketPath, ServiceEnableTagOverride: s.EnableTagOverride,
		ServiceProxy: s.Proxy, ServiceConnect: s.Connect, CreateIndex: s.CreateIndex, ModifyIndex: s.ModifyIndex,
	}
}

func registeredAs(of func(catalog.Group) []instance) func(*catalog.View, *ask) (any, error) {
	return func(v *catalog.View, a *ask) (any, error) {
		if a.name == "" {
			return nil, failed(http.StatusBadRequest, "Missing service name")
		}
		n := a.node.answer(v)
		out := []*serviceNode{}
		for _, i := range a.instances(v, of) {
			out = append(out, serviceNodeOf(v, n, i))
		}
		return filtered(a.filter(), out)
	}
}

// serviceNames are the names under which something is registered, each with the tags of all its instances, sorted: Consul's are in
// another order each time. Consul's own service is not there.
func serviceNames(v *catalog.View, a *ask) (any, error) {
	out := map[string][]string{}
	add := func(name string, tags []string) {
		if out[name] == nil {
			out[name] = []string{}
		}
		out[name] = append(out[name], tags...)
	}
	f, err := newFilter[*serviceNode](a.filter())
	if err != nil {
		return nil, err
	}
	n := a.node.answer(v)
	for _, i := range allInstances(v) {
		if a.elsewhere() {
			break
		}
		if f != nil {
			if some, err := execute(f, []*serviceNode{serviceNodeOf(v, n, i)}); err != nil {
				return nil, err
			} else if len(some) == 0 {
				continue
			}
		}
		add(i.Service.Service, i.Tags)
	}
	for name, tags := range out {
		slices.Sort(tags)
		out[name] = slices.Compact(tags)
	}
	return out, nil
}

// allInstances is all that is registered.
func allInstances(v *catalog.View) (all []instance) {
	for r := range v.Registrations() {
		all = append(all, instance{r, nil})
	}
	for s := range v.Sidecars() {
		all = append(all, instance{&s.Registration, s})
	}
	return all
}

func datacenters(v *catalog.View, _ *ask) (any, error) { return v.Mesh().Datacenters, nil }

func nodes(v *catalog.View, a *ask) (any, error) {
	out := []*nodeAnswer{}
	if !a.elsewhere() {
		out = append(out, a.node.answer(v))
	}
	return filtered(a.filter(), out)
}
