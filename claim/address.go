package claim

import (
	"cmp"
	"fmt"
	"net/netip"

	"github.com/sallyport/sallyport/identity"
)

// Address is one that a proxy, or the control plane itself, uses.
type Address struct {
	// Proxy is whose it is; empty: the control plane's own.
	Proxy identity.ProxyID
	// What says what it is for: "upstream". Name is what of these it is: "db"; empty: there is one
	// alone.
	What, Name string
	// Origin is where it was read: "web.hcl:9"; empty for the control plane's own.
	Origin string
	// Host is the machine, as catalog.Proxy has it. Only addresses of one machine can be the same,
	// unless they are neither loopback nor a wildcard.
	Host string
	// Network is the network namespace, as catalog.Proxy has it. It tells ports apart, but no paths: namespaces of
	// one machine share its files.
	Network string
	// IP and Port are what is listened on, unless Socket, the path of a Unix socket, is set.
	IP     netip.Addr
	Port   uint16
	Socket string
	// Dialled says that the proxy dials it and somebody else listens there: its application.
	Dialled bool

	part *part  // whose it is; nil: it is nobody's to take away
	real string // Socket, where symbolic links on the way were followed; empty: they were not
}

// path is that of the socket, by which it is told from others; empty: it is none.
func (a *Address) path() string { return cmp.Or(a.real, a.Socket) }

// String is a in words: "upstream db of web-sidecar-proxy".
func (a *Address) String() string {
	s := a.What
	if a.Name != "" {
		s += " " + a.Name
	}
	if a.Proxy != "" {
		s += " of " + string(a.Proxy)
	}
	return s
}

// source is where a was read, for a text, or nothing.
func (a *Address) source() string {
	if a.Origin == "" {
		return ""
	}
	return " (" + a.Origin + ")"
}

// isPublic reports whether no other machine can have the address too.
func (a *Address) isPublic() bool {
	return a.Socket == "" && a.IP.IsValid() && !a.IP.IsLoopback() && !a.IP.IsUnspecified()
}

// Conflict is that an address is another's.
type Conflict struct {
	Address, Holder *Address
	where           string // the address itself, in words
}

// Error says who wants it, and who has it.
func (c *Conflict) Error() string {
	a, o := c.Address, c.Holder
	switch {
	case a.Dialled:
		return fmt.Sprintf("%s cannot be at %s: %s%s listens there", a, c.where, o, o.source())
	case o.Dialled:
		return fmt.Sprintf("%s cannot listen on %s: %s does%s", a, c.where, o, o.source())
	}
	return fmt.Sprintf("%s and %s%s cannot both listen on %s", a, o, o.source(), c.where)
}

// overlap reports whether two listeners on one port of one machine take each other's connections.
// The IPv6 wildcard takes IPv6 alone, as Envoy has it.
func overlap(a, b netip.Addr) bool {
	return a == b || a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
}

// narrower is the narrower of two addresses that overlap.
func narrower(a, b netip.Addr) netip.Addr {
	if a.IsUnspecified() {
		return b
	}
	return a
}
