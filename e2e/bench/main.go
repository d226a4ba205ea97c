// Command bench measures what a control plane's xDS server costs and how fast it is: it starts one, connects thousands of sidecars to
// it that behave as Envoy does as far as a control plane can see, and times each change until the last of them has accepted it. With
// -consul it puts the same load on Consul's own control plane and on sallyport beside the same agent. The machine is shared by client
// and server and by whatever else runs, so figures of one run are compared with each other, not with another machine's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

type options struct {
	sallyport, consul string
	envoy             string
	loads             []load
	goFile, out       string
	profiles, parts   string
	keep              bool
	lines             *[]string // for benchstat
}

func main() {
	o := options{lines: new([]string)}
	var loads, ok, roots string
	var scale bool
	flag.StringVar(&o.sallyport, "sallyport", "bin/sallyport", "the sallyport that is measured")
	flag.StringVar(&o.consul, "consul", "", "the consul to compare with; empty: sallyport alone, from files")
	flag.StringVar(&loads, "loads", "200x6-tcp,200x6-http,1000x11-tcp", "sidecars, upstreams of each and protocol")
	flag.BoolVar(&scale, "scale", false, "10,000 sidecars too")
	flag.StringVar(&o.goFile, "go", "", "file with the output of go test -bench -benchmem, to be shown beside the targets")
	flag.StringVar(&o.out, "out", "", "file that lines for benchstat are appended to")
	flag.StringVar(&o.envoy, "envoy", "", "the Envoy of the measurements with traffic; empty: without them")
	flag.StringVar(&o.parts, "parts", "", "roots, checks, traffic: what of these to measure; empty: all")
	flag.StringVar(&ok, "answer-ok", "", "be the ext_authz server that does not look, on this socket")
	flag.StringVar(&roots, "serve-roots", "", "be the control plane with two CAs, in this directory")
	flag.StringVar(&o.profiles, "profiles", "", "directory for profiles of each change: processor, heap and goroutines")
	flag.BoolVar(&o.keep, "keep", false, "leave the directory with the logs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case ok != "":
		exit(serveOK(ok))
	case roots != "":
		exit(serveRoots(ctx, roots))
	}
	for text := range strings.FieldsFuncSeq(loads, func(r rune) bool { return r == ',' }) {
		var l load
		if _, err := fmt.Sscanf(text, "%dx%d-%s", &l.sidecars, &l.upstreams, &l.protocol); err != nil || l.sidecars < 1 || l.upstreams < 1 {
			exit(fmt.Errorf("-loads: %q is not like 200x6-tcp", text))
		}
		o.loads = append(o.loads, l)
	}
	if scale {
		o.loads = append(o.loads, load{sidecars: 10_000, upstreams: 2, protocol: "tcp", users: 55})
	}
	exit(run(ctx, o, os.Stdout))
}

// exit ends the process.
func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	// Not os.TempDir: what some systems have there is too long for the path of a socket.
	dir, err := os.MkdirTemp("/tmp", "sallyport-bench-")
	if err != nil {
		return err
	}
	if !o.keep {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	if o.consul != "" {
		return compare(ctx, o, dir, out)
	}
	rows, err := measureAll(ctx, o, dir)
	fmt.Fprintf(out, "%d processors, load average %s\n", runtime.NumCPU(), loadAverage())
	return errors.Join(err, printRows(out, rows), o.appendLines()) // what was measured is worth printing
}

// compare puts each load on Consul's control plane and on sallyport beside it.
func compare(ctx context.Context, o options, dir string, out io.Writer) error {
	var all []figures
	err := o.each(dir, func(l load, sub string) error {
		return measureBoth(ctx, o, sub, l, func(r figures) { all = append(all, o.note(r)) })
	})
	fmt.Fprintf(out, "%d processors, load average %s\n", runtime.NumCPU(), loadAverage())
	err = errors.Join(err, table(out, all))
	fmt.Fprintln(out)
	return errors.Join(err, ratios(out, all), o.appendLines())
}

// measureAll measures sallyport alone.
func measureAll(ctx context.Context, o options, dir string) (rows []row, err error) {
	var problem error
	if o.goFile != "" {
		rows, problem = goRows(o.goFile)
	}
	err = o.each(dir, func(l load, sub string) error {
		return measureFiles(ctx, o, sub, l, func(r figures) { rows = append(rows, o.note(r).row()) })
	})
	err = errors.Join(problem, err)
	for _, part := range []struct {
		name    string
		measure func(context.Context, options, string) ([]row, error)
	}{{"roots", measureRoots}, {"checks", measureChecks}, {"traffic", measureTraffic}} {
		if ctx.Err() != nil {
			break
		}
		if o.parts != "" && !slices.Contains(strings.Split(o.parts, ","), part.name) {
			continue
		}
		sub := filepath.Join(dir, part.name)
		if err := os.Mkdir(sub, 0o700); err != nil {
			return rows, err
		}
		some, failed := part.measure(ctx, o, sub)
		for _, r := range some {
			fmt.Fprintf(os.Stderr, "%s: %s\n", r.work, r.measured)
		}
		rows, err = append(rows, some...), errors.Join(err, failed)
	}
	return rows, err
}

// each calls f with each load and a directory for it.
func (o options) each(dir string, f func(l load, sub string) error) error {
	for n, l := range o.loads {
		sub := filepath.Join(dir, strconv.Itoa(n))
		if err := os.Mkdir(sub, 0o700); err != nil {
			return err
		}
		if err := f(l, sub); err != nil {
			return err
		}
	}
	return nil
}

// note reports progress, and keeps r for benchstat.
func (o options) note(r figures) figures {
	fmt.Fprintf(os.Stderr, "%s: %s: %s: %s ms\n", r.load, r.plane, r.change, millis(r.last))
	o.line(r.benchstat())
	return r
}

// line keeps lines for benchstat.
func (o options) line(lines ...string) { *o.lines = append(*o.lines, lines...) }

// appendLines writes what was kept for benchstat.
func (o options) appendLines() error {
	if o.out == "" {
		return nil
	}
	f, err := os.OpenFile(o.out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, strings.Join(*o.lines, "\n"))
	return errors.Join(err, f.Close())
}

func measureFiles(ctx context.Context, o options, dir string, l load, done func(figures)) error {
	p, err := filesPlane(ctx, o, dir, l)
	if err != nil {
		return err
	}
	defer p.control.stop()
	return p.measure(ctx, l, l.users > 0, done)
}

// measureBoth measures one after the other beside the same agent, so that neither pays for the other's streams.
func measureBoth(ctx context.Context, o options, dir string, l load, done func(figures)) error {
	a, err := startAgent(ctx, o.consul, dir, l)
	if err != nil {
		return err
	}
	defer a.process.stop()
	theirs := consulPlane(a)
	if err := theirs.measure(ctx, l, l.users > 0, done); err != nil {
		return err
	}
	ours, err := besidePlane(ctx, o.sallyport, dir, l, a)
	if err != nil {
		return err
	}
	defer ours.control.stop()
	return ours.measure(ctx, l, l.users > 0, done)
}

// loadAverage says how busy the machine was.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}
