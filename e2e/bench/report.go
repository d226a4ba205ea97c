package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// table prints all that was measured of each change, of those that were repeated the median.
func table(w io.Writer, all measurements) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	names := make([]string, len(types))
	for i, ty := range types {
		names[i] = ty.name
	}
	fmt.Fprintf(t, "sidecars × upstreams\tchange\tby\ttold\tfirst ms\tp50 ms\tp99 ms\tlast ms\tKB\t%s\tCPU s\tRSS MB\tbeside: CPU s\tRSS MB\tsidecars: CPU s\t\n", strings.Join(names, "/"))
	for _, k := range all.kinds() {
		r := all.of(k.plane, k.load, k.change).typical()
		messages := make([]string, len(types))
		for i, n := range r.messages {
			messages[i] = strconv.Itoa(n)
		}
		beside := "\t"
		if r.rssBeside > 0 {
			beside = fmt.Sprintf("%.2f\t%d", r.beside.Seconds(), r.rssBeside/1e6)
		}
		fmt.Fprintf(t, "%s\t%s\t%s (%d)\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t%d\t%s\t%.2f\t\n",
			r.load, r.change, r.plane, r.times, r.sidecars,
			millis(r.first), millis(r.p50), millis(r.p99), millis(r.last), kilo(r.bytes), strings.Join(messages, "/"),
			r.cpu.Seconds(), r.rss/1e6, beside, r.clients.Seconds())
	}
	return t.Flush()
}

// ratios prints how much less sallyport needs than Consul for each change.
func ratios(w io.Writer, all measurements) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "consul : sallyport\tchange\tp50\tp99\tlast\tbytes\tmessages\tCPU\tRSS\t\n")
	for _, k := range all.kinds() {
		c, s := all.of(byConsul, k.load, k.change).typical(), all.of(byThis, k.load, k.change).typical()
		if k.plane == byThis && c.times > 0 {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", c.load, c.change,
				ratio(c.p50, s.p50), ratio(c.p99, s.p99), ratio(c.last, s.last), ratio(c.bytes, s.bytes),
				ratio(sum(c.messages), sum(s.messages)), ratio(c.cpu, max(s.cpu, 10*time.Millisecond)), ratio(c.rss, s.rss))
		}
	}
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
		r.bytes, sum(r.messages), r.resources[kindOf(resourcev3.ListenerType)], r.cpu.Nanoseconds(), r.rss)
}

func millis(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }

func kilo(n int) string { return fmt.Sprintf("%.1f", float64(n)/1024) }

// row is what a change cost, for the table.
func (r figures) row() row {
	return row{
		work:  fmt.Sprintf("%s: %s, last ACK of %d", r.load, r.change, r.sidecars),
		value: millis(r.last) + " ms", beside: fmt.Sprintf("median of %d; %s", r.times, r.cost()),
	}
}

// cost is what a change cost besides time.
func (r figures) cost() string {
	var messages []string
	for i, n := range r.messages {
		if n > 0 {
			messages = append(messages, fmt.Sprintf("%d %s", n, types[i].name))
		}
	}
	return fmt.Sprintf("%s KB, %s, CPU %.2f s (clients %.2f), RSS %s",
		kilo(r.bytes), strings.Join(messages, " "), r.cpu.Seconds(), r.clients.Seconds(), mega(r.rss))
}
