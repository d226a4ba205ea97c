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
	"strings"
	"syscall"
)

type options struct {
	sallyport, base string
	consul, envoy   string
	agent           string
	loads           []load
	rounds          int
	goFile, out     string
	profiles, parts string
	keep            bool
	lines           *[]string // for benchstat
}

func main() {
	o := options{lines: new([]string)}
	var loads, ok, roots, bare, nothing string
	var scale bool
	flag.StringVar(&o.sallyport, "sallyport", "bin/sallyport", "the sallyport that is measured")
	flag.StringVar(&o.base, "base", "", "another sallyport, which is measured in turns with it; empty: none")
	flag.IntVar(&o.rounds, "rounds", 0, "how often each load is measured; 0: as its size allows")
	flag.StringVar(&o.consul, "consul", "", "the consul to compare with; empty: sallyport alone, from files")
	flag.StringVar(&loads, "loads", "200x6-tcp,200x6-http,1000x11-tcp", "sidecars, upstreams of each and protocol")
	flag.BoolVar(&scale, "scale", false, "10,000 sidecars too")
	flag.StringVar(&o.goFile, "go", "", "file with the output of go test -bench -benchmem, whose benchmarks are rows too")
	flag.StringVar(&o.out, "out", "", "file that lines for benchstat are appended to")
	flag.StringVar(&o.envoy, "envoy", "", "the Envoy of the measurements with traffic; empty: without them")
	flag.StringVar(&o.agent, "agent", "", "the consul that the HTTP API is measured beside; empty: it is measured from files alone")
	flag.StringVar(&o.parts, "parts", "", "what of these to measure: loads, wide, checks, roots, traffic, api; with -consul: consul, beside; empty: all")
	flag.StringVar(&ok, "answer-ok", "", "be the ext_authz server that does not look, on this socket")
	flag.StringVar(&roots, "serve-roots", "", "be the control plane whose root is replaced, in this directory")
	flag.StringVar(&bare, "serve-bare", "", "be the server that sends the responses recorded in this directory")
	flag.StringVar(&nothing, "serve-nothing", "", "be the server that answers what is recorded in this directory")
	flag.StringVar(&o.profiles, "profiles", "", "directory for profiles of each change: processor, heap and goroutines")
	flag.BoolVar(&o.keep, "keep", false, "leave the directory with the logs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case ok != "":
		exit(serveOK(ok))
	case roots != "":
		next := make(chan os.Signal, 1)
		signal.Notify(next, syscall.SIGUSR1)
		exit(serveRoots(ctx, roots, next))
	case bare != "":
		exit(serveBare(ctx, bare))
	case nothing != "":
		exit(serveNothing(ctx, nothing))
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
	if o.profiles != "" {
		if err := os.MkdirAll(o.profiles, 0o755); err != nil {
			return err
		}
	}
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
	rows, details, err := measureAll(ctx, o, dir)
	fmt.Fprintf(out, "%d processors, load average %s\n", runtime.NumCPU(), loadAverage())
	err = errors.Join(err, printRows(out, rows)) // what was measured is worth printing
	if len(details) > 0 {
		fmt.Fprintln(out)
		err = errors.Join(err, table(out, details))
	}
	return errors.Join(err, o.appendLines())
}

// planes are the sallyports that are measured.
func (o options) planes() []string {
	if o.base == "" {
		return []string{byThis}
	}
	return []string{byThis, byBase}
}

// binary is the program of one of planes.
func (o options) binary(by string) string {
	if by == byBase {
		return o.base
	}
	return o.sallyport
}

// measures reports whether a part is asked for.
func (o options) measures(part string) bool {
	return o.parts == "" || slices.Contains(strings.Split(o.parts, ","), part)
}

// measureAll measures sallyport alone.
func measureAll(ctx context.Context, o options, dir string) (rows []row, details measurements, err error) {
	var problem error
	if o.goFile != "" {
		rows, problem = goRows(o.goFile)
	}
	if o.measures("loads") {
		for _, l := range o.loads {
			all, failed := measureFiles(ctx, o, dir, l)
			rows, details = append(rows, all.rows()...), append(details, all...)
			problem = errors.Join(problem, failed)
		}
	}
	for _, part := range []struct {
		name    string
		measure func(context.Context, options, string) ([]row, error)
	}{{"wide", measureWide}, {"checks", measureChecks}, {"roots", measureRoots}, {"traffic", measureTraffic}, {"api", measureAPI}} {
		if ctx.Err() != nil {
			break
		}
		if !o.measures(part.name) && !(part.name == "api" && slices.ContainsFunc(apiParts, func(p apiPart) bool { return o.measures(p.name) })) {
			continue
		}
		sub := filepath.Join(dir, part.name)
		if err := os.Mkdir(sub, 0o700); err != nil {
			return rows, details, err
		}
		some, failed := part.measure(ctx, o, sub)
		for _, r := range some {
			fmt.Fprintf(os.Stderr, "%s: %s\n", r.work, r.value)
		}
		rows, problem = append(rows, some...), errors.Join(problem, failed)
	}
	return rows, details, problem
}

// measureFiles measures a load on each sallyport in turns, and what it costs without one. What was
// measured before a problem is returned too.
func measureFiles(ctx context.Context, o options, dir string, l load) (all measurements, err error) {
	n := 0
	run := func(connectTimed bool, start func(dir string) (*plane, error)) error {
		n++
		sub := filepath.Join(dir, fmt.Sprintf("%s-%d", l.slug(), n))
		if err := os.Mkdir(sub, 0o700); err != nil {
			return err
		}
		p, err := start(sub)
		if err != nil {
			return err
		}
		defer p.control.stop()
		return p.measure(ctx, l, connectTimed, func(r figures) { all = append(all, o.note(r)) })
	}
	for round := range o.roundsOf(l) {
		var scripts []script
		turns := o.planes()
		if round%2 == 1 {
			slices.Reverse(turns)
		}
		for _, by := range turns {
			err := run(l.users > 0, func(dir string) (*plane, error) {
				p, err := filesPlane(ctx, o, by, dir, l)
				if err == nil && by == byThis && l.sidecars == 1000 {
					p.scripts = &scripts
				}
				return p, err
			})
			if err != nil {
				return all, err
			}
		}
		if len(scripts) > 0 {
			if err := run(false, func(dir string) (*plane, error) { return barePlane(ctx, dir, scripts) }); err != nil {
				return all, err
			}
		}
	}
	return all, nil
}

// roundsOf is how often a load is measured.
func (o options) roundsOf(l load) int {
	switch {
	case o.rounds > 0:
		return o.rounds
	case l.sidecars <= 200:
		return 5
	case l.sidecars <= 1000:
		return 3
	}
	return 2
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

// loadAverage says how busy the machine was.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}
