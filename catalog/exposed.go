package catalog

import (
	"cmp"
	"errors"
	"path"
	"strings"
)

// ExposedPath is one path of a proxy's application that may be asked for past TLS and intentions: by anybody, for health checks and scrapers
// that are not of the mesh, or by the local agent alone. It is comparable.
type ExposedPath struct {
	Path string // the whole path: nothing below it is exposed
	// ListenerPort is where Envoy takes requests in, on the address of Inbound.
	ListenerPort uint16
	// LocalPort is the application's, on the local address of Inbound. It may be another one than Inbound's.
	LocalPort uint16
	Protocol  Protocol // HTTP or HTTP2: what the application speaks on LocalPort
	// OfCheck says that the path is there for a check of the local agent: only loopback, and Agent, may ask for it.
	OfCheck bool
	// Agent is the agent's IP address beside loopback. Empty: it has no other.
	Agent string
	// Origin is where the path was read: "web.hcl:7".
	Origin string
}

// CompareExposed orders paths by their listeners, as Proxy has them.
func CompareExposed(a, b ExposedPath) int {
	return cmp.Or(cmp.Compare(a.ListenerPort, b.ListenerPort), strings.Compare(a.Path, b.Path), cmp.Compare(a.LocalPort, b.LocalPort))
}

// CheckPath says why p cannot be exposed; nil: it can. Paths of requests are compared as they are sent, so one that clients
// would spell otherwise would never be asked for.
func CheckPath(p string) error {
	switch {
	case !strings.HasPrefix(p, "/"):
		return errors.New(`it must begin with "/"`)
	case strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`?#%\`, r) }):
		return errors.New("it must be a path without a query, escapes and characters that need them")
	case strings.Contains(p, "//"), path.Clean(p) != p && path.Clean(p)+"/" != p:
		return errors.New(`it must be without "//", "/./" and "/../": paths are compared as they are sent, and clients leave these out`)
	}
	return nil
}
