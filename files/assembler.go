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
	problems Errors // if there are any and not inForce, contents and ports mean nothing
	warnings Errors
	notTaken []NotTaken // sorted by file
	inForce  bool       // contents are those in force, whatever the problems
	early    bool       // only the intentions are new; the rest, and what is wrong, follows
}

// assembler makes contents of files, without I/O. The outcome depends on the files and on the ports
// of the last valid outcome alone. All else that it keeps has a change cost no more than what it
// touches, and what did not change come out as the same pointer.
type assembler struct {
	config   Config
	ports    map[string]uint16 // of the last valid outcome
	contents catalog.Contents  // likewise
	files    []*file           // likewise
	assembly *assembly         // of contents; nil: it has to be made anew
}

// assemble puts files together, of each the version that is to count, sorted by name.
func (r *assembler) assemble(files []*file) outcome {
	if o, ok := r.follow(files); ok {
		return o
	}
	whole := true
	for _, f := range files {
		whole = whole && !slices.ContainsFunc(f.problems, func(p Problem) bool { return p.Unread })
	}
	a := newAssembly(r.config)
	a.update(files, whole, r.ports, r.contents)
	return r.outcome(a, files)
}

// follow is assemble for what costs no more than what it touches: files without a mistake that
// follow those of before; ok is false for all others.
func (r *assembler) follow(files []*file) (o outcome, ok bool) {
	a := r.assembly
	if a == nil || slices.ContainsFunc(files, func(f *file) bool { return len(f.problems) > 0 }) {
		return o, false
	}
	if !a.update(files, true, r.ports, r.contents) || len(a.problems) > 0 {
		r.assembly = nil // it is of neither
		return o, false
	}
	return r.outcome(a, files), true
}

func (r *assembler) outcome(a *assembly, files []*file) (o outcome) {
	o.files = len(files)
	for _, f := range files {
		o.problems = append(o.problems, f.problems...)
		o.warnings = append(o.warnings, f.warnings...)
	}
	a.end(r.config.Dir)
	o.contents, o.ports, o.newPorts = a.contents, a.ports, a.newPorts
	o.problems = append(o.problems, a.problems...).sorted()
	o.warnings = append(o.warnings, a.warnings...).sorted()
	if len(o.problems) == 0 {
		r.assembly, r.contents, r.ports, r.files = a, o.contents, o.ports, files
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
