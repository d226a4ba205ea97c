package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
)

// compare puts each load on Consul's control plane and on sallyport beside the same agent, and on
// sallyport from files, to know what is the agent's.
func compare(ctx context.Context, o options, dir string, out io.Writer) error {
	var all, files measurements
	var problem error
	alone := o
	alone.base, alone.rounds, alone.lines = "", 1, new([]string)
	for n, l := range o.loads {
		sub := filepath.Join(dir, strconv.Itoa(n))
		if err := os.Mkdir(sub, 0o700); err != nil {
			return err
		}
		failed := measureBeside(ctx, o, sub, l, func(r figures) { all = append(all, o.note(r)) })
		some, err := measureFiles(ctx, alone, sub, l)
		files = append(files, some...)
		problem = errors.Join(problem, failed, err)
	}
	fmt.Fprintf(out, "%d processors, load average %s\n", runtime.NumCPU(), loadAverage())
	problem = errors.Join(problem, printRows(out, all.besideConsul(files)))
	fmt.Fprintln(out)
	problem = errors.Join(problem, table(out, all))
	fmt.Fprintln(out)
	return errors.Join(problem, ratios(out, all), o.appendLines())
}

// measureBeside measures one after the other beside the same agent, so that none pays for the
// others' streams.
func measureBeside(ctx context.Context, o options, dir string, l load, done func(figures)) error {
	a, err := startAgent(ctx, o.consul, dir, l)
	if err != nil {
		return err
	}
	defer a.process.stop()
	var problem error // Consul's own slowness is no reason not to measure sallyport's
	if o.measures("consul") {
		problem = consulPlane(a, l).measure(ctx, l, l.users > 0, done)
	}
	if !o.measures("beside") {
		return problem
	}
	between, err := noteAnswers(a.http)
	if err != nil {
		return errors.Join(problem, err)
	}
	defer between.server.Close()
	for _, by := range o.planes() {
		sub := filepath.Join(dir, by)
		if err := os.Mkdir(sub, 0o700); err != nil {
			return errors.Join(problem, err)
		}
		p, err := besidePlane(ctx, o, by, sub, l, a, between)
		if err != nil {
			return errors.Join(problem, err)
		}
		err = p.measure(ctx, l, l.users > 0, done)
		p.control.stop()
		if err != nil {
			return errors.Join(problem, err)
		}
	}
	return problem
}
