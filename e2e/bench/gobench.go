package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// goBenchmark is a benchmark of the packages that is a row of the table.
type goBenchmark struct {
	name string // without "Benchmark"
	work string
	// base is what 1852bb9 took.
	base string
	unit string // of the figure that is to be at most limit
	// limit is in unit, and target the same for people; empty: nothing was agreed on.
	limit  float64
	target string
}

// cpuUnit is the unit of benchmarks that report processor time, of all threads, in milliseconds.
const cpuUnit = "cpu-ms/op"

// bareUnit is by how much leafs take more processor time than keys and signatures alone.
const bareUnit = "x-bare/op"

// searchUnit is by how much verifying a chain takes longer than Go's search.
const searchUnit = "x-search/op"

// readUnit is by how much a reading takes longer than looking at the bytes alone.
const readUnit = "x-bytes/op"

func goTable() []goBenchmark {
	const all = "28 / 371 ms for one that all dial"
	return []goBenchmark{
		{
			"PublishRound/services=1000",
			"View.Next + publish round, one endpoint that 10 dial, 1,000 services",
			all, cpuUnit, 0.5, "≤ 0.5 CPU-ms",
		},
		{"PublishRound/services=10000", "the same, 10,000 services", all, cpuUnit, 3, "≤ 3 CPU-ms"},
		{
			"Read/services=10000/files=100",
			"files: one of 10,000 definitions in 100 files changed, read to published",
			"172 ms", cpuUnit, 20, "≤ 20 CPU-ms",
		},
		{
			"Read/services=10000/files=10000", "the same in 10,000 files, by the time to scan, read and hash them",
			"–", readUnit, 1.3, "≤ 1.3 ×",
		},
		{
			"Endpoints/sidecars=1000,instances=1", "consul: one endpoint's answer, 1,000 × 11, to published",
			"12 CPU-ms", cpuUnit, 0.5, "≤ 0.5 CPU-ms",
		},
		{"Crowd/leafs=10000", "built-in CA: 10,000 leafs that are wanted at once", "", cpuUnit, 3000, "≤ 3 CPU-s"},
		{"Crowd/leafs=10000", "the same, by crypto/x509's keys and certificates alone", "", bareUnit, 1.6, "≤ 1.6 ×"},
		{
			"Verifier/intermediates=1", "certpath: a leaf and its intermediate verified as Envoys will, by Go's search with the intermediate as the root",
			"", searchUnit, 1.2, "≤ 1.2 ×",
		},
		{"Verifier/intermediates=2", "the same with two intermediates", "", searchUnit, 1.2, "≤ 1.2 ×"},
		{"Dial", "connect: Dial with its question to the catalog, both handshakes, the judgement and a ping", "", "ns/op", 0, ""},
	}
}

// goRows reads what `go test -bench` wrote to a file.
func goRows(file string) ([]row, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	measured := map[string]map[string]string{} // benchmark, unit
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
		measured[benchmarkName(fields[0])] = by
	}
	for name, by := range measured {
		if bytes := measured[name+"/bytes"]; bytes != nil {
			of, err := strconv.ParseFloat(by[cpuUnit], 64)
			to, err2 := strconv.ParseFloat(bytes[cpuUnit], 64)
			if err := errors.Join(err, err2); err != nil {
				return nil, fmt.Errorf("%s: Benchmark%s: %w", file, name, err)
			}
			by[readUnit] = strconv.FormatFloat(of/to, 'g', 3, 64)
		}
	}
	var rows []row
	for _, b := range goTable() {
		r, err := b.row(measured[b.name])
		if err != nil {
			return nil, fmt.Errorf("%s: Benchmark%s: %w", file, b.name, err)
		}
		rows = append(rows, r)
	}
	return rows, lines.Err()
}

// benchmarkName is a benchmark's name without the number of processors.
func benchmarkName(name string) string {
	name = strings.TrimPrefix(name, "Benchmark")
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		if _, err := strconv.Atoi(name[i+1:]); err == nil {
			return name[:i]
		}
	}
	return name
}

// row is b with what was measured, by unit.
func (b goBenchmark) row(by map[string]string) (row, error) {
	r := row{
		work: b.work, base: b.base, target: b.target, value: "–", verdict: unmeasured,
		beside: "Benchmark" + b.name + ": no " + b.unit,
	}
	if by["ns/op"] != "" {
		ns, err := strconv.ParseFloat(by["ns/op"], 64)
		if err != nil {
			return r, err
		}
		r.beside = fmt.Sprintf("%s; %s B, %s allocations", duration(ns), by["B/op"], by["allocs/op"])
	}
	if by[b.unit] == "" {
		return r, nil
	}
	v, err := strconv.ParseFloat(by[b.unit], 64)
	if err != nil {
		return r, err
	}
	switch b.unit {
	case "ns/op":
		r.value = duration(v)
	case cpuUnit:
		r.value = fmt.Sprintf("%.3g CPU-ms", v)
		if v >= 1e3 {
			r.value = fmt.Sprintf("%.3g CPU-s", v/1e3)
		}
	default:
		r.value = times(v)
	}
	if r.verdict = ""; b.target != "" {
		r.verdict = verdict(v <= b.limit)
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
