package catalog

import (
	"fmt"
	"strconv"

	"github.com/sallyport/sallyport/identity"
)

// Admits returns an error if a token that says f is not one of this proxy any more: it was made when
// another service, or another user's sidecar, had the proxy's ID. A token that says nothing of that
// is admitted.
func (p *Proxy) Admits(f identity.Proof) error {
	const remedy = "`sallyport envoy` gets a new one by itself, `sallyport bootstrap` writes one"
	switch {
	case !f.Bound():
		return nil
	case f.Service != p.Service:
		return fmt.Errorf("the token was made when %q was a proxy of the service %q, and it is one of %q now (%s): %s", p.ID, f.Service, p.Service, p.Origin, remedy)
	case f.UID != p.Bootstrap.UID:
		return fmt.Errorf("the token was made when the sallyport_uid of %q was %s, and it is %s now (%s): %s", p.ID, user(f.UID), user(p.Bootstrap.UID), p.Origin, remedy)
	}
	return nil
}

func user(uid int) string {
	if uid < 0 {
		return "not set"
	}
	return strconv.Itoa(uid)
}
