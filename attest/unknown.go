package attest

import (
	"errors"
	"fmt"
	"os/user"
	"slices"
)

// Named reports whether s names a user or a group by name.
func (s Selectors) Named() bool {
	return slices.ContainsFunc(s.list, func(o selector) bool {
		return o.kind == kindUser || o.kind == kindGroup || o.kind == kindSupplementaryGroup
	})
}

// Unknown says of each user and group that s names by name, and that the system's databases do not have, that it is not there; nil: all
// are, or that cannot be told. It blocks as long as these do.
func (s Selectors) Unknown() (out []string) {
	for _, o := range s.list {
		var err error
		what := "group"
		switch o.kind {
		case kindUser:
			what = "user"
			_, err = user.Lookup(o.value)
		case kindGroup, kindSupplementaryGroup:
			_, err = user.LookupGroup(o.value)
		}
		_, noUser := errors.AsType[user.UnknownUserError](err)
		_, noGroup := errors.AsType[user.UnknownGroupError](err)
		if noUser || noGroup {
			out = append(out, fmt.Sprintf("%q names a %s that is not on this machine", o, what))
		}
	}
	return out
}
