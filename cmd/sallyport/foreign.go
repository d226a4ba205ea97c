package main

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// describeForeign lists the rules of a destination about workloads of other trust domains.
func describeForeign(p *intention.Policy) (out []admin.Rule) {
	if p == nil {
		return nil
	}
	for _, i := range p.Own() {
		if i.Source.ID == "" {
			continue
		}
		d, r := p.DecideID(i.Source.ID), describeIntention(i)
		if r.Allowed && !d.Allowed() {
			r.Note = "denies: " + d.Reason.String()
		}
		r.Allowed = d.Allowed()
		out = append(out, r)
	}
	return out
}

// whatAllowsForeign is what has to be done to allow a workload of another trust domain that is denied without an
// intention that denies it.
func whatAllowsForeign(v *catalog.View, why intention.Reason, id identity.ID, destination identity.Name, dir string) string {
	switch why { //nolint:exhaustive // the others say what to do, or are no more than that
	case intention.UnknownTrustDomain:
		return fmt.Sprintf("nothing proves who is of %s: write a file for it into --trust-domains; if there is one, `sallyport status` says why there is no bundle", id.TrustDomain())
	case intention.SpeaksFirst:
		return fmt.Sprintf("%s speaks first, and would be heard by who shows a second name of another trust domain: no workload of one can be let in", destination)
	case intention.ForeignTrustDomain:
		if id.TrustDomain() != v.Mesh().TrustDomain {
			const nobody = "neither * nor the default is about other trust domains: to allow it, "
			if dir == "" {
				return nobody + fmt.Sprintf("write into the service-intentions of %s, for a name x of your choice: Sources = [{ Name = \"x\" Peer = %q Action = \"allow\" }] Meta { sallyport_spiffe_id_x = %q }",
					destination, id.TrustDomain().Name(), id)
			}
			return nobody + fmt.Sprintf("write { SpiffeID = %q Action = \"allow\" } into the Sources of the service-intentions of %s", id, destination)
		}
	}
	return ""
}

// asNamed makes of contents, which come from files that do not know their mesh's trust domain, nor the bundles of others, those of
// a mesh in which id can be what they say of it.
func asNamed(contents *catalog.Contents, id identity.ID) {
	_, service := id.Service()
	foreign := !service
	for _, d := range contents.Intentions {
		foreign = foreign || slices.ContainsFunc(d.Intentions, func(i intention.Intention) bool { return i.Source.ID == id })
	}
	if foreign {
		contents.Mesh.Federated = []spiffeid.TrustDomain{id.TrustDomain()}
		return
	}
	contents.Mesh.TrustDomain = id.TrustDomain()
}

// describeForeignUpstream is what there is to say of an upstream in another trust domain.
func describeForeignUpstream(u catalog.Upstream, t catalog.Target) admin.Upstream {
	out := admin.Upstream{Name: u.Name(), Listen: u.BindSocket, Expects: string(u.Foreign), Protocol: t.Service.Protocol.String(), Origin: u.Origin}
	if out.Listen == "" {
		out.Listen = net.JoinHostPort(u.BindAddress, strconv.Itoa(int(u.BindPort)))
	}
	out.Endpoints = []admin.Endpoint{{Address: net.JoinHostPort(u.Address, strconv.Itoa(int(u.Port))), Healthy: true, Weight: 1}}
	return out
}
