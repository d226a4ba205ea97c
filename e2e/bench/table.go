package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one line of the table that everything ends in.
type row struct {
	work, measured string
	// target is what it is to be, and whether it is; empty: nothing was agreed on.
	target string
	// why is, if the target is missed, what stands in its way.
	why string
}

// goal compares what was measured with what it is to be.
type goal struct{ parts, missed []string }

func (g *goal) look(what string, over bool) {
	g.parts = append(g.parts, what)
	if over {
		g.missed = append(g.missed, what)
	}
}

// String is the target for people, with what of it is missed.
func (g *goal) String() string {
	s := strings.Join(g.parts, ", ")
	switch {
	case len(g.parts) == 0:
		return ""
	case len(g.missed) > 0:
		return s + ": MISSED " + strings.Join(g.missed, ", ")
	}
	return s + ": met"
}

// printRows prints the table.
func printRows(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "work\tmeasured\ttarget\n")
	var notes []string
	for _, r := range rows {
		mark := ""
		if r.why != "" && strings.Contains(r.target, "MISSED") {
			if !slices.Contains(notes, r.why) {
				notes = append(notes, r.why)
			}
			mark = fmt.Sprintf(" (%d)", slices.Index(notes, r.why)+1)
		}
		fmt.Fprintf(t, "%s\t%s\t%s%s\n", r.work, r.measured, r.target, mark)
	}
	err := t.Flush()
	for i, note := range notes {
		fmt.Fprintf(w, "(%d) %s\n", i+1, note)
	}
	return err
}

// row is what a change cost, for the table.
func (r figures) row() row {
	var messages []string
	for i, n := range r.messages {
		if n > 0 {
			messages = append(messages, fmt.Sprintf("%d %s", n, types[i].name))
		}
	}
	out := row{
		work: fmt.Sprintf("%s: %s", r.load, r.change),
		measured: fmt.Sprintf("p50 %s, p99 %s, last %s ms; %s KB; %s; CPU %.2f s (clients %.2f); RSS %d MB",
			millis(r.p50), millis(r.p99), millis(r.last), kilo(r.bytes), strings.Join(messages, " "), r.cpu.Seconds(), r.clients.Seconds(), r.rss/1e6),
	}
	if t, ok := targetOf(r); ok {
		out.target, out.why = t.compare(r), t.why
	}
	return out
}

// benchmarkLine is a line of benchstat input.
func benchmarkLine(name string, values ...string) string {
	return "Benchmark" + name + " 1 " + strings.Join(values, " ")
}

func nanos(d time.Duration, unit string) string {
	return strconv.FormatInt(d.Nanoseconds(), 10) + " " + unit
}
