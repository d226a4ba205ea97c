package files

import (
	"slices"

	"github.com/sallyport/sallyport/catalog"
)

// outcome is what a set of files comes to.
type outcome struct {
	contents catalog.Contents
	ports    map[string]uint16 // what is to be remembered of chosen ports
	newPorts bool              // whether that is something else than before
	files    int
	problems Errors // if there are any, contents and ports mean nothing
	warnings Errors
}

// assembler makes contents of files, without I/O. The outcome depends on the files and on the ports
// of the last valid outcome alone. All else that it keeps has a change cost no more than what it
// touches, and what did not change come out as the same pointer.
type assembler struct {
	config   Config
	ports    map[string]uint16 // of the last valid outcome
	contents catalog.Contents  // likewise
	assembly *assembly         // of contents; nil: it has to be made anew
}

// assemble puts files together, of each the version that is to count, sorted by name.
func (r *assembler) assemble(files []*file) (o outcome) {
	o.files = len(files)
	whole := true
	for _, f := range files {
		o.problems = append(o.problems, f.problems...)
		o.warnings = append(o.warnings, f.warnings...)
		whole = whole && !slices.ContainsFunc(f.problems, func(p Problem) bool { return p.Unread })
	}
	a := r.assembly
	if len(o.problems) > 0 || a == nil || !a.update(files, true, r.ports, r.contents) {
		if a = newAssembly(r.config); len(o.problems) == 0 {
			r.assembly = nil
		}
		a.update(files, whole, r.ports, r.contents)
	}
	a.end(r.config.Dir)
	o.contents, o.ports, o.newPorts = a.contents, a.ports, a.newPorts
	o.problems = append(o.problems, a.problems...).sorted()
	o.warnings = append(o.warnings, a.warnings...).sorted()
	if len(o.problems) == 0 {
		r.assembly, r.contents, r.ports = a, o.contents, o.ports
	}
	return o
}

// differing compares the definitions of two states of the files.
func differing(old, files []*file) (gone, added []*definitions) {
	was, is := definitionsOf(without(old, files)), definitionsOf(without(files, old))
	return without(was, is), without(is, was)
}

func definitionsOf(files []*file) (all []*definitions) {
	for _, f := range files {
		all = append(all, f.definitions...)
	}
	return all
}

// without is list without what is in others too.
func without[T comparable](list, others []T) (rest []T) {
	in := make(map[T]bool, len(others))
	for _, t := range others {
		in[t] = true
	}
	for _, t := range list {
		if !in[t] {
			rest = append(rest, t)
		}
	}
	return rest
}
