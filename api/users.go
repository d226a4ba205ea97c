package api

import (
	"cmp"
	"crypto/x509"
	"net/http"
	"slices"
	"sync"

	"github.com/sallyport/sallyport/identity"
)

// User is somebody who has connections to the API, or holds leafs of it.
type User struct {
	// Caller is its ID, as Caller has it; of connections that have not said who they are, who made them.
	Caller string
	// Services are those in whose name it may act, as far as its tokens or the catalog say it.
	Services []identity.Name
	// Unix and TCP are how many connections it has, Waiting how many of its questions wait for a change.
	Unix, TCP, Waiting int
	// Leafs are those that it asked for within the last hour, in no order.
	Leafs []*x509.Certificate
}

// Users are all of them, sorted by caller.
func (s *Server) Users() []User {
	by := map[string]*User{}
	of := func(caller string) *User {
		if by[caller] == nil {
			by[caller] = &User{Caller: caller}
		}
		return by[caller]
	}
	for _, c := range s.open.list() {
		last := c.asked.Load()
		if last == nil {
			last = &asked{caller: c.Peer}
		}
		u := of(last.caller)
		if len(last.services) > 0 {
			u.Services = last.services
		}
		if c.unix() {
			u.Unix++
		} else {
			u.TCP++
		}
	}
	for caller, n := range s.waits.each() {
		of(caller).Waiting = n
	}
	for caller, leaf := range s.leafs.each() {
		u := of(caller)
		u.Leafs = append(u.Leafs, leaf)
	}
	out := make([]User, 0, len(by))
	for _, u := range by {
		out = append(out, *u)
	}
	slices.SortFunc(out, func(a, b User) int { return cmp.Compare(a.Caller, b.Caller) })
	return out
}

// asked is who asked by a connection last. It is immutable.
type asked struct {
	caller   string
	services []identity.Name
}

// noteCaller remembers who asks by the connection of r. What everybody may ask says nothing of who that is, unless nothing else did.
func noteCaller(r *http.Request, c *Caller, public bool) {
	on, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return
	}
	last := on.asked.Load()
	if last == nil || !public && (last.caller != c.ID || !slices.Equal(last.services, c.Services)) {
		on.asked.Store(&asked{c.ID, c.Services})
	}
}

// conns are the open connections. The zero value has none.
type conns struct {
	mu  sync.Mutex
	all map[*conn]struct{}
}

func (cs *conns) add(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.all == nil {
		cs.all = map[*conn]struct{}{}
	}
	cs.all[c] = struct{}{}
}

func (cs *conns) remove(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.all, c)
}

func (cs *conns) list() []*conn {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	out := make([]*conn, 0, len(cs.all))
	for c := range cs.all {
		out = append(out, c)
	}
	return out
}
