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

// report collects problems, and warnings of what counts all the same.
type report struct{ problems, warnings Errors }

func (r *report) problem(at definition.Position, format string, args ...any) {
	r.problems = append(r.problems, Problem{File: at.File, Line: at.Line, Text: fmt.Sprintf(format, args...)})
}

func (r *report) warning(at definition.Position, format string, args ...any) {
	r.warnings = append(r.warnings, Problem{File: at.File, Line: at.Line, Text: fmt.Sprintf(format, args...)})
}

// sorted returns the problems by file and line, each once.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Text, b.Text))
	})
	return slices.Compact(e)
}

func (e Errors) texts() []string {
	if len(e) == 0 {
		return nil
	}
	out := make([]string, len(e))
	for i, p := range e {
		out[i] = p.String()
	}
	return out
}
