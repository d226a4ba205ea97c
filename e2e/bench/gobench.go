package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// goBenchmark is a benchmark of the packages that belongs into the table.
type goBenchmark struct {
	prefix string // of its name, without "Benchmark"
	work   string
	// ns and allocs are what it may cost at most; negative: nothing was agreed on.
	ns, allocs float64
}

func goTable() []goBenchmark {
	return []goBenchmark{
		{"Decide/n=10", "Decide, 10 intentions", 100, 0},
		{"Decide/n=1000", "Decide, 1,000 intentions", 100, 0},
		{"Decide/n=100000", "Decide, 100,000 intentions", 100, 0},
		{"Read/services=1000", "files: one of 1,000 × 10 changed", -1, -1},
		{"Read/services=10000", "files: one of 10,000 × 10 changed", -1, -1},
		{"Next/services=1000", "View.Next, 1,000 services", -1, -1},
		{"Next/services=10000", "View.Next, 10,000 services", -1, -1},
		{"PublishRound/services=1000", "publish round, 1,000 services × 10", -1, -1},
		{"PublishRound/services=10000", "publish round, 10,000 services × 10", -1, -1},
		{"Build", "snapshot.Build", -1, -1},
		{"CacheBuild", "snapshot.Cache.Build", -1, -1},
	}
}

// goRows reads what `go test -bench` wrote to a file. A benchmark of the table that is not there is an error.
func goRows(file string) ([]row, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := goTable()
	found := make([][]row, len(all))
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
		for i, b := range all {
			if rest, ok := b.matches(fields[0]); ok {
				r, err := b.row(rest, by)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", file, fields[0], err)
				}
				found[i] = append(found[i], r)
			}
		}
	}
	var rows []row
	for i, b := range all {
		if len(found[i]) == 0 {
			err = fmt.Errorf("%s: no Benchmark%s in it", file, b.prefix)
		}
		rows = append(rows, found[i]...)
	}
	if lines.Err() != nil {
		return rows, lines.Err()
	}
	return rows, err
}

// matches reports whether a line's name is b's, and what else it says.
func (b goBenchmark) matches(name string) (rest string, ok bool) {
	name = strings.TrimPrefix(name, "Benchmark")
	if i := strings.LastIndexByte(name, '-'); i >= 0 { // the number of processors
		if _, err := strconv.Atoi(name[i+1:]); err == nil {
			name = name[:i]
		}
	}
	rest, ok = strings.CutPrefix(name, b.prefix)
	return rest, ok && (rest == "" || rest[0] == '/')
}

func (b goBenchmark) row(rest string, by map[string]string) (row, error) {
	ns, err := strconv.ParseFloat(by["ns/op"], 64)
	if err != nil {
		return row{}, err
	}
	allocs, err := strconv.ParseFloat(by["allocs/op"], 64)
	if err != nil {
		return row{}, err
	}
	r := row{work: b.work, measured: fmt.Sprintf("%s, %s B, %.0f allocations", duration(ns), by["B/op"], allocs)}
	if ms := by["cpu-ms/op"]; ms != "" {
		r.measured = ms + " CPU-ms, " + r.measured
	}
	if rest != "" {
		r.work += ", " + strings.TrimPrefix(rest, "/")
	}
	if b.ns >= 0 {
		var g goal
		g.look("≤ "+duration(b.ns), ns > b.ns)
		g.look(fmt.Sprintf("%.0f allocations", b.allocs), allocs > b.allocs)
		r.target = g.String()
	}
	return r, nil
}

func duration(ns float64) string {
	switch {
	case ns < 1e3:
		return fmt.Sprintf("%.3g ns", ns)
	case ns < 1e6:
		return fmt.Sprintf("%.1f µs", ns/1e3)
	}
	return fmt.Sprintf("%.1f ms", ns/1e6)
}
