package main

import (
	"fmt"
	"slices"
	"time"
)

// measurements are all figures of a run, in the order in which they were taken.
type measurements []figures

// of are the figures of one plane, load and change.
func (m measurements) of(plane string, l load, change string) (some measurements) {
	for _, r := range m {
		if r.plane == plane && r.load == l && r.change == change {
			some = append(some, r)
		}
	}
	return some
}

// typical is the one of m whose last sidecar took the median; the zero value if there is none.
func (m measurements) typical() figures {
	if len(m) == 0 {
		return figures{}
	}
	s := slices.SortedFunc(slices.Values(m), func(a, b figures) int { return int(a.last - b.last) })
	r := s[(len(s)-1)/2]
	r.times = len(s)
	return r
}

// lasts are the times of the last sidecars.
func (m measurements) lasts() (d []time.Duration) {
	for _, r := range m {
		d = append(d, r.last)
	}
	return d
}

// share is the median of each of a by the one of b that was measured beside it; 0 if there is none.
func share(a, b []time.Duration) float64 {
	var all []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			all = append(all, float64(a[i])/float64(b[i]))
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	if n := len(all); n%2 == 0 {
		return (all[n/2-1] + all[n/2]) / 2
	}
	return all[len(all)/2]
}

// kinds are what was measured, one each, in order.
func (m measurements) kinds() (all []figures) {
	for _, r := range m {
		k := figures{plane: r.plane, load: r.load, change: r.change}
		if !slices.Contains(all, k) {
			all = append(all, k)
		}
	}
	return all
}

// ofBase is the target of a change as a share of what base takes; 0: none was agreed on.
func ofBase(l load, change string) float64 {
	switch {
	case l.protocol != "tcp":
		return 0
	case change == firstConfiguration && (l.sidecars == 200 || l.sidecars == 1000):
		return 0.8
	case change == firstConfiguration && l.sidecars == 10_000:
		return 0.75
	case change == oneEndpoint && l.sidecars == 10_000:
		return 1.0 / 15
	}
	return 0
}

// Of what the bare sender takes, and beside Consul of what it takes from files.
const ofBare, ofFiles = 1.5, 1.5

// rows are what sallyport took for each change, beside base and the bare sender.
func (m measurements) rows() (rows []row) {
	for _, k := range m.kinds() {
		if k.plane != byThis {
			continue
		}
		own := m.of(byThis, k.load, k.change)
		r := own.typical().row()
		base := m.of(byBase, k.load, k.change)
		ratio := share(own.lasts(), base.lasts())
		if len(base) > 0 {
			b := base.typical()
			r.base, r.ratio = millis(b.last)+" ms", times(ratio)
			r.beside += fmt.Sprintf("; base: CPU %.2f s, RSS %s", b.cpu.Seconds(), mega(b.rss))
		}
		told := oneEndpoint
		if k.change == wildcardIntention || k.change == wildcardIntention+unsignalled {
			told = wildcardIntention
		}
		bare := m.of(byBare, k.load, told)
		switch limit := ofBase(k.load, k.change); {
		case limit > 0:
			r.target = fmt.Sprintf("≤ %.2g × base", limit)
			r.verdict = within(ratio, limit)
		case len(bare) > 0 && k.change != firstConfiguration && k.change != oneLeaf:
			s := share(own.lasts(), bare.lasts())
			r.beside = fmt.Sprintf("bare sender %s ms: %s; %s", millis(bare.typical().last), times(s), r.beside)
			r.target, r.verdict = fmt.Sprintf("≤ %.2g × bare sender", ofBare), within(s, ofBare)
		}
		rows = append(rows, r)
		if k.load.sidecars == 10_000 && k.change == firstConfiguration {
			rows = append(rows, m.memory(k.load))
		}
	}
	return rows
}

// memory is what a sidecar takes of sallyport's memory after its first configuration.
func (m measurements) memory(l load) row {
	const limit = 90e3
	each := func(by string) float64 {
		return float64(m.of(by, l, firstConfiguration).typical().rss) / float64(l.sidecars)
	}
	own, base := each(byThis), each(byBase)
	r := row{
		work: l.String() + ": RSS, each", value: fmt.Sprintf("%.0f KB", own/1e3),
		target: "≤ 90 KB", verdict: verdict(own <= limit),
	}
	if base > 0 {
		r.base, r.ratio = fmt.Sprintf("%.0f KB", base/1e3), times(own/base)
	}
	return r
}

// besideConsul are what sallyport took beside Consul after the agent had answered, beside what it
// takes from files.
func (m measurements) besideConsul(files measurements) (rows []row) {
	for _, k := range m.kinds() {
		if k.plane != byThis || k.change != oneEndpoint && k.change != wildcardIntention {
			continue
		}
		after := func(by string) (d []time.Duration) {
			for _, r := range m.of(by, k.load, k.change) {
				d = append(d, r.last-r.answered)
			}
			return d
		}
		own, base := after(byThis), after(byBase)
		typical := m.of(byThis, k.load, k.change).typical()
		r := row{
			work:  fmt.Sprintf("%s beside Consul: %s, from the agent's answer on", k.load, k.change),
			value: millis(median(own)) + " ms", target: fmt.Sprintf("≤ %.2g × from files", ofFiles),
		}
		alone := files.of(byThis, k.load, k.change).lasts()
		s := share(own, alone)
		r.verdict = within(s, ofFiles)
		r.beside = fmt.Sprintf("from files %s ms: %s; the agent's answer after %s ms, the first ACK %s, "+
			"the last %s", millis(median(alone)), times(s), millis(typical.answered),
			millis(typical.first), millis(typical.last))
		if len(base) > 0 {
			r.base, r.ratio = millis(median(base))+" ms", times(share(own, base))
		}
		rows = append(rows, r)
	}
	return rows
}

// median is of no durations 0.
func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	return percentile(slices.Sorted(slices.Values(d)), 50)
}

// within is the verdict on a share, of which 0 says that there is none.
func within(ratio, limit float64) string {
	if ratio == 0 {
		return unmeasured
	}
	return verdict(ratio <= limit)
}

func times(ratio float64) string { return fmt.Sprintf("%.2f ×", ratio) }
