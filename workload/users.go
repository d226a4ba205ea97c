package workload

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
)

// User is somebody who has streams or connections, or whose leafs are held.
type User struct {
	// Caller is the user of the processes: "uid 1000".
	Caller string
	// Connections are those of users that a registration names; of others none is counted. Streams are those of all.
	Connections, Streams int
	// Leafs are those that its processes have, or had within the last minutes, in no order.
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
	s.mu.Lock()
	for uid, u := range s.users {
		n := of(fmt.Sprintf("uid %d", uid))
		n.Connections, n.Streams = u.connections, u.streams
	}
	holdings := slices.Collect(maps.Values(s.holdings))
	s.mu.Unlock()
	for _, h := range holdings {
		for i, g := range h.grants {
			u := of(g.caller.Application)
			for _, svid := range h.leafs[i].InUse() {
				if leaf := svid.Certificates[0]; !slices.ContainsFunc(u.Leafs, leaf.Equal) { // several holdings share it
					u.Leafs = append(u.Leafs, leaf)
				}
			}
		}
	}
	out := make([]User, 0, len(by))
	for _, u := range by {
		out = append(out, *u)
	}
	slices.SortFunc(out, func(a, b User) int { return cmp.Compare(a.Caller, b.Caller) })
	return out
}
