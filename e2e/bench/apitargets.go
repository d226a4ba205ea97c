package main

import (
	"fmt"
	"strings"
	"time"
)

// The clients, which are a part of every figure.
const (
	rawClient  = "raw client"
	grpcClient = "grpc-go client"
)

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
	svidOne     = []apiTarget{{what: "p50", of: p50, other: byNothing, limit: 1.5}}
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

// apiRows are the rows of what a client asked, one for each mode and target. work says what, and how.
func apiRows(work, client string, targets []apiTarget, all map[string]*apiFigures) (rows []row) {
	for _, mode := range apiModes {
		for _, t := range targets {
			rows = append(rows, t.row(fmt.Sprintf("%s, %s, %s: %s", work, client, mode, t.what), mode, all))
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
	if why := own.missing(); why != "" {
		r.beside = why
		return r
	}
	r.value = t.show(own)
	var beside []string
	for _, other := range []string{byNothing, byConsul} {
		f := all[other]
		if why := f.missing(); why != "" {
			if other == t.other {
				beside = append(beside, why)
			}
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
	return inMicros(d)
}

// noConsul and noUser are why something was not measured.
const (
	noConsul = "no Consul (-agent)"
	noUser   = "only root can ask as another user"
)

// missing is why there are no figures of a server; empty: there are.
func (f *apiFigures) missing() string {
	if f == nil {
		return noConsul
	}
	return f.why
}

// The targets of questions that wait: what each takes of memory, in bytes; how long authorize takes meanwhile, of what it takes else, of
// which two rounds in turn differ as much; and how long it takes to answer all, of what a server takes that does nothing else.
const (
	waitMemory      = 18e3
	waitElse        = 1.1
	wakeOfNothing   = 1.5
	leftConnections = 2 // those that others have, as of metrics
	leftGoroutines  = 10
)

// waitRows are the rows of those who wait, by server. missing is why one is not there.
func waitRows(all map[string]*waiters, meanwhile map[string]*apiFigures, left map[string]remains, missing string) (rows []row) {
	bare := all[byNothing]
	for _, mode := range apiModes {
		work := func(what string) string { return fmt.Sprintf("%d waiting, %s, %s: %s", waiting, rawClient, mode, what) }
		memory := row{work: work("RSS, each"), value: "–", target: fmt.Sprintf("≤ %.0f KB", waitMemory/1e3), verdict: unmeasured}
		same := row{work: work("authorize p50 meanwhile"), value: "–", target: fmt.Sprintf("≤ %.3g × while nobody waits", waitElse), verdict: unmeasured}
		wake := row{work: work("one intention changes, all answered"), value: "–", target: fmt.Sprintf("≤ %.3g × do-nothing", wakeOfNothing), verdict: unmeasured}
		gone := row{work: work("left a second after their clients"), value: "–", target: "nothing", verdict: unmeasured}
		if w := all[mode]; w == nil {
			memory.beside = missing
			same.beside, wake.beside, gone.beside = memory.beside, memory.beside, memory.beside
		} else {
			memory.value, memory.verdict = fmt.Sprintf("%.1f KB", w.each/1e3), verdict(w.each <= waitMemory)
			memory.beside = fmt.Sprintf("do-nothing %.1f KB", bare.each/1e3)
			busy, idle := meanwhile[whileWaiting(mode)], meanwhile[mode]
			ratio := share(busy.p50, idle.p50)
			same.value, same.verdict = inMicros(median(busy.p50)), within(ratio, waitElse)
			same.beside = fmt.Sprintf("while nobody waits %s: %s", inMicros(median(idle.p50)), times(ratio))
			ratio = share(w.took, bare.took)
			wake.value, wake.verdict = millis(median(w.took))+" ms", within(ratio, wakeOfNothing)
			wake.beside = fmt.Sprintf("do-nothing %s ms: %s", millis(median(bare.took)), times(ratio))
			if w.from != nil {
				wake.beside = "from the agent's last answer on; " + wake.beside
			}
			r := left[mode]
			gone.value = fmt.Sprintf("%d connections, %d goroutines", r.connections, r.goroutines)
			gone.verdict = verdict(r.connections <= leftConnections && r.goroutines <= leftGoroutines)
			gone.beside = fmt.Sprintf("do-nothing: %d connections", left[byNothing].connections)
		}
		rows = append(rows, memory, same, wake, gone)
	}
	return rows
}

func inMicros(d time.Duration) string { return fmt.Sprintf("%.1f µs", float64(d.Nanoseconds())/1e3) }
