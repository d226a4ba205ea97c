package xds

import (
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/snapshot"
)

// handJudges gives a session who may connect, by r, and nothing else that is new: for a proxy of
// which not all can be told, as its configuration cannot be built or a certificate is missing. A
// deny must not wait for that. An Envoy that has nothing yet asks for no judge, and so gets none.
// bundles may be nil: then the handshake's rule stays, and the one behind it is told.
func (p *publisher) handJudges(n *session, r *snapshot.Resources, bundles *sds.Roots, since time.Time) {
	n.published.complete = false // whatever comes next is handed in full
	t := &target{partial: true}
	if n.published.target.whole() {
		*t = *n.published.target
	}
	t.judges = r.Judges
	for name := range r.Judges {
		for k, resource := range p.judge(r, name, bundles) {
			t.resources[k] = t.resources[k].With(resource)
		}
	}
	if n.published.target != nil && t.equal(n.published.target) {
		t = n.published.target
	}
	n.published.target = t
	n.set(t, since, 0)
}

// judge are the resources of r with that name by which Envoy decides, by kind.
func (p *publisher) judge(r *snapshot.Resources, name string, bundles *sds.Roots) map[kind]*discoveryv3.Resource {
	out := map[kind]*discoveryv3.Resource{}
	for _, k := range [...]kind{extensions, routes} {
		if of := r.ByType[k.url()].Get(name); of != nil {
			out[k] = of
		}
	}
	for _, secret := range r.Secrets {
		if secret.Name != name || bundles == nil {
			continue
		}
		validation, err := p.validation(secret, bundles)
		if err != nil {
			p.server.log.Error("no validation for a proxy, its handshake decides as before", "resources", name, "err", err)
			continue
		}
		out[secrets] = validation
	}
	return out
}
