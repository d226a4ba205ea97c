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
	"strconv"
	"strings"
	"syscall"
)

type options struct {
	sallyport, consul string
	loads             []load
	goFile, out       string
	profiles          string
	keep              bool
}

func main() {
	var o options
	var loads string
	var scale bool
	flag.StringVar(&o.sallyport, "sallyport", "bin/sallyport", "the sallyport that is measured")
	flag.StringVar(&o.consul, "consul", "", "the consul to compare with; empty: sallyport alone, from files")
	flag.StringVar(&loads, "loads", "200x6-tcp,200x6-http,1000x11-tcp", "sidecars, upstreams of each and protocol")
	flag.BoolVar(&scale, "scale", false, "10,000 sidecars too")
	flag.StringVar(&o.goFile, "go", "", "file with the output of go test -bench -benchmem, to be shown beside the targets")
	flag.StringVar(&o.out, "out", "", "file that lines for benchstat are appended to")
	flag.StringVar(&o.profiles, "profiles", "", "directory for profiles of each change: processor, heap and goroutines")
	flag.BoolVar(&o.keep, "keep", false, "leave the directory with the logs")
	flag.Parse()
	for text := range strings.SplitSeq(loads, ",") {
		var l load
		if _, err := fmt.Sscanf(text, "%dx%d-%s", &l.sidecars, &l.upstreams, &l.protocol); err != nil || l.sidecars < 1 || l.upstreams < 1 {
			fmt.Fprintf(os.Stderr, "bench: -loads: %q is not like 200x6-tcp\n", text)
			os.Exit(2)
		}
		o.loads = append(o.loads, l)
	}
	if scale {
		o.loads = append(o.loads, load{sidecars: 10_000, upstreams: 2, protocol: "tcp", users: 55})
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // the signals end with the process
	}
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
	var all []figures
	for n, l := range o.loads {
		sub := filepath.Join(dir, strconv.Itoa(n))
		if err := os.Mkdir(sub, 0o700); err != nil {
			return err
		}
		done := func(r figures) {
			all = append(all, r)
			fmt.Fprintf(os.Stderr, "%s: %s: %s: %s ms\n", r.load, r.plane, r.change, millis(r.last))
		}
		if o.consul == "" {
			err = measureFiles(ctx, o, sub, l, done)
		} else {
			err = measureBoth(ctx, o, sub, l, done)
		}
		if err != nil {
			break // what was measured is worth printing
		}
	}
	fmt.Fprintf(out, "%d processors, load average %s\n", runtime.NumCPU(), loadAverage())
	if o.goFile != "" {
		err = errors.Join(err, goBenchmarks(out, o.goFile))
		fmt.Fprintln(out)
	}
	err = errors.Join(err, table(out, all))
	if o.consul != "" {
		fmt.Fprintln(out)
		err = errors.Join(err, ratios(out, all))
	}
	if o.out == "" {
		return err
	}
	f, openErr := os.OpenFile(o.out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	return errors.Join(err, benchstat(f, all), f.Close())
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
