package chain

import (
	"strings"

	"github.com/sallyport/sallyport/identity"
)

// Kind is the kind of a config entry, as Consul spells it.
type Kind string

// The kinds of entries that chains are made of.
const (
	RouterKind   Kind = "service-router"
	SplitterKind Kind = "service-splitter"
	ResolverKind Kind = "service-resolver"
)

// Mistake is what is wrong with an entry, alone or together with others.
type Mistake struct {
	// Message says what, in Consul's words where it has some, with the place in the entry as far as those name it ("Route[0] ...").
	Message string
	// Kind and Service are the entry's that is to be mended. Of mistakes that several entries make together it is one of those.
	Kind    Kind
	Service identity.Name
	// Path leads to the field: keys in Consul's spelling and indices in decimal: Routes, 0, Match, HTTP, PathExact. Empty: the whole entry.
	Path []string
	// Origin is where the entry was read, or the route if Path leads into one; empty: not known.
	Origin string
}

// Error is the message.
func (m *Mistake) Error() string { return m.Message }

// Place is Path as it is printed: Routes[0].Match.HTTP.PathExact.
func (m *Mistake) Place() string {
	var b strings.Builder
	for i, p := range m.Path {
		switch {
		case p != "" && strings.Trim(p, "0123456789") == "":
			b.WriteString("[" + p + "]")
			continue
		case i > 0:
			b.WriteByte('.')
		}
		b.WriteString(p)
	}
	return b.String()
}
