package main

import (
	"fmt"

	"github.com/sallyport/sallyport/attest"
	"github.com/sallyport/sallyport/catalog"
)

// mostLooked bounds how many services a status looks up users and groups of: the system's databases may be far away.
const mostLooked = 100

// unknownNames are warnings of selectors that name users or groups which this machine has not: they match nothing here, without a word.
// Where files are checked is no place to say so, as that may be another machine.
func unknownNames(v *catalog.View) (out []string) {
	looked := map[string]bool{}
	for r := range v.Registrations() {
		text, ok := r.Meta[catalog.MetaSelectors]
		if !ok || looked[r.Service.String()+" "+text] {
			continue
		}
		s, err := attest.Parse(text)
		if err != nil || !s.Named() { // sources tell of errors
			continue
		}
		if len(looked) == mostLooked {
			return out
		}
		looked[r.Service.String()+" "+text] = true
		for _, unknown := range s.Unknown() {
			where := r.Origin
			if where != "" {
				where += ": "
			}
			out = append(out, fmt.Sprintf("%sthe service %q: %s, so it names no process here: create it, or correct %s", where, r.Service.String(), unknown, catalog.MetaSelectors))
		}
	}
	return out
}
