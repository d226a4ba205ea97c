package files

import (
	"strings"

	"github.com/sallyport/sallyport/attest"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/unixsocket"
)

// Bounds on what Consul calls meta (Consul, "service meta": 64 pairs, keys of 128 and values of 512
// characters).
const (
	maxMetaPairs = 64
	maxMetaKey   = 128
	maxMetaValue = 512
)

// meta reads a map of strings within Consul's bounds.
func meta(o *definition.Decoder, key string) (pairs map[string]string) {
	n := o.Field(key)
	if n == nil {
		return nil
	}
	if n.Kind == definition.List && len(n.List) == 1 { // an HCL block
		n = n.List[0]
	}
	switch {
	case n.Kind == definition.List && len(n.List) == 0:
		return nil
	case n.Kind != definition.Mapping:
		o.Mistake(n.At, "%s %v", key, definition.Mismatch("a block", n))
		return nil
	case len(n.Fields) > maxMetaPairs:
		o.Mistake(n.At, "%s has %d pairs: at most %d are allowed", key, len(n.Fields), maxMetaPairs)
		return nil
	}
	pairs = make(map[string]string, len(n.Fields))
	for _, f := range n.Fields {
		_, seen := pairs[f.Key]
		switch {
		case seen:
			o.Mistake(f.At, "%.60q is given twice in %s", f.Key, key)
		case f.Key == "" || len(f.Key) > maxMetaKey || strings.ContainsFunc(f.Key, notInMetaKey):
			o.Mistake(f.At, "%s key %.60q: 1 to %d letters, digits, '-' and '_' are allowed", key, f.Key, maxMetaKey)
		case f.Value.Kind != definition.Text:
			o.Mistake(f.At, "%s value of %q must be a string, not %s", key, f.Key, f.Value.Kind)
		case len(f.Value.Text) > maxMetaValue:
			o.Mistake(f.At, "%s value of %q has %d bytes: at most %d are allowed", key, f.Key, len(f.Value.Text), maxMetaValue)
		}
		pairs[f.Key] = f.Value.Text
	}
	return pairs
}

// selectors checks what the registration of an application says of its processes.
func selectors(o *definition.Decoder, pairs map[string]string) {
	text, ok := pairs[catalog.MetaSelectors]
	if !ok {
		return
	}
	if _, err := attest.Parse(text); err != nil {
		o.Mistake(metaAt(o, catalog.MetaSelectors), "%s: %v", catalog.MetaSelectors, err)
	}
}

// metaAt is where a key of meta is.
func metaAt(o *definition.Decoder, key string) definition.Position {
	n := o.Field("meta")
	if n.Kind == definition.List && len(n.List) == 1 { // an HCL block
		n = n.List[0]
	}
	for _, f := range n.Fields {
		if f.Key == key {
			return f.At
		}
	}
	return n.At
}

const metaKeyCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

func notInMetaKey(c rune) bool { return !strings.ContainsRune(metaKeyCharacters, c) }

// validID checks that s can be the ID of a registration.
func validID(o *definition.Decoder, key string, s definition.Setting[string]) bool {
	if !s.Set {
		return false
	}
	bad := func(c rune) bool {
		return !strings.ContainsRune(metaKeyCharacters+".:@", c)
	}
	if strings.ContainsFunc(s.Value, bad) || len(s.Value) > definition.MaxName || strings.Trim(s.Value, ".") == "" {
		o.Mistake(s.At, "%s %.60q: 1 to %d letters, digits, '-', '_', '.', ':' and '@' are allowed", key, s.Value, definition.MaxName)
		return false
	}
	return true
}

// socket is the path of a Unix socket.
func socket(o *definition.Decoder, key string) definition.Setting[string] {
	s := o.Text(key)
	switch {
	case !s.Set:
	case !strings.HasPrefix(s.Value, "/"):
		o.Blame(key)
		o.Mistake(s.At, "%s %.60q must be an absolute path", key, s.Value)
		return definition.Setting[string]{}
	case len(s.Value) > unixsocket.MaxPath || strings.ContainsRune(s.Value, 0):
		o.Blame(key)
		o.Mistake(s.At, "%s has %d bytes: a socket's path takes at most %d", key, len(s.Value), unixsocket.MaxPath)
		return definition.Setting[string]{}
	}
	return s
}

// tenancy reports namespaces, partitions and peers other than the default, under the names that a
// format gives them.
func tenancy(o *definition.Decoder, prefix string) {
	for _, key := range []string{prefix + "namespace", prefix + "partition"} {
		o.Only(key, identity.Default)
	}
	o.Only(prefix + "peer")
}

// texts reads a key that is a list of strings.
func texts(o *definition.Decoder, key string) (list []string) {
	for _, f := range o.Given(key) {
		if f.Value.Kind != definition.List && f.Value.Kind != definition.Null {
			o.Know(key)
			o.Mistake(f.Value.At, "%s %v", key, definition.Mismatch("a list of strings", f.Value))
			return nil
		}
	}
	for _, n := range o.Elements(key) {
		if n.Kind != definition.Text {
			o.Mistake(n.At, "%s %v", key, definition.Mismatch("a list of strings", n))
		}
		list = append(list, n.Text)
	}
	return list
}
