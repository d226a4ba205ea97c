package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one line of the table that everything ends in.
type row struct {
	work, value string
	// base is what the binary that this one is compared with takes, ratio this one's share of it;
	// empty: it was not measured.
	base, ratio string
	// beside is what else was measured to be compared with, and what explains the value.
	beside string
	// target is what value, or one of the ratios, is to be; empty: nothing was agreed on.
	target, verdict string
}

// unmeasured is the verdict on a target that needs what was not there.
const unmeasured = "not measured"

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "MISSED"
}

// printRows prints the table.
func printRows(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "work\tmeasured\tbase\tratio\ttarget\t\tbeside")
	for _, r := range rows {
		cells := []string{r.work, r.value, or(r.base), or(r.ratio), or(r.target), r.verdict, r.beside}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

func or(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// benchmarkLine is a line of benchstat input.
func benchmarkLine(name string, values ...string) string {
	return "Benchmark" + name + " 1 " + strings.Join(values, " ")
}

func nanos(d time.Duration, unit string) string {
	return strconv.FormatInt(d.Nanoseconds(), 10) + " " + unit
}

func mega(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }
