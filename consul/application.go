package consul

import (
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// readApplication reads the registration of an application that speaks for itself, by mutual TLS of its own
// or as a process of this machine; ok is false for all others, whose changes are nobody's affair.
func readApplication(r *registration) (out *catalog.Registration, ok bool) {
	if r.Kind != "" || r.PeerName != "" || r.ID == "" || !r.Connect.Native && r.Meta[catalog.MetaSelectors] == "" {
		return nil, false
	}
	name := identity.NewName(r.Service)
	if name.Check() != nil || !isDefault(r.Namespace) || !isDefault(r.Partition) {
		return nil, false
	}
	out = &catalog.Registration{
		ID: r.ID, Service: name, Tags: r.Tags, Meta: r.Meta, Address: r.Address, Port: portOf(r.Port), Socket: r.SocketPath, Native: r.Connect.Native, Origin: entryOf(r),
	}
	if w := r.Weights; w != nil {
		out.Weights = catalog.Weights{Passing: portOf(w.Passing), Warning: portOf(w.Warning)} // within the same bounds
	}
	return out, true
}
