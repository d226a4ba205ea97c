package files

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
)

// alike is bound, in which those that both lists let in may make the requests that list says. So who is let in waits until that is recorded, and
// what he may ask for does not: of two lists of permissions there is none of what both allow, and who waited would be refused what he may ask
// for by either.
func alike(bound, list []*catalog.Destination) []*catalog.Destination {
	cloned := false
	for k, b := range bound {
		i, ok := slices.BinarySearchFunc(list, b, func(a, b *catalog.Destination) int { return strings.Compare(a.Name.Service, b.Name.Service) })
		if !ok || list[i] == b || list[i].Name != b.Name {
			continue
		}
		said, changed := slices.Clone(b.Intentions), false
		for n, was := range said {
			at := slices.IndexFunc(list[i].Intentions, func(i intention.Intention) bool { return i.Source == was.Source })
			if at < 0 {
				continue
			}
			if is := list[i].Intentions[at]; letsIn(was) && letsIn(is) && (is.Permissions != was.Permissions || is.JWT != was.JWT) {
				said[n], changed = is, true
			}
		}
		if !changed {
			continue
		}
		if !cloned {
			bound, cloned = slices.Clone(bound), true
		}
		bound[k] = &catalog.Destination{Name: b.Name, Intentions: said}
		if slices.Equal(said, list[i].Intentions) {
			bound[k] = list[i]
		}
	}
	return bound
}

// letsIn reports whether i lets its source in for anything.
func letsIn(i intention.Intention) bool {
	return i.Held == "" && i.Unsupported == "" && (i.Action == intention.Allow || i.Permissions != nil)
}
