package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// event is a line of `go test -json` (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

type testName struct{ pkg, test string }

// report reads events and prints what a person wants to read.
type report struct {
	out, log io.Writer
	output   map[testName]*strings.Builder // of what has not ended yet

	passed, failed, skipped int
	slow                    int               // failed for the machine's sake alone
	complaints              []string          // of the failed tests, in short
	verdicts                map[testName]bool // of the failed tests: whether for the machine's sake
}

func newReport(out, log io.Writer) *report {
	return &report{out: out, log: log, output: map[testName]*strings.Builder{}, verdicts: map[testName]bool{}}
}

func (r *report) line(text []byte) {
	var e event
	if json.Unmarshal(text, &e) != nil || e.Action == "" {
		// go itself says something.
		r.print(string(text))
		r.keep(string(text))
		return
	}
	name := testName{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		r.print(e.Output)
		r.keep(e.Output)
	case "output":
		r.keep(e.Output)
		if strings.HasPrefix(e.Output, "FIGURE ") || strings.HasPrefix(e.Output, "NOTE: ") {
			r.print(e.Output)
		}
		b := r.output[name]
		if b == nil {
			b = &strings.Builder{}
			r.output[name] = b
		}
		b.WriteString(e.Output)
	case "pass", "fail", "skip":
		r.end(name, e)
		delete(r.output, name)
	}
}

func (r *report) end(name testName, e event) {
	text := ""
	if b := r.output[name]; b != nil {
		text = b.String()
	}
	switch {
	case name.test != "" && e.Action == "pass":
		r.passed++
	case name.test != "" && e.Action == "fail":
		slow := r.tooSlow(name, text)
		if r.verdicts[name] = slow; slow {
			r.slow++
		} else {
			r.failed++
		}
		r.print(fmt.Sprintf("\nFAIL %s %s\n%s", name.pkg, name.test, text))
		r.complain(name.test, text)
	case name.test != "":
		r.skipped++
		r.print(fmt.Sprintf("SKIP %s %s: %s\n", name.pkg, name.test, reason(text)))
	case e.Action == "pass":
		r.print(fmt.Sprintf("ok   %s %.1fs\n", name.pkg, e.Elapsed))
	case e.Action == "fail":
		r.unfinished(name.pkg)
		if !r.blamed(name.pkg) {
			r.failed++ // it was not built, or its process ended by itself
		}
		r.print(fmt.Sprintf("FAIL %s %.1fs\n%s", name.pkg, e.Elapsed, text))
	}
}

// unfinished prints the tests that were running when their process died.
func (r *report) unfinished(pkg string) {
	for _, name := range slices.SortedFunc(maps.Keys(r.output), func(a, b testName) int { return strings.Compare(a.test, b.test) }) {
		if name.pkg == pkg && name.test != "" {
			r.print(fmt.Sprintf("\nFAIL %s %s: did not end\n%s", pkg, name.test, r.output[name]))
			r.complain(name.test+" did not end", r.output[name].String())
			r.verdicts[name] = false
			r.failed++
			delete(r.output, name)
		}
	}
}

// blamed reports whether a failed test explains that its package failed.
func (r *report) blamed(pkg string) bool {
	for name := range r.verdicts {
		if name.pkg == pkg {
			return true
		}
	}
	return false
}

// tooSlow reports whether a failed test blames the machine alone: each complaint of a test's own file
// does, or it has none and its failed subtests do. What is logged beside that counts as a complaint,
// which errs to the safe side.
func (r *report) tooSlow(name testName, text string) bool {
	slow := false
	for line := range strings.Lines(text) {
		at := complaint.FindString(line)
		if at == "" {
			continue
		}
		if !strings.HasPrefix(line[len(at):], tooSlow) {
			return false
		}
		slow = true
	}
	if slow {
		return true
	}
	for sub, s := range r.verdicts {
		if sub.pkg == name.pkg && strings.HasPrefix(sub.test, name.test+"/") {
			if !s {
				return false
			}
			slow = true
		}
	}
	return slow
}

// tooSlow is meshtest.TooSlow: this command imports none of what it tests.
const tooSlow = "TOO SLOW: "

// complaint is where a line of a test's own file comes from; what the tests' support logs comes from others.
var complaint = regexp.MustCompile(`^\s+[\w.-]+_test\.go:\d+: `)

// place is where a test's line comes from.
var place = regexp.MustCompile(`^\s+[\w.-]+\.go:\d+: `)

const mostComplaints, longestComplaint, longestDifference = 5, 300, 900

// complain keeps the first lines that a failed test has said itself, for the end: what it printed may be long. One that ends with a colon
// goes on in the next lines, of which those of a difference (cmp.Diff) say what it is about.
func (r *report) complain(test, text string) {
	said, goesOn := 0, 0
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		begins := place.MatchString(line)
		switch {
		case begins && said < mostComplaints:
			r.complaints = append(r.complaints, test+": "+strings.TrimSpace(line[:min(len(line), longestComplaint)]))
			said++
			goesOn = 0
			if strings.HasSuffix(line, ":") {
				goesOn = longestDifference
			}
		case begins:
			goesOn = 0
		case goesOn > 0:
			if more := strings.TrimSpace(line); strings.HasPrefix(more, "-") || strings.HasPrefix(more, "+") {
				more = more[:min(len(more), goesOn)]
				r.complaints[len(r.complaints)-1] += " " + more
				goesOn -= len(more)
			}
		}
	}
	if said == 0 {
		r.complaints = append(r.complaints, test)
	}
}

// reason is what a test said last before it was skipped.
func reason(text string) string {
	said := "without a reason"
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			said = line
		}
	}
	return said
}

func (r *report) summary(took time.Duration) {
	for _, c := range r.complaints {
		r.print("FAILED " + c + "\n")
	}
	if r.slow > 0 {
		r.print(fmt.Sprintf("THIS MACHINE IS TOO SLOW: %d failed as the control load did, which knows nothing of what is tested\n", r.slow))
	}
	r.print(fmt.Sprintf("%d passed, %d failed, %d skipped in %s\n", r.passed, r.failed, r.skipped, took.Round(100*time.Millisecond)))
}

// print and keep ignore errors of writing: the tests' result does not depend on who listens.
func (r *report) print(text string) { _, _ = io.WriteString(r.out, text) }
func (r *report) keep(text string)  { _, _ = io.WriteString(r.log, text) }

// status is the exit status after go test, which has failed or not.
func (r *report) status(failed, noSkip bool) int {
	switch {
	case r.failed > 0 || noSkip && r.skipped > 0 || failed && r.slow == 0:
		return statusFailed
	case r.slow > 0:
		return statusTooSlow
	}
	return statusPassed
}
