package files

import (
	"net/netip"
	"regexp"
	"strings"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/unixsocket"
)

// Bounds on what Consul calls meta (Consul, "service meta": 64 pairs, keys of 128 and values of 512 characters).
const (
	maxMetaPairs = 64
	maxMetaKey   = 128
	maxMetaValue = 512
)

// maxID bounds the length of an ID.
const maxID = 256

// hostName is RFC 1123's form, with the underscores that container networks have.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)

// meta checks a map of strings, which decides nothing in a mesh, against Consul's bounds.
func (o *object) meta(key string) {
	n := o.field(key)
	if n == nil {
		return
	}
	if n.kind == list && len(n.list) == 1 { // an HCL block
		n = n.list[0]
	}
	switch {
	case n.kind == list && len(n.list) == 0:
		return
	case n.kind != mapping:
		o.mismatch(key, "a block", n)
		return
	case len(n.fields) > maxMetaPairs:
		o.problem(n.at, "%s has %d pairs: at most %d are allowed", key, len(n.fields), maxMetaPairs)
		return
	}
	seen := map[string]bool{}
	for _, f := range n.fields {
		switch {
		case seen[f.key]:
			o.problem(f.at, "%.60q is given twice in %s", f.key, key)
		case f.key == "" || len(f.key) > maxMetaKey || strings.ContainsFunc(f.key, notInMetaKey):
			o.problem(f.at, "%s key %.60q: 1 to %d letters, digits, '-' and '_' are allowed", key, f.key, maxMetaKey)
		case f.value.kind != text:
			o.problem(f.at, "%s value of %q must be a string, not %s", key, f.key, f.value.kind)
		case len(f.value.text) > maxMetaValue:
			o.problem(f.at, "%s value of %q has %d bytes: at most %d are allowed", key, f.key, len(f.value.text), maxMetaValue)
		}
		seen[f.key] = true
	}
}

const metaKeyCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

func notInMetaKey(c rune) bool { return !strings.ContainsRune(metaKeyCharacters, c) }

// name checks that s can be a service's name. It is false, and a problem, if not; if s is not set that is only false.
func (o *object) name(key string, s setting[string]) bool {
	if !s.set {
		return false
	}
	if err := identity.NewName(s.value).Check(); err != nil {
		if strings.Contains(s.value, identity.Wildcard) {
			o.problem(s.at, "%s %.60q: a wildcard cannot be used here", key, s.value)
		} else {
			o.problem(s.at, "%s %.60q cannot be a service's name: letters, digits, '.', '-' and '_' are allowed", key, s.value)
		}
		return false
	}
	if len(s.value) > maxID {
		o.problem(s.at, "%s has %d characters: at most %d are allowed", key, len(s.value), maxID)
		return false
	}
	return true
}

// id checks that s can be the ID of a registration.
func (o *object) id(key string, s setting[string]) bool {
	if !s.set {
		return false
	}
	bad := func(c rune) bool {
		return !strings.ContainsRune(metaKeyCharacters+".:@", c)
	}
	if strings.ContainsFunc(s.value, bad) || len(s.value) > maxID || strings.Trim(s.value, ".") == "" {
		o.problem(s.at, "%s %.60q: 1 to %d letters, digits, '-', '_', '.', ':' and '@' are allowed", key, s.value, maxID)
		return false
	}
	return true
}

// ip is an IP address without a zone; localhost is taken for 127.0.0.1.
func (o *object) ip(key string) (s setting[netip.Addr]) {
	t := o.text(key)
	if !t.set {
		return s
	}
	a, ok := parseIP(t.value)
	if t.value == "localhost" {
		a, ok = netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	if !ok {
		o.problem(t.at, "%s %.60q must be an IP address, without brackets or zone", key, t.value)
		return s
	}
	return setting[netip.Addr]{set: true, value: a, at: t.at}
}

// address is what others dial: an IP address or a host name.
func (o *object) address(key string) setting[string] {
	t := o.text(key)
	if !t.set {
		return t
	}
	if a, ok := parseIP(t.value); ok {
		if a.IsUnspecified() || a.IsMulticast() {
			o.problem(t.at, "%s %s cannot be dialled: give an address that can (where to listen is bind_address in the proxy's config)", key, a)
			return setting[string]{}
		}
		t.value = a.String()
		return t
	}
	if len(t.value) > 253 || !hostName.MatchString(t.value) || strings.Trim(t.value, "0123456789.") == "" {
		o.problem(t.at, "%s %.60q is neither an IP address (without brackets or zone) nor a host name", key, t.value)
		return setting[string]{}
	}
	return t
}

func parseIP(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

// socket is the path of a Unix socket.
func (o *object) socket(key string) setting[string] {
	s := o.text(key)
	switch {
	case !s.set:
	case !strings.HasPrefix(s.value, "/"):
		o.problem(s.at, "%s %.60q must be an absolute path", key, s.value)
		return setting[string]{}
	case len(s.value) > unixsocket.MaxPath || strings.ContainsRune(s.value, 0):
		o.problem(s.at, "%s has %d bytes: a socket's path takes at most %d", key, len(s.value), unixsocket.MaxPath)
		return setting[string]{}
	}
	return s
}

// tenancy reports namespaces, partitions and peers other than the default, under the names that a format gives them.
func (o *object) tenancy(prefix string) {
	for _, key := range []string{prefix + "namespace", prefix + "partition"} {
		o.only(key, identity.Default)
	}
	o.only(prefix + "peer")
}
