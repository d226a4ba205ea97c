package xds

import (
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/sds"
)

// namedLeaf is the leaf in a secret.
type namedLeaf struct {
	secret string
	svid   *sds.SVID
}

// leaf is the one in the secret of that name; nil: it has none.
func (t *target) leaf(secret string) *sds.SVID {
	for _, l := range t.leafs {
		if l.secret == secret {
			return l.svid
		}
	}
	return nil
}

// keep notes which leaf is in a secret.
func (t *target) keep(secret string, svid *sds.SVID) {
	if svid != nil {
		t.leafs = append(t.leafs, namedLeaf{secret, svid})
	}
}

// gave records the leafs that are sent. The caller holds the lock.
func (s *session) gave(add []*discoveryv3.Resource) {
	for _, r := range add {
		if svid := s.target.leaf(r.GetName()); svid != nil {
			s.acceptance.Give(nil, svid)
		} else {
			s.acceptance.Give(s.target.bundles)
		}
	}
}

// accepted records what Envoy has accepted of the secrets that it subscribes to: the roots, if it has each one with roots as it is to
// have it, and the leafs. The caller holds the lock.
func (s *session) accepted() {
	t := s.subs[secrets]
	if s.acceptance == nil || s.target == nil || !t.asked {
		return
	}
	roots := s.target.bundles
	some := false // it has a secret with roots
	s.leafsHeld = s.leafsHeld[:0]
	for name := range t.names {
		want := s.target.resources[secrets].Get(name)
		has := want != nil && t.has(want)
		switch svid := s.target.leaf(name); {
		case svid != nil && has:
			s.leafsHeld = append(s.leafsHeld, svid)
		case svid != nil:
		case has:
			some = true
		default: // it may verify by what it has
			roots = nil
		}
	}
	if !some {
		roots = nil
	}
	s.acceptance.Accept(roots, s.leafsHeld)
}
