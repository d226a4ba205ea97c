package files

import (
	"slices"

	"github.com/sallyport/sallyport/definition"
)

// whole chooses which registrations and config entries count that are not intentions, of files of
// which some are not taken or contradict each other. What it chooses moves together, or not at all.
type whole struct {
	report
	// parts are definitions of which not all counts, as they were made before: the same ones are
	// the same pointers.
	parts map[part]*definitions
	// losers are the files that claimed a title last and did not get it.
	losers map[title][]string
}

// part is definitions, and which of what they say counts.
type part struct {
	*definitions
	of aspects
}

// aspects are things that definitions can say.
type aspects uint16

const (
	aService aspects = 1 << iota
	aProxy
	ofDestination
	ofService // service-defaults
	ofProxies // proxy-defaults
	ofMesh
	ofResolver
	ofRouter
	ofSplitter
	ofProvider
)

// title is what one alone can have: an ID, or an entry of a kind and a name.
type title struct {
	of   aspects // aService for the IDs of services and of proxies
	name string
}

// claimant is who makes a claim.
type claimant struct {
	*definitions
	file string
	of   aspects
}

// titles calls f for each title that is claimed by the definitions.
func (d *definitions) titles(f func(title, aspects)) {
	for _, r := range d.registrations {
		id, _ := r.id()
		f(title{aService, id}, r.aspect())
	}
	if d.destination.Destination != nil {
		f(title{ofDestination, d.destination.Name.Service}, ofDestination)
	}
	if d.defaults != nil {
		f(title{ofService, d.defaults.name}, ofService)
	}
	if d.proxyDefaults != nil {
		f(title{ofProxies, ""}, ofProxies)
	}
	if d.mesh != nil {
		f(title{ofMesh, ""}, ofMesh)
	}
	if e := d.provider; e != nil {
		f(title{ofProvider, e.Name}, ofProvider)
	}
	if e := d.routing; e != nil {
		f(e.title(), e.kind.aspect())
	}
}

func (r registration) aspect() aspects {
	if r.proxy != nil {
		return aProxy
	}
	return aService
}

// at is where c makes its claim.
func (c claimant) at() definition.Position {
	for _, r := range c.registrations {
		if r.aspect() == c.of {
			_, at := r.id()
			return at
		}
	}
	if c.of == ofDestination {
		return c.destination.at
	}
	if c.of == ofService {
		return c.defaults.at
	}
	if c.of == ofProxies {
		return c.proxyDefaults.at
	}
	if c.of == ofMesh {
		return c.mesh.at
	}
	if c.of == ofProvider {
		return c.provider.at
	}
	return c.routing.at
}

func claimsOf(files []*file) (all map[title][]claimant, order []title) {
	all = map[title][]claimant{}
	for _, f := range files {
		for _, d := range f.definitions {
			d.titles(func(c title, of aspects) {
				if all[c] == nil {
					order = append(order, c)
				}
				all[c] = append(all[c], claimant{d, f.name, of})
			})
		}
	}
	return all, order
}

// choose returns what counts of files, each the newest version of it that was taken. Of two that
// claim an ID or an entry the one does whose file holds it in what is in force; if neither's does,
// what is in force stays, and none is new. If some files are not taken, what has vanished stays,
// too: it may be in one of those, and who claimed it in vain before does not get it now.
func (w *whole) choose(files, inForce []*file, some bool) []*file {
	w.report = report{}
	held, heldOrder := claimsOf(inForce)
	claims, order := claimsOf(files)
	dropped, lost := map[*definitions]aspects{}, map[title]bool{}
	losers := map[title][]string{}
	for _, c := range order {
		winner := w.winner(c, claims[c], held[c], some)
		for i, d := range claims[c] {
			if i != winner {
				dropped[d.definitions] |= d.of
				lost[c] = lost[c] || winner < 0
				losers[c] = append(losers[c], d.file)
			}
		}
	}
	w.losers = losers
	for _, c := range order { // a sidecar goes with its service
		for _, d := range claims[c] {
			if d.of == aProxy && dropped[d.definitions]&(aService|aProxy) == aService {
				dropped[d.definitions] |= aProxy
				lost[c] = true
			}
		}
	}
	kept := map[*definitions]aspects{}
	for _, c := range heldOrder {
		if h := held[c][0]; c.of != ofDestination && (lost[c] || some && claims[c] == nil) {
			kept[h.definitions] |= h.of
		}
	}
	parts := map[part]*definitions{}
	chosen := make([]*file, 0, len(files)+1)
	for _, f := range files {
		if slices.ContainsFunc(f.definitions, func(d *definitions) bool { return dropped[d] != 0 }) {
			less := &file{name: f.name, report: f.report, whole: f.origin()}
			for _, d := range f.definitions {
				less.definitions = append(less.definitions, w.part(d, ^dropped[d], parts))
			}
			f = less
		}
		chosen = append(chosen, f)
	}
	for _, f := range inForce {
		rest := &file{name: f.name, whole: f.origin()}
		for _, d := range f.definitions {
			if kept[d] != 0 {
				rest.definitions = append(rest.definitions, w.part(d, kept[d], parts))
			}
		}
		if len(rest.definitions) > 0 {
			chosen = append(chosen, rest)
		}
	}
	w.parts = parts
	return chosen
}

// winner is who of those that claim something gets it; -1: nobody. It reports all others.
func (w *whole) winner(c title, all, held []claimant, some bool) (winner int) {
	if len(all) == 1 {
		if some && c.of != ofDestination && len(held) == 1 && all[0].file != held[0].at().File && slices.Contains(w.losers[c], all[0].file) {
			w.twice(c, all[0].at(), held[0].at())
			return -1
		}
		return 0
	}
	winner = -1
	if c.of == ofDestination {
		winner = 0 // any: it is the name alone that counts here
	} else if len(held) == 1 {
		its := func(d claimant) bool { return d.file == held[0].at().File } // also of what is kept
		if i := slices.IndexFunc(all, its); i >= 0 && !slices.ContainsFunc(all[i+1:], its) {
			winner = i
		}
	}
	for i, d := range all {
		if i == winner {
			continue
		}
		other := all[max(winner, 0)]
		if winner < 0 && i == 0 {
			other = all[1]
		}
		w.twice(c, d.at(), other.at())
	}
	return winner
}

// twice reports a claim at a place that is made at another, too.
func (w *report) twice(c title, at, other definition.Position) {
	switch c.of {
	case ofDestination:
		w.problem(at, "service-intentions for %s are given twice (first at %s): put all sources into one entry", c.name, other)
	case ofService:
		w.problem(at, "service-defaults of %s are given twice (first at %s)", c.name, other)
	case ofProxies:
		w.problem(at, "proxy-defaults are given twice (first at %s)", other)
	case ofProvider:
		w.problem(at, "the jwt-provider %s is given twice (first at %s)", c.name, other)
	case ofMesh:
		w.problem(at, "the mesh entry is given twice (first at %s)", other)
	case ofResolver, ofRouter, ofSplitter:
		w.problem(at, "the %s of %s is given twice (first at %s)", routingOf(c.of), c.name, other)
	default:
		w.problem(at, "the ID %q is taken (%s): IDs of services and proxies must differ", c.name, other)
	}
}

// part is d with those aspects alone.
func (w *whole) part(d *definitions, of aspects, parts map[part]*definitions) *definitions {
	var has aspects
	d.titles(func(_ title, a aspects) { has |= a })
	if of &= has; of == has {
		return d
	}
	key := part{d, of}
	p := w.parts[key]
	if p == nil {
		p = &definitions{config: d.config, sum: d.sum, report: d.report}
		for _, r := range d.registrations {
			if of&r.aspect() != 0 {
				p.registrations = append(p.registrations, r)
			}
		}
		if of&ofDestination != 0 {
			p.destination = d.destination
		}
		if of&ofService != 0 {
			p.defaults = d.defaults
		}
		if of&ofProxies != 0 {
			p.proxyDefaults = d.proxyDefaults
		}
		if of&ofProvider != 0 {
			p.provider = d.provider
		}
		if of&ofMesh != 0 {
			p.mesh = d.mesh
		}
		if of&(ofResolver|ofRouter|ofSplitter) != 0 {
			p.routing = d.routing
		}
	}
	parts[key] = p
	return p
}
