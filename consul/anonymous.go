package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// anonymousEvery is how often is asked what the anonymous token may, anonymousRetry how often it is
// looked whether the node has proxies about whom to ask.
const anonymousEvery, anonymousRetry = 30 * time.Second, 2 * time.Second

// watchAnonymous finds out, now and then until ctx ends, of which services of this node's proxies
// everybody is given the certificates: of all where ACLs are off, else of those that the anonymous
// token may write.
func (a *Agent) watchAnonymous(ctx context.Context) {
	for {
		wait := anonymousEvery
		if services, ok := a.proxied(); ok {
			a.askAnonymous(ctx, services)
		} else {
			wait = anonymousRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// proxied are the names of the services that have proxies on this node; ok is false as long as they
// are not known.
func (a *Agent) proxied() (names []string, ok bool) {
	all, ok := a.proxies.Load()
	for _, p := range all {
		if p.Service.Service != "" && !p.Service.IsWildcard() {
			names = append(names, p.Service.Service)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), ok
}

// askAnonymous asks the agent, notes what it says and wakes the assembly if that is news.
func (a *Agent) askAnonymous(ctx context.Context, services []string) {
	if len(services) == 0 {
		services = []string{anonymous} // a question about any service tells whether there are ACLs
	}
	began := time.Now()
	answers, off, err := a.acl.rights(ctx, "", services)
	var no *statusError
	if err != nil && (!errors.As(err, &no) || no.code != http.StatusForbidden) { // that would be: there is no anonymous token
		return
	}
	var allowed []string
	for _, s := range answers {
		if s.Allow {
			allowed = append(allowed, s.Segment)
		}
	}
	text := strings.Join(allowed, ", ")
	if n := len(allowed); n > 3 {
		text = fmt.Sprintf("%s and %d more", strings.Join(allowed[:3], ", "), n-3)
	}
	z := a.acl
	z.mu.Lock()
	news := z.open != text || z.off.IsZero() == off
	if z.open, z.on, z.off = text, !off, began; !off {
		z.off = time.Time{}
	}
	z.mu.Unlock()
	if news {
		a.wakeUp()
	}
}
