package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// rotationBytes is what a sidecar may be sent while the root is replaced, in all phases: three times roots or a leaf, as secrets, each of which
// is two or three certificates. Neither upstreams nor sources come in.
const rotationBytes = 10_000

// measureRoots measures how the root is replaced, phase by phase: of as many sidecars as the goal is about, and of 1,000, each of a service whose
// intentions have one source. With an agent Consul's own control plane does the same, with the same services and sidecars.
func measureRoots(ctx context.Context, o options, dir string) (rows []row, err error) {
	for _, l := range []load{{sidecars: 300, upstreams: 5, protocol: "tcp"}, {sidecars: 1000, upstreams: 5, protocol: "tcp"}} {
		of := filepath.Join(dir, strconv.Itoa(l.sidecars))
		if err := os.Mkdir(of, 0o700); err != nil {
			return rows, err
		}
		var phases measurements
		keep := func(r figures) {
			if r.change != firstConfiguration {
				r.times = 1
				phases = append(phases, o.note(r))
			}
		}
		p, err := rootsPlane(ctx, of, l)
		if err != nil {
			return rows, err
		}
		err = p.measure(ctx, l, false, keep)
		p.control.stop()
		if err != nil {
			return rows, err
		}
		for _, r := range phases {
			rows = append(rows, r.row())
		}
		var consul figures
		if o.agent != "" {
			ours := phases
			phases = nil
			if err := measureConsulRoots(ctx, o, of, l, keep); err != nil {
				return rows, err
			}
			consul, phases = phases[0], ours
		}
		rows = append(rows, phases.rotation(l, consul))
	}
	return rows, nil
}

// measureConsulRoots has Consul replace its root, which is one change: the root is another one for everybody, and leafs follow within half a minute.
func measureConsulRoots(ctx context.Context, o options, dir string, l load, done func(figures)) error {
	a, err := startAgent(ctx, o.agent, dir, l)
	if err != nil {
		return err
	}
	defer a.process.stop()
	p := consulPlane(a, l)
	for _, c := range p.changes {
		if c.name == rootChange {
			p.changes = []change{c}
			return p.measure(ctx, l, false, done)
		}
	}
	return fmt.Errorf("there is no change %q", rootChange)
}

// rotation is what all phases take together, beside Consul if that was measured.
func (m measurements) rotation(l load, consul figures) row {
	var bytes, others int
	for _, r := range m {
		bytes += r.bytes
		for i, n := range r.messages {
			if types[i].url != resourcev3.SecretType {
				others += n
			}
		}
	}
	limit := l.sidecars * rotationBytes
	out := row{
		work: l.String() + ": the root replaced, all phases", value: fmt.Sprintf("%.2f MB", float64(bytes)/1e6), target: fmt.Sprintf("≤ %s, secrets alone", mega(int64(limit))),
		verdict: verdict(bytes <= limit && others == 0), beside: fmt.Sprintf("%d messages that are no secrets", others),
	}
	if consul.bytes > 0 {
		out.ratio = times(float64(bytes) / float64(consul.bytes))
		out.beside = fmt.Sprintf("%s; consul: the last ACK after %s ms, %s", out.beside, millis(consul.last), consul.cost())
	}
	return out
}
