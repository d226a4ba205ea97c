package acceptance

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/ca"
)

var _ ca.Gate = (*Record)(nil)

// lost is why one is waited for of which nothing is known.
const lost = "nothing is recorded of it, and sallyport did not end in order lately: it may have a leaf"

// Untold implements ca.Gate.
func (r *Record) Untold(roots []*x509.Certificate) []ca.Holder {
	want := make([]digest, len(roots))
	for i, c := range roots {
		want[i] = sha256.Sum256(c.Raw)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.look(r.now())
	known := map[*bundle]bool{nil: len(want) == 0}
	has := func(b *bundle) bool {
		all, ok := known[b]
		if !ok {
			all = !slices.ContainsFunc(want, func(d digest) bool { return !slices.Contains(b.roots, d) })
			known[b] = all
		}
		return all
	}
	return r.holding(now, func(h *holder) (ends int64, reason string) {
		told := has(h.told)
		for _, s := range h.streams {
			told = told && (!s.joined || has(s.told))
		}
		if told {
			return 0, ""
		}
		return h.ends(r.sure(now), nil), h.reason("has not accepted the roots", "has not fetched the roots")
	})
}

// Outdated implements ca.Gate.
func (r *Record) Outdated(root *x509.Certificate) []ca.Holder {
	key := keyOf(root)
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.look(r.now())
	return r.holding(now, func(h *holder) (ends int64, reason string) {
		return h.ends(r.sure(now), func(u use) bool { return u.root != key }), h.reason("has not accepted a leaf of the new root", "has not fetched a leaf of the new root")
	})
}

// holding are the holders that f finds an end for, and those of which nothing is known, by name. r.mu is held.
func (r *Record) holding(now time.Time, f func(*holder) (ends int64, reason string)) (out []ca.Holder) {
	for _, h := range r.holders {
		if ends, reason := f(h); ends > 0 {
			out = append(out, ca.Holder{Name: h.name, Application: !h.proxy(), Connected: h.connected(now), Ends: time.Unix(ends, 0).Add(r.ahead.by), Reason: reason})
		}
	}
	if r.cfg.Proxies != nil && now.Add(-r.ahead.by).Before(r.lost) {
		for _, id := range r.cfg.Proxies() {
			if name := "proxy " + string(id); r.holders[name] == nil {
				out = append(out, ca.Holder{Name: name, Ends: r.lost.Add(r.ahead.by), Reason: lost})
			}
		}
	}
	if now.Before(r.crowded) {
		out = append(out, ca.Holder{Name: "others", Ends: r.crowded, Reason: fmt.Sprintf("more than %d have leafs, and nothing is recorded of some", maxHolders)})
	}
	slices.SortFunc(out, func(a, b ca.Holder) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func (h *holder) connected(now time.Time) bool {
	return len(h.streams) > 0 || !h.proxy() && !h.heard.IsZero() && now.Sub(h.heard) < recent
}

func (h *holder) proxy() bool { return strings.HasPrefix(h.name, "proxy ") }

// reason is what h has not done: of a proxy, or of an application.
func (h *holder) reason(proxy, application string) string {
	switch {
	case !h.proxy():
		return application
	case len(h.streams) == 0:
		return proxy + ": it is not connected"
	}
	return proxy
}

// Changed implements ca.Gate. Many changes at once are told of once.
func (r *Record) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

// tell wakes who waits, soon. r.mu is held.
func (r *Record) tell() {
	if r.changed == nil || r.telling {
		return
	}
	r.telling = true
	time.AfterFunc(calm, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.telling = false
		if r.changed != nil {
			close(r.changed)
			r.changed = nil
		}
	})
}
