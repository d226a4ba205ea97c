package files

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/definition"
)

// Problem is one mistake in the files.
type Problem struct {
	// File is the file's name within the directory, or the directory's path if the mistake is not
	// in a file.
	File string `json:"file"`
	// Line counts from 1; 0: the file as a whole.
	Line int `json:"line,omitempty"`
	// Text says what is wrong and how to mend it.
	Text string `json:"text"`
	// Doubtful is whether it may be none if a file that cannot be read says something.
	Doubtful bool `json:"-"`
	// Unread is whether the file could not be parsed for it. What files say of one another was not
	// checked then.
	Unread bool `json:"unread,omitempty"`
}

// String is the problem as compilers print theirs: "web.hcl:3: text".
func (p Problem) String() string { return p.origin() + ": " + p.Text }

func (p Problem) origin() string { return definition.Position{File: p.File, Line: p.Line}.String() }

// warn logs a warning.
func (p Problem) warn(l *slog.Logger) {
	l.Warn("definition accepted with a warning", "origin", p.origin(), "err", p.Text)
}

// Errors are all the mistakes of a directory, sorted by file and line. It is the error of Load.
type Errors []Problem

// Error is all problems, one per line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// maxReported bounds how many problems, and how many warnings, one file or one look at all of them
// comes to. A file of a few megabytes can hold hundreds of thousands of mistakes.
const maxReported = 1000

// report collects problems, and warnings of what counts all the same: maxReported of each, and how
// many more there were.
type report struct {
	problems, warnings         Errors
	moreProblems, moreWarnings int
}

func (r *report) problem(at definition.Position, format string, args ...any) {
	if len(r.problems) == maxReported {
		r.moreProblems++
		return
	}
	r.problems = append(r.problems, Problem{File: at.File, Line: at.Line, Text: fmt.Sprintf(format, args...)})
}

// doubtful is a problem that may be none if something is said elsewhere.
func (r *report) doubtful(at definition.Position, format string, args ...any) {
	r.problem(at, format, args...)
	r.problems[len(r.problems)-1].Doubtful = true
}

func (r *report) warning(at definition.Position, format string, args ...any) {
	if len(r.warnings) == maxReported {
		r.moreWarnings++
		return
	}
	r.warnings = append(r.warnings, Problem{File: at.File, Line: at.Line, Text: fmt.Sprintf(format, args...)})
}

// include adds what o has.
func (r *report) include(o *report) {
	r.problems, r.moreProblems = some(append(r.problems, o.problems...), r.moreProblems+o.moreProblems)
	r.warnings, r.moreWarnings = some(append(r.warnings, o.warnings...), r.moreWarnings+o.moreWarnings)
}

func some(e Errors, more int) (Errors, int) {
	if len(e) <= maxReported {
		return e, more
	}
	return e[:maxReported], more + len(e) - maxReported
}

// end says, in the file of that name, of how many each list is a part.
func (r *report) end(file string) {
	for _, l := range []struct {
		list *Errors
		more int
		what string
	}{{&r.problems, r.moreProblems, "mistakes"}, {&r.warnings, r.moreWarnings, "warnings"}} {
		if l.more > 0 {
			*l.list = append(*l.list, Problem{File: file, Text: fmt.Sprintf("%d %s, and no more than these are listed", len(*l.list)+l.more, l.what)})
		}
	}
	r.moreProblems, r.moreWarnings = 0, 0
}

// sorted returns the problems by file and line, each once.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Text, b.Text))
	})
	return slices.Compact(e)
}

// maxTold bounds how many problems of a directory a Source tells of; `sallyport validate` has more.
const maxTold = 100

// texts are the first problems, one a line, and how many more there are.
func (e Errors) texts() (out []string) {
	for _, p := range e[:min(len(e), maxTold)] {
		out = append(out, p.String())
	}
	if more := len(e) - maxTold; more > 0 {
		out = append(out, fmt.Sprintf("and %d more: `sallyport validate` lists them", more))
	}
	return out
}

// newIn calls f for those that are told of and are not in old, the texts of an earlier time.
func (e Errors) newIn(old []string, f func(Problem)) {
	known := make(map[string]bool, len(old))
	for _, text := range old {
		known[text] = true
	}
	for _, p := range e[:min(len(e), maxTold)] {
		if !known[p.String()] {
			f(p)
		}
	}
}
