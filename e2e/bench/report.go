package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// target is what a figure is to be; zero fields are not looked at.
type target struct {
	p99, last time.Duration
	bytes     int
	rss       int64
	listeners bool // none is to be sent
	secrets   bool // nothing else is to be sent
	why       string
}

// What stands in the way of some targets.
const (
	whyBytes = "bytes: a response with one resource has 185 before its contents (two type URLs, two names, the version, the nonce), and each source in the rules " +
		"has 129, so 60 KB for 200 sidecars is less than one source for each. To a tcp service's sidecar goes, besides, its secret peers/…, with the roots (0.7 KB): Envoy " +
		"takes names and roots of a handshake from one secret, and the other place for the names is the listener, which each intention would drain"
	whyProcessor = "processor time, which the clients take their part of: a first configuration is a key, two signatures and two verifications, the resources, five responses and " +
		"their answers, and a connection where that is part of it. Where what is given as CPU and clients is twice the time, both processors were busy to the end"
	whyFiles = "the file with the endpoint is read in a moment, but the whole of 10,000 services is put together, checked and compared again: see the rows of files, View.Next and the publish round"
)

// targetOf is the target of a load and a change; ok is false if there is none.
func targetOf(r figures) (t target, ok bool) {
	switch {
	case r.load.sidecars == 200 && r.change == firstConfiguration:
		return target{last: 100 * time.Millisecond, why: whyProcessor}, true
	case r.load.sidecars == 200 && r.change == oneEndpoint:
		return target{p99: 20 * time.Millisecond}, true
	case r.load.sidecars == 200 && r.change == wildcardIntention:
		return target{p99: 50 * time.Millisecond, bytes: 60 << 10, listeners: true, why: whyBytes}, true
	case r.load.sidecars == 1000 && r.change == firstConfiguration:
		return target{last: 800 * time.Millisecond, rss: 190e6}, true
	case r.load.sidecars == 1000 && r.change == wildcardIntention:
		return target{last: 200 * time.Millisecond}, true
	case r.load.sidecars == 300 && r.change == rootAdded:
		return target{bytes: 1 << 20, secrets: true}, true
	case r.load.sidecars == 10_000 && r.change == rootAdded:
		return target{last: 800 * time.Millisecond}, true
	case r.load.sidecars == 10_000 && r.change == firstConfiguration:
		return target{last: 5 * time.Second, rss: 10_000 * 100e3, why: whyProcessor}, true
	case r.load.sidecars == 10_000 && r.change == oneEndpoint:
		return target{last: 10 * time.Millisecond, why: whyFiles}, true
	}
	return target{}, false
}

// compare is the target for people, with what of it r misses.
func (t target) compare(r figures) string {
	var g goal
	look := g.look
	if t.p99 > 0 {
		look("p99 ≤ "+millis(t.p99)+" ms", r.p99 > t.p99)
	}
	if t.last > 0 {
		look("last ≤ "+millis(t.last)+" ms", r.last > t.last)
	}
	if t.bytes > 0 {
		look("≤ "+kilo(t.bytes)+" KB", r.bytes > t.bytes)
	}
	if t.rss > 0 {
		look(fmt.Sprintf("RSS ≤ %d MB", t.rss/1e6), r.rss > t.rss)
	}
	if t.listeners {
		look("no LDS", r.messages[listenerColumn] > 0)
	}
	if t.secrets {
		look("secrets only", sum(r.messages) > r.messages[0])
	}
	return g.String()
}

const listenerColumn = 4 // of types

// table prints figures with their targets.
func table(w io.Writer, all []figures) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	names := make([]string, len(types))
	for i, ty := range types {
		names[i] = ty.name
	}
	fmt.Fprintf(t, "sidecars × upstreams\tchange\tby\ttold\tfirst ms\tp50 ms\tp99 ms\tlast ms\tKB\t%s\tCPU s\tRSS MB\tbeside: CPU s\tRSS MB\tsidecars: CPU s\t target\n", strings.Join(names, "/"))
	for _, r := range all {
		note := ""
		if goal, ok := targetOf(r); ok && r.plane != "consul" && r.rssBeside == 0 { // beside Consul it is the ratio that counts
			note = " " + goal.compare(r)
		}
		messages := make([]string, len(types))
		for i, n := range r.messages {
			messages[i] = strconv.Itoa(n)
		}
		beside := "\t"
		if r.rssBeside > 0 {
			beside = fmt.Sprintf("%.2f\t%d", r.beside.Seconds(), r.rssBeside/1e6)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t%d\t%s\t%.2f\t%s\n", r.load, r.change, r.plane, r.sidecars,
			millis(r.first), millis(r.p50), millis(r.p99), millis(r.last), kilo(r.bytes), strings.Join(messages, "/"),
			r.cpu.Seconds(), r.rss/1e6, beside, r.clients.Seconds(), note)
	}
	return t.Flush()
}

// ratios prints how much less sallyport needs than Consul for each change.
func ratios(w io.Writer, all []figures) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "consul : sallyport\tchange\tp50\tp99\tlast\tbytes\tmessages\tCPU\tRSS\t\n")
	for _, c := range all {
		for _, s := range all {
			if c.plane != "consul" || s.plane == "consul" || c.load != s.load || c.change != s.change {
				continue
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", c.load, c.change,
				ratio(c.p50, s.p50), ratio(c.p99, s.p99), ratio(c.last, s.last), ratio(c.bytes, s.bytes),
				ratio(sum(c.messages), sum(s.messages)), ratio(c.cpu, max(s.cpu, 10*time.Millisecond)), ratio(c.rss, s.rss))
		}
	}
	fmt.Fprintln(t, "target for times, bytes and RSS\t\t10.0 ×\t10.0 ×\t10.0 ×\t10.0 ×\t\t\t10.0 ×\t")
	return t.Flush()
}

func ratio[N int | int64 | time.Duration](consul, sallyport N) string {
	if sallyport == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ×", float64(consul)/float64(sallyport))
}

func sum(n [len(types)]int) (all int) {
	for _, v := range n {
		all += v
	}
	return all
}

// benchstat is r as a line that benchstat reads. The operation is the change until the last sidecar has accepted it.
func (r figures) benchstat() string {
	return fmt.Sprintf("BenchmarkXDS/by=%s/load=%s/change=%s 1 %d ns/op %d p50-ns/op %d p99-ns/op %d wire-B/op %d messages/op %d listeners/op %d cpu-ns/op %d rss-B",
		r.plane, r.load.slug(), strings.ReplaceAll(r.change, " ", "-"), r.last.Nanoseconds(), r.p50.Nanoseconds(), r.p99.Nanoseconds(),
		r.bytes, sum(r.messages), r.resources[listenerColumn], r.cpu.Nanoseconds(), r.rss)
}

func millis(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }

func kilo(n int) string { return fmt.Sprintf("%.1f", float64(n)/1024) }
