package definition

import (
	"strings"

	"github.com/sallyport/sallyport/identity"
)

// MaxName bounds the length of names and IDs in files.
const MaxName = 256

// Name checks that s, the value of key, can be a service's name. It is false, and a mistake, if
// not; if s is not set that is only false.
func (d *Decoder) Name(key string, s Setting[string]) bool {
	if !s.Set {
		return false
	}
	f := d.Given(key)[0]
	switch {
	case identity.NewName(s.Value).Check() == nil && (d.Lenient || len(s.Value) <= MaxName):
		return true
	case strings.Contains(s.Value, identity.Wildcard):
		d.wrong(f, "%.60q: a wildcard cannot be used here", s.Value)
	case !d.Lenient && strings.Contains(s.Value, "${"):
		d.wrong(f, "%.60q: nothing is filled in here: write the name itself", s.Value)
	case identity.NewName(s.Value).Check() != nil:
		d.wrong(f, "%.60q cannot be a service's name: letters, digits, '.', '-' and '_' are allowed", s.Value)
	default:
		d.wrong(f, "has %d characters: at most %d are allowed", len(s.Value), MaxName)
	}
	return false
}

// Pattern is a service's name, or "*" for all; ok is false if it is neither.
func (d *Decoder) Pattern(key string) (service string, ok bool) {
	s := d.Text(key)
	switch {
	case !s.Set:
		d.Need(key, s)
	case s.Value == identity.Wildcard:
		ok = true
	case strings.Contains(s.Value, identity.Wildcard):
		d.wrong(d.field(key), "%.60q: the wildcard * can only stand alone", s.Value)
	default:
		ok = d.Name(key, s)
	}
	return s.Value, ok
}
