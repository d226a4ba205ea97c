package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
)

// goTarget is what the benchmarks of one name are to be.
type goTarget struct {
	name   string
	ns     float64
	allocs float64
	text   string
}

func goTargets() []goTarget {
	return []goTarget{{name: "BenchmarkDecide", ns: 100, allocs: 0, text: "≤ 100 ns, no allocation"}}
}

// goBenchmarks prints what `go test -bench` wrote to a file, each beside its target if it has one.
func goBenchmarks(w io.Writer, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "benchmark\tns\tbytes\tallocations\t target\n")
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		by := map[string]string{}
		for i := 2; i+1 < len(fields); i += 2 {
			by[fields[i+1]] = fields[i]
		}
		note, err := goNote(fields[0], by)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", file, fields[0], err)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", fields[0], by["ns/op"], by["B/op"], by["allocs/op"], note)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return t.Flush()
}

// goNote is the target of a benchmark and whether it was met; empty if it has none.
func goNote(name string, by map[string]string) (string, error) {
	for _, g := range goTargets() {
		base, _, _ := strings.Cut(name, "/")
		if base, _, _ = strings.Cut(base, "-"); base != g.name {
			continue
		}
		ns, err := strconv.ParseFloat(by["ns/op"], 64)
		if err != nil {
			return "", err
		}
		allocs, err := strconv.ParseFloat(by["allocs/op"], 64)
		if err != nil {
			return "", err
		}
		if ns > g.ns || allocs > g.allocs {
			return " " + g.text + ": MISSED", nil
		}
		return " " + g.text + ": met", nil
	}
	return "", nil
}
