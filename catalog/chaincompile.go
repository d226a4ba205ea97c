package catalog

import (
	"cmp"
	"fmt"
	"maps"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// CompileChain is the discovery chain of a service in a datacenter (empty: the mesh's own), as an upstream with those overrides has it.
// Where chains come compiled it is the one by which proxies here dial the service, without regard to overrides; an error says that none
// does. The mesh must be known.
func (v *View) CompileChain(service identity.Name, datacenter string, o chain.Overrides) (*chain.Chain, error) {
	datacenter = cmp.Or(datacenter, v.mesh.Datacenter)
	all := v.contents.ChainEntries
	if all == nil && !v.contents.Whole {
		if c, err := v.dialledBy(service, datacenter); c != nil || err != nil {
			return c, err
		}
	}
	if all == nil {
		all = &chain.Entries{}
	}
	e := *all
	e.Datacenter, e.TrustDomain = datacenter, v.mesh.TrustDomain.Name()
	if all.Bare(service) {
		// A registration may say what its service speaks.
		if s := v.index.targets[v.mesh.key(service, datacenter)]; s != nil && s.service > 0 {
			d := chain.Defaults{}
			if old := all.Defaults[service.Fold()]; old != nil {
				d = *old
			}
			d.Protocol = v.contents.Services[s.service-1].Protocol.String()
			e.Defaults = maps.Clone(all.Defaults)
			if e.Defaults == nil {
				e.Defaults = map[identity.Name]*chain.Defaults{}
			}
			e.Defaults[service.Fold()] = &d
		}
	}
	c, _, err := chain.Compile(&e, service, o)
	if err != nil {
		return nil, err
	}
	if e := v.Entry("service-defaults", service.Service); e != nil {
		c.Meta = e.Meta
	}
	return c, nil
}

// dialledBy is the published chain of a service; nil without an error if it is dialled by the one that no entry changes.
func (v *View) dialledBy(service identity.Name, datacenter string) (*chain.Chain, error) {
	for _, c := range v.contents.Chains {
		if c.Service == service && c.Datacenter == datacenter {
			return c, nil
		}
	}
	if at := v.index.targets[v.mesh.key(service, datacenter)]; at != nil && at.service > 0 {
		return nil, nil
	}
	return nil, fmt.Errorf("no proxy here dials %s in %s, so its discovery chain is not known here: ask Consul (/v1/discovery-chain/%s)", service, datacenter, service.Service)
}

// ChainEntries are what chains are compiled of: the same pointer as long as they are the same; nil: they come compiled.
func (v *View) ChainEntries() *chain.Entries { return v.contents.ChainEntries }
