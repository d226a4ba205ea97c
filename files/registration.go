package files

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/claim"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// register makes the registration of s.
func (s *service) register(tags []string, pairs map[string]string, native bool) {
	s.registration = &catalog.Registration{
		ID: s.id, Service: identity.NewName(s.name), Tags: tags, Meta: pairs, Address: s.address.Value, Port: s.port.Value, Host: hostOf(s.address.Value), Socket: s.socket.Value,
		Native: native, Status: s.health.String(), Origin: s.at.String(),
	}
	if w := s.weights; w.Set {
		s.registration.Weights = catalog.Weights{Passing: uint16(w.Value.passing), Warning: uint16(w.Value.warning)} //nolint:gosec // within their bounds
	}
}

// hostOf is the machine of what is dialled at an address; empty: this one.
func hostOf(address string) string {
	if ip, ok := definition.ParseIP(address); ok && ip.IsLoopback() || address == "localhost" {
		return ""
	}
	return address
}

// dialled reports whether others dial the application itself.
func (s *service) dialled() bool { return s.registration.Native && s.port.Set }

// native reports whether one of n's instances speaks mutual TLS itself.
func (n *name) native() bool {
	return slices.ContainsFunc(n.instances, func(s *service) bool { return s.registration.Native })
}

// reached reports whether something answers those who dial n.
func (a *assembly) reached(n *name) bool {
	return n.served == a.turn || slices.ContainsFunc(n.instances, (*service).dialled)
}

// endpoint is how others reach s itself, which is native.
func (s *service) endpoint() catalog.Endpoint {
	return endpoint(cmp.Or(s.address.Value, loopback), s.port.Value, s.health, s.weights.Else(weights{1, 1}))
}

// registrations takes the instances that have come and gone, and returns the registrations of all.
func (a *assembly) registrations() []*catalog.Registration {
	for _, s := range a.departed {
		for i := range a.natives[s] {
			a.claims.Remove(&a.natives[s][i])
		}
		delete(a.natives, s)
	}
	for _, s := range a.arrived {
		a.claimNative(s)
	}
	if len(a.departed)+len(a.arrived) == 0 {
		return a.contents.Registrations
	}
	all := slices.Clone(a.contents.Registrations)
	if len(a.departed)+len(a.arrived) <= fewInstances {
		for _, s := range a.departed {
			if i, ok := slices.BinarySearchFunc(all, s.id, compareID); ok {
				all = slices.Delete(all, i, i+1)
			}
		}
		for _, s := range a.arrived {
			i, _ := slices.BinarySearchFunc(all, s.id, compareID)
			all = slices.Insert(all, i, s.registration)
		}
		return all
	}
	gone := make(map[string]bool, len(a.departed))
	for _, s := range a.departed {
		gone[s.id] = true
	}
	all = slices.DeleteFunc(all, func(r *catalog.Registration) bool { return gone[r.ID] })
	for _, s := range a.arrived {
		all = append(all, s.registration)
	}
	slices.SortFunc(all, func(a, b *catalog.Registration) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// fewInstances are looked for one by one.
const fewInstances = 64

func compareID(r *catalog.Registration, id string) int { return strings.Compare(r.ID, id) }

// claimNative has s, if it is native, hold where it listens, and reports it if a sidecar listens there.
func (a *assembly) claimNative(s *service) {
	addresses := claim.Native(s.registration)
	if len(addresses) == 0 {
		return
	}
	for i := range addresses {
		if c := a.claims.Add(&addresses[i]); c != nil {
			a.problem(s.port.Or(definition.Setting[uint16]{At: s.at}).At, "%v", c)
			return
		}
	}
	a.natives[s] = addresses
}
