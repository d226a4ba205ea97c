package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRows: each of ours is compared with what was measured beside it, and what was not measured is
// never said to be met.
func TestRows(t *testing.T) {
	l := load{sidecars: 1000, upstreams: 11, protocol: "tcp"}
	took := func(by, change string, ms ...int) (m measurements) {
		for _, d := range ms {
			m = append(m, figures{plane: by, load: l, change: change, last: time.Duration(d) * time.Millisecond})
		}
		return m
	}
	join := func(all ...measurements) (m measurements) {
		for _, some := range all {
			m = append(m, some...)
		}
		return m
	}
	for name, c := range map[string]struct {
		measured measurements
		want     []string // base, ratio and verdict
	}{
		"a first configuration without base": {
			took(byThis, firstConfiguration, 700), []string{"", "", unmeasured},
		},
		"and with one": {
			join(took(byThis, firstConfiguration, 700), took(byBase, firstConfiguration, 1000)),
			[]string{"1000.0 ms", "0.70 ×", "met"},
		},
		"each in its own round, of which the first was on a busy machine": {
			join(took(byThis, firstConfiguration, 9000, 90, 90), took(byBase, firstConfiguration, 10_000, 100, 100)),
			[]string{"100.0 ms", "0.90 ×", "MISSED"},
		},
		"a change beside the bare sender": {
			join(took(byThis, oneEndpoint, 100), took(byBare, oneEndpoint, 80)), []string{"", "", "met"},
		},
		"a change that waits to be noticed beside the same": {
			join(took(byThis, wildcardIntention+unsignalled, 130), took(byBare, wildcardIntention, 80)),
			[]string{"", "", "MISSED"},
		},
		"a change without a target": {took(byThis, oneLeaf, 3), []string{"", "", ""}},
	} {
		rows := c.measured.rows()
		if len(rows) != 1 {
			t.Errorf("%s: %d rows, want 1", name, len(rows))
			continue
		}
		if diff := cmp.Diff(c.want, []string{rows[0].base, rows[0].ratio, rows[0].verdict}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	beside := took(byThis, oneEndpoint, 300)
	beside[0].answered = 200 * time.Millisecond
	for want, files := range map[string]measurements{
		"met": took(byThis, oneEndpoint, 80), "MISSED": took(byThis, oneEndpoint, 60), unmeasured: nil,
	} {
		if rows := beside.besideConsul(files); len(rows) != 1 || rows[0].verdict != want {
			t.Errorf("beside Consul: %+v, want %s", rows, want)
		}
	}
}

// TestGoRows: a benchmark that is missing, or does not say what the target is about, is not measured.
func TestGoRows(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bench.txt")
	const text = `goos: linux
BenchmarkPublishRound/services=1000-2 967 1289776 ns/op 0.4 cpu-ms/op 207446 B/op 1220 allocs/op
BenchmarkPublishRound/services=10000-2 967 1289776 ns/op 207446 B/op 1220 allocs/op
BenchmarkRead/services=10000/files=100-2 10 30000000 ns/op 30 cpu-ms/op 1 B/op 1 allocs/op
BenchmarkRead/services=10000/files=10000-2 10 30000000 ns/op 30 cpu-ms/op 1 B/op 1 allocs/op
BenchmarkRead/services=10000/files=10000/bytes-2 10 30000000 ns/op 25 cpu-ms/op 1 B/op 1 allocs/op
BenchmarkCrowd/leafs=10000-2 3 3434486417 ns/op 3454 cpu-ms/op 1.365 x-bare/op
BenchmarkVerifier/intermediates=1-2 1000 61000 ns/op 1.051 x-search/op 1 B/op 1 allocs/op
BenchmarkDial-2 10 1500000 ns/op 1 B/op 1 allocs/op
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	rows, err := goRows(file)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rows {
		got = append(got, r.value+" "+r.verdict)
	}
	want := []string{
		"0.4 CPU-ms met", "– " + unmeasured, "30 CPU-ms MISSED", "1.20 × met", "– " + unmeasured, "3.45 CPU-s MISSED", "1.36 × met", "1.05 × met", "– " + unmeasured, "1.5 ms ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
