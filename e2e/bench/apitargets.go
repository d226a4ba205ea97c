package main

import (
	"fmt"
	"strings"
	"time"
)

// rawClient is who asks, which is a part of every figure.
const rawClient = "raw client"

// apiModes are the ways in which sallyport has its catalog.
var apiModes = []string{byFiles, byBeside}

// apiTarget is what a figure of sallyport's is to be of what another server took in the same rounds.
type apiTarget struct {
	what  string
	of    func(*apiFigures) []time.Duration
	other string // whose figure it is compared with
	limit float64
	// rate says that it is how many answers there are in a time, of which more are better; else how long each takes.
	rate bool
}

// The targets of the HTTP API.
var (
	authorizeOne = []apiTarget{
		{what: "p50", of: p50, other: byNothing, limit: 1.25},
		{what: "p99", of: p99, other: byConsul, limit: 0.5},
	}
	authorizeMany = []apiTarget{
		{what: "throughput", of: perAnswer, other: byConsul, limit: 2.5, rate: true},
		{what: "throughput", of: perAnswer, other: byNothing, limit: 0.8, rate: true},
	}
	questionOne = []apiTarget{{what: "p50", of: p50, other: byConsul, limit: 0.6}}
)

func p50(f *apiFigures) []time.Duration       { return f.p50 }
func p99(f *apiFigures) []time.Duration       { return f.p99 }
func perAnswer(f *apiFigures) []time.Duration { return f.each }

// called is who a server is in the table.
func called(by string) string {
	switch by {
	case byNothing:
		return "do-nothing"
	case byConsul:
		return "Consul"
	}
	return by
}

// apiRows are the rows of what was asked, one for each mode and target. work says what, and how.
func apiRows(work string, targets []apiTarget, all map[string]*apiFigures) (rows []row) {
	for _, mode := range apiModes {
		for _, t := range targets {
			rows = append(rows, t.row(fmt.Sprintf("%s, %s, %s: %s", work, rawClient, mode, t.what), mode, all))
		}
	}
	return rows
}

func (t apiTarget) row(work, mode string, all map[string]*apiFigures) row {
	sign := "≤"
	if t.rate {
		sign = "≥"
	}
	r := row{work: work, value: "–", verdict: unmeasured, target: fmt.Sprintf("%s %.3g × %s", sign, t.limit, called(t.other))}
	own := all[mode]
	if own == nil {
		r.beside = why(mode, all)
		return r
	}
	r.value = t.show(own)
	var beside []string
	for _, other := range []string{byNothing, byConsul} {
		f := all[other]
		if f == nil {
			beside = append(beside, why(other, all))
			continue
		}
		ratio := t.ratio(own, f)
		beside = append(beside, fmt.Sprintf("%s %s: %s", called(other), t.show(f), times(ratio)))
		if other == t.other && ratio > 0 {
			r.verdict = verdict(t.rate && ratio >= t.limit || !t.rate && ratio <= t.limit)
		}
	}
	r.beside = strings.Join(beside, "; ")
	return r
}

// ratio is f's figure by the other's, of each round; 0: there is none.
func (t apiTarget) ratio(f, other *apiFigures) float64 {
	if t.rate {
		return share(t.of(other), t.of(f))
	}
	return share(t.of(f), t.of(other))
}

func (t apiTarget) show(f *apiFigures) string {
	d := median(t.of(f))
	if t.rate && d > 0 {
		return fmt.Sprintf("%.1f k/s", float64(time.Second)/float64(d)/1e3)
	}
	return fmt.Sprintf("%.1f µs", float64(d.Nanoseconds())/1e3)
}

// why is why something was not measured.
func why(by string, all map[string]*apiFigures) string {
	if by == byBeside && all[byConsul] != nil {
		return "only root can ask as another user"
	}
	return "no Consul (-agent)"
}
