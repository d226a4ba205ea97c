package xds

import (
	"crypto/sha256"
	"encoding/hex"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// A revoked certificate's holder gets another one, but the connections to HTTP services in the pools of its Envoy were made with the first
// one: each request on them is refused, for as long as they live. So the clusters of these services are sent once more, after the new leaf,
// and Envoy makes other connections.

// redials is Input.Redials of w for n's Envoy, the build of which is b: a digest of the revoked certificates of w's service, or what it was
// before, if none has come to them, or Envoy has no other leaf yet.
func (p *publisher) redials(b *build, w *catalog.ProxyView, n *session) string {
	list := p.view.Revoked()
	if list == nil {
		return b.redials
	}
	id := p.view.Identity(w.Proxy.Service)
	revoked := list.Certificates(identity.ID(id.ID().String()))
	if len(revoked) == 0 {
		return b.redials
	}
	svid := n.leafs.SVID(id)
	if svid == nil {
		return b.redials
	}
	sum := sha256.Sum256(svid.Certificates[0].Raw)
	if list.Certificate(svid.Certificates[0].SerialNumber.Text(16), hex.EncodeToString(sum[:])) != nil {
		return b.redials
	}
	digest, news := sha256.New(), false
	for _, r := range revoked {
		name := r.Serial + " " + r.SHA256 + "\n"
		digest.Write([]byte(name)) // never an error
		news = news || !b.redialled[name]
	}
	if news {
		b.redials, b.redialled = hex.EncodeToString(digest.Sum(nil)[:8]), make(map[string]bool, len(revoked))
		for _, r := range revoked {
			b.redialled[r.Serial+" "+r.SHA256+"\n"] = true
		}
	}
	return b.redials
}

// holders are the sessions of those of whose certificates some were revoked since old.
func (p *publisher) holders(old *catalog.View) (out []*session) {
	since := p.view.Revoked().Since(old.Revoked())
	if since == nil {
		return nil
	}
	for _, n := range p.server.sessions() {
		if w := p.view.Proxy(n.caller.Proxy); w != nil && len(since.Certificates(identity.ID(p.view.Identity(w.Proxy.Service).ID().String()))) > 0 {
			out = append(out, n)
		}
	}
	return out
}

// redialsTooSoon reports whether c, a cluster of which Envoy has another version, has to wait for the leaf by which it is dialled. None waits
// for a leaf that Envoy refuses.
func (s *session) redialsTooSoon(c *discoveryv3.Resource) bool {
	held, ok := s.subs[clusters].held[c.GetName()]
	_, refused := s.subs[secrets].refused[s.target.redials]
	return ok && held != c.GetVersion() && s.target.redials != "" && !refused && !s.settled(ref{secrets, s.target.redials})
}
