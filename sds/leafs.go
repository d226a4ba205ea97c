package sds

import (
	"cmp"
	"crypto/x509"
	"log/slog"
	"slices"
	"time"

	"github.com/sallyport/sallyport/identity"
)

// Leafs are the leaf certificates that one caller uses. They are made by Credentials.Open and end
// with Close.
type Leafs struct {
	credentials *Credentials
	caller      identity.Caller
	wake        func()
	watches     map[identity.Service]*watch // guarded by Credentials.mu; nil: closed
}

// Open returns what holds the leafs of caller, none yet. wake is called after each new one, also
// after the first of a service, by a goroutine that serves others too: it must not block, and may
// call all of this package meanwhile. It may be called a last time while Close runs or just after.
// The caller must Close the Leafs.
func (c *Credentials) Open(caller identity.Caller, wake func()) *Leafs {
	return &Leafs{credentials: c, caller: caller, wake: wake, watches: map[identity.Service]*watch{}}
}

// SVID returns the newest leaf of id that was verified; nil until there is one, and after Close. It
// does not block: the first call asks for the leaf, which Run fetches in the name of the caller.
// Callers with the same token share one leaf of the same id; the source sees the first caller's
// proxy.
func (l *Leafs) SVID(id identity.Service) *SVID {
	c := l.credentials
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.watches == nil {
		return nil
	}
	w := l.watches[id]
	if w == nil {
		key := keyOf(l.caller, id)
		if w = c.watches[key]; w == nil {
			w = &watch{caller: l.caller, id: id, users: map[*Leafs]bool{}}
			c.watches[key] = w
			c.pending = append(c.pending, w)
			c.signal()
		}
		l.watches[id] = w
		w.users[l] = true
	}
	return w.served.Load()
}

// Keep releases all leafs but those of use. A leaf that loses its last user is no longer watched;
// Keep does not wait for the end of the watch.
func (l *Leafs) Keep(use map[identity.Service]bool) {
	l.credentials.mu.Lock()
	defer l.credentials.mu.Unlock()
	for id, w := range l.watches {
		if !use[id] {
			delete(l.watches, id)
			l.release(w)
		}
	}
}

// Close releases all leafs. It may be called more than once.
func (l *Leafs) Close() {
	l.Keep(nil)
	l.credentials.mu.Lock()
	defer l.credentials.mu.Unlock()
	l.watches = nil
}

// release ends l's use of w. Credentials.mu is held.
func (l *Leafs) release(w *watch) {
	delete(w.users, l)
	if len(w.users) > 0 {
		return
	}
	c := l.credentials
	delete(c.watches, keyOf(w.caller, w.id))
	delete(c.notYetValid, w)
	w.endRotation(errUnused)
	if w.stop != nil {
		w.stop()
		return
	}
	// It was never started, and nothing empties the queue while Run does not run.
	c.pending = slices.DeleteFunc(c.pending, func(p *watch) bool { return p == w })
}

// Expires is when the first of the leafs ends; zero if there is none.
func (l *Leafs) Expires() (first time.Time) {
	for _, s := range l.InUse() {
		if end := s.Certificates[0].NotAfter; first.IsZero() || end.Before(first) {
			first = end
		}
	}
	return first
}

// InUse are the leafs in use, in no order; they must not be changed.
func (l *Leafs) InUse() (all []*SVID) {
	l.credentials.mu.Lock()
	defer l.credentials.mu.Unlock()
	for _, w := range l.watches {
		if s := w.served.Load(); s != nil {
			all = append(all, s)
		}
	}
	return all
}

// Use is a leaf that is in use now.
type Use struct {
	Certificate *x509.Certificate
	// Callers are those that have it, sorted by their names.
	Callers []identity.Caller
}

// InUse are all leafs that are in use, in no order.
func (c *Credentials) InUse() (all []Use) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.watches {
		s := w.served.Load()
		if s == nil {
			continue
		}
		u := Use{Certificate: s.Certificates[0]}
		for l := range w.users {
			u.Callers = append(u.Callers, l.caller)
		}
		slices.SortFunc(u.Callers, func(a, b identity.Caller) int { return cmp.Compare(a.String(), b.String()) })
		all = append(all, u)
	}
	return all
}

// String is the caller's proxy; neither keys nor tokens are printed.
func (l *Leafs) String() string { return "leafs of " + l.caller.String() }

// GoString is String.
func (l *Leafs) GoString() string { return l.String() }

// LogValue is String.
func (l *Leafs) LogValue() slog.Value { return slog.StringValue(l.String()) }
