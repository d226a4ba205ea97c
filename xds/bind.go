package xds

import (
	"regexp"
	"strings"
)

// cannotBind is how an Envoy says that it could not listen on an address, and why.
var cannotBind = regexp.MustCompile(`cannot bind '([^']+)': ([A-Za-z ]+)`)

// Address is the one that an Envoy could not listen on; empty: that is not what it complains of.
func (n *NACK) Address() string {
	if m := cannotBind.FindStringSubmatch(n.Message); m != nil {
		return m[1]
	}
	return ""
}

// InUse is the address, "ip:port" or the path of a Unix socket, that an Envoy was to listen on and
// that somebody else has; empty: that is not what it complains of.
func (n *NACK) InUse() string {
	if m := cannotBind.FindStringSubmatch(n.Message); m != nil && strings.HasPrefix(m[2], "Address already in use") {
		return m[1]
	}
	return ""
}

// Remedy is how to mend what an Envoy refuses, where that does not depend on who looks; empty: it is
// not known.
func (n *NACK) Remedy() string {
	m := cannotBind.FindStringSubmatch(n.Message)
	switch {
	case m == nil:
		return ""
	case n.InUse() != "":
		return "end what has " + m[1] + ", or choose another port"
	case strings.HasPrefix(m[2], "Permission denied"):
		return "choose a port above 1023, or give Envoy CAP_NET_BIND_SERVICE"
	case strings.HasPrefix(m[2], "Cannot assign requested address"):
		return "give an address of the machine and network namespace that Envoy runs in"
	}
	return ""
}
