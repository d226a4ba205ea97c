package files

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/catalog"
)

// NotTaken is a file of which something else is in force than it says.
type NotTaken struct {
	// File is its name, or the directory's path if that cannot be read.
	File string `json:"file"`
	// TakenAt is when that was taken which it said last without a mistake; zero: it never was.
	TakenAt time.Time `json:"taken_at,omitzero"`
	// Since is when it was first found that way.
	Since time.Time `json:"since"`
	// Problem is the first mistake.
	Problem string `json:"problem"`
}

// ledger takes files one by one: it knows what each said when it was taken last, and what is in
// force (docs/adr/0010-files-one-by-one.md).
type ledger struct {
	config    Config
	assembler *assembler
	whole     whole
	states    []*state // sorted by name
	// intentions are those that are to be in force, and published those that are: what lets somebody
	// in is recorded before.
	intentions, published []*catalog.Destination
	// started says that something is in force. Until then all files count, or none.
	started bool
	// clean says that all of the files was taken the last time.
	clean bool
}

// state is how a file is doing. Nobody changes it once it is made.
type state struct {
	name    string
	taken   *file // what it said when it was taken last; nil: it never was
	at      time.Time
	refused *file // what it says now; nil: that was taken
	since   time.Time
}

func newLedger(c Config, ports map[string]uint16) *ledger {
	return &ledger{config: c, assembler: &assembler{config: c, ports: ports}}
}

// take takes what can be taken of files, sorted by name, and calls tell with what that comes to:
// first with the intentions, if they are others and the rest may take a while, then with everything.
func (l *ledger) take(files []*file, now time.Time, tell func(outcome)) {
	if !l.started || l.config.Strict {
		o := l.assembler.assemble(files)
		if len(o.problems) == 0 {
			l.look(files, now)
			l.started, l.clean, l.intentions, o.inForce = true, true, o.contents.Intentions, true
		}
		tell(o)
		return
	}
	said, notTaken := l.look(files, now)
	if l.clean && len(notTaken) == 0 {
		if o, ok := l.assembler.follow(said.files); ok {
			l.intentions, o.inForce = o.contents.Intentions, true
			tell(o)
			return
		}
	}
	l.clean = false
	if list := l.force(said, notTaken); !slices.Equal(list, l.intentions) {
		l.intentions = list
		tell(l.outcome(outcome{early: true, files: len(files), notTaken: notTaken}))
	}
	parts := l.whole.choose(said.files, l.assembler.files, len(notTaken) > 0)
	o := l.assembler.assemble(parts)
	if len(o.problems) > 0 {
		o.newPorts = false
	}
	o.notTaken, o.files = notTaken, len(files)
	l.whole.end(l.config.Dir)
	o.problems = append(o.problems, l.whole.problems...)
	for _, f := range files {
		if len(f.problems) > 0 {
			o.problems, o.warnings = append(o.problems, f.problems...), append(o.warnings, f.warnings...)
		}
	}
	o.problems, o.warnings = o.problems.sorted(), o.warnings.sorted()
	l.clean = len(o.problems) == 0
	tell(l.outcome(o))
}

// outcome is o with the contents that are in force.
func (l *ledger) outcome(o outcome) outcome {
	o.contents, o.inForce = l.assembler.contents, true
	o.contents.Intentions = l.intentions
	return o
}

// force makes the intentions that are in force of what files say.
func (l *ledger) force(s said, notTaken []NotTaken) []*catalog.Destination {
	c := catalog.Contents{}
	if len(notTaken) == 0 {
		c.Intentions = l.config.allOf(s.entries())
	} else {
		c.Intentions, _ = l.config.someOf(s.entries(), l.published, mended(notTaken))
	}
	c.Reuse(&catalog.Contents{Intentions: l.intentions})
	return c.Intentions
}

// said are the files that were taken, now or once, as they were then.
type said struct {
	files []*file
	kept  []bool // whether each says something else now
}

// entries are those of the files.
func (s said) entries() (all []entry) {
	for i, f := range s.files {
		for _, d := range f.definitions {
			if d.destination.Destination != nil {
				all = append(all, entry{d.destination, s.kept[i]})
			}
		}
	}
	return all
}

// mended is what is waited for while files are not taken.
func mended(notTaken []NotTaken) string {
	const most = 3
	var names []string
	for _, n := range notTaken[:min(len(notTaken), most)] {
		names = append(names, n.File)
	}
	what := strings.Join(names, ", ")
	if more := len(notTaken) - most; more > 0 {
		what += fmt.Sprintf(" and %d more", more)
	}
	if len(notTaken) == 1 {
		return what + " can be taken"
	}
	return what + " can all be taken"
}

// look notes what each file says, and returns that. files are sorted by name.
func (l *ledger) look(files []*file, now time.Time) (all said, notTaken []NotTaken) {
	states := make([]*state, 0, len(files))
	was := l.states
	var gone []*state // that may have another name now
	for _, f := range files {
		for len(was) > 0 && was[0].name < f.name {
			gone, was = append(gone, was[0]), was[1:]
		}
		s := &state{name: f.name}
		if len(was) > 0 && was[0].name == f.name {
			s, was = was[0], was[1:]
		}
		states = append(states, s)
	}
	gone = append(gone, was...)
	all.files, all.kept = make([]*file, 0, len(files)), make([]bool, 0, len(files))
	for i, f := range files {
		s := states[i]
		switch {
		case len(f.problems) == 0:
			s = s.take(f, now)
		case s.taken == nil && s.refused == nil && len(gone) > 0:
			s = s.renamed(f, &gone).refuse(f, now)
		default:
			s = s.refuse(f, now)
		}
		if states[i] = s; s.refused != nil {
			notTaken = append(notTaken, NotTaken{File: s.name, TakenAt: s.at, Since: s.since, Problem: f.problems[0].String()})
		}
		if s.taken != nil {
			all.files, all.kept = append(all.files, s.taken), append(all.kept, s.refused != nil)
		}
	}
	l.states = states
	return all, notTaken
}

// renamed is s with what one of gone said, if that was not taken and has f's bytes; it is gone no
// more then.
func (s *state) renamed(f *file, gone *[]*state) *state {
	i := slices.IndexFunc(*gone, func(g *state) bool {
		return g.refused != nil && f.sum != [sha256.Size]byte{} && g.refused.sum == f.sum
	})
	if i < 0 {
		return s
	}
	n := *(*gone)[i]
	*gone = slices.Delete(*gone, i, i+1)
	n.name = s.name
	return &n
}

// take is s after f was taken.
func (s *state) take(f *file, now time.Time) *state {
	switch {
	case s.taken == f && s.refused == nil:
		return s
	case s.taken != nil && s.taken.sum == f.sum:
		now = s.at
	}
	return &state{name: s.name, taken: f, at: now}
}

// refuse is s after f was not taken.
func (s *state) refuse(f *file, now time.Time) *state {
	if s.refused != nil {
		now = s.since
	}
	return &state{name: s.name, taken: s.taken, at: s.at, refused: f, since: now}
}
