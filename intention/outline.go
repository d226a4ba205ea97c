package intention

import (
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/identity"
)

// outlinePrefix begins what stands in a Set for a source of whom permissions let in some requests:
// "permissions/<the service, SPIFFE ID or *>/<what Permissions.outline says>". No service can be called so.
const outlinePrefix = "permissions/"

func isOutline(n string) bool { return strings.HasPrefix(n, outlinePrefix) }

// apart tells what no Base has from the names of services.
func apart(n string) bool { return isID(n) || isOutline(n) }

// outline is what stands for an intention with permissions about a source in a Set; empty if i has none. Of all sources it has those
// that have rules of their own, as the outline is not about them.
func (p *Policy) outline(i *Intention, service string) string {
	if i == nil || i.breadth() != requests {
		return ""
	}
	if i == p.own.rest {
		sum := sha256.Sum256([]byte(strings.Join(slices.Sorted(maps.Keys(p.own.exact)), "/")))
		service = identity.Wildcard + base64.RawURLEncoding.EncodeToString(sum[:12])
	}
	return outlinePrefix + service + "/" + i.Permissions.outline(p.shared.scope.Default)
}

// split is whom an outline is about, and what of.
func split(outline string) (subject, of string) {
	outline = outline[len(outlinePrefix):]
	at := strings.LastIndexByte(outline, '/')
	return outline[:at], outline[at+1:]
}

// covers reports whether s has all that an outline is of, or more.
func (s Set) covers(outline string) bool {
	subject, of := split(outline)
	if all := strings.HasPrefix(subject, identity.Wildcard); !all && s.has(subject) || all && s.rest() && len(s.Except)+len(s.Out) == 0 {
		return true
	}
	for _, n := range s.In {
		if !isOutline(n) {
			continue
		}
		if other, more := split(n); other == subject && broader(more, of) {
			return true
		}
	}
	return false
}

// hasSome reports whether a source may be in s, or some requests of it.
func (s Set) hasSome(source string) bool {
	return s.has(source) || slices.ContainsFunc(s.In, func(n string) bool {
		if !isOutline(n) {
			return false
		}
		subject, _ := split(n)
		return subject == source || strings.HasPrefix(subject, identity.Wildcard)
	})
}

// hasRequests reports whether s has what an outline is of.
func (s Set) hasRequests(outline string) bool { return !s.empty() && s.has(outline) }

// broader reports whether what a says lets in all that b does, where it can be seen: some may have been added to b that allow, and
// some been left away that deny.
func broader(a, b string) bool {
	for len(a) > 1 || len(b) > 1 {
		switch {
		case len(a) >= outlined && len(b) >= outlined && a[:outlined] == b[:outlined]:
			a, b = a[outlined:], b[outlined:]
		case len(a) >= outlined && a[0] == signs[Allow]:
			a = a[outlined:]
		case len(b) >= outlined && b[0] == signs[Deny]:
			b = b[outlined:]
		default:
			return false
		}
	}
	return a == b || a == string(signs[Allow])
}

// broadest leaves out outlines that other names cover.
func broadest(names []string) []string {
	if !slices.ContainsFunc(names, isOutline) {
		return names
	}
	return filter(names, func(n string) bool {
		if !isOutline(n) {
			return true
		}
		subject, of := split(n)
		return !slices.ContainsFunc(names, func(m string) bool {
			if m == n || !isOutline(m) {
				return m == subject
			}
			other, more := split(m)
			return other == subject && broader(more, of)
		})
	})
}
